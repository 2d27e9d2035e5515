"""The contract of backends compiles as CUDA C++ for device code: a plugin can be written against it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

SOURCE = """
#include "backend/backend.h"

__global__ void draw(uint32_t *out, uint64_t seed) {
    uint32_t draws[4];
    smhf_dropout_draw(seed, 1, 2, 3, 4, 5, threadIdx.x, draws);
    out[threadIdx.x] = draws[0] >= smhf_dropout_threshold(0.1f);
}

extern "C" const smhf_backend *smhf_backend_entry(void) {
    static const smhf_backend table = {SMHF_BACKEND_ABI, sizeof(smhf_backend), "cuda"};
    return &table;
}
"""


def test_contract_compiles_with_nvcc(
    repo_root: Path, tmp_path: Path, missing: Callable[[str, str], None]
) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        missing("cuda", "nvcc not found")
    assert nvcc is not None
    source = tmp_path / "plugin.cu"
    source.write_text(SOURCE)
    command = [nvcc, "-c", str(source), "-o", str(tmp_path / "plugin.o"), f"-I{repo_root / 'csrc'}", "-arch=sm_90a"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
