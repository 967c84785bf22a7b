"""What all stages share: the checked configuration, the paths, the resolved options.

Nothing in it touches data, so the plan needs no bundle.
"""

import json
import re
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pairscape.config import (
    ALIGNMENT_WORDS,
    NO_FILE,
    check_config,
    dataset_samples,
    panel_genes,
    published_rows,
    read_encoders,
    read_samples,
    resolve_config,
)
from pairscape.errors import InputError

SOURCE = (workflow.overwrite_configfiles or ["config/config.yaml"])[-1]
SPLITS = ("train", "val", "test")

try:
    config = resolve_config(config, SOURCE)
    SAMPLES = read_samples(config["samples"])
    check_config(config, SOURCE, SAMPLES)
    ENCODERS = read_encoders(config["encoders"])
except InputError as error:
    raise WorkflowError(str(error)) from None

RESULTS, BUNDLES, WEIGHTS = config["results"], config["bundles"], config["weights"]
DATASETS, EXPERIMENTS = config["datasets"], config["experiments"]
RUN = f"{RESULTS}/runs/{{experiment}}/{{dataset}}/{{image}}-{{gene}}/seed{{seed}}"
FEATURES = f"{RESULTS}/datasets/{{dataset}}/embeddings/images/{{image}}"
DATASET_SAMPLES = {name: dataset_samples(config, SAMPLES, name) for name in DATASETS}

# Jobs run the Python of this Snakemake, unless conda or a container brings its own.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(f"export PATH='{Path(sys.executable).parent}':$PATH; ")


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


def program_version(name: str) -> int:
    """The RESULT_VERSION of scripts/<name>.py, read without importing it."""
    text = Path(workflow.basedir, "scripts", f"{name}.py").read_text()
    return int(re.search(r"^RESULT_VERSION = (\d+)$", text, re.MULTILINE).group(1))


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


def bundle_folder(sample: str) -> str:
    given = SAMPLES[sample]["bundle"]
    return f"{BUNDLES}/{given or sample}"


def he_files(sample: str) -> dict[str, str]:
    """The H&E image and its alignment matrix, where the sample has them."""
    row = SAMPLES[sample]
    files = {}
    if row["he_image"] in NO_FILE:
        return files
    standard = f"{bundle_folder(sample)}/{sample}_he_image"
    files["he_image"] = f"{BUNDLES}/{row['he_image']}" if row["he_image"] else f"{standard}.ome.tif"
    if row["he_alignment"] not in ALIGNMENT_WORDS:
        files["he_alignment"] = (
            f"{BUNDLES}/{row['he_alignment']}"
            if row["he_alignment"]
            else f"{standard}alignment.csv"
        )
    return files


def bundle_files(sample: str) -> dict[str, str]:
    """The files of a sample that make its steps run again when they change."""
    folder = bundle_folder(sample)
    return {
        "experiment": f"{folder}/experiment.xenium",
        "transcripts": f"{folder}/transcripts.parquet",
        **he_files(sample),
    }


def panel_file(sample: str) -> dict[str, str]:
    """The gene list of a sample's panel; panels of samples in no dataset need none."""
    file = f"{config['panels']}/{SAMPLES[sample]['panel']}.tsv"
    return {"panel": file} if Path(file).exists() else {}


def overlay_gene(sample: str) -> str | None:
    """The gene of the QC figure, where the sample's panel holds it."""
    gene, panel = config["overlay_gene"], SAMPLES[sample]["panel"]
    known = gene and panel_file(sample) and gene in panel_genes(config, panel)
    return gene if known else None


def flags(files: dict[str, str], *names: str) -> str:
    """Command-line flags for those of the named files that there are."""
    return " ".join(
        f"--{name.replace('_', '-')} '{files[name]}'" for name in names if name in files
    )


def spots_folder(dataset: str, sample: str) -> str:
    return f"{RESULTS}/samples/{sample}/{DATASETS[dataset]['spots']}"


