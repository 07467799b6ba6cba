# Two commands matter: `make demo` (from nothing to a report) and `make test`.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint bench calibrate sbom audit-dependencies clean

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[ray]'
	@touch $@

$(VENV)/.test: $(VENV)/.run
	$(PIP) -e '.[ray,s3,test]'
	@touch $@

$(VENV)/.lint: $(VENV)/.run
	$(PIP) -e '.[ray,lint]'
	@touch $@

demo: $(VENV)/.run  ## from nothing to an audited posterior and a report
	$(BIN)/caucus demo demo

test: $(VENV)/.test  ## every test, Ray and kill tests included
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.lint  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test  ## races against neighbours, as ratios in one run
	$(BIN)/python -m benchmarks

calibrate: $(VENV)/.test  ## the full statistical lane: ten nations, NUTS references, SBC (hours)
	$(BIN)/python -m benchmarks.calibrate

sbom: $(VENV)/.run  ## what is installed, as CycloneDX, in sbom.json
	$(BIN)/python deploy/sbom.py sbom.json

audit-dependencies: $(VENV)/.run  ## known vulnerabilities of what is installed (asks PyPI)
	$(PYTHON) -m venv $(VENV)/audit
	$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audit/installed.txt
	$(VENV)/audit/bin/pip-audit --strict --no-deps --disable-pip -r $(VENV)/audit/installed.txt

clean:  ## everything that `make` made
	rm -rf $(VENV) demo runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
