# Two commands are all of it: `make demo` and `make test`. Both set up what they need.
# Before a release: `make test-random` (new random examples), `make test-slow`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-random test-slow check format docs notebooks benchmarks clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

demo: $(READY)
	$(BIN)/metafluence demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "not slow"

# The property tests alone, on new examples; SEED=N repeats those of a run that printed N.
SEED ?= $(shell date +%s)
test-random: $(READY)
	@echo "random examples of seed $(SEED); repeat them with: make test-random SEED=$(SEED)"
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m "hypothesis and not slow" --hypothesis-profile random --hypothesis-seed $(SEED)

test-slow: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The site in build/site, with all links checked. To search in it: python -m http.server -d build/site
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "build/site/index.html"

notebooks: $(READY)
	$(BIN)/python examples/run_notebooks.py

benchmarks: $(READY)
	$(BIN)/python benchmarks/hessian_product.py
	$(BIN)/python benchmarks/instance_scores.py
	$(BIN)/python benchmarks/ek_fac.py
	$(BIN)/python benchmarks/preconditioners.py
	$(BIN)/python benchmarks/inner_solvers.py
	$(BIN)/python benchmarks/training_step.py

clean:
	rm -rf $(VENV) results build/site
