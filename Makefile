# smhf_native: two commands do everything.
#
#   make run     set-up, build, and the whole notebook workflow on embedded data (results in out/)
#   make test    the tests; PEERS=all adds torch, transformers, datasets, onnxruntime
#
# Flags and file lists live in tools/buildconf.py; exact versions of Python packages in constraints.txt.

SHELL := /bin/bash
PYTHON3 ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { echo $$p; break; }; done)
PEERS ?= light
VENV := $(if $(filter all,$(PEERS)),.venv-peers,.venv)
PY := $(VENV)/bin/python
FUZZ_SECONDS ?= 20

.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo "bench-<room>  the benchmark of one room (benchmarks/)"

.venv/.setup: tools/setup.sh pyproject.toml constraints.txt
	@tools/setup.sh .venv "$(PYTHON3)" run

.venv/.setup-test: .venv/.setup tools/setup.sh pyproject.toml constraints.txt
	@tools/setup.sh .venv "$(PYTHON3)" test

.venv-peers/.setup-test: tools/setup.sh pyproject.toml constraints.txt
	@tools/setup.sh .venv-peers "$(PYTHON3)" peers

setup: $(if $(filter all,$(PEERS)),.venv-peers/.setup-test,.venv/.setup)

build: setup  ## compile the core library and the five modules in place
	@$(PY) setup.py -q build_ext --inplace

run: .venv/.setup  ## set-up, build and the whole job on embedded data; results in out/
	@.venv/bin/python setup.py -q build_ext --inplace
	@.venv/bin/python tools/run_demo.py

test: $(VENV)/.setup-test  ## C tests, pytest, lint
	@$(PY) setup.py -q build_ext --inplace
	@$(PY) tools/run_tests.py

lint: .venv/.setup-test  ## layers, C habits, formatting, ruff, mypy
	@.venv/bin/python setup.py -q build_ext --inplace
	@.venv/bin/python tools/lint.py

asan: setup  ## C tests under AddressSanitizer and UBSan
	@$(PY) tools/buildconf.py ctests --sanitize address,undefined --run
	@$(PY) tools/buildconf.py cudahost --sanitize address,undefined --run
	@$(PY) tests/cuda_host/planted.py

tsan: setup  ## C tests under ThreadSanitizer
	@$(PY) tools/buildconf.py ctests --sanitize thread --run

fuzz: setup  ## replay the fuzz corpora under ASan+UBSan; with clang, fuzz FUZZ_SECONDS each
	@$(PY) tools/buildconf.py fuzz --run
	@if command -v clang >/dev/null; then \
		$(PY) tools/buildconf.py fuzz --run --engine libfuzzer --seconds $(FUZZ_SECONDS); \
	else echo "clang not found: only the corpora were replayed"; fi

notebooks: .venv/.setup-test  ## execute the notebooks in a real kernel
	@.venv/bin/python setup.py -q build_ext --inplace
	@.venv/bin/python -m pytest tests/python/test_notebooks.py -m "slow or not slow"

differential: .venv/.setup-test  ## the tokenizer against tokenizers: a million strings for each vocabulary
	@.venv/bin/python setup.py -q build_ext --inplace
	@.venv/bin/python tools/tokenizer_differential.py

check-all: test asan tsan fuzz notebooks differential  ## the heavy tier

bench: build  ## every benchmark
	@for f in benchmarks/bench_*.py; do $(PY) $$f || exit 1; done

bench-%: build
	@$(PY) benchmarks/bench_$*.py

clean:  ## remove everything that was built or made
	rm -rf build dist out .venv .venv-peers *.egg-info smhf_native/_lib/*.so smhf_native/*/_*.so
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

.PHONY: help setup build run test lint asan tsan fuzz notebooks differential check-all bench clean
