# make quickstart: from nothing to a scaling law.    make test: everything that can be checked here.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin

.PHONY: help install quickstart test test-fast test-parity test-cluster lint clean

help:
	@echo "make quickstart   install into $(VENV), then train three families of models and compare them (minutes, two cores)"
	@echo "make test         install what tests need, then lint, types and the whole suite"
	@echo "make test-cluster the tests that start a real Slurm and SSH hosts (root, Debian packages named in .ci/run)"
	@echo "make test-parity  every layout against one process, in full"
	@echo "make test-fast    the suite without slow, end-to-end and cluster tests"
	@echo "make lint         ruff and mypy"

install: $(VENV)/.installed

# torch first: deepspeed's build looks for it.
$(VENV)/.installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet setuptools wheel $(shell grep '^torch==' requirements.txt)
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --no-build-isolation -e ".[test]"
	@touch $@

quickstart: install
	$(BIN)/escala sweep run configs/sweep/quickstart.yaml

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not cluster"

test-parity: $(VENV)/.test-installed
	$(BIN)/python -m pytest -m full_parity tests/dist

test-cluster: $(VENV)/.test-installed
	$(BIN)/python -m pytest tests/cluster -rs --durations=5

test-fast: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not e2e and not cluster"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
