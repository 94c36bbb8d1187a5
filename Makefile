# Two commands are enough for a newcomer: `make demo` and `make test`. Both set up what is missing.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.ready

# `make test FAST=1` leaves the slow tests out; `make test ARGS="-k gpt2 -x"` hands pytest more.
MARKS  := $(if $(FAST),not slow,)
ARGS   ?=
# Whole files go to one worker, so module fixtures are built once; more than eight workers only fight for memory.
PYTEST := $(BIN)/python -m pytest
WORKERS := -n auto --maxprocesses 8 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format bench peers report parity articles golden browser clean moved

help:
	@echo "make demo     build three models from their specs: source, graph, weights, pictures"
	@echo "make test     lint and the whole test suite (FAST=1: without the slow tests)"
	@echo "make setup    create .venv with everything that building, testing and benchmarking need"
	@echo "make lint     ruff, mypy --strict, the import contracts"
	@echo "make format   ruff format and ruff's safe fixes"
	@echo "make bench    the benchmark suites, against other exporters too (ARGS=--quick: about ten minutes)"
	@echo "make report   docs/BENCHMARKS.md from the last \`make bench\`"
	@echo "make articles train six small systems from their specs, ship them, measure what was shipped"
	@echo "make parity   the zoo against transformers: the table of the README"
	@echo "make golden   write the golden files again (then read the diff)"
	@echo "make clean    remove builds and caches, keep .venv"

setup: $(READY)
	@echo "Set up: $(BIN)/specc"

# The stamp holds the checkout's path: scripts in a .venv name it, so a moved checkout sets up again.
ifneq ($(shell cat $(READY) 2>/dev/null),$(CURDIR))
$(READY): moved
endif
$(READY): pyproject.toml constraints.txt scripts/setup.sh
	@sh scripts/setup.sh

browser: $(READY)
	@sh scripts/browser.sh

demo: $(READY) browser
	@sh scripts/demo.sh

# Lint and tests both run, whichever fails, and pytest's closing line comes last.
test: $(READY) browser
	@status=0; \
	sh scripts/lint.sh || status=1; \
	echo "==> tests"; \
	$(PYTEST) $(WORKERS) -m "$(MARKS)" $(ARGS) || status=1; \
	exit $$status

lint: $(READY)
	@sh scripts/lint.sh

format: $(READY)
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

# The exporters that it compares with; one that can't be installed is reported as missing.
peers: $(READY)
	@sh benchmarks/peers/setup.sh

BENCHED := .benchmarks/latest.json
bench: $(READY)
	@sh benchmarks/peers/setup.sh || true
	@mkdir -p $(dir $(BENCHED))
	@$(PYTEST) benchmarks -m "" --benchmark-only --benchmark-columns=median,iqr,rounds --benchmark-json $(BENCHED) $(ARGS)

report: $(READY)
	@test -f $(BENCHED) || $(MAKE) bench
	@$(BIN)/python -m benchmarks.report $(BENCHED) benchmarks/notes.md docs/BENCHMARKS.md

parity: $(READY)
	@$(PYTEST) $(WORKERS) -q --parity tests/test_zoo_*.py tests/test_gpt2_checkpoint.py

articles: $(READY) browser
	@$(BIN)/python scripts/articles.py $(ARGS)

golden: $(READY)
	@$(PYTEST) -m "" --update-golden $(ARGS)
	@git status --short tests README.md

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .benchmarks
	@find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +
