# Everything a user or a developer runs. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= out
DEVICE ?= cuda:0
.DEFAULT_GOAL := help
.PHONY: help demo test test-whole test-oldest test-newest test-vllm test-server test-gpu first-light check format bench fuzz torture mutants tiny-pair docker-proof locked clean

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
test: $(VENV)/.dev ## run the test suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m 'not whole'

test-whole: $(VENV)/.dev ## run what it leaves out: bench scripts, kills and the GPU's twin, briefly
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m whole

# A part of the suite that asks most of other libraries, at both ends of their ranges, each in an environment of its own.
# torch stays the release of constraints.txt, a build for the processor: others come as CUDA builds of several gigabytes.
# OTHER_TORCH=torch takes what pip brings. What old releases warn of (matplotlib 3.8 of pyparsing) fails no test.
ENDS := $(addprefix tests/accept/test_,compat.py static_context.py families.py models.py gguf.py pairs.py prompt_formats.py passes.py \
	measure.py importers.py bench_validate.py bench_journal.py speech.py speech_files.py) \
	$(addprefix tests/sim/test_,tested.py cli_simulate.py grid.py) \
	$(addprefix tests/probe/test_,cpu_device.py torch_peers.py)
OTHER_TORCH ?= $(shell grep '^torch==' constraints.txt)
QUIET_PIP := -m pip install --quiet --disable-pip-version-check

test-oldest: ## run a fast part of the suite with the oldest releases that pyproject allows
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tests/oldest.py test > .venv-oldest/oldest.txt
	.venv-oldest/bin/python $(QUIET_PIP) -r .venv-oldest/oldest.txt
	.venv-oldest/bin/python $(QUIET_PIP) --no-deps -e .
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n 2 --dist worksteal -o filterwarnings=default $(ENDS)

test-newest: ## run it with the newest releases that pip brings
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python $(QUIET_PIP) --upgrade --upgrade-strategy eager '$(OTHER_TORCH)' -e '.[test]'
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n 2 --dist worksteal $(ENDS)

# In an environment that has vLLM, pytest and what specsim needs: PYTHON=/its/bin/python make test-vllm; four minutes.
test-vllm: ## ask vLLM whether it takes what is written for it
	HF_HUB_OFFLINE=1 PYTHONPATH=. $(PYTHON) -m pytest -p no:cacheprovider -o filterwarnings=default tests/sim/test_vllm_accepts.py

# With PYTHON=/its/bin/python of an environment that has vLLM 0.32; without, one is made, in five minutes. Then fifteen.
COUNT ?= 1000
VLLM := $(if $(filter file,$(origin PYTHON)),build/vllm/bin/,$(dir $(PYTHON)))vllm
test-server: $(VENV)/.dev ## all that we do with real servers of vLLM, as one table; load by both clients, both schedulers
	$(if $(filter build/%,$(VLLM)),$(PYTHON) tests/server/vllm_cpu.py build/vllm)
	$(BIN)/python -m tests.server.live --vllm $(VLLM) --twin $(COUNT)

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
	$(BIN)/python tests/bench/bench_serving.py
	$(BIN)/python tests/bench/bench_scale.py
	$(BIN)/python tests/bench/bench_commands.py
	$(BIN)/python tests/bench/bench_acceptance.py
	$(BIN)/python tests/bench/bench_decode.py
	$(BIN)/python tests/bench/bench_transformers.py
	$(BIN)/python tests/bench/bench_calibrate.py
	$(BIN)/python tests/bench/bench_workloads.py
	$(BIN)/python tests/bench/bench_load.py
	$(BIN)/python tests/bench/bench_explore.py

# A part of .ci/run: less than a minute. MUTANTS=2000 takes eight times as many.
MUTANTS ?= 250
fuzz: $(VENV)/.dev ## mangle files of every format and calls of every command, more than ten thousand in all
	MUTANTS=$(MUTANTS) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/contracts/test_mutated_*.py

torture: $(VENV)/.dev ## kill commands before every event on their files, and go on: half an hour
	$(BIN)/python -m tests.torture.kills
	$(BIN)/python -m tests.torture.kills --how full --points 25
	$(BIN)/python -m tests.torture.kills --how term --points 25

mutants: $(VENV)/.dev ## try small faults in the core: which does the suite notice?
	$(BIN)/python tests/bench/mutants.py

tiny-pair: $(VENV)/.measure ## train the bundled pair anew (about an hour on two cores)
	$(BIN)/python examples/train_tiny_pair.py --out $(OUT)/tiny_pair --compile

# As root, with debootstrap and the network; BUILD="--build-arg NAME=VALUE" as of docker build.
docker-proof: $(VENV)/.dev ## run the steps of both Dockerfiles without a container engine, and say what that proves
	$(BIN)/python -m tests.docker.proof $(BUILD)

locked: $(VENV)/.dev ## write locked.txt, with hashes, anew from constraints.txt (Linux, x86_64, Python 3.11)
	$(BIN)/python tests/locked.py > locked.txt.new
	mv locked.txt.new locked.txt

clean: ## remove the environment and what was built
	rm -rf $(VENV) .venv-oldest .venv-newest build dist *.egg-info
