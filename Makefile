# Everything a newcomer or CI needs. `make run` and `make test` set up all they need in .venv.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
ARGS ?=

.PHONY: run web install test check format bench bench-history bench-quality drills lock clean help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: .venv/base web ## serve the demo on http://127.0.0.1:8001 (ARGS="--config my.yaml" for more)
	$(BIN)/marketd serve $(ARGS)

web: .venv/base ## build the live page (needs Node 20+, or brings it as a package; the server runs without it)
	@$(BIN)/python web/build.py --bring-node requirements/web.txt --optional

install: .venv/dev ## everything for development

test: .venv/dev web ## the whole suite; what needs Chromium or recorded data skips where that is missing
	$(BIN)/python -m pytest -m "not drill" -n 2 $(ARGS)

check: .venv/dev ## lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev ## format the code
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv/dev ## benchmarks, side by side with peers (ARGS="--quick" for a short one)
	$(BIN)/python bench/run.py $(ARGS)

bench-quality: .venv/dev ## faulty bars told from healthy ones, on recorded data (ARGS="--details" for every file)
	$(BIN)/python bench/quality.py $(ARGS)

bench-history: .venv/dev ## history side by side with its peers, H1 to H10 (ARGS="--quick", "--full", "--only h1,h3")
	$(BIN)/python bench/history.py $(ARGS)

drills: .venv/dev ## long soaks and hundreds of kills
	$(BIN)/python -m pytest -m drill $(ARGS)

lock: .venv/dev ## resolve the dependencies anew
	$(BIN)/uv pip compile pyproject.toml --group build $(LOCK) -o requirements/base.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --group bench --group build --constraint requirements/base.txt $(LOCK) -o requirements/dev.txt
	$(BIN)/uv pip compile --group web $(LOCK) -o requirements/web.txt

LOCK := --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

clean: ## remove what was set up and built
	rm -rf .venv web/node_modules src/marketd/api/static test-artifacts

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "marketd needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/base: .venv/bin/python requirements/base.txt pyproject.toml
	$(PIP) --require-hashes -r requirements/base.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/dev: .venv/base requirements/dev.txt
	$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@
