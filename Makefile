# One word each, the same here and in CI; `make help` lists them.

# The interpreter that .venv is made with: 3.11 or later.
PYTHON ?= python3
VENV   ?= .venv
# More arguments: make test ARGS="-k topic --no-cov", make bench ARGS="--quick"
ARGS   ?=

BIN     := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null)
SOURCES := $(shell find carrot -name '*.py')

# What is installed in .venv, one stamp a kind. carrot itself is there once: as a copy (demo), or
# as a link to this folder (all others), so each of the two removes the stamps of the other.
MADE     := $(VENV)/.python-$(VERSION)
COPIED   := $(VENV)/.carrot
LINKED   := $(VENV)/.carrot-
INSTALL  := $(BIN)/python -m pip install --quiet

.DEFAULT_GOAL := help
.PHONY: help demo test check faults soak bench instructions docs clean broker

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 24

demo: $(COPIED) ## examples/feed.py, in memory, or over the broker that CARROT_URL names
	@$(BIN)/python examples/feed.py

test: $(LINKED)test broker ## every test, with coverage, against a private RabbitMQ and ActiveMQ
	$(BIN)/python -m pytest --cov --cov-report=term $(ARGS)

check: $(LINKED)check ## format, lint, types, and which module imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/unit/test_layers.py

faults: $(LINKED)test broker ## the long fault tests: every byte cut, a cluster, 200 000 messages
	$(BIN)/python -m pytest tests/faults -m "faults" -s -o faulthandler_timeout=0 $(ARGS)

soak: $(LINKED)test broker ## ten minutes of messages with a connection killed every 5 seconds
	$(BIN)/python -m pytest tests/faults -m "soak" -s -o faulthandler_timeout=0 $(ARGS)

bench: $(LINKED)bench broker ## carrot and its peers, measured side by side on a private RabbitMQ
	@$(BIN)/python -m benchmarks $(ARGS)

instructions: $(LINKED)bench ## instructions a message, by cachegrind: ARGS="--against PATH"
	@$(BIN)/python -m benchmarks.instructions $(ARGS)

docs: $(LINKED)docs ## the documentation as HTML in docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html is ready"

broker:
	@tests/brokers/install.sh

clean: ## remove what the others made
	rm -rf $(VENV) build dist docs/_build carrot.egg-info .coverage htmlcov .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache benchmarks/.node benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "carrot needs Python 3.11 or later: make PYTHON=python3.12 …" >&2; exit 1; }
	@.ci/venv $(PYTHON) $(VENV)
	@touch $@

$(COPIED): $(MADE) pyproject.toml $(SOURCES)
	@rm -rf $(LINKED)* build
	$(INSTALL) .
	@touch $@

$(LINKED)%: $(MADE) pyproject.toml
	@rm -f $(COPIED)
	$(INSTALL) --editable '.[$*]'
	@touch $@
