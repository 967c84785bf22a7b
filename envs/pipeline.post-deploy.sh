#!/usr/bin/env bash
# Installs the pins into the conda environment that Snakemake has just made of pipeline.yaml.
# `make pins` renews the next line, so that new pins make a new environment.
# pins: d994d22a27110c29458e06cf4c58f8968606d2dc40bbfe9903473786f3f3c244
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes --requirement envs/pipeline.txt
