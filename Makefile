# Two commands for a new machine: `make quickstart` and `make test`. Both make .venv first, or reuse it.
SHELL := bash
MAKEFLAGS += --no-print-directory
DEVICE ?= auto
BIN := .venv/bin

.PHONY: help env browser quickstart test check bench clean

help:
	@echo "make quickstart  set up, make panoramas, train, export and evaluate a tiny model"
	@echo "make test        set up and run the whole test suite"
	@echo "make check       set up, lint, check formats and types"
	@echo "make bench       set up and time cutting views from panoramas"
	@echo "make env         set up .venv only; DEVICE=cpu or DEVICE=cuda overrides what the machine suggests"
	@echo "make clean       remove what was built, but not .venv and runs"

env:
	@scripts/setup_env.sh $(DEVICE)

# Nothing may print after this: the last line is the command's JSON document.
quickstart: env
	@$(BIN)/cora quickstart

# A Chromium for the tests of pages; where there is none to be had, those are skipped.
browser: env
	@scripts/setup_browser.sh

test: browser
	@$(BIN)/python -m pytest

check: env
	@scripts/check.sh

bench: env
	@$(BIN)/cora-bench crop

clean:
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .cache .venv/.cora-stamp
	@rm -f cora/_C.*.so
	@find cora bench triton_kernels tests -type d -name __pycache__ -prune -exec rm -rf {} +
