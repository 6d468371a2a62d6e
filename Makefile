# Needs only Python >= 3.10 with venv; everything else is installed into .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# A worker for each processor, which computes with one thread: more would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=logical --dist=loadgroup

MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: help demo test check docs oracles mutants format clean

help: ## show this list (default)
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/installed ## explain a wrong prediction of a digit classifier and verify it by retraining
	$(BIN)/upweight demo

test: check ## the same as check

check: $(VENV)/installed-dev ## what CI runs: format, lint, types, documentation, unit tests and doctests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MKDOCS)
	$(PYTEST)
	$(PYTEST) --no-bfloat16 --only-bfloat16 # as on a processor without it, where the answers may depend on that

docs: $(VENV)/installed-dev ## build the documentation into site/
	$(MKDOCS)

oracles: ## compare with curvlinops and kronfluence, in an environment of their own
	$(MAKE) VENV=.venv-oracles .venv-oracles/installed-dev
	.venv-oracles/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[oracles]"
	.venv-oracles/bin/pytest tests/test_oracles.py

mutants: ## how many faults put into the source the tests notice, a sample of each module: an hour or more
	$(MAKE) VENV=.venv-mutants .venv-mutants/installed-dev
	.venv-mutants/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt "cosmic-ray==8.7.0"
	.venv-mutants/bin/python -m tests.mutants $(MUTANTS) # MUTANTS="--sample 2 solvers/exact.py", say

format: $(VENV)/installed-dev ## rewrite the files as `check` wants them, as far as a program can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and the caches of the tools
	rm -rf $(VENV) site .venv-oracles .venv-mutants .pytest_cache .ruff_cache .mypy_cache .hypothesis

# Stamps: a second call installs nothing until pyproject.toml or constraints.txt changes. The install is editable.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/installed
