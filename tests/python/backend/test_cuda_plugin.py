"""The built CUDA plugin on a machine that may have no GPU: it loads, says why not, and costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CHILD = """
import ctypes, json
class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("http", ctypes.c_int), ("offset", ctypes.c_int64),
                ("file", ctypes.c_char_p), ("line", ctypes.c_int), ("message", ctypes.c_char * 384)]
class Head(ctypes.Structure):
    _fields_ = [("abi", ctypes.c_uint32), ("size", ctypes.c_uint32), ("name", ctypes.c_char_p),
                ("probe", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int32, ctypes.c_void_p, ctypes.POINTER(Error)))]
plugin = ctypes.CDLL(PATH, mode=2)
plugin.smhf_backend_entry.restype = ctypes.POINTER(Head)
head = plugin.smhf_backend_entry().contents
error, info = Error(), ctypes.create_string_buffer(4096)
status = head.probe(0, info, error)
print(json.dumps({"abi": head.abi, "name": head.name.decode(), "status": status, "message": error.message.decode()}))
"""


@pytest.fixture
def plugin(repo_root: Path, missing: Callable[[str, str], None]) -> Path:
    path = repo_root / "smhf_native" / "_lib" / "libsmhf_cuda.so"
    if not path.exists():
        sys.path.insert(0, str(repo_root / "tools"))
        import buildconf

        missing("cuda", f"the CUDA plugin is not built: {buildconf.cuda_reason() or 'build it first'}")
    return path


def run(code: str, **env: str) -> str:
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)
    assert result.returncode == 0, result.stderr
    return result.stdout


def has_gpu() -> bool:
    return Path("/dev/nvidiactl").exists()


def test_it_loads_without_a_driver_and_says_so(repo_root: Path, plugin: Path) -> None:
    found = json.loads(run(f"PATH = {str(plugin)!r}\n{CHILD}"))
    header = (repo_root / "csrc" / "backend" / "backend.h").read_text()
    assert f"#define SMHF_BACKEND_ABI {found['abi']}\n" in header
    assert found["name"] == "cuda"
    if not has_gpu():
        assert found["status"] != 0
        assert "driver" in found["message"], found["message"]


def test_it_exports_one_symbol_and_links_no_cuda_library(plugin: Path) -> None:
    symbols = subprocess.run(["nm", "-D", "--defined-only", str(plugin)], capture_output=True, text=True, check=True)
    assert [line.split()[-1] for line in symbols.stdout.splitlines()] == ["smhf_backend_entry"]
    needed = subprocess.run(["readelf", "-d", str(plugin)], capture_output=True, text=True, check=True).stdout
    libraries = [line.split("[")[1].rstrip("]") for line in needed.splitlines() if "(NEEDED)" in line]
    assert not [name for name in libraries if "cu" in name or "stdc++" in name], libraries
    assert plugin.stat().st_size < 15_000_000


def test_nobody_loads_it_who_does_not_ask(plugin: Path) -> None:
    code = "import smhf_native; smhf_native.Model; print('libsmhf_cuda' in open('/proc/self/maps').read())"
    assert run(code).strip() == "False"


def test_reason_is_a_sentence(plugin: Path) -> None:
    code = """
import smhf_native, smhf_native.errors as errors
cuda = smhf_native.backends()["cuda"]
print(cuda["available"], "|", cuda["reason"])
"""
    available, reason = run(code).strip().split(" | ", 1)
    assert available == "True" or "driver" in reason
