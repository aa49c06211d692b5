# Two commands for people: `make say` speaks, `make test` checks everything. Both set up what they need first.

TEXT ?= Hello! This voice was made on your own machine.
OUT ?= speech.wav
VOICE ?=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: say test lint types layers pytest clean

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
