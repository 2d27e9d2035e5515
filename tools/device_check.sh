#!/usr/bin/env bash
# One command for a GPU machine: build there, test on the device, time it beside its peers.
#
#     tools/device_check.sh            everything; under 8 minutes
#     tools/device_check.sh --dry      without a GPU: everything except what needs the device
#
# Needs Python 3.11 or later with its headers, NumPy and setuptools, a C++ compiler, nvcc 13 and cuBLASLt
# (toolkit, or pip install nvidia-cublas): nothing is fetched. No OpenBLAS, no libcurl, no zlib: rooms
# that lack a library are left out. Peers (torch, transformers) are measured where they are installed.
# The table goes to standard output and to build/device_check.md, with $OUT set also there.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
dry=0
[ "${1:-}" = --dry ] && dry=1
started=$SECONDS
log=build/device_check.log
table=build/device_check.md
mkdir -p build
: >"$log"
rm -f "$table" build/bench_gpu.md
rows=()
failed=0

row() { rows+=("| $1 | $2 |"); printf '%4ds  %-44s %s\n' $((SECONDS - started)) "$1" "$2"; }
# check NAME SECONDS COMMAND...: "ok" or "FAILED", the output to the log
check() {
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*" >>"$log"
    local status=0 before=$SECONDS
    timeout "$limit" "$@" >>"$log" 2>&1 || status=$?
    if [ $status = 0 ]; then
        row "$name" "ok, $((SECONDS - before)) s"
    elif [ $status = 124 ]; then
        row "$name" "STOPPED after $limit s"
        failed=1
    else
        row "$name" "FAILED (status $status): $(tail -n 1 "$log" | tr '|' '/' | cut -c1-120)"
        failed=1
    fi
}
# the same, where it needs the device
on_device() {
    if [ $dry = 1 ]; then row "$1" "not measured: dry run, no GPU"; else check "$@"; fi
}
# What there is before the last step, should it be the one that is stopped.
write_table() {
    {
        echo "| check | result |"
        echo "|---|---|"
        printf '%s\n' "${rows[@]}"
        echo
        [ -f build/bench_gpu.md ] && cat build/bench_gpu.md
    } >"$table"
    if [ -n "${OUT:-}" ] && [ -d "$OUT" ]; then cp "$table" "$log" "$OUT"/; fi
    return 0
}

if [ $dry = 0 ] && ! nvidia-smi -L >/dev/null 2>&1; then
    echo "no NVIDIA device here (nvidia-smi -L fails); tools/device_check.sh --dry checks the rest" >&2
    exit 1
fi
if [ $dry = 0 ]; then
    row "device" "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | head -1)"
else
    row "device" "not measured: dry run, no GPU"
fi
row "commit" "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
row "python" "$("$python" -c 'import platform; print(platform.python_version())')"

# 1. build: plain matmul for the processor, this machine's architecture only
export SMHF_BLAS=plain SMHF_REQUIRE=cuda
unset SMHF_CUDA SMHF_DEVICE
if [ $dry = 0 ]; then export SMHF_CUDA_ARCHS=${SMHF_CUDA_ARCHS:-native}; else export SMHF_CUDA_ARCHS=${SMHF_CUDA_ARCHS:-90}; fi
check "build of core, modules and plugin" $((dry ? 1800 : 200)) "$python" setup.py -q build_ext --inplace
export SMHF_BACKEND_PATH=$PWD/smhf_native/_lib/libsmhf_cuda.so
export PYTHONPATH=$PWD

# 2. what the machine has
check "backends() answers" 60 "$python" -c '
import json, smhf_native
print(json.dumps(smhf_native.backends(), default=str))'
if [ $dry = 1 ]; then
    check "device=\"cuda\" is refused with a sentence" 60 "$python" -c '
import smhf_native, sys
try:
    smhf_native.Model.from_config({"model_type": "distilbert", "vocab_size": 50, "dim": 16, "n_heads": 2,
        "n_layers": 1, "hidden_dim": 32, "max_position_embeddings": 16, "num_labels": 2}, device="cuda")
except smhf_native.errors.BackendError as error:
    print(error)
else:
    sys.exit("cuda opened in a dry run")'
fi

# 3. ops, bf16, graphs, the whole model: the tests of tests/cuda_host on the device
check "tests compile for the device" $((dry ? 600 : 90)) "$python" tools/buildconf.py cudahost --device
for name in ops bf16 graph model; do
    on_device "cuda_$name on the device" 90 "$python" tools/buildconf.py cudahost --device --run cuda_$name
done
if [ $dry = 1 ]; then
    check "ops, bf16, graphs, model on the host" 1800 "$python" tools/buildconf.py cudahost --run
fi

# 3b. the kernels for Hopper alone: they were written without one
on_device "kernels for sm_90a agree (SMHF_CUDA_SM90A=1)" 60 env SMHF_CUDA_SM90A=1 SMHF_CUDA_GEMM=own \
    build/obj/device/bin/test_cuda_model
write_table

# 4. compute-sanitizer over the op tests
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
for tool in memcheck racecheck; do
    if [ $dry = 1 ] || [ -n "$sanitizer" ]; then
        on_device "compute-sanitizer $tool" 60 "$sanitizer" --tool $tool --error-exitcode 9 \
            build/obj/device/bin/test_cuda_ops --quick
    else
        row "compute-sanitizer $tool" "not measured: compute-sanitizer is not installed"
    fi
done

# 5. time, beside the peers of the same run; what was measured before the limit is kept
write_table
if [ $dry = 1 ]; then
    check "benchmark runs without a GPU" 300 "$python" benchmarks/bench_gpu.py --markdown build/bench_gpu.md
else
    left=$((465 - (SECONDS - started)))
    check "benchmark" $((left > 60 ? left : 60)) "$python" benchmarks/bench_gpu.py \
        --seconds $((left > 90 ? left - 30 : 60)) --markdown build/bench_gpu.md
fi
write_table
echo
cat "$table"
echo
echo "$((SECONDS - started)) s; table in $table, output of every step in $log"
exit $failed
