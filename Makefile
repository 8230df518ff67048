# Two commands do everything, set-up included: `make demo` runs the main job, `make test` the whole suite, the docs too.
# While you work: `make check` (lint and the quick tests, on every core); `make docs` builds the documentation into site/; `make hooks` runs lint before each commit.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: setup demo test check docs lint hooks clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "VRX needs Python >= 3.11: run make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --progress-bar off --editable '.[dev]'
	@touch $@

demo: setup
	$(RUN) train.py

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

check: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -m 'not slow' --numprocesses auto

test: lint
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q --numprocesses auto --cov=vrx --cov-report=term:skip-covered

docs: setup
	$(VENV)/bin/mkdocs build --quiet
	@echo "Open site/index.html"

hooks: setup
	$(VENV)/bin/pre-commit install

clean:
	rm -rf $(VENV) build dist site *.egg-info .coverage .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
