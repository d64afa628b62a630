# Needs python3 (3.11 or newer) and make, nothing else. Everything is installed into .venv.
PYTHON ?= python3
VENV   := .venv
PEERS  := .venv-peers
RUN    := $(VENV)/bin
QUICK  ?=
ONLY   ?=
SLOW   ?=
STAMP  := $(VENV)/.installed

# Tests start many processes: where this is set, each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help reproduce figures test types test-all test-everywhere test-gpu bench bench-solver bench-adviser clean

help:
	@echo "make reproduce          install, run the main job, leave pictures and numbers in out/ (about 6 minutes)"
	@echo "make reproduce QUICK=1  the small form (about 2 minutes)"
	@echo "make test               install, run ruff and the tests (4 to 5 minutes)"
	@echo "make types              install, run mypy (half a minute, then seconds)"
	@echo "make test-all           with PyTorch installed too, and the long studies; ONLY='torch or slow' for these alone"
	@echo "make test-everywhere    under every kernel of OpenBLAS, two threads, without Numba (about 45 minutes; QUICK=1: a minute; SLOW=1: hours)"
	@echo "make test-gpu           install CuPy too and run the tests that need a GPU"
	@echo "make bench              install the peers and measure ensembles beside them (about 20 minutes; QUICK=1: a few)"
	@echo "make bench-solver       the eigensolver, a step's costs, and training at equal work (about 40 minutes; QUICK=1: some)"
	@echo "make bench-adviser      advised step limits beside where networks leave their place (about 25 minutes; QUICK=1: a minute)"
	@echo "make figures            refresh the tracked figures/ from a full run"
	@echo "make clean              remove .venv, out/ and caches"

$(STAMP): setup.cfg pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (once, about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@touch $@

reproduce: $(STAMP)
	$(RUN)/stability reproduce --out out $(if $(QUICK),--quick)

figures: $(STAMP)
	$(RUN)/stability reproduce --out figures

test: $(STAMP)
	@echo "ruff, then the tests (4 to 5 minutes)"
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	OPENBLAS_NUM_THREADS=1 $(RUN)/python -m pytest -n auto -m 'not slow' --dist worksteal

types: $(STAMP)
	$(RUN)/mypy

test-all: $(STAMP)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,torch]'
	OPENBLAS_NUM_THREADS=1 $(RUN)/python -m pytest -n auto --dist worksteal $(if $(ONLY),-k '$(ONLY)' tests)

test-everywhere: $(STAMP)
	$(RUN)/python tests/everywhere.py $(if $(QUICK),--quick) $(if $(SLOW),--slow)

test-gpu: $(STAMP)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,cupy]'
	$(RUN)/python -m pytest -rs -k 'cupy or cuda' tests

$(PEERS)/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "Installing the peers into $(PEERS) (once, some minutes)"
	@$(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers,data]'
	@touch $@

bench: $(PEERS)/.installed
	$(PEERS)/bin/python benchmarks/ensembles.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(PEERS)/bin/python benchmarks/draw.py)

bench-solver: $(PEERS)/.installed
	$(PEERS)/bin/python benchmarks/eigensolver.py $(if $(QUICK),--quick)
	$(PEERS)/bin/python benchmarks/network_products.py $(if $(QUICK),--quick)
	$(PEERS)/bin/python benchmarks/steps.py $(if $(QUICK),--quick)
	$(PEERS)/bin/python benchmarks/training.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(PEERS)/bin/python benchmarks/draw_training.py)

bench-adviser: $(PEERS)/.installed
	$(PEERS)/bin/python benchmarks/adviser.py $(if $(QUICK),--quick)
	$(if $(QUICK),,$(PEERS)/bin/python benchmarks/draw_adviser.py)

clean:
	rm -rf $(VENV) $(PEERS) out .pytest_cache .mypy_cache .ruff_cache *.egg-info
