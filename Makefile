# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VIDEO ?=
QUESTION ?=
# Through the environment, so that the shell takes nothing in them for its own.
export VTC_DEMO_VIDEO = $(value VIDEO)
export VTC_DEMO_QUESTION = $(value QUESTION)
# Two OpenMP threads on a busy small machine can stall.
export OMP_NUM_THREADS ?= 1

.PHONY: demo eval-env reproduce-smoke test test-slow test-matrix lint wheel-test benchmarks clean

demo: $(VENV)/.installed
	$(BIN)/vtc demo --question "$$VTC_DEMO_QUESTION" $${VTC_DEMO_VIDEO:+--video "$$VTC_DEMO_VIDEO"}

test: $(VENV)/.installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -q -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests of what was built, from another directory: only the wheel's own files may be imported.
WHEEL_TESTS := test_imports.py test_registry.py test_wrapped_model.py test_generation.py \
	test_new_plugin.py
wheel-test: $(VENV)/.installed
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m build --wheel --outdir build/wheel . > build/wheel/log
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel/site build/wheel/*.whl
	cd build/wheel && PYTHONPATH=$$PWD/site $(abspath $(BIN))/python -I -c "$$NO_STRAYS" $$PWD/site
	cd build/wheel && PYTHONPATH=$$PWD/site $(abspath $(BIN))/pytest -q -c ../../pyproject.toml \
		--rootdir ../.. $(addprefix ../../tests/,$(WHEEL_TESTS))

define NO_STRAYS
import importlib.util, sys
site = sys.argv[1]
sys.path.insert(0, site)
for name in ("vtc", "vtc_selectors", "vtc_mergers", "vtc_adapters", "vtc_recipes"):
    found = importlib.util.find_spec(name).origin
    if not found.startswith(site):
        sys.exit(f"{name} comes from {found}, not from the wheel in {site}")
endef
export NO_STRAYS

# The wrapped models on the oldest transformers that pyproject.toml allows, on the last that calls a
# cache past_key_values, and on the newest.
MATRIX_TESTS := test_adapters.py test_wrapped_model.py test_generation.py test_training.py \
	test_checkpoint.py test_asking.py test_qwen2_vl.py test_llava_family.py \
	test_family_options.py test_still_frames.py test_part_results.py test_connector.py \
	test_recipe_training.py
test-matrix: $(VENV)/.installed
	for version in ==5.18.0 ==5.23.0 ""; do \
		site=$$PWD/build/transformers$$version && \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target "$$site" \
			"transformers$$version" && \
		PYTHONPATH="$$site" $(BIN)/python -c \
			"import transformers; print('transformers', transformers.__version__)" && \
		PYTHONPATH="$$site" $(BIN)/python -m pytest -q -n auto $(addprefix tests/,$(MATRIX_TESTS)) \
		|| exit 1; \
	done

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/dks.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/decode.py

# lmms-eval needs older av and filelock, so it has an environment of its own, which borrows the rest
# from $(VENV).
EVAL_VENV ?= .venv-eval
eval-env: $(EVAL_VENV)/.installed

# The commands of docs/reproduce.md on fakes, in minutes.
reproduce-smoke: $(VENV)/.installed $(EVAL_VENV)/.installed
	$(BIN)/python -m vtc_recipes.evaluation.smoke build/smoke --harness $(EVAL_VENV)/bin/vtc

$(EVAL_VENV)/.installed: $(VENV)/.installed
	$(BIN)/python -m venv $(EVAL_VENV)
	$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$($(EVAL_VENV)/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	$(EVAL_VENV)/bin/python -m pip install --quiet --editable ".[eval]"
	touch $@

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(EVAL_VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
