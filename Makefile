# Needs Python 3.11 with its venv module, make, g++ and git. Everything else goes into .venv, pinned by hash.
#   make up ARGS=--detach      arguments pass through to the command
#   make test ARGS="-k router"
#   make up EXTRA=gpu          the GPU build of the engine instead of the CPU one

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

EXTRA ?= cpu
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)

.PHONY: help
help: ## Show this.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

.PHONY: up
up: $(READY) ## Start a cluster on this machine (profile local; ARGS="--profile simulated --detach").
	@$(BIN)/switchyard up $(ARGS)

.PHONY: down
down: $(READY) ## Stop it and remove everything it left.
	@$(BIN)/switchyard down $(ARGS)

.PHONY: test
test: $(READY) ## Run the tests (ARGS="-k router").
	$(BIN)/python -m pytest $(ARGS)

.PHONY: lint
lint: $(READY) ## Style, format, types and import layers.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: bench
bench: $(READY) ## Measure against the bars (BENCH=name for one of them).
	$(BIN)/python -m loadtests.bench $(BENCH)

.PHONY: proto
proto: $(READY) ## Regenerate the gRPC stubs.
	$(BIN)/python -m deployments.ingress.protogen

# uv takes the index from its own settings and writes no address into these files.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11

.PHONY: lock
lock: $(BIN)/uv ## Resolve all dependencies again (ARGS=--upgrade for newer ones).
	$(COMPILE) $(ARGS) pyproject.toml --extra cpu --extra dev -o requirements/cpu.txt
	$(COMPILE) $(ARGS) pyproject.toml --extra gpu --extra dev -o requirements/gpu.txt
	$(COMPILE) $(ARGS) requirements/uv.in -o requirements/uv.txt

.PHONY: clean
clean: ## Remove caches and results, not the environment.
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build loadtests/results
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The environment holds exactly what the lock says, and the project itself as a link to this directory.
$(READY): requirements/$(EXTRA).txt pyproject.toml $(BIN)/uv
	@rm -f $(VENV)/.ready-*
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/$(EXTRA).txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/uv: requirements/uv.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "Python 3.11 is needed; found: $$($(PYTHON) --version). Name one with PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing (on Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt
	@touch $@
