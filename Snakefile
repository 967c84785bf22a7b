"""Pairscape: from raw Xenium bundles to the tables of a cross-modal benchmark.

The stages stand below in running order; each file of workflow/ is one of them.
A configuration is complete in itself: `--configfile` takes the place of config/config.yaml.
"""

from snakemake.utils import min_version

min_version("9.0")

if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/common.smk"
include: "workflow/acquire.smk"
include: "workflow/spots.smk"
include: "workflow/dataset.smk"
include: "workflow/pretrain.smk"
include: "workflow/evaluate.smk"
include: "workflow/report.smk"


localrules:
    all,
    push_to_hub,


rule all:
    default_target: True
    input:
        f"{RESULTS}/datasets/README.md",
        f"{RESULTS}/report.html",
        expand(
            f"{RESULTS}/tables/retrieval_{{experiment}}.{{ext}}",
            experiment=EXPERIMENTS,
            ext=["md", "tex"],
        ),
        expand(f"{RESULTS}/figures/retrieval_{{experiment}}.svg", experiment=EXPERIMENTS),
        batch_effect_files(".md", ".svg"),
        expression_files(".md", ".svg"),
        pooled_also,


rule push_to_hub:  # never part of all
    input:
        f"{RESULTS}/datasets/pushed.json",
