# Two commands: `make train` sets everything up and trains M-CURL on cartpole-swingup; `make test` sets everything up and passes the tests.
# `make train TORCH_INDEX=URL` installs the small PyTorch, without CUDA: URL is the index for CPUs on pytorch.org/get-started/locally.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TASK ?= dmc/cartpole-swingup
METHOD ?= mcurl
TORCH_INDEX ?=
TOOLS ?= dev,sb3
BIN := $(VENV)/bin
# dm_control requires labmaze, which has no wheel after Python 3.12 and which its suite does not import: see pyproject.toml.
WITHOUT_LABMAZE = ! $(BIN)/python -c "import sys; sys.exit(sys.version_info < (3, 13))" \
	|| $(PIP) --no-deps dm_control
USERS := $(VENV)/.installed-all
DEVELOPERS := $(VENV)/.installed-dev
WRITERS := $(VENV)/.installed-docs
PIP = $(BIN)/python -m pip install --constraint $(CONSTRAINTS)

.PHONY: train about test test-slow test-lowest extras attacks kills endurance fuzz lint docs system clean

train: about $(USERS)
	$(BIN)/mcurl train $(TASK) --method $(METHOD)

test: $(DEVELOPERS)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: $(DEVELOPERS)
	$(BIN)/python -m pytest -m slow

# Random inputs to everything that reads settings, files and command lines: some 250 a second.
EXAMPLES ?= 1000000
SEED ?= 0
fuzz: $(DEVELOPERS)
	PYTHONPATH=tests $(BIN)/python tests/attacks/fuzz.py $(EXAMPLES) $(SEED)

about:
	@if [ "$(TASK) $(METHOD)" = "dmc/cartpole-swingup mcurl" ]; then printf '%s\n' "$$RUN"; fi

# With the oldest versions that pyproject.toml admits, on Python 3.11 or 3.12 (NumPy 1.26 has no wheel for later ones).
# With another Python: make test PYTHON=python3.13 VENV=.venv-3.13
LOWEST ?= .venv-lowest
test-lowest:
	$(MAKE) VENV=$(LOWEST) CONSTRAINTS=constraints-lowest.txt TOOLS=dev $(LOWEST)/.installed-dev
	$(LOWEST)/bin/python -m pytest

# Each extra alone, at its oldest and its newest versions, in environments of their own: a minute or two each.
extras: $(DEVELOPERS)
	$(BIN)/python tests/extras.py

# Run folders under attack, N times each (about two seconds per attack): damaged files, and file operations that fail.
N ?= 1000
attacks: $(DEVELOPERS)
	$(BIN)/python tests/attacks/damage.py $(N)
	$(BIN)/python tests/attacks/faults.py $(N)

# N kills at random times, by one process, by suites and by Ray: minutes per ten. Another SEED: other times and victims.
kills: N = 100
kills: $(DEVELOPERS)
	$(BIN)/python tests/attacks/kills.py $(N) $(SEED)

# Memory, open files, threads, disk and speed of a run that trains for so many minutes.
MINUTES ?= 60
endurance: $(DEVELOPERS)
	$(BIN)/python tests/attacks/endurance.py $(MINUTES)

lint: $(DEVELOPERS)
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation's site, in build/docs/index.html.
docs: $(WRITERS)
	$(BIN)/python -m sphinx -E -W --keep-going -b html docs build/docs

# MuJoCo draws through EGL or OSMesa: installed where neither is there and this user may.
system:
	@$(PYTHON) -c "import ctypes.util, sys; sys.exit(not any(map(ctypes.util.find_library, ('EGL', 'OSMesa'))))" \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && apt-get install -y -qq libegl1 libgl1; } \
	|| echo "no OpenGL found: sudo apt-get install libegl1 libgl1"

# For users: `all`, the package with all its extras. For developers: `dev`, with the tools of `make test` in addition.
$(USERS): pyproject.toml $(CONSTRAINTS) | system
	@printf '%s\n' "$$SETUP"
	@echo "== 1 of 3: the environment $(VENV)"
	$(PYTHON) -m venv $(VENV)
	@echo "== 2 of 3: PyTorch"
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@echo "== 3 of 3: mcurl and what else it needs"
	$(PIP) --editable '.[all]'
	@$(WITHOUT_LABMAZE)
	@touch $@

# TOOLS=dev leaves out sb3, which needs PyTorch 2.8.
$(DEVELOPERS): $(USERS)
	@echo "== the tools of make test"
	$(PIP) --editable '.[$(TOOLS)]'
	@touch $@

$(WRITERS): $(USERS)
	@echo "== the tools of make docs"
	$(PIP) --editable '.[docs]'
	@touch $@

# Said before it starts. Disk: of .venv with PyTorch for CPUs. Time and disk of the run: results/README.md, and 12,500
# frames of 30 kB with three checkpoints of 120 MB.
define SETUP
Setting up $(VENV): 2.4 GB of disk with PyTorch for CPUs, several GB more with PyPI's, which brings CUDA on Linux.
For the small one: make $(MAKECMDGOALS) TORCH_INDEX=URL, the --index-url for CPUs on pytorch.org/get-started/locally
endef
define RUN
M-CURL on cartpole-swingup, 100k env steps: 53 minutes on two cores with AMX, two hours with AVX-512 alone, five hours
without either. It takes 0.8 GB of disk in runs/. After some updates the time left is shown. Ctrl-C saves everything.
endef
export SETUP RUN

clean:
	rm -rf build/docs docs/reference $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache
