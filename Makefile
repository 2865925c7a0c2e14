# `make` lists the targets. Everything runs in .venv, which the first target that needs it builds.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
PIP_LOG := $(VENV)/pip.log
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --log $(PIP_LOG) -c constraints.txt
OR_FAIL = || { echo "pip could not install; all it said is in $(PIP_LOG). Run the same command to try again." >&2; exit 1; }
# A stamp is touched when its installation is complete, so an interrupted one starts again.
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.12 venv` chooses another.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))'
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.14 python
PYTHON ?= $(shell for name in $(CANDIDATES); do $$name $(NEW_ENOUGH) 2>/dev/null && { echo $$name; break; }; done)

# $(call timed,NAME,COMMAND) runs the command and prints its wall time.
timed = @echo "== $(1)"; TIMEFORMAT="== $(1): %1R s"; time $(2)

.PHONY: help venv quickstart test test-all lint types imports pytest format docs pins clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(CORE) ## build .venv with the pinned versions (once; a second call does nothing)
	@echo "$(VENV) is ready. Next: make quickstart" >&2

quickstart: $(CORE) ## distil a real teacher on real text and show the report (about ten minutes on two cores)
	@$(BIN)/instil run recipes/quickstart.yaml

test: lint types imports pytest ## style, types, room borders and the tests

test-all: lint types imports ## as test, with the slow tests
	$(call timed,pytest with slow,OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile -m "not network")

lint: $(DEV) ## ruff: style, formatting
	$(call timed,lint,$(BIN)/ruff check --quiet .)
	@$(BIN)/ruff format --quiet --check . || { echo "Not formatted; run: make format" >&2; exit 1; }

types: $(DEV) ## mypy
	$(call timed,types,$(BIN)/mypy)

imports: $(DEV) ## import-linter: no room imports from above
	$(call timed,imports,$(BIN)/lint-imports --no-logo)

pytest: $(DEV) ## the tests alone
	$(call timed,pytest,OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist loadfile)

format: $(DEV) ## ruff: format and mend what can be mended
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format --quiet .

docs: $(DEV) ## write docs/cli.md anew from --help, and the answers in docs/plan.md
	@$(BIN)/python tools/build_cli_docs.py
	@$(BIN)/python tools/build_plan_docs.py

pins: $(DEV) ## write the versions installed in .venv to constraints.txt
	@$(PIP) --progress-bar off -e ".[dev,bench]" $(OR_FAIL)
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable \
		| { grep -v '^instil' || true; } | sed 's/+[a-z0-9.]*$$//'; } > constraints.txt.aside
	@mv constraints.txt.aside constraints.txt

clean: ## remove caches and builds; .venv and runs/ stay
	@rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last into a new environment, so its script tells a whole one from a torn one.
$(BIN)/pip:
	@if ! "$(PYTHON)" $(NEW_ENOUGH) 2>/dev/null; then \
		found=$$("$(or $(PYTHON),python3)" --version 2>/dev/null | head -n 1 || true); \
		echo "instil needs Python 3.11 or newer; $(or $(PYTHON),python3) is $${found:-not there}." >&2; \
		echo "Install one, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; fi
	@echo "Creating $(VENV) with $$("$(PYTHON)" --version)" >&2
	@"$(PYTHON)" -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

# torch first and by itself: it is by far the largest, and which build comes is up to pip's index settings.
$(CORE): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing instil with pinned versions into $(VENV); the first time takes some minutes" >&2
	@$(PIP) torch $(OR_FAIL)
	@$(PIP) --progress-bar off -e . $(OR_FAIL)
	@touch $@

$(DEV): $(CORE)
	@echo "Installing the development tools" >&2
	@$(PIP) --progress-bar off -e ".[dev]" $(OR_FAIL)
	@touch $@
