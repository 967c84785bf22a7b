"""What all stages share: the checked configuration, the paths, the resolved options.

Nothing in it touches data, so the plan needs no bundle.
"""

import json
import os
import re
import shlex
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pairscape.acquire.alignment import ALIGNMENT_WORDS
from pairscape.acquire.samples import NO_FILE, read_samples
from pairscape.audit.protocols import audit_rows, variants_in
from pairscape.core.errors import InputError
from pairscape.core.splits import SPLITS
from pairscape.dataset.card import LAYOUT_SUFFIX
from pairscape.dataset.leakage import FACTS as LEAK_FACTS
from pairscape.encoders.specs import (
    features_name,
    read_encoders,
    takes_stored_images,
    uses_train_facts,
    weights_name,
)
from pairscape.jobs.records import program_version
from pairscape.plan.config import check_config, resolve_config
from pairscape.plan.datasets import (
    dataset_samples,
    panel_genes,
    published_fits,
    published_splits,
    split_rows,
)
from pairscape.plan.experiments import embedding_models, experiment_pairs
from pairscape.pretrain.experiment import runs_once, stored_views
from pairscape.slides.cohorts import read_cohorts, slide_file

SOURCE = (workflow.overwrite_configfiles or ["config/config.yaml"])[-1]
TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz")  # the first one there is read

try:
    config = resolve_config(config, SOURCE)
    SAMPLES = read_samples(config["samples"])
    check_config(config, SOURCE, SAMPLES)
    ENCODERS = read_encoders(config["encoders"])
    PUBLISHED = published_splits(config)
    COHORT_ROWS = read_cohorts(config)
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS, BUNDLES, WEIGHTS = config["results"], config["bundles"], config["weights"]
DATASETS, EXPERIMENTS = config["datasets"], config["experiments"]
RUN = f"{RESULTS}/runs/{{experiment}}/{{dataset}}/{{image}}-{{gene}}/seed{{seed}}"
FEATURES = f"{RESULTS}/datasets/{{dataset}}/embeddings/images/{{image}}"
FIT = f"{RESULTS}/mutation/{{mutation}}/{{target}}/{{model}}"
GENE_FEATURES = f"{RESULTS}/datasets/{{dataset}}/embeddings/genes/{{gene}}"
CALIBRATION = config["calibration"]
COHORTS, MUTATION, SLIDES = config["cohorts"], config["mutation"], config["slides"]
MODELS_OF = {name: embedding_models(config, name, ENCODERS["image"]) for name in MUTATION}
MODELS = {model: parts for models in MODELS_OF.values() for model, parts in models.items()}
MODELS |= {  # frozen encoders, whose features of a slide their pairs project
    name: {"image": name, **dict.fromkeys(("experiment", "dataset", "gene", "seed"))}
    for name in (
        features_name(ENCODERS["image"][parts["image"]], parts["image"])
        for parts in MODELS.values()
        if parts["experiment"]
        and takes_stored_images(config["experiments"][parts["experiment"]]["training"])
    )
}
MUTATION_IN_ALL = [name for name, entry in MUTATION.items() if not entry["on_request"]]
FITTED = f"{RESULTS}/datasets/{{dataset}}/encoders/{{gene}}"
IN_ALL = [name for name, plan in EXPERIMENTS.items() if not plan["on_request"]]
# Those that are scored by more than retrieval.
FULLY_SCORED = [name for name in IN_ALL if not EXPERIMENTS[name]["retrieval_only"]]
# What a table or figure shows, by the name in its file: an experiment, or one of its datasets.
SHOWN = {name: (name, plan["datasets"]) for name, plan in EXPERIMENTS.items()}
SHOWN |= {
    f"{name}.{dataset}": (name, [dataset])
    for name, plan in EXPERIMENTS.items()
    for dataset in plan["datasets"]
}
WITH_EXPRESSION = [name for name, of in SHOWN.items() if not EXPERIMENTS[of[0]]["retrieval_only"]]
DATASETS_IN_ALL = [name for name, plan in DATASETS.items() if not plan["on_request"]]
AUDITS = config["audit"]
AUDITS_IN_ALL = [name for name, audit in AUDITS.items() if not audit["on_request"]]
DATASET_SAMPLES = {name: dataset_samples(config, SAMPLES, name) for name in DATASETS}
PUBLISHED_SAMPLES = {row["sample"] for row in PUBLISHED}

