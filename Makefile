# Everything runs in a virtual environment inside the checkout; a second run finds it ready.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow check docs bench clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/run: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Pellucid needs Python 3.11 or newer, found " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; about a minute) ..."
	@$(PIP) --editable '.[vision]'
	@touch $@

$(VENV)/dev: $(VENV)/run
	@echo "Installing what tests, checks and documentation need ..."
	@$(PIP) --requirement requirements-dev.txt
	@touch $@

$(VENV)/bench: $(VENV)/dev requirements-bench.txt
	@echo "Installing the peers to compare with ..."
	@$(PIP) --requirement requirements-bench.txt
	@touch $@

setup: $(VENV)/dev  ## the virtual environment with everything in it

demo: $(VENV)/run  ## explain one held-out example of each small model; writes pellucid-demo/index.html
	@$(BIN)/pellucid demo

test: $(VENV)/dev  ## the tests (the slow ones too with `make slow`)
	@$(BIN)/python -m pytest -n 2 -q -m "not slow"

slow: $(VENV)/dev  ## the slow tests
	@$(BIN)/python -m pytest -n 2 -q -m slow

check: $(VENV)/dev  ## formatting, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(VENV)/dev  ## build the documentation, running its code; warnings are errors
	@$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/bench  ## speed and accuracy against captum, shap and shapiq, in one run
	@$(BIN)/python -m benchmarks

clean:  ## remove what was built
	@rm -rf $(VENV) docs/_build pellucid-demo
