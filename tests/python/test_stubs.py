"""Stubs agree with the compiled modules (stubtest), and every C function has a signature."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = [f"smhf_native.{room}._{room}" for room in ("tokenizer", "model", "invoker", "server", "trace")]


def test_stubtest(repo_root: Path) -> None:
    pytest.importorskip("mypy")
    env = {**os.environ, "MYPYPATH": str(repo_root), "PYTHONPATH": str(repo_root)}
    command = [sys.executable, "-m", "mypy.stubtest", *MODULES, "--mypy-config-file", str(repo_root / "pyproject.toml")]
    result = subprocess.run(command, cwd=repo_root, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", MODULES)
def test_signatures_and_docs(name: str) -> None:
    module = importlib.import_module(name)
    for kind, value in vars(module).items():
        if kind.startswith("__") or not (inspect.isclass(value) or callable(value)):
            continue
        if inspect.isclass(value) and value.__module__ != name:
            continue
        members = {kind: value} if not inspect.isclass(value) else vars(value)
        for member, function in members.items():
            if member.startswith("_") or not callable(function):
                continue
            assert function.__doc__, f"{name}.{kind}.{member} has no docstring"
            assert inspect.signature(function) is not None
