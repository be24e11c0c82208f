# Nothing is needed beforehand but make and Python 3.11 or newer: each target sets up what it uses, once.
#
#   make VENV=elsewhere ...     keep the environment in another folder
#   make PYTHON=python3.12 ...  make it with another interpreter
#   make WORKERS=8 test         run the tests in more processes
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
CHECKED := gpt_trader nbs tests benchmarks docs setup.py
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --durations=10
DESCRIBES := setup.py settings.ini pyproject.toml constraints.txt

OLD_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3; do "$$p" -c "$(OLD_ENOUGH)" 2>/dev/null && echo "$$p" && break; done)
endif

define NEED_PYTHON
gpt_trader needs Python 3.11 or newer and found none as python3.11, python3.12, python3.13 or python3. \
Install it (on Debian: apt-get install python3 python3-venv) or name it: make PYTHON=/path/to/python3.11
endef
define NEED_VENV
This Python cannot make a virtual environment. Install its venv module (on Debian: apt-get install python3-venv) and run make again.
endef
define NEED_OPENMP
LightGBM needs the OpenMP runtime (libgomp.so.1) and this machine lacks it. \
Install it (on Debian: apt-get install libgomp1; on Fedora: dnf install libgomp; on Alpine: apk add libgomp) and run make again.
endef

# Where this is set, each of the many processes that a test starts would compile anew all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---------------------------------------------------------------- environment
.PHONY: system
system:
	@if [ -z "$(PYTHON)" ]; then echo "$(NEED_PYTHON)" >&2; exit 1; fi
	@"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { echo "$(NEED_VENV)" >&2; exit 1; }
	@[ "$$(uname -s)" != Linux ] || "$(PYTHON)" -c "import ctypes; ctypes.CDLL('libgomp.so.1')" 2>/dev/null || { echo "$(NEED_OPENMP)" >&2; exit 1; }

# uv installs the set in seconds; where it cannot be had, or cannot reach the packages, pip does it in minutes. Both write the bytecode at
# once: without it every process of a test compiles more than a thousand modules when it starts, where PYTHONDONTWRITEBYTECODE is set.
define install
$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt $(1) 2>$(VENV)/.uv.log \
  || $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(1)
endef

$(VENV)/.made: | system
	"$(PYTHON)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv || echo "uv is not to be had here: installing with pip, which takes longer"
	@touch $@

$(VENV)/.base: $(VENV)/.made $(DESCRIBES)
	@echo "Installing gpt_trader into $(VENV)"
	@$(call install,setuptools)
	@$(call install,--no-build-isolation -e .)
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Installing the development tools into $(VENV)"
	@$(call install,--no-build-isolation -e '.[dev]')
	@touch $@

$(VENV)/.lab: $(VENV)/.base
	@echo "Installing JupyterLab into $(VENV)"
	@$(call install,--no-build-isolation -e '.[lab]')
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@echo "Installing what the benchmarks are measured against into $(VENV)"
	@$(call install,--no-build-isolation -e '.[bench]')
	@touch $@

.PHONY: dev
dev: $(VENV)/.dev  ## the environment with every development tool, in .venv

.PHONY: lock
lock: $(VENV)/.dev  ## newest versions of everything into constraints.txt (then run the tests)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --all-extras --no-header --python-version 3.11.0 setup.py -o $(VENV)/constraints.new
	@{ sed -n '/^#/p;/^[^#]/q' constraints.txt; cat $(VENV)/constraints.new; } > $(VENV)/constraints.txt
	@mv $(VENV)/constraints.txt constraints.txt && rm $(VENV)/constraints.new
	@git --no-pager diff --stat constraints.txt

# ---------------------------------------------------------------- use
.PHONY: demo
demo: $(VENV)/.base system  ## one real trading day, from market history to an executed incident report
	@$(BIN)/gpt-trader demo

.PHONY: lab
lab: $(VENV)/.lab system  ## JupyterLab on the workspace, with the research notebooks (`make demo` fills it)
	@[ -d .gpt-trader ] || $(BIN)/gpt-trader init .
	@$(BIN)/gpt-trader --workspace . lab

EXECUTE ?= on
.PHONY: docs
docs: $(VENV)/.dev system  ## the site, into docs/_build/html (EXECUTE=off: without running notebooks)
	@$(BIN)/python docs/build.py --workers $(WORKERS) $(if $(filter off no 0,$(EXECUTE)),--no-execute)

# ---------------------------------------------------------------- gate
.PHONY: sync
sync: $(VENV)/.dev  ## sort the notebooks' imports, clean them, and export the package from them
	@$(BIN)/ruff check --quiet --select I --fix nbs
	@$(BIN)/nbdev_clean
	@$(BIN)/nbdev_export

.PHONY: lint
lint: $(VENV)/.dev
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: check
check: lint  ## the gate: ruff, mypy, layers, and the structure of the tree (changes nothing)
	$(BIN)/python -m pytest -q tests/test_structure.py

.PHONY: test
test: lint system  ## the gate and the fast tests, every library notebook included
	$(PYTEST) -m "not slow and not soak and not browser and not network"

.PHONY: test-slow
test-slow: $(VENV)/.dev system  ## the tests that take their time, or a browser
	$(PYTEST) -m "(slow or browser) and not soak and not network"

.PHONY: soak
soak: $(VENV)/.dev system  ## full counts: hundreds of crashes, long replays
	GPT_TRADER_SOAK=1 $(PYTEST) --timeout=7200 -m "slow or soak"

.PHONY: bench
bench: $(VENV)/.bench system  ## ratios against the best known, measured side by side, as a Markdown table
	@$(BIN)/python benchmarks/run.py

.PHONY: honest
honest: $(VENV)/.dev system  ## what the models are worth, on the embedded universe and on skfolio's 20 stocks, as README has it
	@$(BIN)/python benchmarks/honest.py

.PHONY: clean
clean:  ## what building and testing leave behind (never a workspace, nor .venv)
	rm -rf build dist docs/_build gpt_trader.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find gpt_trader tests benchmarks nbs \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
