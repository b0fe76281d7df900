# Video correspondence without labels. `make` alone lists what there is.
# Written for GNU make 3.81 and newer (3.81 is what macOS has) and any POSIX shell.

PYTHON ?= python3
JOBS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.set-up

# The stamp is written last and names the folder it was made for: a set-up that failed, was
# interrupted, lost its Python or was moved with its folder is done again.
.DEFAULT_GOAL := help
ifneq ($(shell test -x $(RUN) && cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): again
endif

.PHONY: help setup tour test lab handout slides site colab timing lint clean again
.DELETE_ON_ERROR:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

setup: $(STAMP) ## make .venv with the tested versions (Linux: 2.6 GB to fetch, 6 GB on disk)
	@echo "$(VENV) is ready: make tour, make lab, make test."

tour: $(STAMP) ## train on the shipped clips, carry masks through one, report in outputs/tour
	@$(RUN) -m corrlib tour

test: $(STAMP) ## run the unit tests and every notebook (JOBS=2 at a time)
	@CORRLIB_PROFILE=fast OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile \
	    --nbval-lax --nbval-current-env --nbval-cell-timeout 300 tests notebooks

lab: $(STAMP) ## open the course in JupyterLab
	@$(RUN) -m jupyterlab notebooks

handout: $(STAMP) ## the lessons without solutions and outputs, in outputs/handout
	@$(RUN) -m corrlib course handout

slides: $(STAMP) ## the lessons as slides, in outputs/slides
	@$(RUN) -m corrlib course slides

site: $(STAMP) ## the course as pages with search, in outputs/site
	@$(RUN) -m corrlib course site

# A variable of the command line is in the environment: the shell reads it as one word.
colab: $(STAMP) ## let the lessons lead to a fork on Colab: make colab REPO=owner/name
	@$(RUN) -m corrlib course colab "$$REPO"

timing: $(STAMP) ## run all lessons and write how long they take (machine idle: 15 minutes)
	@$(RUN) -m corrlib course timing

lint: $(STAMP) ## check the code's style
	@$(RUN) -m ruff check .

clean: ## remove .venv and caches; outputs and training runs stay
	rm -rf $(VENV) build dist corrlib.egg-info .pytest_cache .ruff_cache .hypothesis
	find corrlib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
	    -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@rm -f $(STAMP)
	@command -v "$(PYTHON)" >/dev/null || { echo "Python 3.10 or newer is needed, but there is" \
	    "no '$(PYTHON)' here: name yours with: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	    echo "Python 3.10 or newer is needed, but '$(PYTHON)' is $$("$(PYTHON)" --version 2>&1):" \
	    "name a newer one with: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: on Debian or Ubuntu, install what is" \
	    "missing with: sudo apt install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) with the tested versions; the first time this takes some minutes."
	@$(RUN) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && "$(PYTHON)" -m venv $(VENV); }
	@$(RUN) -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@printf '%s\n' "$(CURDIR)" > $(STAMP)
