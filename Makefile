# Two commands for people: `make say` speaks, `make test` checks everything. Both set up what they need first.

TEXT ?= Hello, this voice was made on your own machine.
OUT ?= speech.wav
VOICE ?=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: say test lint types layers pytest audit clean

say: $(VENV)/.say
	$(BIN)/cosyvoice say "$(TEXT)" -o "$(OUT)" $(if $(VOICE),--voice "$(VOICE)")

test: $(VENV)/.test lint types layers pytest

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

layers: $(VENV)/.test
	$(BIN)/lint-imports

pytest: $(VENV)/.test
	$(BIN)/python -m pytest

# A release that is known to be vulnerable tells whether the database of vulnerabilities can be reached: a mirror of the
# package index may serve the files alone.
AUDIT_URL := https://pypi.org/pypi/jinja2/2.10/json

audit: $(VENV)/.test
	@$(INSTALL) pip-audit
	@if $(BIN)/python -c "import json, urllib.request as r; assert json.load(r.urlopen('$(AUDIT_URL)', timeout=10))['vulnerabilities']" 2>/dev/null; \
	then $(BIN)/pip-audit --skip-editable --progress-spinner off; \
	else echo "not audited: the database of vulnerabilities at pypi.org cannot be reached from here; run this where it can be"; fi

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps are newer than the files that say what to install, or the installation runs again.
$(VENV)/.say: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable ".[test]"
	@touch $@ $(VENV)/.say

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache speech.wav speech.png
