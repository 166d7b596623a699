# Two commands from a clone: `make demo` and `make test`. Everything else is for those who stay.
# Every target sets up .venv first (uv where there is one, else installed into .venv, else plain pip); a second run is fast.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# DeepSpeed compiles one small op at first use; keep it with the checkout, so that it happens once.
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions
# Thread pools that fight for two cores cost more than they give.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint format serve pretrain-miniature clean

help:  ## show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(VENV)/.ready  ## set up .venv

$(VENV)/.ready: pyproject.toml constraints.txt scripts/setup.sh
	@bash scripts/setup.sh $(VENV)
	@touch $@

demo: setup  ## the whole system in miniature, in minutes on two cores; ends with runs/demo/report.html
	@python ray_jobs/demo.py $(DEMO_ARGS)

test: setup  ## everything that is not slow and needs no GPU
	@python -m pytest -m "not slow and not gpu" $(PYTEST_ARGS)

test-slow: setup  ## the slow tests alone
	@python -m pytest -m "slow and not gpu" $(PYTEST_ARGS)

test-all: setup  ## everything that this machine can run
	@python -m pytest $(PYTEST_ARGS)

lint: setup  ## ruff, mypy (strict), the import rules
	ruff check .
	ruff format --check .
	mypy
	lint-imports

format: setup  ## put the code into the project's form
	ruff check --fix .
	ruff format .

serve: setup  ## the embedded miniature model over HTTP on port 8000, with a page to try it
	@serve run serve.app:build

pretrain-miniature: setup  ## make the miniature CLIP and SAM from nothing, under an hour on two cores
	@python ray_jobs/pretrain_miniature.py

clean:  ## remove what make made, but not your runs
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
