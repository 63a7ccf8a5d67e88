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

.PHONY: sweep test lint format bench docs figures schema wheel clean

sweep: $(VENV)/.installed
	$(BIN)/calibsweep run $(STUDY) --results $(RESULTS) $(ARGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not gpu and not network and not slow and not cluster" \
		-n $(PROCESSES) --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m benchmarks.links

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.evaluation
	$(BIN)/python -m benchmarks.compression --cpu
	$(BIN)/python -m benchmarks.analysis make build/benchmark
	$(BIN)/python -m benchmarks.analysis time build/benchmark

docs: $(VENV)/.installed-docs  # the site, in build/site: links and headings are checked
	$(BIN)/python -m mkdocs build

figures: $(VENV)/.installed  # that of the README, from the data behind the findings
	$(BIN)/python -m benchmarks.front

schema: $(VENV)/.installed  # after a change of what a study file may hold
	$(BIN)/calibsweep schema > sweep/studies/study.schema.json

wheel: $(VENV)/bin/python  # two: the largest bundled model has its own; built from a copy, so that none is left here
	rm -rf build/wheel && mkdir -p build/wheel dist
	git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t build/wheel
	cp -r build/wheel/sweep/reference/models/reference-17m build/wheel/packages/models/
	$(BIN)/pip wheel --no-deps --wheel-dir dist build/wheel build/wheel/packages/models

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[test,dev]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
