# make demo, make test: set-up included, once. Needs Python 3.10 to 3.12, make, Linux on x86-64.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv pip
TORCH = $(shell grep '^torch==' requirements-cpu.lock)
# verl starts its processes one after the other, so that one run leaves half of two cores idle (tests/conftest.py)
TWO_AT_ONCE := -n 2 --no-loadscope-reorder
test unit: export OMP_NUM_THREADS = 1
export VERL_PLATFORM = cpu
export VIRTUAL_ENV = $(CURDIR)/$(VENV)

.PHONY: help demo test unit lint doctor setup lock clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/\t/'

demo: setup ## set up, then GRPO with and without the plugins on this machine
	$(BIN)/verl-redit demo $(ARGS)

test: setup ## set up, then every test, the real trainer's among them
	$(BIN)/pytest $(TWO_AT_ONCE) $(ARGS)
	@echo "All tests ran; the lines above say which were skipped and why."

unit: setup ## the tests that do not start the trainer
	$(BIN)/pytest -m "not e2e" $(TWO_AT_ONCE) $(ARGS)

lint: setup ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctor: setup ## check the installation
	$(BIN)/verl-redit doctor

setup: $(VENV)/installed

$(VENV)/installed: requirements-cpu.lock pyproject.toml
	@echo "Setting up $(VENV): about 1.5 GB of packages, two to five minutes, once."
	$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13) and "verl needs Python 3.10 to 3.12; set PYTHON=python3.11, say")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$$(grep '^uv==' requirements-cpu.lock)"
	@echo "torch: the CPU build, from a local wheel or index if pip knows one, else from PyTorch's own"
	$(BIN)/pip install --no-deps $(TORCH) || $(UV) install --no-deps --torch-backend cpu $(TORCH)
	grep -v '^torch==' requirements-cpu.lock > $(VENV)/rest.lock
	$(UV) install --no-deps --compile-bytecode -r $(VENV)/rest.lock
	$(UV) install --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q verl_redit
	touch $@

lock: ## resolve requirements-cpu.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --extra cpu --extra dev --universal --python-version 3.10 \
		--no-annotate --no-header --output-file requirements-cpu.lock --upgrade
	grep -v -e "sys_platform == 'never'" -e '^torch==' requirements-cpu.lock > $(VENV)/kept.lock
	(cat $(VENV)/kept.lock; echo 'torch==2.13.0+cpu') | LC_ALL=C sort > requirements-cpu.lock

clean: ## remove the environment and the demo's output
	rm -rf $(VENV) demo-output
