#!/usr/bin/env bash
# Installs the pins into the conda environment that Snakemake has just made of pipeline.yaml.
# `make pins` renews the next line, so that new pins make a new environment.
# pins: 1a1cf2a7deb2b4b9044e5be25cfe15708e1bf4f1e28668af0a091a4322cb3eac
set -euo pipefail
python -m pip install --disable-pip-version-check --require-hashes --requirement envs/pipeline.txt
