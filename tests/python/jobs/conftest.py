"""A store and a session of its own for each test."""

from __future__ import annotations

import gc
import os
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Variables of the user that must not reach the jobs of a test.
_FOREIGN = ("SMHF_MODE", "SMHF_ALLOW_PIP", "AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """``$SMHF_HOME`` of this test; no session of an earlier test is alive."""
    for name in _FOREIGN:
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "smhf"
    monkeypatch.setenv("SMHF_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    gc.collect()
    yield folder
    gc.collect()


@pytest.fixture
def local(home: Path) -> Any:
    """A local session."""
    from smhf_native.session import Session

    return Session()


@pytest.fixture
def estimator(local: Any, tmp_path: Path) -> Callable[..., Any]:
    """``estimator(script_text, **arguments)``: a local estimator whose source folder holds the script."""
    from smhf_native.huggingface.estimator import HuggingFace

    def make(script: str, **arguments: Any) -> Any:
        source = tmp_path / "src"
        source.mkdir(exist_ok=True)
        name = arguments.pop("entry_point", "train.py")
        (source / name).write_text(textwrap.dedent(script), encoding="utf-8")
        values: dict[str, Any] = {
            "entry_point": name,
            "source_dir": str(source),
            "role": "role",
            "transformers_version": "4.6",
            "pytorch_version": "1.7",
            "py_version": "py36",
            "base_job_name": "t",
            "output_path": f"s3://{local.default_bucket()}/out/",
            "sagemaker_session": local,
        }
        return HuggingFace(**{**values, **arguments})

    return make


def process_gone(pid: int) -> bool:
    """Tell whether the process has ended (a zombie counts as ended)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(autouse=True)
def real_opt_ml_untouched() -> Iterator[None]:
    """No test may create or change the real /opt/ml."""
    before = os.stat("/opt/ml").st_mtime_ns if os.path.exists("/opt/ml") else None
    yield
    after = os.stat("/opt/ml").st_mtime_ns if os.path.exists("/opt/ml") else None
    assert before == after
