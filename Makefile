# make bench   install into .venv, run the embedded suite       (more: make bench ARGS="run --suite quick.yaml")
# make test    install with the test tools, run the tests       (more: make test ARGS="-m slow")
# make lint    ruff and mypy
# Another interpreter: make bench PYTHON=python3.12.  pip's own settings hold: on Linux without a GPU,
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu saves gigabytes.
# Paths are relative and nothing relies on console scripts, so that the checkout may lie in a path with a space.

PYTHON ?= python3
VENV = .venv
RUN = $(VENV)/bin/python
INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check

.PHONY: bench test lint install install-test install-dev clean

bench: install
	$(RUN) run_bench.py $(ARGS)

test: install-test
	$(RUN) -m pytest -q $(ARGS)

lint: install-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

install: $(VENV)/.installed
install-test: $(VENV)/.installed-test
install-dev: $(VENV)/.installed-dev

# The stamp is written last: an interrupted set-up is made again from the start.
$(VENV)/.made:
	"$(PYTHON)" -m venv --clear "$(VENV)"
	$(INSTALL) "pip>=21.3"  # the first that installs -e without a setup.py
	touch "$@"

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/.made
	$(INSTALL) -e .
	touch "$@"

$(VENV)/.installed-test: setup.cfg pyproject.toml | $(VENV)/.made
	$(INSTALL) -e ".[test]"
	touch "$(VENV)/.installed" "$@"

$(VENV)/.installed-dev: setup.cfg pyproject.toml | $(VENV)/.made
	$(INSTALL) -e ".[test,dev]"
	touch "$(VENV)/.installed" "$(VENV)/.installed-test" "$@"

clean:
	rm -rf "$(VENV)" build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
