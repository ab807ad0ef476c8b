# `make` alone lists the targets. Everything happens in a virtual environment:
#     make test                       with python3, in .venv
#     make test PYTHON=python3.13     with another Python, in .venv-python3.13
#     make run TORCH_INDEX=URL        torch from this index, such as PyTorch's CPU index (docs/install.md)

PYTHON ?= python3
VENV ?= $(if $(filter python3,$(PYTHON)),.venv,.venv-$(notdir $(PYTHON)))
TORCH_INDEX ?=
PHOTOS ?=
BATCH ?=
REPLACE ?=
PORT ?= 3000

BIN := $(VENV)/bin
PIP := "$(BIN)/python" -m pip install --constraint constraints.txt
INSTALLED := $(VENV)/.installed
TOOLS := $(VENV)/.installed-tools
DAGSTER_HOME ?= $(CURDIR)/data/dagster

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install tools run dev quick test ci static lint format types layers unit api bench peers clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  make run PHOTOS="/path/to/my photos" BATCH=holiday'
	@echo '  make run PHOTOS="/path/to/others" BATCH=holiday REPLACE=1'
	@echo '  make test PYTHON=python3.13'

install: $(INSTALLED) ## set up the environment to run (once; again when a dependency changes)

tools: $(TOOLS) ## add the tools to develop and test

$(INSTALLED): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo '$(PYTHON) is missing or older than 3.11; name another one: make PYTHON=python3.13' >&2; exit 1; }
	test -x "$(BIN)/python" || "$(PYTHON)" -m venv "$(VENV)"
	"$(BIN)/python" -m pip install "pip>=25.1"
	$(if $(TORCH_INDEX),$(PIP) --index-url "$(TORCH_INDEX)" torch torchvision)
	$(PIP) --editable ".[all]"
	@touch "$@"

$(TOOLS): $(INSTALLED)
	$(PIP) --group dev
	@touch "$@"

run: $(INSTALLED) ## measure PHOTOS (a folder; by default sample images) as a batch called after it (or BATCH=...)
	"$(BIN)/curation-features" run $(if $(PHOTOS),"$(PHOTOS)",--samples) $(if $(BATCH),--batch-id "$(BATCH)") \
		$(if $(REPLACE),--replace) --allow-degraded

dev: $(INSTALLED) ## open Dagster's user interface, with its daemon, at http://127.0.0.1:3000 (PORT=...)
	@"$(BIN)/python" -m curation_features.orchestration.port "$(PORT)"
	@mkdir -p "$(DAGSTER_HOME)"
	@test -e "$(DAGSTER_HOME)/dagster.yaml" || cp config/dagster.yaml "$(DAGSTER_HOME)/"
	DAGSTER_HOME="$(DAGSTER_HOME)" PYTHONWARNINGS="ignore:Function" "$(BIN)/dagster" dev -w workspace.yaml -p $(PORT)

quick: $(TOOLS) ## the tests that take less than about half a second each
	$(PYTEST) -n auto --maxprocesses 4 -m "not slow and not long"

test: lint types layers ## style, types, layers and tests, but for the slow ones: before each commit
	$(PYTEST) -n 4 -m "not slow"

# The tests wait for other processes now and then, and mypy uses one core for a minute.
ci: $(TOOLS) ## everything, as .ci/run does; style, types and layers next to the tests
	$(MAKE) --no-print-directory --jobs 2 --keep-going static unit

static: lint types layers

lint: $(TOOLS) ## style
	"$(BIN)/ruff" check
	"$(BIN)/ruff" format --check

format: $(TOOLS) ## rewrite the code in the project's style
	"$(BIN)/ruff" check --fix
	"$(BIN)/ruff" format

types: $(TOOLS) ## types
	"$(BIN)/mypy"

layers: $(TOOLS) ## imports point downward
	"$(BIN)/lint-imports"

# Tests start hundreds of processes, which use the compiled modules. A waiting thread of torch must not spin: other
# tests need the core. Long and slow tests often wait, so that four workers use two cores. Quick ones do not wait, and
# each worker spends 15 seconds on imports.
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_WAIT_POLICY=PASSIVE "$(BIN)/python" -m pytest --dist worksteal

unit: $(TOOLS) ## all tests
	$(PYTEST) -n 4

api: $(INSTALLED) ## write docs/api.md from the docstrings
	"$(BIN)/python" tools/api_page.py

bench: $(TOOLS) ## every measure of speed and memory, with what it should be, in one table (20 to 40 minutes)
	"$(BIN)/python" benchmarks/measures.py

peers: $(TOOLS) ## add ONNX Runtime and OpenVINO, to which `make bench` then compares our models
	$(PIP) --group bench

clean: ## remove caches and build outputs (neither data nor the environment)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find curation_features tests benchmarks fuzz tools -name __pycache__ -type d -prune -exec rm -rf {} +
