# `make train` and `make test` are all a fresh machine needs: each builds .venv first.
# Another interpreter: PYTHON=python3.12 make test

SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
STAMPED := pyproject.toml constraints.txt
JOBS ?= $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() or 1))' 2>/dev/null)
ARGS ?=
DEVICE ?=

# JAX on CPU takes its memory anew at every step; huge pages that the process keeps save a third of a training
# step in page faults (docs/train_step.md). Read by the C library of Linux, by no other.
HUGE_PAGES := hugetlb=1 mmap_max=0 arena_max=1 trim_threshold=17179869184
EMPTY :=
KEEP_MEMORY := GLIBC_TUNABLES=$(subst $(EMPTY) ,:,$(addprefix glibc.malloc.,$(HUGE_PAGES)))

# Every core has a test process already: cutting what XLA compiles into parts for threads costs 8 % of its time.
ONE_PART := --xla_cpu_parallel_codegen_split_count=1

.PHONY: help train test check lint types mutation bench accelerator parity endurance experiments doctor readme clean python

help:
	@echo "make train     train Model 5 under both objectives on the embedded corpus (ARGS='--help' for options)"
	@echo "make test      run every test: parity with PyTorch, accuracy, data, training, experiments"
	@echo "make check     lint and types"
	@echo "make mutation  make deliberate mistakes in the losses and see the tests notice each"
	@echo "make bench     benchmarks against the peers, side by side"
	@echo "make accelerator DEVICE=cuda13  on a GPU host (DEVICE=tpu on a TPU's): parity, benchmarks and 200 steps of"
	@echo "               Model 5; writes docs/accelerator.md (ARGS='--toy --page FILE' tries it on a CPU)"
	@echo "make parity    compare everything with PyTorch on this device and write parity_report.md"
	@echo "make endurance kill training runs at random instants, damage checkpoints, and write docs/endurance.md"
	@echo "make experiments  run every experiment on the articles' claims and write docs/claims.md"
	@echo "make doctor    examine the losses as functions and write docs/doctor.md"
	@echo "make readme    write the README's tables of losses and differences"
	@echo "make clean     remove the virtual environment and caches"

python:
	@test -n "$(VERSION)" || { echo "jaxloss needs Python 3.11 or later; name one: PYTHON=/path/to/python3 make ..." >&2; exit 1; }

.venv/.python-$(VERSION): | python
	@echo "making .venv with Python $(VERSION)"
	@$(PYTHON) -m venv --clear .venv && touch $@

.venv/.train-$(VERSION): $(STAMPED) .venv/.python-$(VERSION)
	@echo "installing jaxloss[train]"
	@$(PIP) --editable '.[train]' && touch $@

# Liger-Kernel needs triton on GPUs only.
.venv/.test-$(VERSION): $(STAMPED) .venv/.python-$(VERSION)
	@echo "installing jaxloss[train,test]"
	@$(PIP) --editable '.[train,test]' && $(PIP) --no-deps liger-kernel && touch $@

train: .venv/.train-$(VERSION)
	@$(KEEP_MEMORY) $(BIN)/python experiments/final_vs_all_token.py $(ARGS)

test: .venv/.test-$(VERSION)
	@XLA_FLAGS="$(ONE_PART) $$XLA_FLAGS" $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal $(ARGS)

check: lint types

lint: .venv/.test-$(VERSION)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: .venv/.test-$(VERSION)
	@$(BIN)/mypy

mutation: .venv/.test-$(VERSION)
	@$(BIN)/python -m parity_tests.mutation $(ARGS)

bench: .venv/.test-$(VERSION)
	@for script in $(filter-out %/accelerator.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(KEEP_MEMORY) $(BIN)/python $$script $(ARGS) || exit 1; done

accelerator: .venv/.test-$(VERSION)
	@$(if $(DEVICE),$(PIP) --editable '.[train,test,$(DEVICE)]')
	@$(BIN)/python benchmarks/accelerator.py $(ARGS)

parity: .venv/.test-$(VERSION)
	@$(BIN)/python -m parity_tests.report $(ARGS)

endurance: .venv/.test-$(VERSION)
	@$(BIN)/python -m parity_tests.endurance $(ARGS)

experiments: .venv/.test-$(VERSION)
	@$(KEEP_MEMORY) $(BIN)/python experiments/claims.py $(ARGS)

doctor: .venv/.test-$(VERSION)
	@$(BIN)/python -m parity_tests.doctor $(ARGS)
	@$(BIN)/python -m parity_tests.doctor.planted

readme: .venv/.test-$(VERSION)
	@$(BIN)/python -m parity_tests.readme

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
