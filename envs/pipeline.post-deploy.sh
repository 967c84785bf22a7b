#!/usr/bin/env bash
# Installs the pins into the conda environment that Snakemake has just made of pipeline.yaml.
# `make pins` renews the next line, so that new pins make a new environment.
# pins: 5bb9e7704e812a1ce809f6dcee4e2bb537942c032705034addebf91711636985
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes --requirement envs/pipeline.txt
