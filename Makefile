# `make` alone lists the targets. Everything happens in a virtual environment of its own:
#     make test                       with python3, in .venv
#     make test PYTHON=python3.13     with another Python, in .venv-python3.13

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
PHOTOS ?=
BATCH ?=
REPLACE ?=
PORT ?= 3000

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DAGSTER_HOME ?= $(CURDIR)/data/dagster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install run dev test lint format types layers unit bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  make run PHOTOS="/path/to/my photos" BATCH=holiday'
	@echo '  make run PHOTOS="/path/to/others" BATCH=holiday REPLACE=1'
	@echo '  make test PYTHON=python3.13'

install: $(INSTALLED) ## set up the environment (once; again when a dependency changes)

$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is missing or older than 3.11; name another one: make PYTHON=python3.13' >&2; exit 1; }
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install "pip>=25.1"
	"$(BIN)/python" -m pip install --constraint constraints.txt --editable . --group dev
	@touch "$@"

run: $(INSTALLED) ## measure PHOTOS (a folder; by default sample images) as a batch called after it (or BATCH=...)
	"$(BIN)/curation-features" run $(if $(PHOTOS),"$(PHOTOS)",--samples) $(if $(BATCH),--batch-id "$(BATCH)") \
		$(if $(REPLACE),--replace) --allow-degraded

dev: $(INSTALLED) ## open Dagster's user interface, with its daemon, at http://127.0.0.1:3000 (PORT=...)
	@"$(BIN)/python" -m curation_features.orchestration.port "$(PORT)"
	@mkdir -p "$(DAGSTER_HOME)"
	@test -e "$(DAGSTER_HOME)/dagster.yaml" || cp config/dagster.yaml "$(DAGSTER_HOME)/"
	DAGSTER_HOME="$(DAGSTER_HOME)" PYTHONWARNINGS="ignore:Function" "$(BIN)/dagster" dev -w workspace.yaml -p $(PORT)

test: lint types layers unit ## everything that must pass before a commit

lint: $(INSTALLED) ## style
	"$(BIN)/ruff" check
	"$(BIN)/ruff" format --check

format: $(INSTALLED) ## rewrite the code in the project's style
	"$(BIN)/ruff" check --fix
	"$(BIN)/ruff" format

types: $(INSTALLED) ## types
	"$(BIN)/mypy"

layers: $(INSTALLED) ## imports point downward
	"$(BIN)/lint-imports"

# Tests start hundreds of processes: compiled modules are kept for them. Threads of torch that wait must not spin while
# other tests need the core.
unit: $(INSTALLED) ## tests
	PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE "$(BIN)/python" -m pytest -n 4 --dist worksteal

bench: $(INSTALLED) ## every measure of speed and memory, with what it should be, in one table (15 to 30 minutes)
	"$(BIN)/python" benchmarks/measures.py

clean: ## remove caches and build outputs (neither data nor the environment)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find curation_features tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
