# Two commands do everything: `make smoke` runs the pipeline at scale smoke, `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
CORES ?= 2
# one thread a process: two jobs at once beat one job on two threads
export OMP_NUM_THREADS ?= 1
# Snakemake weighs all ready jobs anew once a second for every job that has ended, which takes half a core where hundreds
# wait: few at a time, every 10 s, which is also how much later it ends
SCHEDULING := --scheduler greedy --scheduler-subsample 32 --max-jobs-per-timespan 1000/10s

.PHONY: setup smoke test test-slow faults lint format schemas readme bench clean

setup: .venv/ready  ## .venv with the exact tested versions

.venv/ready: pyproject.toml envs/constraints-cpu.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dblocks needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint envs/constraints-cpu.txt --editable '.[test]'
	touch $@

smoke: setup  ## all tables on embedded data, no GPU, no download
	$(BIN)/snakemake --cores $(CORES) $(SCHEDULING) --show-failed-logs all
	@$(BIN)/python -m dblocks show smoke

test: setup lint  ## the tests that must always pass
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup  ## the minutes-long ones as well
	$(BIN)/python -m pytest

faults: setup  ## SIGKILL, full disk, preemption …, each done to the real thing; needs root for SLURM and tmpfs
	$(BIN)/python -m tests.faults

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

schemas: setup  ## workflow/schemas from the typed configuration
	$(BIN)/python -m dblocks schema

readme: setup  ## the documents' built parts: tables, figures, costs, the list of files
	$(BIN)/python -m dblocks readme

bench: setup  ## speed, with device and n
	$(BIN)/python -m benchmarks.step_time
	$(BIN)/python -m benchmarks.step_profile
	$(BIN)/python -m benchmarks.plain_vit
	$(BIN)/python -m benchmarks.architectures
	$(BIN)/python -m benchmarks.sampling_time
	$(BIN)/python -m benchmarks.parallel_blocks
	$(BIN)/python -m benchmarks.text_speed
	$(BIN)/python -m benchmarks.plan_time

clean:  ## everything made by a run at scale smoke
	rm -rf results/smoke results/data .snakemake
