# `make demo` and `make test` set everything up themselves; `make venv` is that step alone.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo docs test test-full lint venv system-deps clean

venv: .venv/installed

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12) and "synpol needs Python 3.12 or newer; this is " + sys.version.split()[0] + ". Run: make PYTHON=/path/to/python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --compile-bytecode --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	$(BIN)/python pipelines/demo.py configs/demo.yaml

docs: venv
	$(BIN)/python -m sphinx -W -q -b html docs docs/_build/html
	@echo open docs/_build/html/index.html

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-full: lint
	$(BIN)/python -m pytest

# Programs that come from the system (Debian, root): the tests run a SLURM cluster, PostgreSQL and
# Chromium, and strace notes what a power cut could take away. An installation that was ended half way
# is finished first.
system-deps:
	DEBIAN_FRONTEND=noninteractive dpkg --configure -a
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge iproute2 postgresql chromium chromium-driver strace

clean:
	rm -rf .venv build docs/_build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
