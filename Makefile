PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Ray's tests need both cores for themselves; the others run in two processes, of one thread each.
PAIR := OMP_NUM_THREADS=1 LP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2
ONE := $(BIN)/python -m pytest
# Where ARGS selects some, there may be none among them.
NONE := $(if $(ARGS),|| [ $$? = 5 ])

.PHONY: help run test test-full test-extern check lint setup constraints vulkan vllm-env lerobot-env sb3-env metaworld-env browser-env

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

run: setup vulkan  ## train the main job: pictures -> GRM -> shaped reward -> learner -> report and video in runs/
	$(BIN)/python -m experiments.peg_insert $(ARGS)

test: setup vulkan  ## every test but the long ones: 15 to 25 minutes on two cores
	$(PAIR) -m "not ray and not long and not extern" $(ARGS) $(NONE)
	$(ONE) -m "ray and not long and not extern" $(ARGS) $(NONE)

test-full: setup vulkan  ## every test, also those that take minutes: interruptions, lost nodes, sweeps, fuzzing, vLLM; one to two hours
	$(BIN)/python -m pytest -m "not extern" $(ARGS)

test-extern: setup vulkan lerobot-env sb3-env metaworld-env browser-env  ## the tests with other projects' packages (LeRobot, Stable-Baselines3, Meta-World, Chromium) in environments of their own
	$(BIN)/python -m pytest -m extern $(ARGS)

check: lint  ## lint, types and the tests that need neither Ray nor pictures, in under four minutes
	$(PAIR) -m "not ray and not render and not slow and not long and not extern" $(ARGS)

lint: setup  ## style, types, and whether scripts/constraints.txt is what is installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/constraints.py

setup: $(STAMP)  ## virtual environment and packages

$(STAMP): pyproject.toml scripts/constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --progress-bar off -c scripts/constraints.txt -e ".[dev]"
	touch $@

constraints:  ## install as pyproject.toml allows (newer versions: ARGS=--upgrade) and write the versions down; then run the tests
	$(BIN)/python -m pip install --progress-bar off $(ARGS) -e ".[dev]"
	$(BIN)/python scripts/constraints.py --write
	touch $(STAMP)

vulkan: setup  ## make sure pictures can be rendered without a GPU
	bash scripts/ensure_vulkan.sh $(BIN)/python

vllm-env: setup  ## build .venv-vllm, in which the vLLM engine runs on a CPU
	bash scripts/vllm_env.sh $(BIN)/python

lerobot-env: setup  ## build .venv-lerobot, in which LeRobot reads and writes datasets
	bash scripts/lerobot_env.sh $(BIN)/python

metaworld-env: setup  ## build .venv-metaworld, in which Meta-World's peg insertion is learned
	bash scripts/ensure_osmesa.sh
	bash scripts/beside_env.sh $(BIN)/python .venv-metaworld metaworld==3.1.1 mujoco==3.3.0 etils==1.15.0 glfw==2.11.0 pyopengl==3.1.10 zipp==4.1.2

browser-env: setup  ## build .venv-browser, in which Chromium looks at the pages of `dopamine show`
	bash scripts/ensure_chromium.sh
	bash scripts/beside_env.sh $(BIN)/python .venv-browser selenium==4.51.0 trio==0.35.0 trio-websocket==0.12.2 outcome==1.3.0.post0 wsproto==1.3.2 websocket-client==1.9.2 pysocks==1.7.1

sb3-env: setup  ## build .venv-sb3, in which Stable-Baselines3 learns from our reward
	bash scripts/beside_env.sh $(BIN)/python .venv-sb3 stable-baselines3==2.9.2
