"""The tour in README.md runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


def test_tour(repo_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    blocks = re.findall(r"```python\n(.*?)```", (repo_root / "README.md").read_text(), re.S)
    assert len(blocks) == 1
    result = subprocess.run(
        [sys.executable, "-c", blocks[0]], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    loss = re.search(r"loss ([\d.]+)", result.stdout)
    assert loss is not None and float(loss[1]) < 1.3  # an untrained head gives ln 5 = 1.61
    assert "LABEL_" in result.stdout

