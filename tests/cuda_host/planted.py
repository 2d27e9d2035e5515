"""Planted errors: each one, put into a copy of a kernel, must make the op tests on the host fail.

    python tests/cuda_host/planted.py [PART OF A DESCRIPTION OR FILE]

What a harness cannot catch it does not guard. Uses the objects of ``buildconf.py cudahost``; says which
test caught each, and how. An error whose text is no longer in its file stops everything.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))
import buildconf  # noqa: E402

# (what, file, text, replacement, source that is compiled again)
ERRORS = [
    ("a missing barrier after loading tiles", "cuda_attention.cu",
     "load_tile<T, SIZE>(v_tile, a.v, r, key0, a.D);\n        __syncthreads();",
     "load_tile<T, SIZE>(v_tile, a.v, r, key0, a.D);", "cuda_attention.cu"),
    ("a missing barrier before tiles are loaded again", "cuda_gemm_plain.cu",
     "        __syncthreads();\n    }\n    for (int i = 0; i < 4; i++) {",
     "    }\n    for (int i = 0; i < 4; i++) {", "cuda_gemm_plain.cu"),
    ("one row too many in the tail", "cuda_layernorm.cu",
     "if (r >= pack_rows(pack)) {", "if (r > pack_rows(pack)) {", "cuda_layernorm.cu"),
    ("one key too many in the softmax", "cuda_attention.cu",
     "s[j] = key0 + key < r.length ?", "s[j] = key0 + key <= r.length ?", "cuda_attention.cu"),
    ("a lane left out of a reduction", "cuda_kernels.cuh",
     "for (int offset = CUDA_WARP / 2; offset > 0; offset /= 2) {\n        x += __shfl_xor_sync",
     "for (int offset = CUDA_WARP / 2; offset > 1; offset /= 2) {\n        x += __shfl_xor_sync",
     "cuda_layernorm.cu"),
    ("one column too many in a partial group", "cuda_kernels.cuh",
     "for (int j = 0; j < 4 && c + j < cols; j++) {", "for (int j = 0; j < 4 && c + j <= cols; j++) {",
     "cuda_dropout.cu"),
    ("a barrier in a branch", "cuda_dropout.cu",
     "    parts[warp][lane] = sum;\n    __syncthreads();",
     "    parts[warp][lane] = sum;\n    if (warp > 0) {\n        __syncthreads();\n    }", "cuda_dropout.cu"),
    ("rows behind the count in a weight's gradient", "cuda_linear.cu",
     "x.data[r * x.ld + c] = from_float<T>(0.0f);", "", "cuda_linear.cu"),
    ("a stage read before it has come", "cuda_gemm_mma.cu",
     "copy_wait<STAGES - 2>();", "copy_wait<STAGES - 1>();", "cuda_gemm_mma.cu"),
    ("a stage overwritten while it is read", "cuda_gemm_mma.cu",
     "const int next = s + STAGES - 1;", "const int next = s + STAGES;", "cuda_gemm_mma.cu"),
    ("lanes that swap the wrong pairs", "cuda_gemm_store.cuh",
     "p[i] = odd ? got : p[i];", "p[i] = odd ? p[i] : got;", "cuda_gemm_mma.cu"),
    ("a stage given back before it is read", "cuda_gemm_sm90a.cu",
     "product_wait<1>();", "product_wait<3>();", "cuda_gemm_sm90a.cu"),
    ("a parity that does not turn", "cuda_gemm_sm90a.cu",
     "p->phase ^= 1u;", "p->phase ^= 0u;", "cuda_gemm_sm90a.cu"),
    ("columns of a tile named by half", "cuda_wgmma.cuh",
     "return (uint64_t)tile_address(row) + (uint64_t)k * 2;", "return (uint64_t)tile_address(row) + (uint64_t)k;",
     "cuda_gemm_sm90a.cu"),
    ("a fragment from the wrong column", "cuda_attention_mma.cuh",
     "a[2] = load_pair(p + 8);", "a[2] = load_pair(p + 10);", "cuda_attention_mma.cu"),
    ("the mask of the other row", "cuda_attention_mma.cuh",
     "const uint32_t low = odd ? other : mine", "const uint32_t low = odd ? mine : other", "cuda_attention_mma.cu"),
    ("one query too many in a tile's tail", "cuda_attention_mma.cuh",
     "if (row < r.length) {\n            bf16 *to", "if (row <= r.length) {\n            bf16 *to",
     "cuda_attention_mma.cu"),
    ("an update that ignores what was held back", "cuda_adamw.cu",
     "if (step->halted != 0) {", "if (step->halted > 1) {", "cuda_adamw.cu"),
    ("a bad loss that nobody minds", "cuda_adamw.cu",
     "if (!isfinite(norm) || !isfinite(step->loss_sum)) {", "if (!isfinite(norm)) {", "cuda_adamw.cu"),
]  # fmt: skip


def caught(
    name: str, text: str, replacement: str, source: str, objects: list[Path], rest: list[Path]
) -> str | None:
    """Build the tests with one error planted; what failed, or None."""
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder, "csrc", "backend_cuda")
        room.mkdir(parents=True)
        for path in (buildconf.CSRC / "backend_cuda").iterdir():
            body = path.read_text()
            if path.name == name:
                if text not in body:
                    sys.exit(f"{name} no longer holds {text!r}: plant this error anew")
                body = body.replace(text, replacement, 1)
            (room / path.name).write_text(body)
        flags = [f"-I{Path(folder, 'csrc')}", *buildconf.cuda_host_flags("")]
        planted = buildconf.compile_all([room / source], flags, Path(folder), [*buildconf.cxx(), "-x", "c++"])
        others = [o for o in objects if o.stem != Path(source).stem]
        program = buildconf.link(
            Path(folder, "planted"), [*rest, *others, *planted], [*buildconf.zlib_flags(), "-lm", "-ldl", "-lstdc++"]
        )
        try:
            result = subprocess.run([str(program)], cwd=ROOT, capture_output=True, check=False, timeout=300)
        except subprocess.TimeoutExpired:
            return "still running after 300 s"
    if result.returncode == 0:
        return None
    failed = re.findall(r"^FAIL +(\w+)", result.stdout, re.M)
    said = (result.stderr.strip() or result.stdout.strip() or "nothing").splitlines()[-1]
    return ", ".join(failed) if failed else f"status {result.returncode}: {said[:100]}"


def main() -> int:
    """Plant them one after another; 1 when one stayed unseen."""
    folder = buildconf.flavour("")
    objects = buildconf.cuda_host_objects("", folder / "cuda_host")
    flags = [*buildconf.cflags(""), f"-I{ROOT / 'tests' / 'c'}", f"-I{ROOT / 'tests'}"]
    core = buildconf.compile_all(buildconf.core_sources(), flags, folder)
    tests = {
        name: buildconf.compile_all([buildconf.CUDA_HOST / f"test_cuda_{name}.c"], flags, folder)
        for name in ("ops", "bf16")
    }
    unseen = 0
    wanted = [e for e in ERRORS if len(sys.argv) < 2 or sys.argv[1] in e[0] + e[1] + e[4]]
    for what, name, text, replacement, source in wanted:
        test = tests["bf16" if "mma" in source or "sm90a" in source else "ops"]
        by = caught(name, text, replacement, source, objects, [*test, *core])
        print(f"caught: {what} ({name}), by {by}" if by else f"UNSEEN: {what} ({name})", flush=True)
        unseen += by is None
    print(f"{len(wanted) - unseen} passed, {unseen} failed, 0 skipped")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main())
