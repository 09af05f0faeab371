# p06bs: everything runs in .venv, which `make env` creates.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
N ?= 200
SEED ?=
# What some tests need beyond Python; without them these tests are skipped and say so.
PACKAGES := acl chromium chromium-driver libfontconfig1 libgl1 munge postgresql rsync slurm-client slurmctld slurmd sqlite3 tango-starter
# Most tests wait for processes, so that one more than the cores of a small machine keeps these busy.
SPREAD := --numprocesses 3 --dist worksteal

.PHONY: env system demo test test-all chaos bench lint docs clean help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: $(VENV)/.installed ## create .venv with everything

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

system: ## Debian packages of the tests with real databases, SLURM and a browser (as root)
	apt-get update --quiet=2
	DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $(PACKAGES)

demo: env ## a simulated scan with live derived runs: make demo ARGS="--once --out DIR"
	$(BIN)/p06bs demo $(ARGS)

test: env ## the tests
	$(BIN)/python -m pytest $(SPREAD) -m "not slow" $(ARGS)

test-all: env ## the slow tests too
	$(BIN)/python -m pytest $(SPREAD) $(ARGS)

chaos: env ## hit everything at random while scans run: make chaos N=1000 SEED=42
	$(BIN)/python -m tests.chaos $(N) $(if $(SEED),--seed $(SEED)) $(ARGS)

lint: env ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p p06bs
	$(BIN)/lint-imports

bench: env ## benchmarks of the spine, as ratios
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what was built
	rm -rf $(VENV) .venv-lavue build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
