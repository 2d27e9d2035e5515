"""What becomes of pip commands in notebooks."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from smhf_native import shell

PIP = shlex.join([sys.executable, "-m", "pip", "install"])


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("pip install -Uq sagemaker smdebug",
         "echo 'sagemaker, smdebug: provided by smhf_native; nothing installed'"),
        ("pip3 install 'transformers[torch]<5'",
         "echo 'transformers: provided by smhf_native; nothing installed'"),
        ("python -m pip install datasets==1.6",
         "echo 'datasets: provided by smhf_native; nothing installed'"),
        ("pip install seaborn", f"{PIP} seaborn"),
        ("pip install -q 'sagemaker>=2,<3' seaborn --index-url http://127.0.0.1/simple",
         f"echo 'sagemaker: provided by smhf_native' && {PIP} -q seaborn --index-url http://127.0.0.1/simple"),
        ("pip install sagemaker-training", f"{PIP} sagemaker-training"),
        ("pip list | grep sagemaker", "pip list | grep sagemaker"),
        ("pygmentize src/train.py", "pygmentize src/train.py"),
        ("echo 'pip install sagemaker; ls'", "echo 'pip install sagemaker; ls'"),
        ("cd x && pip install sagemaker",
         "cd x && echo 'sagemaker: provided by smhf_native; nothing installed'"),
        ("pip install sagemaker 2>&1 | tail -1",
         "echo 'sagemaker: provided by smhf_native; nothing installed' | tail -1"),
    ],
)  # fmt: skip
def test_rewrite(command: str, expected: str) -> None:
    assert shell.rewrite(command) == expected


def test_requirements_file_is_filtered(tmp_path: Path) -> None:
    listed = tmp_path / "requirements.txt"
    listed.write_text("# ours\nsagemaker==2.50\nseaborn\n")
    words = shlex.split(shell.rewrite(f"pip install -r {listed}"))
    copy = Path(words[words.index("-r") + 1])
    assert copy != listed
    assert copy.read_text() == "# ours\nseaborn\n"
    assert listed.read_text() == "# ours\nsagemaker==2.50\nseaborn\n"
