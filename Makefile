# cordel: `make` alone prints the targets.

VENV := .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
# One computing thread a process unless params.yaml says otherwise: same bytes on any machine.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help

help:  ## print the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(VENV)/bin/cordel offline-plots
	@touch $@

setup: $(VENV)/.installed  ## create .venv with the exact versions of constraints.txt

repro: setup  ## the whole pipeline on the embedded sample (offline, no GPU); JOBS=2: two stages at once
	$(if $(filter-out 1,$(JOBS)),cordel repro --jobs $(JOBS),dvc repro)

test: setup  ## unit, contract and stage tests; prints how many are deselected
	python -m pytest -q -n 2 -m "not browser and not gpu and not minutes"
	@python -m pytest -q --collect-only -m "browser or gpu or minutes" | tail -1 | sed 's/^/deselected here, by marker browser, gpu or minutes: /'

check: setup  ## ruff, ruff format, pyright, contract tests
	ruff check .
	ruff format --check .
	pyright
	python -m pytest -q tests/contract

format: setup  ## rewrite the code in the house format
	ruff check --fix-only -q .
	ruff format .

audit: setup  ## recompute the thesis' published figures: make audit PUBLISHED=<folder>
	@test -n "$(PUBLISHED)" || { echo "error: give PUBLISHED a folder with the published files, e.g. a clone of the thesis' repository"; exit 1; }
	python -m audit.collect "$(PUBLISHED)"
	cd audit && dvc repro --force
	@sed -n '/^## Summary/,/^## 4/{/^## 4/!p}' audit/report.md
	@echo "The whole report: audit/report.md, audit/report.pt-BR.md"

bench: setup  ## measure speed against peers into docs/performance.md; QUICK=1: a look, nothing kept
	python -m benchmarks $(if $(QUICK),--quick) $(SECTIONS)

publish-results: setup  ## keep the current run's results: make publish-results PROFILE=ptbr
	cordel publish-results $(PROFILE)

clean:  ## remove the environment and caches of tools; data and models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis

.PHONY: help setup repro test check format audit bench publish-results clean
