"""Fixtures: external data and peers, skipped with a reason or required by SMHF_REQUIRE.

SMHF_TEST_DATA names the folder that holds ``data/`` and ``seed/`` (default: ``../shared``).
SMHF_REQUIRE is a comma list of data, peers, cuda: what it names must be there, else the test fails.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Child processes (jobs, kernels, the CLI) must find this checkout's package.
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
# A shell's background job (`make test &`) starts with Ctrl-C ignored, children inherit that, and the
# tests of Ctrl-C would wait for an interrupt that Python never sees.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
PEERS = {"torch", "transformers", "datasets", "pyarrow", "onnxruntime", "accelerate"}


def required(kind: str) -> bool:
    return kind in os.environ.get("SMHF_REQUIRE", "").split(",")


def skip_or_fail(kind: str, reason: str) -> None:
    """Skip with the reason, or fail when SMHF_REQUIRE asks for this kind."""
    if required(kind):
        pytest.fail(f"SMHF_REQUIRE={kind}: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def missing() -> Callable[[str, str], None]:
    """``missing("cuda", "nvcc not found")``: skip, or fail where SMHF_REQUIRE asks for it."""
    return skip_or_fail


@pytest.fixture(scope="session")
def repo_root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of external test data (reviews, vocab, traces, sigv4, text)."""
    base = Path(os.environ.get("SMHF_TEST_DATA", ROOT.parent / "shared"))
    if not (base / "data").is_dir():
        skip_or_fail("data", f"test data folder {base.name}/data not found (set SMHF_TEST_DATA)")
    return base / "data"


@pytest.fixture(scope="session")
def seed_folder() -> Path:
    """The published notebook page and its training script."""
    base = Path(os.environ.get("SMHF_TEST_DATA", ROOT.parent / "shared"))
    if not (base / "seed").is_dir():
        skip_or_fail("data", f"seed folder {base.name}/seed not found (set SMHF_TEST_DATA)")
    return base / "seed"


@pytest.fixture(scope="session")
def peer() -> Callable[[str], ModuleType]:
    """``peer("torch")``: import a reference implementation, or skip with the reason."""

    def load(name: str) -> ModuleType:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            kind = "peers" if name.split(".")[0] in PEERS else "test"
            skip_or_fail(kind, f"peer {name} is not installed: {error}")
            raise AssertionError("unreachable") from error

    return load
