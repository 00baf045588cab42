PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
PYTEST_ARGS ?=
DEMO_ARGS ?=
TINY_ARGS ?=
# Compiled modules are kept, also where the shell forbids it: every test server and training run starts from them.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/build/pycache
LOCK := $(VENV_PYTHON) -m uv pip compile --universal --python-version 3.10 --generate-hashes \
	--no-annotate --no-header --no-emit-index-url --quiet

.PHONY: help env host demo test test-training train-tiny score-tiny lint format lock clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' Makefile

env: ## Make .venv from requirements/dev.lock
	@$(PYTHON) scripts/env.py

host: env ## Provide a ComfyUI (COMFYUI_DIR, or a download into .host) and print its folder
	@$(VENV_PYTHON) -m scripts.host

demo: env ## Turn the sample clip and photo into 360 videos in that ComfyUI (DEMO_ARGS=...)
	@host="$$($(VENV_PYTHON) -m scripts.host)" && COMFYUI_DIR="$$host" $(VENV_PYTHON) -m scripts.demo $(DEMO_ARGS)

test: env ## Run the tests but the training runs (PYTEST_ARGS=...)
	@host="$$($(VENV_PYTHON) -m scripts.host)" && browser="$$($(VENV_PYTHON) -m scripts.browser)" && \
		$(VENV_PYTHON) -m scripts.media_readers && \
		COMFYUI_DIR="$$host" CHROMIUM="$$browser" $(VENV_PYTHON) -m pytest -q -m "not training" $(PYTEST_ARGS)

test-training: env ## Run the trainer's whole runs on tiny models (PYTEST_ARGS=...)
	@$(VENV_PYTHON) -m pytest -q -m training $(PYTEST_ARGS)

train-tiny: env ## Train a tiny model in place of the one that ships with the pack (TINY_ARGS=...): hours on a CPU
	@$(VENV_PYTHON) -m scripts.train_tiny $(TINY_ARGS)

score-tiny: env ## Measure the tiny model into docs/tiny-model.md, and the compared ones where trained (SCORE_ARGS=...)
	@$(VENV_PYTHON) -m benchmarks.tiny_model --write $(SCORE_ARGS)

lint: env ## Check style, format and that every signature has types
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m ruff format --check .

format: env ## Rewrite the code in the checked format
	@$(VENV_PYTHON) -m ruff check --fix-only --quiet .
	@$(VENV_PYTHON) -m ruff format .

lock: env ## Refresh requirements/dev.lock from dev.in
	@$(LOCK) requirements/dev.in --output-file requirements/dev.lock

clean: ## Remove .venv, .host, caches and demo output; what train-tiny made stays in build/tiny*
	rm -rf .venv .host .hypothesis .ruff_cache dist *.egg-info demo-output
	if [ -d build ]; then find build -mindepth 1 -maxdepth 1 ! -name 'tiny*' -exec rm -rf {} +; fi
	find . -name .git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
