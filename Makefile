# Placeholder until the two commands land; tools/buildconf.py holds the flags.
PYTHON ?= python3

help:
	@echo "make build | ctests"

build:
	$(PYTHON) setup.py build_ext --inplace

ctests:
	$(PYTHON) tools/buildconf.py ctests --run

.PHONY: help build ctests
