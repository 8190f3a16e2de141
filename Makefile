PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=
# A process for each: what one leaves behind in its own is no other's. Two at a time, a core for each;
# then one after another those that want both cores, or look at what the whole machine has in /tmp.
SUITES := marketplace client trust tui scheduler provider_agent adversary demo benchmarks \
          architecture vectors fuzz
TOWNS  := enclave_runtime end_to_end docs faults
# One suite; its output comes whole, when it has ended.
RUN     = out=$$($(BIN)/pytest $(1) tests/{} $(ARGS) 2>&1); status=$$?; echo "$$out"; exit $$status

.DEFAULT_GOAL := help

.PHONY: help install test test-full lint types demo bench fuzz clean

help:  ## list the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The stamp is newer than both files, or everything is installed again.
$(VENV)/.installed: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[client,agent,market,scheduler,enclave,tui,dev]'
	touch $@

install: $(VENV)/.installed  ## make .venv with everything that the lock file names

demo: install  ## run the main job: ARGS=--json for one JSON line at the end
	$(BIN)/python -m demo $(ARGS)

test: install  ## all tests but the long matrices, with types and import contracts
	$(BIN)/lint-imports
	printf '%s\n' $(SUITES) | xargs -P 2 -I{} sh -c '$(call RUN,-m "not full")'
	for suite in $(TOWNS); do $(BIN)/pytest -m "not full" tests/$$suite $(ARGS) || exit 1; done

test-full: install  ## the long matrices too
	printf '%s\n' $(SUITES) | xargs -P 2 -I{} sh -c '$(call RUN,)'
	for suite in $(TOWNS); do $(BIN)/pytest tests/$$suite $(ARGS) || exit 1; done

lint: install  ## ruff: format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install  ## mypy --strict over the product
	$(BIN)/mypy

bench: install  ## figures, one JSON line each: ARGS="overhead"
	$(BIN)/python -m benchmarks $(ARGS)

# FUZZ_PYTHON: an environment with atheris, made as docs/evidence-fuzzing.md says.
fuzz:  ## every parser of evidence under atheris, five minutes each: FUZZ_PYTHON=…
	nice -n 19 $(FUZZ_PYTHON) -m tests.fuzz 300

clean:  ## remove what was built here
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache
