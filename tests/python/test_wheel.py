"""The wheel imports and works with nothing but NumPy beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest

IGNORED = shutil.ignore_patterns(
    ".git", "build", "dist", "out", ".venv*", "*.egg-info", "__pycache__", "*.so", ".mypy_cache", ".ruff_cache"
)


@pytest.mark.slow
def test_wheel_with_numpy_only(repo_root: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # a copy: the build must not touch the checkout
    shutil.copytree(repo_root, tree, ignore=IGNORED)
    if (repo_root / "build" / "obj").is_dir():  # objects are reused: their keys and times are checked
        shutil.copytree(repo_root / "build" / "obj", tree / "build" / "obj")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    # The plugin is built by other tests, and takes minutes.
    env = os.environ | {"SMHF_CUDA": "0", "SMHF_REQUIRE": ""}
    built = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert "-none-any" not in wheel.name
    assert wheel.stat().st_size < 25_000_000
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert not [n for n in names if n.startswith(("tests", "tools", "csrc", "benchmarks"))]
        assert "smhf_native/py.typed" in names and "smhf_native/_lib/libsmhf.so" in names
        archive.extractall(site)
    packages = Path(numpy.__file__).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import smhf_native as smhf
assert smhf.__file__.startswith({str(site)!r})
tok = smhf.train_wordpiece(["one two three", "two three four"], vocab_size=60)
model = smhf.Model.from_config({{"model_type": "distilbert", "vocab_size": tok.vocab_size, "dim": 16,
    "max_position_embeddings": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 32, "num_labels": 2}}, seed=1)
print(model(tok(["one two", "four"], padding=True)).shape, smhf.backends()["cpu"]["available"])
try:
    smhf.Trace.open("absent.json")
except OSError:
    print("room trace")
with smhf.Invoker("http://127.0.0.1:9/") as invoker:
    print("room invoker")
try:
    import pandas
except ImportError:
    print("no pandas")
"""
    ran = subprocess.run([sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["(2, 2) True", "room trace", "room invoker", "no pandas"]
