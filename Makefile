# make demo    install, generate the sample shop, train, export, serve on 127.0.0.1:$PORT
# make test    the whole test suite
# make check   format, lint, types, import rules
# make help    all targets

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV ?= .venv
PORT ?= 8000
DEMO := .demo
TORCH_VERSION ?= 2.13.0
# Where torch comes from when no CPU wheel is at hand; point it at a CUDA index to train on a GPU.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STARTED := $(shell date +%s)
TIMINGS := $(DEMO)/timings.json
SINCE := $(BIN)/python scripts/since.py $(STARTED) $(TIMINGS)

.PHONY: help demo install test check format clean peers

help:
	@sed -n 's/^# //p' Makefile | head -4
	@echo "make format  rewrite files in the project's format"
	@echo "make peers   other servers to compare with, each in an environment of its own"
	@echo "make clean   remove the virtual environment and the demo"

# --- installing -----------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("afterglow needs Python 3.11 or newer, found " + sys.version.split()[0] + "; name one with: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch first: the CPU build, unless one is there already; everything else then finds it installed.
$(VENV)/.torch: | $(BIN)/python
	@$(BIN)/python -c 'import torch' 2>/dev/null \
	  || $(PIP) install 'torch==$(TORCH_VERSION)+cpu' 2>/dev/null \
	  || $(PIP) install 'torch==$(TORCH_VERSION)' --index-url $(TORCH_INDEX)
	@touch $@

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/.torch
	$(PIP) install -c constraints.txt -e '.[cpu,train,text]'
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	$(PIP) install -c constraints.txt -e '.[cpu,train,text,load,dev]'
	@touch $@

install: $(VENV)/.dev

# --- the demo: each step leaves a folder, so that a second start redoes nothing ---------------------------------------

$(DEMO)/shop: | $(VENV)/.train
	@$(SINCE) "installed"
	@$(BIN)/python -m models data sample-shop $@
	@$(SINCE) "sample shop generated"

$(DEMO)/knowledge: | $(DEMO)/shop
	@$(BIN)/python -m models knowledge build $(DEMO)/shop --out $@
	@$(SINCE) "texts turned into knowledge"

$(DEMO)/run/run.json: | $(DEMO)/knowledge
	@$(BIN)/python -m models train models/configs/shop.toml --out $(DEMO)/run --threads 1
	@$(SINCE) "LLM-ESR trained"

$(DEMO)/run/evaluation.json: $(DEMO)/run/run.json
	@$(BIN)/python -m models evaluate $(DEMO)/run
	@$(SINCE) "evaluated"

$(DEMO)/artefacts: $(DEMO)/run/evaluation.json
	@$(BIN)/python -m export $(DEMO)/run --out $@
	@$(SINCE) "exported to ONNX"
	@touch $@

demo: $(VENV)/.train $(DEMO)/artefacts
	@$(BIN)/python scripts/first_answer.py --port $(PORT) --dataset $(DEMO)/shop --started $(STARTED) --timings $(TIMINGS) & \
	$(BIN)/python -m service serve --artefacts $(DEMO)/artefacts --embedded-redis --state-dir $(DEMO)/state \
	  --port $(PORT) || [ $$? -eq 130 ]  # Ctrl-C is how a demo ends

# --- checks -----------------------------------------------------------------------------------------------------------

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy service models export loadtest
	$(BIN)/lint-imports

# What `python -m loadtest bench compare` measures against.
peers: $(VENV)/.dev
	$(BIN)/python -m loadtest peers install

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO)
