# Every target does the set-up it needs by itself.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
# CUDA=12 takes a torch for GPU nodes with an older driver (docs/cluster.md); what was chosen stays.
CUDA ?= $(if $(wildcard $(VENV)/.ready-cuda12),12,13)
ifeq ($(filter 12 13,$(CUDA)),)
$(error CUDA: found $(CUDA); it is 12 or 13)
endif
OLDER := $(if $(filter 12,$(CUDA)),-cuda12)
READY := $(VENV)/.ready$(OLDER)
PINS := envs/uv.txt envs/pipeline$(OLDER).txt envs/dev.txt
NEEDS_GB := 12
RESULTS ?= results/demo
FAULTS ?= two
LEAVE_OUT ?=
CONFIG ?= config/config.yaml
SNAKEMAKE := $(VENV)/bin/snakemake --cores $(CORES) --workflow-profile profiles/local
export PYTHONNOUSERSITE := 1
# Images of containers set it; then every program compiles every module that it loads.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env lint format test test-slow test-elsewhere test-rehearsal test-all test-slurm soak demo study rehearsal preflight own inference verify real plan bench picture docs pins clean

help:  ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1 \t\2/' | expand -t 24

env: $(VENV)/.command  ## the software, pinned with hashes, in .venv

# The command `pairscape`, and `import pairscape` in notebooks: of this checkout, not a copy of it.
$(VENV)/.command: $(READY) pyproject.toml
	@$(VENV)/bin/uv pip install --quiet --offline --no-deps --no-build-isolation --python $(VENV)/bin/python --editable .
	touch $@

