# A dozen verbs; `make` alone lists them. Everything they make is under .venv/, build/ and ~/.cache/oarlock.
PYTHON ?= python3
BIN := .venv/bin
TIERS ?=
SHELL := /bin/bash

.PHONY: help venv lock format check test test-long sim mutants demo kube bench image clean
.DEFAULT_GOAL := help

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: .venv/ready ## the environment with everything, from the lock file (needs Python >= 3.11 with venv)

.venv/ready: requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

lock: ## resolve the dependencies anew (needs uv)
	for extra in "node.txt" "operator.txt --extra operator" "dev.txt --extra dev requirements/build.in" "build.txt"; do \
	  set -- $$extra; out=$$1; shift; from=pyproject.toml; [ $$out != build.txt ] || from=requirements/build.in; \
	  UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile -q $$from $$* --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --upgrade -o requirements/$$out || exit 1; done

format: .venv/ready ## lay the sources out
	$(BIN)/ruff check --fix-only --quiet . ; $(BIN)/ruff format .

check: .venv/ready ## lint, format, types, walls, rendered manifests, lock files, age of evidence (under 2 min)
	@$(BIN)/python tests/tools/check.py

test: .venv/ready ## every tier of tests, or TIERS="unit property"; installs what they need
	@$(BIN)/python tests/run.py $(TIERS)

test-long: .venv/ready ## PART=e2e, chaos or mutants, or PART=soak HOURS=N: a long part; writes docs/evidence/PART.json
	@$(BIN)/python tests/long.py $(PART) $(HOURS)

SEEDS ?= 20
HOURS ?=
FROM ?= 0
GOLDEN ?=

sim: .venv/ready ## SEEDS=N FROM=K: stories of whole clusters under faults; GOLDEN=DIR keeps the scripts of failures
	@$(BIN)/python -m tests.simulation --seeds $(SEEDS) --from $(FROM) $(if $(GOLDEN),--golden $(GOLDEN))

mutants: .venv/ready ## plant each known bug of the past and hunt it (about 15 min)
	@$(BIN)/python -m tests.mutants --record

demo: .venv/ready ## three members on this machine in one terminal, with curl lines to try; Ctrl-C ends them
	@$(BIN)/oarlock dev

kube: .venv/ready ## a real Kubernetes of three nodes with the operator installed, until Ctrl-C (root, Go)
	@$(BIN)/python tests/run.py --prepare e2e
	@$(BIN)/python -m tests.e2e.play

bench: .venv/ready ## the figures of docs/performance.md, beside etcd on this machine
	@$(BIN)/python tests/run.py --prepare bench
	@$(BIN)/python -m tests.benchmarks.compare --write docs/performance.md

image: .venv/ready ## OCI archives of the two images, without a registry (root)
	@for target in node operator; do $(BIN)/python tests/images/build.py $$target; done

clean: ## everything that was built in this directory
	rm -rf build dist .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
