# make reproduce     the smoke scale: data, training, theory, tables, figures, report (minutes)
# make quick         a part of it on the digits (three minutes)
# make test          the tests
# make check         ruff, mypy, snakefmt, snakemake --lint
# make bench         what training costs, side by side as ratios (docs/performance.md)
# make ui            MLflow's interface on the results of SCALE
# make test-slow    the tests that are slow by nature: kill storms, several ranks, whole studies
# make test-cluster  the tests on a real SLURM, which is started for them (Debian, as root)
# make test-server   the tests with an MLflow server on PostgreSQL, which has to be installed
#
# Variables: SCALE=smoke|quick|laptop|small|paper, RESULTS=folder, CORES=number, GPUS=number, SEEDS=number, PORT=number,
# PYTHON=python3.11 or newer,
# TORCH=cpu|auto|cu128|... (which build of torch to install; see README.md).

PYTHON ?= python3
SCALE ?= smoke
RESULTS ?= results
CORES ?=
GPUS ?=
SEEDS ?=
PORT := 5001
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

# Which build of torch: with wheels of one's own (PIP_FIND_LINKS) those; otherwise what fits the
# machine's driver, so that a machine without a GPU is spared several GB of CUDA packages.
TORCH ?= $(if $(PIP_FIND_LINKS),,auto)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
# Compiled here, since images often have PYTHONDONTWRITEBYTECODE=1: importing torch would take three
# times as long in every job.
INSTALL = $(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python \
	$(if $(TORCH),--torch-backend=$(TORCH)) --constraint constraints.txt

# As one word of the shell.
quoted = '$(subst ','\'',$(1))'

.PHONY: reproduce quick test test-slow check bench format ui test-server test-cluster clean help
.DEFAULT_GOAL := help

help:
	@sed -n '/^# make/s/^# //p' Makefile

reproduce: $(VENV)/suite
	@$(BIN)/python -m workflow reproduce $(call quoted,$(SCALE)) --results $(call quoted,$(RESULTS)) \
		$(if $(CORES),--cores $(CORES)) $(if $(GPUS),--gpus $(GPUS)) $(if $(SEEDS),--seeds $(SEEDS))

quick: $(VENV)/suite
	@$(BIN)/python -m workflow reproduce quick --results $(call quoted,$(RESULTS)) $(if $(CORES),--cores $(CORES))

test: $(VENV)/dev
	$(BIN)/python -m pytest

check: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow/rules
	$(BIN)/snakemake --lint

# On a GPU: make bench DEVICE=cuda BENCH=results/benchmarks/my-gpu
DEVICE ?= cpu
BENCH ?= $(RESULTS)/benchmarks
bench: $(VENV)/dev
	@mkdir -p $(BENCH)
	$(BIN)/python -m benchmarks.epoch --device $(DEVICE) --images 1280 --json $(BENCH)/epoch.json
	$(BIN)/python -m benchmarks.packing --device $(DEVICE) --json $(BENCH)/packing.json
	$(BIN)/python -m benchmarks.loaders --json $(BENCH)/loaders.json
	$(BIN)/python -m benchmarks.selection --device $(DEVICE) --json $(BENCH)/selection.json
	$(BIN)/python -m benchmarks.kernels --json $(BENCH)/kernels.json
	$(BIN)/python -m benchmarks.step_cost --device $(DEVICE) --batch 16 --json $(BENCH)/step_cost.json

format: $(VENV)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/rules

ui: $(VENV)/ui
	@echo "MLflow on the results of scale $(SCALE): http://127.0.0.1:$(PORT), Ctrl-C ends it"
	@cd $(call quoted,$(RESULTS)/$(SCALE)) && MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true \
		"$(CURDIR)/$(BIN)/mlflow" ui --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri "sqlite:///$$PWD/mlflow.db" --default-artifact-root "$$PWD/mlartifacts"

test-cluster: $(VENV)/dev
	$(BIN)/python -m pytest -n 0 -m cluster tests/cluster

test-slow: $(VENV)/dev
	$(BIN)/python -m pytest -m slow

test-server: $(VENV)/dev $(VENV)/server
	$(BIN)/python -m pytest -n 0 -m server tests/tracking

clean:
	rm -rf $(VENV) .snakemake .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with make PYTHON=python3.11 ...")'
	@echo "making the environment in $(VENV) (once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/suite: pyproject.toml setup.py acdc/kernels/products.cpp constraints.txt | $(BIN)/uv
	@echo "installing torch, Snakemake and what the suite needs"
	@$(INSTALL) --editable '.[suite,slurm]'
	@touch $@

$(VENV)/dev: pyproject.toml setup.py acdc/kernels/products.cpp constraints.txt | $(BIN)/uv
	@echo "installing what the tests need"
	@$(INSTALL) --editable '.[suite,slurm,dev]'
	@touch $@ $(VENV)/suite

$(VENV)/ui: $(VENV)/suite
	@echo "installing MLflow's interface"
	@$(INSTALL) --editable '.[suite,slurm,ui]'
	@touch $@

$(VENV)/server: $(VENV)/suite
	@echo "installing MLflow's server"
	@$(INSTALL) --editable '.[suite,slurm,server]'
	@touch $@
