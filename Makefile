# `make` alone lists the targets. Everything runs in .venv, made by `make setup` from tested pins.
.DEFAULT_GOAL := help
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help setup demo serve check test test-slow corpus lint types clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## make .venv with the versions that were tested together

$(STAMP): Makefile pyproject.toml constraints.txt $(wildcard runtime/native/*.cpp runtime/native/*.h)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,train]'
	touch $@

demo: setup  ## serve the model, replay a real burst at full k' and under the controller, compare
	$(BIN)/kprime demo

serve: setup  ## serve on http://127.0.0.1:8000 until interrupted
	$(BIN)/kprime serve

check: setup lint types  ## what CI checks besides the tests
	$(BIN)/kprime check policies/*.yaml checkpoints/*/profile.json

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

test: setup  ## all tests but the slow ones, those that start a local Ray included
	$(BIN)/pytest -m 'not slow'

test-slow: setup  ## the others: servers deployed anew or interrupted, scaling, calibrating fine-tuned checkpoints
	$(BIN)/pytest -m slow

corpus: setup  ## fetch the prose that the shipped recipes train on into runs/corpus
	$(BIN)/python -m training.fetch_corpus runs/corpus

clean:  ## remove what was made, the environment included
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache runs