def of_samples(dataset: str, pattern: str) -> list[str]:
    """The pattern for each sample of a dataset; {spots} is the sample's folder of spots."""
    return [
        pattern.format(
            sample=sample, spots=spots_folder(dataset, sample), dataset=dataset, results=RESULTS
        )
        for sample in DATASET_SAMPLES[dataset]
    ]


def split_options(dataset: str) -> dict:
    split = DATASETS[dataset]["split"]
    kept = ["method", "shared_donors"]
    kept += {"listed": SPLITS, "donor": ["fractions"], "published": []}[split["method"]]
    return {**{key: split[key] for key in kept}, "seed": config["seed"]}


def splits_of(dataset: str) -> list[str]:
    """Which of train, val and test a dataset has."""
    split = DATASETS[dataset]["split"]
    if split["method"] == "listed":
        return [name for name in SPLITS if split[name]]
    if split["method"] == "published":
        used = {row["split"] for row in published_rows(config, DATASETS[dataset]["panel"])}
        return [name for name in SPLITS if name in used]
    return list(SPLITS)


def runs(experiment: str, dataset: str) -> list[str]:
    """The run folders of an experiment on a dataset."""
    plan = EXPERIMENTS[experiment]
    return [
        f"{RESULTS}/runs/{experiment}/{dataset}/{image}-{gene}/seed{seed}"
        for image in plan["image_encoders"]
        for gene in plan["gene_encoders"]
        for seed in plan["seeds"]
    ]


def expected_runs(experiment: str) -> list[dict]:
    """Every run of an experiment, so that a table can say which is missing."""
    plan = EXPERIMENTS[experiment]
    return [
        {"dataset": dataset, "image_encoder": image, "gene_encoder": gene, "seed": seed}
        for dataset in plan["datasets"]
        for image in plan["image_encoders"]
        for gene in plan["gene_encoders"]
        for seed in plan["seeds"]
    ]


def used_samples() -> list[tuple[str, str]]:
    """Each sample with each spot preset that something asks for."""
    pairs = {
        (sample, DATASETS[dataset]["spots"])
        for dataset in DATASETS
        for sample in DATASET_SAMPLES[dataset]
    }
    return sorted(pairs | {(item["sample"], item["spots"]) for item in config["pool_also"]})


def pooled_also(wildcards) -> list[str]:
    return [
        f"{RESULTS}/samples/{item['sample']}/{item['spots']}/audit.json"
        for item in config["pool_also"]
    ]


def source_facts(sample: str) -> dict[str, str]:
    return facts(
        sample,
        "source",
        "he_alignment",
        "landing_page",
        "bundle_url",
        "he_image_url",
        "he_alignment_url",
        "geo_accession",
    )


def preset_of(wildcards) -> dict:
    preset = dict(config["spots"][wildcards.spots])
    if preset["centres"]:
        file = preset["centres"]["file"].replace("{sample}", wildcards.sample)
        preset["centres"] = {**preset["centres"], "file": file}
    return preset


def centres_of(wildcards) -> list[str]:
    centres = preset_of(wildcards)["centres"]
    return [centres["file"]] if centres else []


def weights_of(kind: str, name: str) -> list[str]:
    """The weights file that has to be fetched, if any."""
    weights = ENCODERS[kind][name]["weights"]
    if weights is None or weights["source"] == "package":
        return []
    return [f"{WEIGHTS}/{kind}/{name}/{weights['file']}"]


def frozen_features(wildcards) -> dict[str, str]:
    """A frozen image trunk runs once per dataset; a tuned one runs in the pretraining."""
    if EXPERIMENTS[wildcards.experiment]["training"]["image_tuning"] != "frozen":
        return {}
    folder = FEATURES.format(**wildcards)
    return {"features": f"{folder}/features.npy", "features_index": f"{folder}/features.json"}


def scores_of(experiment: str) -> list[str]:
    return [
        f"{RESULTS}/scores/{experiment}/{dataset}/retrieval.tsv"
        for dataset in EXPERIMENTS[experiment]["datasets"]
    ]


def all_runs(file: str) -> list[str]:
    return [
        f"{run}/{file}"
        for experiment, plan in EXPERIMENTS.items()
        for dataset in plan["datasets"]
        for run in runs(experiment, dataset)
    ]
