# make demo   the main job on a real model, from nothing to a report
# make test   lint, types, import rules, all tests
# make lint   the first three of these
# make matrix every technique on every task with every family; goes on where it was stopped
# make docs   write the generated parts of README.md and docs/reference/ anew
#
# The only thing needed beforehand is Python 3.11 to 3.13. Packages come from wherever pip is set
# up to look; for a build of PyTorch other than pip's own choice see README.md.

PYTHON ?= python3
TORCH ?= torch==2.13.0
WORKERS ?= 2

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
TUNESMITH := $(BIN)/tunesmith

.PHONY: demo test lint matrix docs setup models clean

demo:
	@began=$$(date +%s) && \
	$(MAKE) --no-print-directory models && \
	ready=$$(date +%s) && \
	echo "== set-up took $$((ready - began)) s" && \
	$(TUNESMITH) train examples/interface_translation/recipe.yaml && \
	$(TUNESMITH) train examples/sentiment/recipe.yaml && \
	echo "== both jobs took $$(($$(date +%s) - ready)) s; set-up had taken $$((ready - began)) s"

test: lint models
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

lint: .venv/developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

matrix: .venv/developed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) -m matrix --tb=line \
	tests/acceptance/test_whole_matrix.py; \
	$(BIN)/python -m tests.acceptance.outcomes

docs: .venv/developed
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tunesmith.cli.reference

setup: .venv/installed

models: .venv/installed
	$(TUNESMITH) models pull smollm2-135m-instruct
	$(TUNESMITH) models pull minilm-l6

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	{ echo "Python 3.11 to 3.13 is needed; name one with: make PYTHON=python3.12 …"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/created pyproject.toml
	$(PIP) install --quiet "$(TORCH)"
	$(PIP) install --quiet --editable .
	touch $@

.venv/developed: .venv/installed
	$(PIP) install --quiet --editable ".[test,lint]"
	touch $@

clean:
	rm -rf .venv build dist src/*.egg-info
