# Every target makes its own environment first: nothing is needed but python3 (3.11 or newer) with venv.
#   make demo      the whole story on the embedded model: out/demo/index.html
#   make test      the test suite, minutes on 2 cores
#   make test-all  `test`, then the slow tests as well
#   make lint      ruff (format and rules) and mypy
#   make bench     every script in benchmarks/ at its quick size; the figures come without --quick
# VENV=DIR uses another environment folder, PYTHON=python3.12 another interpreter, JOBS=N more test processes.

PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 2
OUT    ?= out/demo

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Small CPU models run faster with one thread per process than with every process fighting for every core, and with
# a glibc that keeps its big tensors from step to step.
TEST_ENV := OMP_NUM_THREADS=1 MALLOC_MMAP_THRESHOLD_=4000000000 MALLOC_TRIM_THRESHOLD_=8000000000 \
            HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

.PHONY: help install demo test test-all lint format bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '2,7s/^# *//p' Makefile

install: $(STAMP)

# Keyed on both files: a changed dependency or pin installs again, anything else does not.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "depthlm needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/depthlm demo --out $(OUT)

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

test-all: test
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)
	@set -e; for script in $(filter-out benchmarks/common.py benchmarks/random_models.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python "$$script" --quick; done

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
