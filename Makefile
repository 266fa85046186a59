# `make` alone lists the targets. Needs Python >= 3.11 and nothing else; everything is installed into $(VENV).

PYTHON ?= python3
PRESET ?= quick
# processes that run notebooks and tests
JOBS   ?= 2
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
START  := $(shell date +%s)
# one line per stage, with the seconds since make began
say     = @echo "[$$(( $$(date +%s) - $(START) )) s] $(1)"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help run test test-all lint export readme clean-nbs docs constraints clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# One thread per process: the work is parallel over runs and notebooks.
run test test-all: export OMP_NUM_THREADS := 1
run test test-all: export OPENBLAS_NUM_THREADS := 1
run test test-all: export MKL_NUM_THREADS := 1
# The studies in nbs/studies then run at a reduced size.
test test-all: export DLN_NB_REDUCED := 1
# Where the times of the notebooks are left for the list at the end.
test test-all: export DLN_NB_TIMES := $(CURDIR)/$(VENV)/notebook_times.json
# What is slow: cells with `#| slow`, tests marked slow.
test-all: FLAGS := --flags slow
test-all: MARKS := -m ""

run: $(VENV)/run.stamp  ## run a study, figures and report in results/$(PRESET); PRESET=quick by default
	$(call say,study: preset $(PRESET) into results/$(PRESET))
	@$(BIN)/dln_nb study --preset $(PRESET) --out results/$(PRESET)
	$(call say,study: done)

# The quick check first: a stale module would only be tested in vain. pytest's closing line comes last.
test test-all: $(VENV)/dev.stamp
	$(call say,in step: notebooks; package and README)
	@$(BIN)/python -m pytest -q --no-header --tb short tests/test_in_step.py
	$(call say,notebooks: nbdev_test)
	@$(BIN)/python tools/test_notebooks.py --path nbs --n_workers $(JOBS) $(FLAGS)
	$(call say,tests: pytest)
	@$(BIN)/python -m pytest --no-header -n $(JOBS) --dist worksteal --durations 10 $(MARKS) tests --ignore tests/test_in_step.py

test:  ## notebooks, package and README in step; all notebooks; tests/; without what is slow
test-all:  ## the same with all that is slow: cells, tests, the explorer in a browser

lint: $(VENV)/dev.stamp  ## imports, names, line length (ruff), types (mypy)
	$(call say,lint: ruff and mypy)
	@$(BIN)/ruff check
	@$(BIN)/mypy

export: $(VENV)/dev.stamp  ## write the modules of dln_nb/ from the notebooks
	$(call say,export: nbs/*.ipynb into dln_nb/*.py)
	@$(BIN)/nbdev_export

readme: $(VENV)/dev.stamp  ## write README.md from nbs/index.ipynb (needs no Quarto)
	$(call say,readme: nbs/index.ipynb into README.md)
	@$(BIN)/python tools/make_readme.py

clean-nbs: $(VENV)/dev.stamp  ## strip volatile metadata from the notebooks, keep their outputs
	$(call say,clean-nbs: nbdev_clean)
	@$(BIN)/nbdev_clean

# nbdev would try to install a missing Quarto by itself, as root: it is not called without one.
# It also rewrites a README older than its notebook, by Quarto: `touch`, since `make readme` writes that file.
docs: $(VENV)/dev.stamp  ## render the site into _docs/ with Quarto; without it, a preview
	@if command -v quarto > /dev/null; then touch README.md && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" QUARTO_PYTHON="$(CURDIR)/$(BIN)/python" nbdev_docs --n_workers 2; \
	else $(BIN)/python -W ignore tools/preview.py && \
	  echo "a preview by smalldocs: the published site is Quarto's (https://quarto.org/docs/get-started/) and has besides a list of works on each page"; fi
	$(call say,docs: open _docs/index.html)

constraints:  ## resolve settings.ini anew and write constraints.txt
	$(call say,constraints: resolving in a fresh environment)
	@PYTHON="$(PYTHON)" tools/lock.sh

clean:  ## remove what these commands made, the environment too; keep results/
	@rm -rf $(VENV) _docs _proc build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache nbs/nbdev.yml nbs/.last_checked
	@find nbs dln_nb tests tools -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# The environment. A stamp is older than these files only when they changed: otherwise nothing is installed.
INPUTS := settings.ini setup.py pyproject.toml constraints.txt

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
	  echo "dln_nb needs Python >= 3.11; '$(PYTHON)' is $$($(PYTHON) --version 2> /dev/null || echo not there). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(call say,environment: creating $(VENV))
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu it comes with the package python3-venv." >&2; exit 1; }

$(VENV)/run.stamp: $(INPUTS) | $(BIN)/pip
	$(call say,environment: installing (the first time this fetches PyTorch and takes minutes))
	@$(PIP) install -c constraints.txt -e .
	@touch $@

# What the tests need contains what a run needs, hence both stamps.
$(VENV)/dev.stamp: $(INPUTS) | $(BIN)/pip
	$(call say,environment: installing with the development tools (the first time this fetches PyTorch and takes minutes))
	@$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $(VENV)/run.stamp $@
