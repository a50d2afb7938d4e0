# The verbs of the suite. No logic here: each line is one command of `fgbench`, or of a tool.

METHOD  ?= region_grouping
DATASET ?= toybirds
SEED    ?= 0
SEEDS   ?= $(SEED)
LOSS    ?=
EXPLAIN ?=
RUN     ?=
IMAGES  ?=
ARGS    ?=

ifdef FGBENCH_PYTHON
PYTHON := $(FGBENCH_PYTHON)
INSTALL := @true
else
PYTHON := .venv/bin/python
INSTALL := @python3 -I tools/bootstrap.py
endif
FGBENCH := @$(PYTHON) -m fgbench

.DEFAULT_GOAL := help
.PHONY: help install bench explain gallery probe tables data data-prepare data-check test check format leaderboard report wandb-sync benchmarks clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make bench METHOD=baseline DATASET=toybirds SEED=0 ARGS='--trainer.max_epochs 5'    one cell"
	@echo "  make bench METHOD=all DATASET=toybirds SEEDS=0,1,2                                  a grid of cells"
	@echo "  make bench METHOD=baseline LOSS=arcface DATASET=toybirds                            another loss"
	@echo "  make bench METHOD=baseline EXPLAIN=gradcam,guided_gradcam,centre                    and rows of explainers"
	@echo "  make bench ARGS=--help                                                              every option"
	@echo "  $(PYTHON) -m fgbench --help         the other verbs: ensemble, figure, weights"
	@echo "  FGBENCH_PYTHON=python3 make bench       use an interpreter that has the packages; nothing is installed"

install:  ## make .venv from the lock (every verb does this when needed)
	$(INSTALL)

bench: install  ## train and evaluate METHOD on DATASET, add the row to the leaderboard
	$(FGBENCH) bench --methods $(METHOD) --datasets $(DATASET) --seeds $(SEEDS)$(if $(LOSS), --losses $(LOSS))$(if $(EXPLAIN), --explain $(EXPLAIN)) $(ARGS)

test: check  ## all checks, all tests with coverage, a two-process run, a one-epoch bench
	@$(PYTHON) -m pytest -n auto --maxprocesses 8 --dist loadfile --cov=fgbench --cov-report=term:skip-covered $(ARGS)

check: install  ## lint, format, types, import contracts
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -c "from importlinter.cli import lint_imports_command as main; main()"

format: install  ## rewrite the code in the project's format
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

data: install  ## draw a contact sheet of DATASET: boxes and landmarks after augmentation
	$(FGBENCH) data show $(DATASET) $(ARGS)

data-prepare: install  ## unpack the archives of DATASET that you put into data/archives, write its index
	$(FGBENCH) data prepare $(DATASET) $(ARGS)

data-check: install  ## look at every image and annotation of DATASET
	$(FGBENCH) data check $(DATASET) $(ARGS)

explain: install  ## draw what RUN says of IMAGES (or of test images), and why
	$(FGBENCH) explain --run $(RUN)$(if $(IMAGES), --image $(IMAGES))$(if $(EXPLAIN), --explainer $(EXPLAIN)) $(ARGS)

gallery: install  ## one HTML page: test images of DATASET in rows, finished runs in columns
	$(FGBENCH) gallery --dataset $(DATASET)$(if $(EXPLAIN), --explain $(EXPLAIN)) $(ARGS)

probe: install  ## stability, insertion and deletion, sanity check of RUN: further passes over 1,000 images
	$(FGBENCH) probe $(RUN)$(if $(EXPLAIN), --explain $(EXPLAIN)) $(ARGS)

tables: install  ## the paper's comparison of explanations beside measured rows
	$(FGBENCH) tables region_grouping $(ARGS)

leaderboard: install  ## rebuild the tables; ARGS=show, compare A B, verify, merge FOLDER, export
	$(FGBENCH) leaderboard $(ARGS)

report: install  ## leaderboard/report.html, one file to read; WANDB=1: reports on W&B instead
	$(FGBENCH) report $(if $(WANDB),--wandb) $(ARGS)

wandb-sync: install  ## upload the runs that were logged offline
	$(FGBENCH) wandb sync $(ARGS)

benchmarks: install  ## measure speed and memory, as ratios within one run
	@for file in benchmarks/*.py; do $(PYTHON) $$file || exit 1; done

clean:  ## remove caches (never data, runs or results)
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage
