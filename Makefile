# Every target installs what it needs: `make demo` and `make test` work on a fresh clone with Python 3.11 alone.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.rushes-ready
DATA ?= demo/dataset
RUN ?= $(wildcard demo/run)
NEWEST := .venv-newest
NEWEST_PYTHON ?= $(shell python3.12 -c '' 2>/dev/null && echo python3.12 || echo python3.11)

.PHONY: help setup setup-browser demo test test-browser test-newest test-all test-exports chaos docs lint bench dashboard clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@if command -v uv >/dev/null 2>&1; then \
	  test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'; \
	else \
	  test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	fi
	@touch $(READY)

setup: $(READY)  ## make .venv with everything pinned (torch is large: 2 to 5 minutes)

demo: setup  ## film world -> ingest on Ray -> verify -> train -> sample, in about seven minutes
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash demo.sh

test: setup  ## the default test suite
	@$(BIN)/python -m pytest -m "not slow and not gpu and not browser"

test-newest:  ## the default tests on the newest versions that pyproject.toml allows, in an environment of their own
	@test -x $(NEWEST)/bin/pip || $(NEWEST_PYTHON) -m venv $(NEWEST)
	@$(NEWEST)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager -e '.[dev]'
	@$(NEWEST)/bin/python -m pytest -m "not slow and not gpu and not browser"

setup-browser: setup  ## what the browser tests need: Playwright, and Chromium by apt where it is missing
	@$(BIN)/python -c 'import playwright, axe_playwright_python' 2>/dev/null || \
	  $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,browser]' || \
	  uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,browser]'
	@test -n "$$CHROMIUM_PATH" || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
	  (apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium >/dev/null) || \
	  { echo "no Chromium, and apt cannot install it here: install one and set CHROMIUM_PATH"; exit 1; }

test-browser: setup-browser  ## the dashboard in a real Chromium
	@$(BIN)/python -m pytest -m browser

test-all: setup  ## all tests this machine can run
	@$(BIN)/python -m pytest -m "not gpu and not browser"

test-exports: setup  ## an export opened by Megatron Energon, in a folder of its own: it pins other versions of botocore
	@test -d .energon || $(BIN)/pip install --quiet --disable-pip-version-check --target .energon --no-deps \
	  megatron-energon==7.4.1 rapidyaml multi-storage-client mfusepy s3fs aiobotocore aioitertools filetype lark \
	  deprecation wcmatch bracex xattr prettytable pyroute2 'botocore<1.44' tzdata
	@RUSHES_ENERGON=$(CURDIR)/.energon $(BIN)/python -m pytest -m "slow or not slow" tests/manifests/test_export_tools.py

chaos: setup  ## the long form of the storm and of the fuzz: 100 kills, 1,000 damaged files, 2,000 mutants; 40 minutes
	@RUSHES_CHAOS=10 $(BIN)/python -m pytest -s -m slow tests/chaos/test_storm.py tests/chaos/test_fuzz.py

docs: setup  ## write the pages of docs/ that are made from the code
	@$(BIN)/python -m manifests.verbs.pages docs

lint: setup  ## ruff, mypy, import-linter
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

NO_BENCH := $(addprefix benchmarks/,made.py peer_runs.py peer_tools.py versions.py)  # parts, and what needs a checkout
bench: setup  ## side-by-side measurements
	@for script in $(filter-out $(NO_BENCH),$(wildcard benchmarks/*.py)); do echo "== $$script"; PYTHONPATH=. $(BIN)/python $$script || exit 1; done

dashboard: setup  ## watch DATA (default: the demo's dataset) at http://127.0.0.1:8000
	@$(BIN)/rushes dashboard $(DATA) $(if $(RUN),--run $(RUN))

clean:  ## remove the demo's output
	rm -rf demo
