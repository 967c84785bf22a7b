#!/usr/bin/env bash
# Installs the pins into the conda environment that Snakemake has just made of pipeline.yaml.
# `make pins` renews the next line, so that new pins make a new environment.
# pins: 955ac89e97821929aa6b4f5c25a903254c8ec4fe751504eb7d46a3e786d16dad
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes --requirement envs/pipeline.txt
