"""The project's notebooks run in a real Jupyter kernel, each in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook: Path, repo_root: Path, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "pandas", "sklearn"):
        pytest.importorskip(package)
    work = tmp_path / "work"
    shutil.copytree(notebook.parent / "src", work / "src")
    env = {**os.environ, "PYTHONPATH": str(repo_root), "SMHF_HOME": str(tmp_path / "home")}
    command = [
        sys.executable, "-m", "smhf_native.cli", "run", str(notebook), "--cwd", str(work),
        "--output", str(tmp_path / "out.ipynb"),
    ]  # fmt: skip
    start = time.perf_counter()
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert time.perf_counter() - start < 180
    assert (tmp_path / "out.ipynb").stat().st_size < 2_000_000
