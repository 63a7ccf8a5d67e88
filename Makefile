# Two commands matter: `make sweep` runs the default study end to end, `make test` runs every test that needs neither a
# GPU nor a network. Both create the environment first and may be repeated.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STUDY ?= reference
RESULTS ?= results/$(notdir $(basename $(STUDY)))
ARGS ?=
# of the tests: one for each core, four at most; `make test PROCESSES=0` runs them in one, where a debugger works
PROCESSES ?= logical

.PHONY: sweep test lint format bench clean

sweep: $(VENV)/.installed
	$(BIN)/python -m sweep.launch $(STUDY) --results $(RESULTS) $(ARGS)
	$(BIN)/python -m analysis.summary $(RESULTS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu and not network and not slow and not cluster" \
		-n $(PROCESSES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.compression --cpu
	$(BIN)/python -m benchmarks.analysis make build/benchmark
	$(BIN)/python -m benchmarks.analysis time build/benchmark

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[test,dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
