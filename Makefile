# Needs only Python >= 3.10 with venv; everything else is installed into .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

# A worker for each processor, which computes with one thread: more would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=logical --dist=loadgroup

MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What `make lowest` runs: all that meets the other packages most. `-W default`: old versions warn of themselves.
CORE := tests/cli tests/tables tests/report tests/review tests/uses tests/estimators tests/test_init.py
# Tests of estimators' settings that scikit-learn has had for less long than our lowest version.
NEWER := not 20.0 and not alpha_of_its_own and not settings_that_are_refused and not true_hinges
TORCH ?= 2.13.0

.PHONY: help demo test check docs oracles lowest mutants format clean

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

oracles: ## compare with other libraries of influence, survival and econometrics, in environments of their own
	$(MAKE) VENV=.venv-oracles .venv-oracles/installed-dev
	.venv-oracles/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[oracles]"
	.venv-oracles/bin/pytest tests/test_oracles.py tests/estimators/test_econometrics.py
	$(MAKE) VENV=.venv-lifelines .venv-lifelines/installed-dev
	.venv-lifelines/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable ".[lifelines,survival]"
	.venv-lifelines/bin/pytest tests/estimators/test_lifelines.py tests/estimators/test_survival_*.py

lowest: ## the core tests with the lowest versions that pyproject.toml allows (TORCH=2.6.0: also of torch, gigabytes)
	$(MAKE) VENV=.venv-lowest .venv-lowest/bin/python
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --no-deps --editable .
	.venv-lowest/bin/python -m tests.lowest review vision torch=$(TORCH) > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --disable-pip-version-check --constraint .venv-lowest/constraints.txt \
		--editable ".[review,vision]" "pytest==9.1.1" hypothesis beartype httpx
	OMP_NUM_THREADS=1 .venv-lowest/bin/pytest -o addopts= -W default -k "$(NEWER)" $(CORE)

mutants: ## how many faults put into the source the tests notice, a sample of each module: an hour or more
	$(MAKE) VENV=.venv-mutants .venv-mutants/installed-dev
	.venv-mutants/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt "cosmic-ray==8.7.0"
	.venv-mutants/bin/python -m tests.mutants $(MUTANTS) # MUTANTS="--sample 2 solvers/exact.py", say

format: $(VENV)/installed-dev ## rewrite the files as `check` wants them, as far as a program can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environment and the caches of the tools
	rm -rf $(VENV) site .venv-oracles .venv-lifelines .venv-lowest .venv-mutants .pytest_cache .ruff_cache .mypy_cache .hypothesis

# Stamps: a second call installs nothing until pyproject.toml or constraints.txt changes. The install is editable.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable .
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) --editable ".[dev]"
	touch $@ $(VENV)/installed
