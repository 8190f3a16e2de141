PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.DEFAULT_GOAL := help

.PHONY: help install test test-full lint types demo bench clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than both files, or everything is installed again.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[client,agent,market,scheduler,enclave,dev]'
	touch $@

install: $(VENV)/.installed  ## make .venv with everything that the lock file names

demo: install  ## run the main job: ARGS=--json for one JSON line at the end
	$(BIN)/python -m demo $(ARGS)

test: install  ## all tests but the long matrices, with types and import contracts
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not full" $(ARGS)

test-full: install  ## the long matrices too
	$(BIN)/pytest $(ARGS)

lint: install  ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install  ## mypy --strict over the product
	$(BIN)/mypy

bench: install  ## figures, one JSON line each: ARGS="overhead"
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove what was built here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
