# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEO ?=
QUESTION ?= Where is the red square?
# Two OpenMP threads on a busy small machine can stall.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-slow lint wheel-test benchmarks clean

demo: $(VENV)/.installed
	$(BIN)/vtc demo --question "$(QUESTION)" $(if $(VIDEO),--video "$(VIDEO)")

test: $(VENV)/.installed
	$(BIN)/python -m pytest

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The tests against the built wheel, from another directory, in an environment of its own.
wheel-test:
	rm -rf build/wheel && mkdir -p build/wheel
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build
	build/wheel/venv/bin/python -m build --quiet --wheel --outdir build/wheel .
	build/wheel/venv/bin/python -m pip install --quiet "$$(echo build/wheel/*.whl)[test]"
	cd build/wheel && venv/bin/pytest -c ../../pyproject.toml --rootdir ../.. ../../tests

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/dks.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/decode.py

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
