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
include: "workflow/slides.smk"
include: "workflow/calibrate.smk"
include: "workflow/audit.smk"
include: "workflow/report.smk"


localrules:
    all,
    check_sources,
    fetch_all_weights,
    fetch_cohorts,
    leaderboard,
    preflight,
    push_to_hub,
    smoke,
    viewers,


rule all:
    default_target: True
    input:
        datasets.index_files(plan),
        f"{plan.results}/report.html",
        scores.retrieval_files(plan, *scores.SHOWN),
        scores.hits_files(plan, *scores.SHOWN),
        scores.batch_effect_files(plan, *scores.SHOWN),
        scores.expression_files(plan, *scores.SHOWN),
        slides.mutation_files(plan, *scores.SHOWN),
        scores.calibration_files(plan, *scores.SHOWN),
        scores.audit_files(plan, *scores.SHOWN),
        scores.gap_files(plan, *scores.TABLES),
        samples.pooled_also(plan),
        scores.kept_files(plan),


rule push_to_hub:  # never part of all
    input:
        f"{plan.results}/datasets/pushed.json",


rule fetch_all_weights:  # on a login node, before compute nodes without a network need them
    input:
        runs.all_weights(plan),


rule viewers:  # each sample to look at: a page of spots over the H&E, and the same as SpatialData
    input:
        samples.spot_files(plan, "viewer.html"),
        samples.spot_files(plan, "sample.zarr"),


rule leaderboard:  # the runs of several results folders in one table; never part of all
    input:
        f"{plan.results}/leaderboard.html",


rule fetch_cohorts:  # fills the tables of cohorts; never part of all
    input:
        [f"{plan.results}/cohorts/{name}.json" for name in slides.fetched_cohorts(plan)],


rule smoke:  # one short pretraining on stored embeddings, scored
    input:
        lambda w: asked(scores.smoke_scores),


# In place of Snakemake's own lock, which outlives a killed Snakemake (hence `nolock` in the profiles).
# Dry runs and the Snakemakes inside jobs don't come to these hooks.
import atexit

from pairscape.jobs import job_lock, slurm_queries

RESULTS_LOCK = f"{plan.results}/.pairscape.lock"

slurm_queries.be_patient()


onstart:
    try:
        job_lock.take(RESULTS_LOCK, logger.warning, wait=False)
    except InputError as error:
        # Other exceptions are printed with the place in this file.
        raise SystemExit(f"Error: {error}") from None
    except OSError as error:
        found = f"found {error.strerror}; make it writable, or choose another results folder"
        raise SystemExit(f"Error: {error.filename}: lock: {found}") from None


onsuccess:
    job_lock.release(RESULTS_LOCK)


onerror:
    job_lock.release(RESULTS_LOCK)
    forced = workflow.dag_settings.forceall or workflow.dag_settings.forcerun
    if (lost := missing.lost_since(plan)) and not forced:
        logger.warning(f"Refused: {', '.join(lost)}. Going on without them.")
        # When Snakemake has ended: the plan is made anew, and is smaller each time.
        atexit.register(os.execv, sys.executable, [sys.executable, *sys.orig_argv[1:]])
