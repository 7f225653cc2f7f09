# Everything a user or a developer runs. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
DEVICE ?= cuda:0
.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu first-light check format bench mutants tiny-pair clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Each stamp says that this set of packages is installed for the present pyproject and constraints.
$(VENV)/.measure: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[measure]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.measure

demo: $(VENV)/.measure ## measure the bundled pair, simulate, sweep: tables and pictures in out/
	$(BIN)/python examples/01_first_light.py --out $(OUT)

# Two processes of one thread each do more than one of two: most tests are many short things.
test: $(VENV)/.dev ## run the whole test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# From the bare checkout with the interpreter it is given; nothing is installed: PYTHON=python3 make test-gpu
test-gpu: ## run the GPU suite; fails where there is no GPU
	PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider -o filterwarnings=default tests/gpu

# As test-gpu; DEVICE=cpu runs the tiny twin of every step.
first-light: ## all that a GPU has to show, in nine minutes, into first_light/
	PYTHON=$(PYTHON) sh tests/gpu/first_light.sh --device $(DEVICE)

check: $(VENV)/.dev ## lint, format, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## measure speed against named references
	$(BIN)/python tests/bench/bench_simulator.py
	$(BIN)/python tests/bench/bench_commands.py
	$(BIN)/python tests/bench/bench_acceptance.py
	$(BIN)/python tests/bench/bench_decode.py
	$(BIN)/python tests/bench/bench_calibrate.py

mutants: $(VENV)/.dev ## try small faults in the core: which does the suite notice?
	$(BIN)/python tests/bench/mutants.py

tiny-pair: $(VENV)/.measure ## train the bundled pair anew (about an hour on two cores)
	$(BIN)/python examples/train_tiny_pair.py --out $(OUT)/tiny_pair --compile

clean: ## remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info
