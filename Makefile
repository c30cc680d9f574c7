# `make demo` and `make test` need git, make and a python3 with venv; everything else they install into .venv, once.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n 2

.PHONY: help demo test test-all bench check format clean
help:
	@echo "make demo      every experiment at small size, one table, results/tour/index.html (about 4 minutes)"
	@echo "make test      the tests (5 minutes on 2 cores)"
	@echo "make test-all  the tests and the slow ones"
	@echo "make bench     dp against other libraries on seven models, on one core and on two (about an hour)"
	@echo "make check     ruff and pyright"
	@echo "make format    rewrite the sources in ruff's format"
	@echo "make clean     remove .venv and results"

# The stamps make a second call skip the installation until a requirement changes.
$(VENV)/.installed-test: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@touch $@

demo: $(VENV)/.installed-test
	$(BIN)/python -m experiments.tour

# Nearly all of a test's time is compiling. test-all compiles as users do.
test: $(VENV)/.installed-test
	JAX_DISABLE_MOST_OPTIMIZATIONS=1 $(PYTEST)

test-all: $(VENV)/.installed-test
	$(PYTEST) -m 'slow or not slow'

bench: $(VENV)/.installed-bench
	$(BIN)/python -m experiments.bench_dp

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: $(VENV)/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) results