# Jobs run the Python of this Snakemake, unless conda or a container brings its own.
if not workflow.deployment_settings.deployment_method:
    # exec: a signal of the scheduler reaches the program and leaves no shell between that dies of it.
    shell.prefix(f"export PATH='{Path(sys.executable).parent}':$PATH; exec ")


def grows(base: float, gb: float = 0, kspots: float = 0):
    """A job's mem_mb or runtime, which grows with what it works on and with each attempt.

    To `base`, `gb` is added for each gigabyte of raw bundle and `kspots` for each thousand spots of
    the sample, or of all samples of the dataset, as the sample table has them: rough, but known
    before any bundle is there.
    """

    def needed(wildcards, attempt):
        dataset, sample = wildcards.get("dataset"), wildcards.get("sample")
        samples = [sample] if sample else DATASET_SAMPLES.get(dataset, [])
        preset = wildcards.get("spots") or DATASETS.get(dataset, {}).get("spots")
        size = gb * sum(map(raw_gb, samples))
        size += kspots * sum(thousand_spots(name, preset) for name in samples)
        return round((base + size) * attempt)

    return needed


def raw_gb(sample: str) -> float:
    """Gigabytes of a sample's bundle and H&E by the sample table; 10 and 2 where it doesn't say."""
    row = SAMPLES[sample]
    if row["source"] == "simulated":
        return 0
    return int(row["bundle_bytes"] or 10e9) / 1e9 + int(row["he_image_bytes"] or 2e9) / 1e9


def thousand_spots(sample: str, preset: str | None) -> float:
    """About how many thousand spots a sample has; HEST's number of its own, 100 µm apart, tells."""
    row, spots = SAMPLES[sample], config["spots"].get(preset) or {}
    pitch_um = spots.get("pitch_um") or spots.get("size_um") or 55
    if row["source"] == "simulated":
        tissue = config["simulations"][row["simulation"]]
        return tissue["width_um"] * tissue["height_um"] / pitch_um**2 / 1e3
    return int(row["hest_spots"] or 10_000) * (100 / pitch_um) ** 2 / 1e3


def devices_of(wildcards) -> int:
    """The GPUs that a run asks for; on a machine without one they are processes."""
    training = EXPERIMENTS[wildcards.experiment]["training"]
    return training["devices"] * training["nodes"]


def one_of(names) -> str:
    return "|".join(map(re.escape, sorted(names))) or "(?!)"


wildcard_constraints:
    sample=one_of(SAMPLES),
    spots=one_of(config["spots"]),
    dataset=one_of(DATASETS),
    experiment=one_of(EXPERIMENTS),
    image=one_of(ENCODERS["image"]),
    gene=one_of(ENCODERS["gene"]),
    kind="image|gene",
    seed=r"\d+",
    audit=one_of(AUDITS),
    cohort=one_of(COHORTS),
    mutation=one_of(MUTATION),
    model=one_of(MODELS),
    target=one_of({target for entry in MUTATION.values() for target in entry["targets"]}),


PROGRAM_VERSIONS = {}


def options(program: str, **values) -> str:
    """The resolved parameters of a job as one JSON; a change of them reruns the job."""
    if program not in PROGRAM_VERSIONS:
        PROGRAM_VERSIONS[program] = program_version(program)
    values["result_version"] = PROGRAM_VERSIONS[program]
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def script(name: str) -> str:
    """Path of a program, relative where it can be: a moved checkout reruns nothing."""
    path = Path(workflow.basedir, "scripts", f"{name}.py")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def facts(sample: str, *columns: str) -> dict[str, str]:
    """The named columns of a sample's row: a step depends on no more of it than it uses."""
    return {column: SAMPLES[sample][column] for column in ("sample", *columns)}


def flags(files: dict[str, str], *names: str) -> str:
    """Command-line flags for those of the named files that there are."""
    return " ".join(
        f"--{name.replace('_', '-')} '{files[name]}'" for name in names if name in files
    )


def many(flag: str, files: list[str]) -> str:
    """A command-line flag with its files, or nothing where there are none."""
    return " ".join([flag, *map(shlex.quote, files)]) if files else ""


def made_flags(output) -> str:
    """Command-line flags for all the files that a job makes, by their names in the rule."""
    return flags(dict(output.items()), *output.keys())


def first_flag(flag: str, files: list[str]) -> str:
    """A command-line flag with the first file, or nothing: what else is read lies beside it."""
    return many(flag, files[:1])


include: "inputs/samples.smk"
include: "inputs/runs.smk"
include: "inputs/scores.smk"
include: "inputs/slides.smk"
