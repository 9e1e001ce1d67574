# Every target makes its own environment first: nothing is needed but python3 (3.11 or newer) with venv.
#   make demo      the whole story on the embedded model: out/demo/index.html
#   make app       the page on which people click a picture and read metres (MODEL=nano or another)
#   make test      the test suite, minutes on 2 cores
#   make test-all  `test`, then the slow tests as well
#   make lint      ruff (format and rules) and mypy
#   make study     the ablations of docs/study.md (hours on 2 cores); STUDY=smoke: a minute, to see that it runs
#   make docs      these documents as a site: out/site/index.html
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

.PHONY: help install demo app test browser test-all lint format study docs bench clean
.DEFAULT_GOAL := help

help:
	@sed -n '2,9s/^# *//p' Makefile

install: $(STAMP)

# Keyed on both files: a changed dependency or pin installs again, anything else does not.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "depthlm needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# gradio takes an older pillow: an environment of its own, which sees what is not in it in the other one.
APP := $(VENV)/app
SITE := import sysconfig; print(sysconfig.get_paths()["purelib"])
$(APP)/.installed: $(STAMP) constraints-app.txt
	$(BIN)/python -m venv $(APP)
	$(BIN)/python -c '$(SITE)' > "$$($(APP)/bin/python -c '$(SITE)')/parent.pth"
	$(APP)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-app.txt gradio
	@touch $@

app: $(APP)/.installed
	PYTHONPATH=src $(APP)/bin/python -m depthlm app $(MODEL)

demo: $(STAMP)
	$(BIN)/depthlm demo --out $(OUT)

test: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

# The page is tested in a browser: Debian's, which is installed where that may be. Elsewhere those tests are skipped.
browser:
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no Chromium: the page is not tested in a browser" >&2

test-all: test $(APP)/.installed browser
	$(TEST_ENV) $(BIN)/python -m pytest -q -n $(JOBS) -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

study: $(STAMP)
	$(BIN)/depthlm study recipes/study $(if $(STUDY),--size $(STUDY) --out out/study-$(STUDY),--results docs/results/study --images docs/img)
	$(BIN)/depthlm study recipes/study-nano $(if $(STUDY),--size $(STUDY) --out out/study-nano-$(STUDY),--out out/study-nano --results docs/results/study-nano --images docs/img/study-nano)

bench: $(STAMP)
	@set -e; for script in $(filter-out benchmarks/common.py benchmarks/random_models.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$script"; $(BIN)/python "$$script" --quick; done

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache
