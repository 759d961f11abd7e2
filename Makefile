# `make demo` and `make test` set up what they need on a fresh machine: Python >= 3.11 and a package
# index are enough. `uv` is used where it is found, and fetched into .uv/ where it is not.

.DEFAULT_GOAL := help
.PHONY: help setup setup-openai3 setup-litellm demo test test-openai3 test-litellm test-litellm-oldest \
	test-litellm-newest coverage test-upstream check lint types contracts bench race race-simulated \
	docs wheel clean

# The newest Python >= 3.11 that runs; `make PYTHON=/path/to/python3.12 ...` says which.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.version_info >= (3, 11) or sys.exit(1); print(sys.executable)' \
	2>/dev/null && break; done)
UV = $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
# What sets the environments up when it is newer than they are.
LOCK := pyproject.toml uv.lock

# Two processes share the tests' files: they wait for clocks more than for cores.
PARALLEL := -n 2 --dist loadfile

SYNC = UV_PYTHON_DOWNLOADS=never $(UV) sync --quiet --locked
BIN := .venv/bin
BIN3 := .venv-openai3/bin
BINL := .venv-litellm/bin
BINLE := .venv-litellm-ends/bin
# The ends of the extra's range; what is locked lies between them.
LITELLM_OLDEST := 1.103.0
LITELLM_NEWEST := 1.109.1
BINU := .venv-upstream/bin
BINU3 := .venv-upstream3/bin

help:  ## show this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.synced  ## make .venv with all that development needs (openai 2.x)

setup-openai3: .venv-openai3/.synced  ## make .venv-openai3, the same with openai 3.x

setup-litellm: .venv-litellm/.synced  ## make .venv-litellm, with LiteLLM and its proxy

demo: .venv/.synced  ## the main job: a batch over a mock provider, with a table at the end
	@$(BIN)/quotafleet demo

test: .venv/.synced  ## run all tests (openai 2.x)
	@$(BIN)/python -m pytest $(PARALLEL) --ignore=tests/integrations/litellm $(ARGS)

test-openai3: .venv-openai3/.synced  ## run the tests of what stands on the SDK with openai 3.x
	@$(BIN3)/python -m pytest $(PARALLEL) tests/transport tests/typing tests/integrations/langchain $(ARGS)

test-litellm: .venv-litellm/.synced  ## run the tests of the LiteLLM adapter, and mypy over it
	@$(BINL)/mypy -p litellm_quotafleet
	@$(BINL)/python -m pytest $(PARALLEL) tests/integrations/litellm $(ARGS)

# Another LiteLLM in the place of the locked one, on the locked dependencies: the newest asks for a
# newer certifi than some indexes have, and does without.
test-litellm-oldest: LITELLM := $(LITELLM_OLDEST)
test-litellm-newest: LITELLM := $(LITELLM_NEWEST)
test-litellm-oldest test-litellm-newest: .venv-litellm-ends/.synced  ## run those of its Router and calls with the oldest, the newest LiteLLM
	@$(UV) pip install --quiet --no-deps --python $(BINLE)/python litellm==$(LITELLM)
	@$(BINLE)/python -m pytest $(PARALLEL) $(addprefix tests/integrations/litellm/,\
	test_router_async.py test_router_sync.py test_calls.py test_replace.py test_gate.py) $(ARGS)

coverage: .venv/.synced  ## run the tests of core and pool: they must take every branch of _core
	@$(BIN)/python -m pytest tests/core tests/pool --quiet --cov=quotafleet._core --cov-fail-under=100

test-upstream: .venv-upstream/.synced .venv-upstream3/.synced  ## run LangChain's own suites over the drop-ins and over stock: the outcomes must be the same
	@$(BINU)/python tests/upstream/run.py --beside $(BINU3)/python $(ARGS)

check: lint types contracts test test-openai3 coverage  ## what a change must pass; .ci/run is more

lint: .venv/.synced  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.synced  ## mypy --strict
	@$(BIN)/mypy

contracts: .venv/.synced  ## import-linter: who may import whom
	@$(BIN)/lint-imports

bench: .venv/.synced  ## what a lease costs, and what a call costs more than without a pool
	@$(BIN)/python benchmarks/overhead.py

race: .venv-race/.synced  ## race quotafleet with what people use today: docs/race.md, docs/race.png (1 1/2 h)
	@.venv-race/bin/python -m benchmarks.race --write $(ARGS)

race-simulated: .venv/.synced  ## quotafleet's core alone in the same race, on a simulated clock
	@$(BIN)/python -m benchmarks.race.simulated $(ARGS)

docs: .venv-docs/.synced  ## build the site into site/, warnings are errors
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

wheel: .uv-found  ## build the wheel into dist/
	@UV_PYTHON_DOWNLOADS=never $(UV) build --quiet --wheel --out-dir dist

clean:  ## remove what was built, environments included
	rm -rf .venv .venv-openai3 .venv-litellm .venv-litellm-ends .venv-upstream .venv-upstream3 \
		.venv-race .venv-docs .uv site dist build .coverage .pytest_cache .mypy_cache .ruff_cache \
		.hypothesis .import_linter_cache

# How the environments come to be. A stamp inside each one tells when it was last brought up to the
# lock file; an environment that is there keeps its Python.

.venv/.synced: $(LOCK) | .uv-found
	@test -x $(BIN)/python || echo "quotafleet: setting up .venv with $(PYTHON)"
	@if test -x $(BIN)/python; then $(SYNC); else $(SYNC) --python "$(PYTHON)"; fi
	@touch $@

.venv-openai3/.synced: $(LOCK) | .uv-found
	@test -x $(BIN3)/python || echo "quotafleet: setting up .venv-openai3 with $(PYTHON)"
	@if test -x $(BIN3)/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-openai3 $(SYNC) --no-default-groups --group dev --group openai3 --group langchain "$$@"
	@touch $@

.venv-litellm/.synced: $(LOCK) | .uv-found
	@test -x $(BINL)/python || echo "quotafleet: setting up .venv-litellm with $(PYTHON)"
	@if test -x $(BINL)/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-litellm $(SYNC) --no-default-groups --group dev --group openai2 --group litellm "$$@"
	@touch $@

.venv-litellm-ends/.synced: $(LOCK) | .uv-found
	@test -x $(BINLE)/python || echo "quotafleet: setting up .venv-litellm-ends with $(PYTHON)"
	@if test -x $(BINLE)/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-litellm-ends $(SYNC) --no-default-groups --group dev --group openai2 --group litellm "$$@"
	@touch $@

.venv-upstream/.synced: $(LOCK) | .uv-found
	@test -x $(BINU)/python || echo "quotafleet: setting up .venv-upstream with $(PYTHON)"
	@if test -x $(BINU)/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-upstream $(SYNC) --no-default-groups --group dev --group openai2 \
	--group upstream --group upstream-files "$$@"
	@touch $@

.venv-upstream3/.synced: $(LOCK) | .uv-found
	@test -x $(BINU3)/python || echo "quotafleet: setting up .venv-upstream3 with $(PYTHON)"
	@if test -x $(BINU3)/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-upstream3 $(SYNC) --no-default-groups --group dev --group openai3 --group upstream "$$@"
	@touch $@

.venv-race/.synced: $(LOCK) | .uv-found
	@test -x .venv-race/bin/python || echo "quotafleet: setting up .venv-race with $(PYTHON)"
	@if test -x .venv-race/bin/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-race $(SYNC) --no-default-groups --group dev --group openai2 --group race "$$@"
	@touch $@

.venv-docs/.synced: $(LOCK) | .uv-found
	@test -x .venv-docs/bin/python || echo "quotafleet: setting up .venv-docs with $(PYTHON)"
	@if test -x .venv-docs/bin/python; then set --; else set -- --python "$(PYTHON)"; fi; \
	UV_PROJECT_ENVIRONMENT=.venv-docs $(SYNC) --no-default-groups --group docs "$$@"
	@touch $@

.PHONY: .python-found .uv-found print-uv
.python-found:
	@test -n "$(PYTHON)" || { \
	echo "quotafleet needs Python 3.11 or newer, and found none: install one (python.org, your" >&2; \
	echo "package manager or pyenv), or say where it is: make PYTHON=/path/to/python3.12" >&2; \
	exit 1; }

.uv-found: | .python-found
	@test "$(UV)" = uv || test -x .uv/bin/uv || { \
	echo "quotafleet: fetching uv into .uv/"; \
	{ "$(PYTHON)" -m venv .uv && .uv/bin/python -m pip install --quiet 'uv>=0.8'; } || { \
	rm -rf .uv; \
	echo "quotafleet could not fetch uv with $(PYTHON): see above. Where that Python lacks venv or" >&2; \
	echo "ensurepip, install it (Debian: python3-venv), or install uv itself." >&2; \
	exit 1; }; }

print-uv: | .uv-found
	@echo $(UV)
