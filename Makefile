# Needs python3 (3.11 or newer) and make, nothing else. Everything is installed into .venv.
PYTHON ?= python3
VENV   := .venv
RUN    := $(VENV)/bin
QUICK  ?=
STAMP  := $(VENV)/.installed

.PHONY: help reproduce figures test lint clean

help:
	@echo "make reproduce          install, run the main job, leave pictures and numbers in out/ (about 5 minutes)"
	@echo "make reproduce QUICK=1  the small form (about 1 minute)"
	@echo "make test               install, run the tests, ruff and mypy (about 4 minutes)"
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
	@echo "ruff, mypy, then the tests (about 4 minutes)"
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	OPENBLAS_NUM_THREADS=1 $(RUN)/python -m pytest -n auto

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache *.egg-info
