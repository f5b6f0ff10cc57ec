# Every target does its own set-up; the first use downloads, later ones need no network.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test check coverage docs bench bench-serve faults interop lock news release clean

help: ## Show this list.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: $(READY) ## Make .venv with the command .venv/bin/purchase-stream.

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=…")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: install ## Watch events flow through a real Kafka, end to end.
	$(BIN)/purchase-stream demo

test: install ## Run the tests, on a real Kafka where they touch Kafka; ARGS="tests/unit" for a part.
	$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

check: install docs ## Format, lint, types (of tests, too), import contracts, and every reference in the docs.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install ## Build the site into docs/_build/html; a broken reference is an error.
	rm -rf docs/reference
	$(BIN)/python docs/api.py docs/reference
	$(BIN)/python -m sphinx -q --nitpicky --fail-on-warning --keep-going docs docs/_build/html

coverage: install ## Show the branch coverage of the unit tests; the pure core and the commit path have a floor.
	$(BIN)/python -m pytest tests/unit --numprocesses 2 --cov --cov-report= -q
	$(BIN)/coverage report --skip-covered
	$(BIN)/coverage report --fail-under=95 --format=total \
	  --include='consumer/columnar/*,consumer/pipeline/*,consumer/scorer/commit.py,consumer/scorer/outputs.py,consumer/scorer/processing.py'

bench: install ## Measure, against programs that somebody would write instead; ARGS="--record" or "--growth".
	$(BIN)/python tests/bench/run.py $(ARGS)

bench-serve: install ## Measure what small API requests feel of the worst ones; ARGS="--record".
	$(BIN)/python tests/bench/worst_requests.py $(ARGS)

faults: install ## Inject faults for about a quarter of an hour; see docs/guarantees.md.
	$(BIN)/python -m pytest -m faults -p no:randomly

interop: install ## Let clients in Java, Node, Go and Rust send events and read predictions.
	$(BIN)/python -m pytest -m interop -p no:randomly tests/interop

COMPILE := $(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --quiet

lock: ## Pin every dependency with its hashes, after a change to pyproject.toml.
	$(COMPILE) --group dev --output-file requirements.lock
	$(COMPILE) --group build --constraint requirements.lock --output-file deploy/requirements.lock

news: install ## Gather the fragments of changelog.d into CHANGELOG.md; VERSION=0.2.0.
	$(BIN)/towncrier build --yes --version $(VERSION)

release: install ## Build the wheel and the sdist into dist/, check them, and run the wheel on its own.
	rm -rf dist && $(BIN)/python -m hatchling build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv dist/.venv
	dist/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r deploy/requirements.lock
	dist/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps dist/*.whl
	cd dist && .venv/bin/purchase-stream --version && .venv/bin/purchase-stream schemas list
	rm -rf dist/.venv

clean: ## Remove what the targets made.
	rm -rf .venv artifacts .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache docs/_build docs/reference dist
