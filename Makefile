# Two commands: `make train` sets everything up and trains M-CURL on cartpole-swingup; `make test` sets everything up and passes the tests.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
TASK ?= dmc/cartpole-swingup
METHOD ?= mcurl
BIN := $(VENV)/bin

.PHONY: train test test-slow test-lowest lint system clean

train: $(VENV)/.installed
	$(BIN)/mcurl train $(TASK) --method $(METHOD)

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

# With the oldest versions that pyproject.toml admits.
test-lowest:
	$(MAKE) VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt .venv-lowest/.installed
	.venv-lowest/bin/python -m pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/mypy

# MuJoCo draws through EGL or OSMesa: installed where neither is there and this user may.
system:
	@$(PYTHON) -c "import ctypes.util, sys; sys.exit(not any(map(ctypes.util.find_library, ('EGL', 'OSMesa'))))" \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && apt-get update -qq && apt-get install -y -qq libegl1 libgl1; } \
	|| echo "no OpenGL found: sudo apt-get install libegl1 libgl1"

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS) | system
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) torch
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache
