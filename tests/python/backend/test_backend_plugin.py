"""Loading a backend from a shared object: the registry's answers, through libsmhf.so itself.

A child process for each case: what a process has loaded it keeps.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = """
#include "backend/backend.h"
#include <stddef.h>

static smhf_status refuse(int32_t ordinal, smhf_device_info *info, smhf_error *err) {
    (void)ordinal;
    (void)info;
    (void)err;
    return SMHF_E_UNAVAILABLE;
}

const smhf_backend *smhf_backend_entry(void);

const smhf_backend *smhf_backend_entry(void) {
    static smhf_backend table;
    void (**entry)(void) = (void (**)(void))&table.probe;
    for (size_t i = 0; i < (sizeof table - offsetof(smhf_backend, probe)) / sizeof *entry; i++) {
        entry[i] = (void (*)(void))refuse;
    }
    table.abi = SMHF_BACKEND_ABI + (PLUGIN_ABI);
    table.size = sizeof table + (PLUGIN_SIZE);
    table.name = PLUGIN_NAME;
    return &table;
}
"""

ASK = """
import ctypes, sys
class Error(ctypes.Structure):
    _fields_ = [("code", ctypes.c_int), ("http", ctypes.c_int), ("offset", ctypes.c_int64),
                ("file", ctypes.c_char_p), ("line", ctypes.c_int), ("message", ctypes.c_char * 384)]
core = ctypes.CDLL(sys.argv[1])
driver = sys.argv[3].encode() if len(sys.argv) > 3 else None
err, found = Error(), ctypes.c_void_p()
assert core.smhf_backend_register_plugin(b"far", sys.argv[2].encode(), driver, 1, ctypes.byref(err)) == 0
for _ in range(2):  # the second answer is the remembered one
    err = Error()
    code = core.smhf_backend_find(b"far", ctypes.byref(found), ctypes.byref(err))
    print(code, bool(found.value), err.message.decode())
"""


def build(root: Path, folder: Path, *, abi: int = 0, size: int = 0, name: str = "far") -> Path:
    """Compile the plugin with a table that says this about itself."""
    source = folder / "plugin.c"
    source.write_text(PLUGIN)
    target = folder / "libfar.so"
    command = [
        *shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-shared", "-fPIC", f"-I{root / 'csrc'}",
        f"-DPLUGIN_ABI={abi}", f"-DPLUGIN_SIZE={size}", f'-DPLUGIN_NAME="{name}"',
        str(source), "-o", str(target),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return target


def ask(root: Path, file: str, *driver: str, **environment: str) -> tuple[int, bool, str]:
    """Status, found or not, and the sentence of smhf_backend_find."""
    core = root / "smhf_native" / "_lib" / "libsmhf.so"
    if not core.exists():
        pytest.skip("libsmhf.so is not built")
    result = subprocess.run(
        [sys.executable, "-c", ASK, str(core), file, *driver],
        capture_output=True, text=True, check=True, env={**os.environ, **environment},
    )  # fmt: skip
    first, second = result.stdout.splitlines()
    assert first == second
    code, found, message = first.split(" ", 2)
    return int(code), found == "True", message


OK, UNAVAILABLE, ABI = 0, 9, 10


def test_found_by_path_folder_and_variable(repo_root: Path, tmp_path: Path) -> None:
    plugin = build(repo_root, tmp_path)
    assert ask(repo_root, str(plugin))[:2] == (OK, True)
    assert ask(repo_root, "libfar.so", SMHF_BACKEND_PATH=str(tmp_path))[:2] == (OK, True)
    assert ask(repo_root, "other.so", SMHF_BACKEND_PATH=str(plugin))[:2] == (OK, True)


def test_absent(repo_root: Path, tmp_path: Path) -> None:
    code, found, message = ask(repo_root, "libfar.so")
    assert (code, found) == (UNAVAILABLE, False)
    assert "libfar.so is not built" in message
    code, _, message = ask(repo_root, "libfar.so", SMHF_BACKEND_PATH=str(tmp_path))
    assert code == UNAVAILABLE
    assert f"{tmp_path} holds no libfar.so" in message
    code, _, message = ask(repo_root, "libfar.so", SMHF_BACKEND_PATH=str(tmp_path / "gone"))
    assert code == UNAVAILABLE
    assert "does not exist" in message


def test_driver_is_asked_first(repo_root: Path, tmp_path: Path) -> None:
    plugin = build(repo_root, tmp_path)
    code, found, message = ask(repo_root, str(plugin), "libno-such-driver.so.1")
    assert (code, found) == (UNAVAILABLE, False)
    assert "no far driver" in message and "libno-such-driver.so.1" in message


@pytest.mark.parametrize(("abi", "size"), [(1, 0), (0, 8)])
def test_another_contract(repo_root: Path, tmp_path: Path, abi: int, size: int) -> None:
    code, found, message = ask(repo_root, str(build(repo_root, tmp_path, abi=abi, size=size)))
    assert (code, found) == (ABI, False)
    assert "build both from the same source" in message


def test_another_name(repo_root: Path, tmp_path: Path) -> None:
    code, _, message = ask(repo_root, str(build(repo_root, tmp_path, name="near")))
    assert code == ABI
    assert 'expected the backend "far", found "near"' in message


def test_not_a_plugin(repo_root: Path, tmp_path: Path) -> None:
    library = tmp_path / "libempty.so"
    source = tmp_path / "empty.c"
    source.write_text("int smhf_nothing;\n")
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    code, _, message = ask(repo_root, str(library))
    assert code == ABI
    assert "smhf_backend_entry" in message
    source.write_text("not a library")
    code, _, message = ask(repo_root, str(source))
    assert code == UNAVAILABLE
    assert "empty.c" in message
