# One environment in .venv, filled once per set of extras; every target brings what it needs.
# The stamps depend on pyproject.toml and constraints.txt, so a second call does nothing.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
CODE := tessera tests examples benchmarks docs
JOBS ?= 2
# The site generator and its theme print pages about their own future before every build.
QUIET_MKDOCS := DISABLE_MKDOCS_2_WARNING=true NO_MKDOCS_2_WARNING=1
export OPENBLAS_NUM_THREADS ?= 2

.PHONY: help quickstart test lint types docs docs-serve bench examples ci clean distclean env env-examples env-dev env-docs env-bench

help: ## list the targets
	@echo "usage: make <target> [PYTHON=python3.12] [JOBS=2]"
	@echo
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: env ## install, then prove, compile, run and compare the example functions
	$(BIN)/python examples/quickstart.py

test: env-dev ## run the test suite (ARGS="tests/ir -k dim" narrows it)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

lint: env-dev ## ruff over the code, the tests and the examples
	$(BIN)/ruff check $(wildcard $(CODE))

types: env-dev ## mypy over the package
	$(BIN)/mypy

docs: env-docs ## build the documentation strictly into site/
	@$(QUIET_MKDOCS) $(BIN)/mkdocs build --strict --quiet

docs-serve: env-docs ## serve the documentation on the loopback address
	@$(QUIET_MKDOCS) $(BIN)/mkdocs serve --dev-addr 127.0.0.1:8000

bench: env-bench ## measure against torch eager, torch.compile and JAX (minutes)
	$(BIN)/python -m tessera bench $(ARGS)

examples: env-examples ## run every example
	@printf '%s\0' examples/*.py | xargs -0 -n 1 -P $(JOBS) .ci/aloud $(BIN)/python

ci: ## everything the gate runs: lint, types, docs, tests, examples
	.ci/run

clean: ## remove caches and build outputs, keep the environment
	rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find tessera tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## clean, and remove the environment too
	rm -rf $(VENV)

# -- environments ---------------------------------------------------------------------------------

env: $(VENV)/.tessera-run ## create .venv with what running needs
env-examples: $(VENV)/.tessera-examples ## … with what every example needs
env-dev: $(VENV)/.tessera-dev ## … with what tests, lint and types need
env-docs: $(VENV)/.tessera-docs ## … with what the documentation needs
env-bench: $(VENV)/.tessera-bench ## … with the peers of the benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "tessera needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.tessera-run: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.tessera-examples: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[examples]'
	@touch $@ $(VENV)/.tessera-run

$(VENV)/.tessera-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.tessera-run $(VENV)/.tessera-examples

$(VENV)/.tessera-docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[dev,docs]'
	@touch $@ $(VENV)/.tessera-run $(VENV)/.tessera-examples $(VENV)/.tessera-dev

$(VENV)/.tessera-bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (about a minute, once)"
	@$(PIP) install -c constraints.txt -e '.[bench]'
	@touch $@ $(VENV)/.tessera-run
