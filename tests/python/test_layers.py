"""The dependency law holds, and its checker catches planted violations."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def check(repo_root: Path, tree: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo_root / "tools" / "check_layers.py"), str(tree)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_law_holds(repo_root: Path) -> None:
    result = check(repo_root, repo_root)
    assert result.returncode == 0, result.stdout


def test_c_habits(repo_root: Path) -> None:
    command = [sys.executable, str(repo_root / "tools" / "check_c.py")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


PLANTED_C = [
    ("common/arena.c", '#include "tokenizer/tokenizer.h"\n', "common depends on nobody"),
    ("tokenizer/vocab.c", "#include <Python.h>\n", "py_common.h"),
    ("model/config.c", '#include "backend_cpu/backend_cpu.h"\n', "may not include room backend_cpu"),
    ("trace/reader.c", "#include <zlib.h>\n", "inflate.c"),
    ("model/config.c", "#include <dlfcn.h>\n", "library.c"),
    ("tokenizer/vocab.c", '#include "vocab_private.h"\n', "room/file.h"),
    ("python/py_view.c", "#include <numpy/arrayobject.h>\n", "py_array.c"),
    ("backend_cpu/cpu_gelu.c", '#include "model/model.h"\n', "may not include room model"),
]


@pytest.mark.parametrize(("file", "line", "reason"), PLANTED_C)
def test_planted_include_is_found(
    repo_root: Path, tmp_path: Path, file: str, line: str, reason: str
) -> None:
    shutil.copytree(repo_root / "csrc", tmp_path / "csrc")
    path = tmp_path / "csrc" / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(line + (path.read_text() if path.exists() else ""))
    result = check(repo_root, tmp_path)
    assert result.returncode == 1
    assert any(file in row and reason in row for row in result.stdout.splitlines()), result.stdout


PLANTED_PYTHON = [
    ("trace/extra.py", "from smhf_native.model import Model\n", "may not import room model"),
    ("transformers/extra.py", "import smhf_native.model._model\n", "its own room only"),
    ("server/extra.py", "def late():\n    import tests.support\n", "nothing imports tools or tests"),
    ("tokenizer/extra.py", "from ..model import Model\n", "may not import room model"),
]


@pytest.mark.parametrize(("file", "text", "reason"), PLANTED_PYTHON)
def test_planted_import_is_found(
    repo_root: Path, tmp_path: Path, file: str, text: str, reason: str
) -> None:
    path = tmp_path / "smhf_native" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    result = check(repo_root, tmp_path)
    assert result.returncode == 1
    assert reason in result.stdout