$(READY): $(PINS)
	@start=$$SECONDS
	python=$$(command -v python3.11 || command -v python3)
	$$python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
	    echo "make env: python: found $$($$python --version 2>&1); install Python 3.11 and put it on the PATH" >&2; exit 1; }
	free=$$(df -Pk . | awk 'NR == 2 {print int($$4 / 1048576)}')
	[ "$$free" -ge $(NEEDS_GB) ] || {
	    echo "make env: disk: found $$free GB free here; free $(NEEDS_GB) GB (the environment takes 8)" >&2; exit 1; }
	echo "installing the pinned software into $(VENV) ..." >&2
	rm -rf $(VENV)
	$$python -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement envs/uv.txt
	$(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(VENV)/bin/python --require-hashes --requirement envs/pipeline$(OLDER).txt --requirement envs/dev.txt
	touch $@
	echo "installed in $$((SECONDS - start)) s (not part of what follows)" >&2

.ONESHELL:

lint: env  ## ruff, the order of the rooms, snakefmt, snakemake --lint
	export PATH=$$PWD/$(VENV)/bin:$$PATH
	ruff check .
	ruff format --check .
	PYTHONPATH=scripts lint-imports --no-cache
	snakefmt --check Snakefile workflow
	snakemake --lint
	bash -n .ci/run

format: env  ## let ruff and snakefmt rewrite the code
	export PATH=$$PWD/$(VENV)/bin:$$PATH
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

# Tests wait for programs of theirs, so one worker more than cores, which then share them thread by thread.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $$(($(CORES) + 1)) --dist loadfile --no-loadscope-reorder

test: env  ## for before a commit: units, the tiny pipeline, the shape of the repository (5 minutes)
	$(PYTEST) -m "not slow"

test-slow: env  ## the miniature study, faults, several processes, benchmarks, more examples of each property (10 minutes)
	$(PYTEST) -m "(slow or hypothesis) and not rehearsal" --hypothesis-profile thorough

test-elsewhere: env  ## the fast tests that compute, with the kernels of an old processor and four threads (5 minutes)
# What passes here and in `make test` doesn't rely on one processor's rounding. Waiting threads sleep.
	files=$$(grep -lwE 'torch|golden|linalg|sklearn' tests/*/test_*.py)
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE \
	    OMP_NUM_THREADS=4 OMP_WAIT_POLICY=PASSIVE \
	    $(VENV)/bin/python -m pytest -m "not slow" --numprocesses $(CORES) --dist loadfile $$files

test-rehearsal: env  ## the rehearsal of two panels (2 minutes)
	$(VENV)/bin/python -m pytest -m rehearsal tests/whole/test_rehearsal.py

test-all: test test-slow test-elsewhere test-rehearsal  ## all tests that need no cluster

test-slurm: env  ## the tiny pipeline through a real Slurm, with faults (5 minutes; needs root on Debian)
	@start=$$SECONDS
	PAIRSCAPE_TEST_SLURM=$(FAULTS) $(VENV)/bin/python -m pytest -rs tests/whole/test_slurm.py
	echo "test-slurm: $$((SECONDS - start)) s" >&2

soak: env  ## the tiny pipeline through every fault, a table of what was lost (20 minutes; some need root)
	$(VENV)/bin/python tests/whole/soak.py

demo: env  ## the whole way on simulated tissue (4 minutes): results/demo/report.html
	@start=$$SECONDS
	$(SNAKEMAKE) all viewers --configfile config/demo.yaml
	echo "demo: $$((SECONDS - start)) s; open results/demo/report.html and results/demo/samples/demo5/square55/viewer.html" >&2

study: env  ## two seeds, controls and a tuned encoder (40 minutes): results/study/report.html
	@start=$$SECONDS
	$(SNAKEMAKE) --configfile config/study.yaml
	echo "study: $$((SECONDS - start)) s; open results/study/report.html" >&2

preflight: env  ## what CONFIG=config/config.yaml still lacks, a line each; it starts nothing
	@$(SNAKEMAKE) --quiet all --configfile $(CONFIG) -- preflight

own: demo  ## one section as a sample of one's own (2 minutes): results/own/report.html
	$(VENV)/bin/pairscape run config/own

rehearsal: env  ## the published benchmark on simulated tissue by small encoders (45 minutes): results/rehearsal/report.html
# LEAVE_OUT="NCBI864 NCBI865" makes those samples ones that can't be had.
	@start=$$SECONDS
	targets=$$($(VENV)/bin/python tests/built/rehearsal.py results/rehearsal --leave-out $(LEAVE_OUT))
	$(SNAKEMAKE) $$targets --configfile results/rehearsal/config.yaml
	echo "rehearsal: $$((SECONDS - start)) s; open results/rehearsal/report.html" >&2

inference: demo  ## a pair of the demo embeds an H&E image, and names the nearest gene profiles
	$(VENV)/bin/python docs/embed_new_image.py

verify: env  ## are the files of RESULTS=results/demo as they were made, and by today's programs
	@$(VENV)/bin/python scripts/verify_results.py --results $(RESULTS) --threads $(CORES)

real: env  ## real H&E and counts from ../shared/data: results/real/report.html
	@start=$$SECONDS
	$(SNAKEMAKE) --configfile tests/real/config.yaml
	$(VENV)/bin/python tests/real/check_results.py
	echo "real: $$((SECONDS - start)) s; open results/real/report.html" >&2

plan: env  ## what the benchmark takes: jobs, hours, disk, the most expensive (20 s; CONFIG=config/config.yaml)
	@$(VENV)/bin/python benchmarks/plan_costs.py --configfile $(CONFIG)

bench: env  ## CPU time and memory against the obvious tools (10 minutes, 4 GB of disk): results/bench/
	for what in pooling patches shards embedding loader gene_side batch_effect retrieval register; do
	    $(VENV)/bin/python benchmarks/bench_$$what.py > /dev/null
	done
	$(VENV)/bin/python benchmarks/measure.py results/bench

picture: demo  ## docs/picture.png of the README, and its alt text, from the demo
	$(VENV)/bin/python docs/make_picture.py --readme README.md

docs: .venv-docs/.ready  ## the documentation as a site: results/docs/index.html
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict
	echo "docs: open results/docs/index.html" >&2

.venv-docs/.ready: envs/docs.txt $(READY)
	rm -rf .venv-docs
	$(VENV)/bin/python -m venv --without-pip .venv-docs
	$(VENV)/bin/uv pip install --quiet --python .venv-docs/bin/python --require-hashes --requirement envs/docs.txt
	touch $@

pins: env  ## resolve envs/*.in anew into envs/*.txt
	cd envs
	for file in pipeline pipeline-cuda12 dev uv docs; do
	    ../$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	        --no-emit-index-url --no-header $$file.in --output-file $$file.txt
	done
	sed -i "s/^# pins: .*/# pins: $$(sha256sum pipeline.txt | cut -c1-64)/" pipeline.post-deploy.sh

clean:  ## delete the environments and the demo's results; bundles, weights and other results stay
	rm -rf $(VENV) .venv-docs results/demo
