# Two commands set everything up on a fresh machine:
#   make compare    the main job: 8 layers of Llama-3.1-8B under each policy on an H200 that is not
#                   there; make compare TARGET=llama-3.1-8b has all 32
#   make test       the quick tests, four to five minutes on two cores; make test-full has all
# make docs builds the site, into build/site.
# TORCH chooses the torch version; each has a virtual environment of its own, outside of here.

TORCH ?= 2.13.0
PYTHON ?= python3
VENVS ?= $(HOME)/.cache/torch-materialize/venvs
VENV := $(VENVS)/torch-$(TORCH)
BIN := $(VENV)/bin
# The environments are shared by all checkouts; what runs is always this one.
export PYTHONPATH := $(CURDIR)/src
# Where Python may not keep what it compiled, each process compiles torch anew: 9 s of CPU time.
export PYTHONDONTWRITEBYTECODE :=
TARGET ?= llama-3.1-8b --layers 8
ARGS ?=

.PHONY: compare test test-full contract lint bench docs vllm-test environment vllm-environment clean

compare: $(VENV)/.ready
	$(BIN)/torch-materialize compare $(TARGET) --device h200 $(ARGS)

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

# With what is marked `full`, too; CI runs it.
test-full: $(VENV)/.ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "" $(ARGS)

# What we lean on in upstream, on one torch: make contract TORCH=2.12.1
contract: $(VENV)/.ready
	$(BIN)/python -m pytest -m contract $(ARGS)

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python benchmarks/run.py compile $(ARGS)

# Fails where a link, an anchor or a page of the navigation is missing.
docs: $(VENV)/.docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Real vLLM engines on a CPU: make vllm-test VLLM=0.24.0 for torch 2.11
VLLM ?= 0.28.0
vllm-test: $(VENVS)/vllm-$(VLLM)/.ready
	timeout -k 30 3000 $(VENVS)/vllm-$(VLLM)/bin/python -m pytest tests/with_vllm --timeout 2400 $(ARGS)

$(VENVS)/vllm-%/.ready: pyproject.toml dev/vllm_venv.sh
	VENVS="$(VENVS)" PYTHON="$(PYTHON)" dev/vllm_venv.sh "$*"

$(VENV)/.ready: pyproject.toml dev/venv.sh
	dev/venv.sh "$(PYTHON)" "$(VENV)" "$(TORCH)"

$(VENV)/.docs-ready: $(VENV)/.ready
	PIP_CONSTRAINT=/dev/null $(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch "$@"

# The environments alone: make environment TORCH=2.15.0
environment: $(VENV)/.ready
vllm-environment: $(VENVS)/vllm-$(VLLM)/.ready

clean:
	rm -rf "$(VENV)"
