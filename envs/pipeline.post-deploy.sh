#!/usr/bin/env bash
# Installs the pins into the conda environment that Snakemake has just made of pipeline.yaml.
# `make pins` renews the next line, so that new pins make a new environment.
# pins: 1718a9f4d23d0eb846107d983d78d498b0f510906b38968775eec39b88d35a7c
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes --requirement envs/pipeline.txt
