"""What all stages share: the checked configuration, the paths, the resolved options.

Nothing in it touches data, so the plan needs no bundle.
"""

import json
import os
import re
import shlex
import sys

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))

from pairscape.cohorts import slide_file
from pairscape.config import (
    ALIGNMENT_WORDS,
    NO_FILE,
    check_config,
    dataset_samples,
    embedding_models,
    experiment_pairs,
    panel_genes,
    published_fits,
    published_splits,
    read_cohorts,
    read_encoders,
    read_samples,
    resolve_config,
    runs_once,
    split_rows,
    stored_views,
)
from pairscape.encoders import features_name, takes_stored_images, uses_train_facts, weights_name
from pairscape.errors import InputError
from pairscape.leakage import FACTS as LEAK_FACTS
from pairscape.leakage import SPLITS
from pairscape.protocol import audit_rows, variants_in
from pairscape.records import program_version

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


def is_packed(sample: str) -> bool:
    """Whether the user gave the published zip in place of the bundle's folder."""
    return SAMPLES[sample]["bundle"].lower().endswith(".zip")


def place(path: str) -> str:
    """A path of the sample table: from <bundles>, unless it is absolute."""
    return str(Path(BUNDLES, path))  # an absolute path replaces <bundles>


def bundle_folder(sample: str) -> str:
    """Where the bundle lies; a zip of the user's is unpacked to where a fetched one goes."""
    given = SAMPLES[sample]["bundle"]
    return place(given) if given and not is_packed(sample) else f"{BUNDLES}/{sample}"


def is_untiled(sample: str) -> bool:
    """Whether a sample's H&E has to be retiled; a fetched one is as it comes."""
    return SAMPLES[sample]["he_layout"] == "untiled"


def he_files(sample: str) -> dict[str, str]:
    """The H&E image, tiled, and its alignment matrix, where the sample has them."""
    files = he_as_given(sample)
    if "he_image" in files and is_untiled(sample):
        files["he_image"] = f"{RESULTS}/samples/{sample}/he_tiled.ome.tif"
    return files


def he_as_given(sample: str) -> dict[str, str]:
    """The H&E image and its alignment matrix as the sample table names them."""
    row = SAMPLES[sample]
    files = {}
    if row["he_image"] in NO_FILE:
        return files
    # What belongs to a zip lies beside it: the folder it is unpacked to is made anew.
    folder = Path(place(row["bundle"])).parent if is_packed(sample) else bundle_folder(sample)
    standard = f"{folder}/{sample}_he_image"
    files["he_image"] = place(row["he_image"]) if row["he_image"] else f"{standard}.ome.tif"
    if row["he_alignment"] not in ALIGNMENT_WORDS:
        files["he_alignment"] = (
            place(row["he_alignment"]) if row["he_alignment"] else f"{standard}alignment.csv"
        )
    return files


def archive_file(sample: str) -> dict[str, str]:
    """The zip that the user gave for the bundle, if it is one."""
    return {"archive": place(SAMPLES[sample]["bundle"])} if is_packed(sample) else {}


def simulated_transcripts(sample: str) -> str:
    """The file of transcripts that a sample's layout has."""
    layout = config["simulations"][SAMPLES[sample]["simulation"]]["layout"] or ""
    return TRANSCRIPTS[layout.endswith("csv")]


def bundle_files(sample: str) -> dict[str, str]:
    """The files of a sample that make its steps run again when they change."""
    folder = bundle_folder(sample)
    files = {"experiment": f"{folder}/experiment.xenium", **he_files(sample)}
    if is_packed(sample):
        return files  # which transcripts a zip holds is known when it is unpacked
    names = [name for name in TRANSCRIPTS if Path(folder, name).is_file()]
    if SAMPLES[sample]["source"] == "simulated":
        names = [simulated_transcripts(sample)]
    return files | {"transcripts": f"{folder}/{(names or TRANSCRIPTS)[0]}"}


def on_disk(sample: str, files: dict[str, str]) -> dict[str, str]:
    """Of the files of a sample that no rule makes, those that are there.

    What a user's own sample lacks is told by check_bundle, which names the row of the table and
    what to do; Snakemake would only name the file.
    """
    if sample in SIMULATED or sample in FETCHED:
        return files
    made = [f"{bundle_folder(sample)}/experiment.xenium"] if is_packed(sample) else []
    made += [f"{RESULTS}/samples/{sample}/he_tiled.ome.tif"]
    return {name: file for name, file in files.items() if file in made or Path(file).is_file()}


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


def is_imported(dataset: str) -> bool:
    """Whether a dataset's pairs come from a copy of the published data set, not from bundles."""
    return DATASETS[dataset]["source"] == "published"


def shards_home(dataset: str) -> str:
    """The dataset whose genes and shards this one uses: itself, or its `shards_of`."""
    return DATASETS[dataset]["shards_of"] or dataset


def shards_of(dataset: str) -> list[str]:
    folder = f"{RESULTS}/datasets/{shards_home(dataset)}/shards"
    return [f"{folder}/{sample}.arrow" for sample in DATASET_SAMPLES[dataset]]


def genes_of(dataset: str) -> str:
    return f"{RESULTS}/datasets/{shards_home(dataset)}/genes.tsv"


def published_files(dataset: str) -> list[str]:
    """The files of a copy of the published data set; import_pairs says what is missing."""
    folder = Path(DATASETS[dataset]["published_data"])
    return sorted(map(str, [*folder.rglob("*.arrow"), *folder.rglob("*.parquet")]))


def spots_of(dataset: str) -> list[str]:
    return [] if is_imported(dataset) else of_samples(dataset, "{spots}/spots.zarr")


def counts_of(dataset: str) -> list[str]:
    """What tells how many spots each sample of a dataset has."""
    return shards_of(dataset) if is_imported(dataset) else of_samples(dataset, "{spots}/audit.json")


def experiments_of(dataset: str) -> list[str]:
    """The `experiment.xenium` of each sample, if all have one: it tells the slide."""
    if is_imported(dataset):
        return []
    files = [on_disk(name, bundle_files(name)) for name in DATASET_SAMPLES[dataset]]
    return [of["experiment"] for of in files] if all("experiment" in of for of in files) else []


def many(flag: str, files: list[str]) -> str:
    """A command-line flag with its files, or nothing where there are none."""
    return " ".join([flag, *map(shlex.quote, files)]) if files else ""


def label_source(sample: str) -> str:
    """The `source` of a pair: that of the published data set for the samples it holds."""
    return "hest" if sample in PUBLISHED_SAMPLES else SAMPLES[sample]["source"]


def split_options(dataset: str) -> dict:
    split = DATASETS[dataset]["split"]
    kept = ["method", "shared_donors"]
    kept += {"listed": SPLITS, "donor": ["fractions"], "leave_one_donor_out": ["fold"]}.get(
        split["method"], []
    )
    return {**{key: split[key] for key in kept}, "seed": config["seed"]}


def run_pairs(experiment: str) -> list[tuple[str, str]]:
    """Image and gene encoder of each pair of an experiment: its grid, then its controls."""
    return experiment_pairs(EXPERIMENTS[experiment])


def runs(experiment: str, dataset: str) -> list[str]:
    """The run folders of an experiment on a dataset."""
    return [
        f"{RESULTS}/runs/{experiment}/{dataset}/{image}-{gene}/seed{seed}"
        for image, gene in run_pairs(experiment)
        for seed in EXPERIMENTS[experiment]["seeds"]
    ]


def expected_runs(shown: str) -> list[dict]:
    """Every run of what is shown, so that a table can say which is missing."""
    experiment, datasets = SHOWN[shown]
    return [
        {"dataset": dataset, "image_encoder": image, "gene_encoder": gene, "seed": seed}
        for dataset in datasets
        for image, gene in run_pairs(experiment)
        for seed in EXPERIMENTS[experiment]["seeds"]
    ]


def reported_datasets() -> list[str]:
    """The datasets of a plain run: those that aren't on request, and those of its audits."""
    audited = {row["dataset"] for name in AUDITS_IN_ALL for row in audit_rows(name, AUDITS[name])}
    return [name for name in DATASETS if name in DATASETS_IN_ALL or name in audited]


def used_samples() -> list[tuple[str, str]]:
    """Each sample with each spot preset that something asks for."""
    pairs = {
        (sample, DATASETS[dataset]["spots"])
        for dataset in reported_datasets()
        if not is_imported(dataset)
        for sample in DATASET_SAMPLES[dataset]
    }
    return sorted(pairs | {(item["sample"], item["spots"]) for item in config["pool_also"]})


def of_aligned(file: str) -> list[str]:
    """A file of check_alignment for each used sample that has an H&E."""
    return [
        f"{RESULTS}/samples/{sample}/{file}"
        for sample in dict(used_samples())
        if "he_image" in he_files(sample)
    ]


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
        "bundle_name",
        "bundle_url",
        "bundle_bytes",
        "bundle_checksum",
        "he_image",
        "he_image_url",
        "he_image_bytes",
        "he_image_checksum",
        "he_alignment_url",
        "he_alignment_bytes",
        "he_alignment_checksum",
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
    """The files of an encoder that have to be fetched, the weights first."""
    weights = ENCODERS[kind][name]["weights"]
    if weights is None or weights["source"] == "package":
        return []
    folder = f"{WEIGHTS}/{kind}/{weights_name(ENCODERS[kind][name], name)}"
    return [f"{folder}/{Path(file).name}" for file in (weights["file"], *weights["extra_files"])]


def gene_weights(wildcards) -> list[str]:
    """What a gene encoder reads, the weights first: fetched files, or what was fitted before."""
    if ENCODERS["gene"][wildcards.gene]["learned_from"] == "dataset":
        return [f"{FITTED.format(dataset=wildcards.dataset, gene=wildcards.gene)}/encoder.pt"]
    return weights_of("gene", wildcards.gene)


def leaked_in_published_fit(wildcards) -> dict[str, list[str]]:
    """The held-out samples that the published DRVI was fitted on, for the variant that repeats it."""
    spec = ENCODERS["gene"][wildcards.gene]
    if spec["arguments"].get("fit_on") != "published":
        return {}
    panel = DATASETS[wildcards.dataset]["panel"]
    return {
        "also_fit": [
            row["sample"]
            for row in published_fits(config)
            if (row["encoder"], row["panel"]) == (spec["builder"], panel)
        ]
    }


def first_flag(flag: str, files: list[str]) -> str:
    """A command-line flag with the first file, or nothing: what else is read lies beside it."""
    return many(flag, files[:1])


def features_home(dataset: str) -> str:
    """The dataset whose image features this one reads.

    Folds and other splits of the same samples share the features as they share the shards.
    """
    home = shards_home(dataset)
    return home if DATASET_SAMPLES[home] == DATASET_SAMPLES[dataset] else dataset


def views_of(dataset: str, image: str) -> dict:
    """How many views of each patch are embedded (the most that an experiment trains on), and which."""
    training = [
        plan["training"]
        for name, plan in EXPERIMENTS.items()
        if any(features_home(of) == dataset for of in plan["datasets"])
        and image in [base_images(one) for one, _ in run_pairs(name)]
        and stored_views(plan["training"]) > 1
    ]
    if not training:
        return {"views": 1}
    kinds = {of["augmentation"] for of in training}
    if len(kinds) > 1:
        raise WorkflowError(
            f"{SOURCE}: experiments: found stored views of {dataset} by {' and '.join(sorted(kinds))};"
            " name one training.augmentation for all experiments with stored_views on it"
        )
    views = max(map(stored_views, training))
    return {"views": views, "augmentation": kinds.pop(), "seed": config["seed"]}


def base_images(image: str) -> str:
    """The encoder whose features this one uses: its own, but for one that deals them out anew."""
    return features_name(ENCODERS["image"][image], image)


def once(wildcards) -> dict[str, bool]:
    """Which sides of a run's pair are frozen and so have run before, once."""
    training = EXPERIMENTS[wildcards.experiment]["training"]
    return runs_once(training, ENCODERS["gene"][wildcards.gene])


def frozen_features(wildcards) -> dict[str, str]:
    """The stored features of the sides that run once; a tuned side runs in the pretraining."""
    found = {}
    if once(wildcards)["image"]:
        home, image = features_home(wildcards.dataset), base_images(wildcards.image)
        folder = FEATURES.format(dataset=home, image=image)
        found |= {"image_features": f"{folder}/features.npy"}
        found |= {"image_index": f"{folder}/features.json"}
    if once(wildcards)["gene"]:
        folder = GENE_FEATURES.format(dataset=wildcards.dataset, gene=wildcards.gene)
        found |= {"gene_features": f"{folder}/features.npy"}
        found |= {"gene_index": f"{folder}/features.json"}
    return found


def run_weights(wildcards) -> dict[str, list[str]]:
    """The weights that a run itself reads: those of the sides that don't run once."""
    return {
        "image_weights": (
            [] if once(wildcards)["image"] else weights_of("image", base_images(wildcards.image))
        ),
        "gene_weights": [] if once(wildcards)["gene"] else gene_weights(wildcards),
    }


def splits_for(wildcards) -> list[str]:
    """splits.tsv, for gene encoders whose input depends on the train split."""
    spec = ENCODERS["gene"][wildcards.gene]
    if spec["learned_from"] == "dataset" or uses_train_facts(spec):
        return [f"{RESULTS}/datasets/{wildcards.dataset}/splits.tsv"]
    return []


def all_weights(wildcards) -> list[str]:
    """Every file that the experiments would fetch: what a login node brings for the others."""
    used = [
        (kind, name)
        for experiment in EXPERIMENTS
        for pair in run_pairs(experiment)
        for kind, name in zip(("image", "gene"), pair)
    ]
    used += [("image", base_images(parts["image"])) for parts in MODELS.values()]
    used += [("image", CALIBRATION["image_encoder"])] if CALIBRATION else []
    return [
        f"{file}{end}"
        for kind, name in dict.fromkeys(used)
        for file in weights_of(kind, name)
        for end in ("", ".source.json")
    ]


def has_failed(run: str) -> bool:
    """Whether a run recorded that it can't be made (pairscape.failures); delete that to try again."""
    return Path(run, "failed.json").is_file() and not Path(run, "options.json").is_file()


def told_in(run: str) -> str:
    """The file in which a run says what it is, or why it isn't."""
    return f"{run}/failed.json" if has_failed(run) else f"{run}/options.json"


def scores_of(shown: str) -> list[str]:
    experiment, datasets = SHOWN[shown]
    return [f"{RESULTS}/scores/{experiment}/{dataset}/retrieval.tsv" for dataset in datasets]


def batch_effect_scores(datasets) -> list[str]:
    """The batch-effect scores of datasets; none where the configuration leaves them out."""
    wanted = config["batch_effect"]["score"]
    return [f"{RESULTS}/scores/batch_effect/{dataset}.tsv" for dataset in datasets if wanted]


def batch_effect_scoring() -> dict:
    """The options that batch effects are scored by: a change of the figure scores nothing anew."""
    others = ("score", "recall_at", "pair")
    return {key: value for key, value in config["batch_effect"].items() if key not in others}


def batch_effect_pair(experiment: str) -> list[str] | None:
    """The encoder pair that the figure shows, where the experiment has it."""
    pair, plan = config["batch_effect"]["pair"], EXPERIMENTS[experiment]
    if not pair or any(pair[f"{k}_encoder"] not in plan[f"{k}_encoders"] for k in ENCODERS):
        return None
    return [pair["image_encoder"], pair["gene_encoder"]]


def batch_effect_files(*extensions: str) -> list[str]:
    """The table and the figures of batch effects with these extensions."""
    if not config["batch_effect"]["score"]:
        return []
    figures = [f"figures/batch_effect_{experiment}" for experiment in FULLY_SCORED]
    return [
        f"{RESULTS}/{path}{extension}"
        for extension in extensions
        for path in (figures if extension in (".png", ".svg") else ["tables/batch_effect"])
    ]


def calibration_scores() -> list[str]:
    """The scores of every batch effect and seed of the calibration grid."""
    return [
        f"{RESULTS}/scores/calibration/batch-effect{effect:g}_seed{seed}.tsv"
        for effect in (CALIBRATION or {}).get("batch_effect", [])
        for seed in CALIBRATION["seeds"]
    ]


def calibration_files(*extensions: str) -> list[str]:
    """The table and the figure of the calibration with these extensions."""
    kind = {".png": "figures", ".svg": "figures"}
    return [
        f"{RESULTS}/{kind.get(extension, 'tables')}/calibration{extension}"
        for extension in extensions
        if CALIBRATION
    ]


def expression_encoders(experiment: str) -> dict[str, dict]:
    """The image encoders that expression is predicted from: whose features, and what control."""
    names = [run["image_encoder"] for run in expected_runs(experiment)]
    found = {}
    for name in dict.fromkeys([*names, *config["expression"]["also"]]):
        spec = ENCODERS["image"][name]
        base = base_images(name)
        found[name] = {"features_of": base, "control": spec.get("control")}
        if base not in found:
            control = ENCODERS["image"][base].get("control")
            found[base] = {"features_of": base, "control": control}
    return found


def expression_features(experiment: str, dataset: str) -> list[str]:
    """The features of those encoders as they came, tuned in the pretraining or not."""
    home = features_home(dataset)
    bases = [of["features_of"] for of in expression_encoders(experiment).values()]
    folders = [FEATURES.format(dataset=home, image=image) for image in dict.fromkeys(bases)]
    return [f"{folder}/features.npy" for folder in folders]


def expression_scoring() -> dict:
    """The options that expression is scored by."""
    return {
        key: value for key, value in config["expression"].items() if key not in ("score", "also")
    }


def expression_scores(shown: str) -> list[str]:
    experiment, datasets = SHOWN[shown]
    return [f"{RESULTS}/scores/{experiment}/{dataset}/expression.tsv" for dataset in datasets]


def expression_files(*extensions: str) -> list[str]:
    """The tables and figures of expression prediction with these extensions, where it is scored."""
    return [
        f"{RESULTS}/{folder}/expression_{experiment}{extension}"
        for extension in extensions
        for folder in ["figures" if extension in (".png", ".svg") else "tables"]
        for experiment in FULLY_SCORED
        if config["expression"]["score"]
    ]


def smoke_scores(wildcards) -> list[str]:
    """The scores of the experiment named `smoke`."""
    if "smoke" not in EXPERIMENTS:
        raise WorkflowError(
            f"{SOURCE}: experiments: found no smoke; add it, as config/demo.yaml does"
        )
    return scores_of("smoke")


def all_runs(file: str) -> list[str]:
    return [
        f"{run}/{file}"
        for experiment in IN_ALL
        for dataset in EXPERIMENTS[experiment]["datasets"]
        for run in runs(experiment, dataset)
        if not has_failed(run)
    ]


def kept_files() -> list[str]:
    """Pairs, trained pairs and scores: made again where they are missing, though all that was made of
    them is there. Spots and features aren't among them: who deletes those may want the space.
    """
    shards = [shard for dataset in reported_datasets() for shard in shards_of(dataset)]
    scores = [file for experiment in IN_ALL for file in scores_of(experiment)]
    if config["expression"]["score"]:
        scores += [file for experiment in FULLY_SCORED for file in expression_scores(experiment)]
    return list(
        dict.fromkeys(
            [
                *shards,
                *all_runs("model.ckpt"),
                *scores,
                *batch_effect_scores(DATASETS_IN_ALL),
                *[
                    f"{run}/model.ckpt"
                    for name in AUDITS_IN_ALL
                    for run in audit_run_folders(name)
                    if not has_failed(run)
                ],
            ]
        )
    )


def audited_runs(name: str) -> list[dict]:
    """The rows of an audit, each with its runs: how the audit names their encoders, and their own."""
    rows = []
    for row in audit_rows(name, AUDITS[name]):
        plan = EXPERIMENTS.get(row["experiment"], {})
        asked = row.pop("asked")
        pairs = [
            {"image_encoder": image, "gene_encoder": gene, "image": own_image, "gene": own_gene}
            for image, own_image in zip(asked.get("image", []), plan.get("image_encoders", []))
            for gene, own_gene in zip(asked.get("gene", []), plan.get("gene_encoders", []))
        ]
        rows.append({**row, "pairs": pairs, "seeds": AUDITS[name]["seeds"]})
    return rows


def audit_run_folders(name: str) -> list[str]:
    """The run folders of an audit."""
    return [
        RUN.format(
            experiment=row["experiment"],
            dataset=row["dataset"],
            image=pair["image"],
            gene=pair["gene"],
            seed=seed,
        )
        for row in audited_runs(name)
        for pair in row["pairs"]
        for seed in row["seeds"]
    ]


def audit_files(*extensions: str) -> list[str]:
    """The tables and figures of the audits of a plain run with these extensions."""
    return [
        f"{RESULTS}/{'figures' if extension in ('.png', '.svg') else 'tables'}/audit_{name}{extension}"
        for extension in extensions
        for name in AUDITS_IN_ALL
    ]


def audited_splits() -> list[dict]:
    """Every split that audit_splits looks at: the datasets', and the published ones beside them."""
    found = [
        {
            "name": dataset,
            "panel": DATASETS[dataset]["panel"],
            "split": split_options(dataset),
            "samples": DATASET_SAMPLES[dataset],
            "rows": split_rows(config, dataset),
        }
        for dataset in DATASETS
    ]
    own = {of["panel"] for of in found if of["split"]["method"] == "published"}
    for panel in dict.fromkeys(row["panel"] for row in PUBLISHED):
        rows = [row for row in PUBLISHED if row["panel"] == panel]
        extra = sorted({row["split"] for row in rows} - set(SPLITS))
        wanted = [] if panel in own else [(panel, SPLITS)]
        wanted += [(f"{panel}-{split}", (*SPLITS, split)) for split in extra]
        for name, kept in wanted:
            kept_rows = [
                {"sample": row["sample"], "split": row["split"]}
                for row in rows
                if row["split"] in kept
            ]
            if name not in DATASETS and all(row["sample"] in SAMPLES for row in kept_rows):
                found.append(
                    {
                        "name": name,
                        "panel": panel,
                        "split": {"method": "published", "shared_donors": None},
                        "samples": sorted({row["sample"] for row in kept_rows}),
                        "rows": kept_rows,
                    }
                )
    return found


def cohort_table(cohort: str) -> str:
    """The table of a cohort: the user's, or the one that is simulated with its slides."""
    return COHORTS[cohort]["table"] or f"{SLIDES}/{cohort}/cohort.tsv"


def slide_files(cohort: str) -> list[str]:
    """The slides of a cohort that are on disk; those that aren't are listed when it is embedded."""
    if COHORTS[cohort]["simulation"]:
        return [f"{SLIDES}/{cohort}/slides"]
    files = [slide_file(SLIDES, row) for row in COHORT_ROWS[cohort]]
    return [str(file) for file in files if file.is_file()]


def run_of(model: str) -> str | None:
    """The run folder of a pretrained model; none for an encoder as it came."""
    parts = MODELS[model]
    return RUN.format(**parts) if parts["experiment"] else None


def base_model(model: str) -> str | None:
    """The encoder as it came whose features of a slide a model projects; none for the others."""
    parts = MODELS[model]
    if not parts["experiment"]:
        return None
    frozen = takes_stored_images(EXPERIMENTS[parts["experiment"]]["training"])
    return base_images(parts["image"]) if frozen else None


def model_files(wildcards) -> dict[str, str | list[str]]:
    """What a model of slides is made of: weights, a pretrained pair, its frozen encoder's features."""
    model, found = wildcards.model, {}
    if run_of(model):
        found["pair"] = f"{run_of(model)}/model.ckpt"
    if base_model(model):
        folder = f"{RESULTS}/slides/{wildcards.cohort}/{base_model(model)}"
        return found | {"base": f"{folder}/slides.tsv"}
    return found | {"weights": weights_of("image", base_images(MODELS[model]["image"]))}


def model_flags(wildcards) -> str:
    """The flags of the files of a model of slides."""
    files = model_files(wildcards)
    weights = first_flag("--weights", files.get("weights", []))
    return f"{flags(files, 'pair', 'base')} {weights}"


def slide_figures(wildcards) -> str:
    """The folder of a cohort's figures, for the one model that draws them."""
    first = next(
        model
        for name, models in MODELS_OF.items()
        if wildcards.cohort in (MUTATION[name]["cohort"], *MUTATION[name]["external"])
        for model in models
    )
    draws = wildcards.model == (base_model(first) or first)
    return many("--figures", [f"{RESULTS}/slides/{wildcards.cohort}/figures"] if draws else [])


def folds_of(cohort: str, target: str, leaking: bool, ext: str = "tsv") -> str:
    """The folds of a cohort's patients for a target (.tsv), or how balanced they are (.json)."""
    name = f"{target}_leaking" if leaking else target
    return f"{RESULTS}/slides/{cohort}/folds/{name}.{ext}"


def slides_table(cohort: str, model: str) -> str:
    """The list of a cohort's slides, with their features by a model beside it."""
    return f"{RESULTS}/slides/{cohort}/{model}/slides.tsv"


def external_files(wildcards) -> dict[str, list[str]]:
    """Tables and features of the cohorts that are only predicted."""
    external = MUTATION[wildcards.mutation]["external"]
    return {
        "external_cohorts": [cohort_table(cohort) for cohort in external],
        "external_slides": [slides_table(cohort, wildcards.model) for cohort in external],
    }


def fold_number(cohort: str, leaking: bool) -> int:
    """Into how many folds a cohort is split: every entry of `mutation` on it says the same."""
    asked = [
        e["folds"] for e in MUTATION.values() if (e["cohort"], e["leaking"]) == (cohort, leaking)
    ]
    return asked[0] if asked else 5


def mutation_models(names) -> list[dict]:
    """Every prediction of some entries of `mutation`, so that a table can say which is missing."""
    return [
        {
            "mutation": name,
            "leaking": MUTATION[name]["leaking"],
            "cohort": MUTATION[name]["cohort"],
            "target": target,
            "model": model,
        }
        for name in names
        for target in MUTATION[name]["targets"]
        for model in MODELS_OF[name]
    ]


def mutation_comparisons(name: str) -> list[dict]:
    """Which predictions are compared: before and after pretraining, leaked and preserved sites.

    A pretrained model is compared with its image encoder as it came, that with its untrained
    control, and an entry with leaking sites with those of the same cohort that preserve them.
    """
    entry, found = MUTATION[name], []
    kept = [
        other
        for other in MUTATION
        if entry["leaking"]
        and not MUTATION[other]["leaking"]
        and MUTATION[other]["cohort"] == entry["cohort"]
    ]
    for run in mutation_models([name]):
        image, pretrained = MODELS[run["model"]]["image"], run_of(run["model"]) is not None
        before = base_images(image) if pretrained else f"{image}_untrained"
        pairs = [(name, before)] if before in MODELS_OF[name] else []
        pairs += [
            (other, run["model"])
            for other in kept
            if run["model"] in MODELS_OF[other] and run["target"] in MUTATION[other]["targets"]
        ][:1]
        found += [
            {
                "target": run["target"],
                "model": run["model"],
                "compared_mutation": compared,
                "compared_model": model,
            }
            for compared, model in pairs
        ]
    return found


def mutation_runs(name: str) -> list[dict]:
    """The predictions that score_mutation reads: those of the entry and what they are compared with."""
    own = [
        {key: run[key] for key in ("mutation", "target", "model")}
        for run in mutation_models([name])
    ]
    others = [
        {"mutation": of["compared_mutation"], "target": of["target"], "model": of["compared_model"]}
        for of in mutation_comparisons(name)
        if of["compared_mutation"] != name
    ]
    return own + others


def mutation_predictions(name: str) -> list[str]:
    return [
        f"{RESULTS}/mutation/{run['mutation']}/{run['target']}/{run['model']}/predictions.tsv"
        for run in mutation_runs(name)
    ]


def tabled_mutation() -> list[str]:
    """The entries of `mutation` in the table: those of a plain run, or all where there are none."""
    return MUTATION_IN_ALL or list(MUTATION)


def mutation_balances(names) -> list[str]:
    """How balanced the folds are that some entries of `mutation` use."""
    return list(
        dict.fromkeys(
            folds_of(run["cohort"], run["target"], run["leaking"], "json")
            for run in mutation_models(names)
        )
    )


def mutation_files(*extensions: str) -> list[str]:
    """The table and the figures of slide-level predictions that a plain run makes."""
    figures = [f"figures/mutation_{name}" for name in MUTATION_IN_ALL]
    return [
        f"{RESULTS}/{path}{extension}"
        for extension in extensions
        for path in (figures if extension in (".png", ".svg") else ["tables/mutation"])
        if MUTATION_IN_ALL
    ]


def compared_experiments(name: str) -> list[str]:
    """The experiment of that name, or the levels of an ablation: those whose names go on after `_`.

    Where the name goes on with a point and a dataset, that dataset of each.
    """
    stem, point, dataset = name.partition(".")
    levels = [stem] if stem in EXPERIMENTS else [e for e in EXPERIMENTS if e.startswith(f"{stem}_")]
    found = [f"{level}{point}{dataset}" for level in levels]
    if not found or not all(shown in SHOWN for shown in found):
        raise WorkflowError(
            f"{SOURCE}: experiments: found neither {stem} nor {stem}_...{' with ' * bool(dataset)}{dataset};"
            " name one of them, and after a point one of its datasets"
        )
    return found


def unlike_published(dataset: str) -> str:
    """Why numbers of a dataset don't compare with those of the paper; empty where they do."""
    plan, samples = DATASETS[dataset], DATASET_SAMPLES[dataset]
    if any(SAMPLES[sample]["source"] == "simulated" for sample in samples):
        return "simulated tissue"
    if plan["split"]["method"] != "published":
        return f"split by method {plan['split']['method']}, not the published one"
    lacking = {row["sample"] for row in split_rows(config, dataset)} - set(samples)
    return f"without {', '.join(sorted(lacking))} of the published samples" if lacking else ""


def gap_options(name: str) -> dict:
    """What compare_published is told of the experiments that it compares, and of their datasets."""
    compared = {SHOWN[shown][0]: shown for shown in compared_experiments(name)}
    return {
        "name": name,
        "experiments": {
            experiment: {
                "protocol": EXPERIMENTS[experiment]["protocol"],
                "variants": variants_in(EXPERIMENTS[experiment]["flags"]),
                "training": EXPERIMENTS[experiment]["training"],
                "expected": expected_runs(shown),
            }
            for experiment, shown in compared.items()
        },
        "datasets": {
            dataset: {"panel": DATASETS[dataset]["panel"], "unlike": unlike_published(dataset)}
            for shown in compared.values()
            for dataset in SHOWN[shown][1]
        },
    }


def gap_files(*extensions: str) -> list[str]:
    """The comparison with the paper's numbers of the experiments that compare with them."""
    return [
        f"{RESULTS}/tables/published-gap_{experiment}{extension}"
        for extension in extensions
        for experiment in IN_ALL
        if not all(map(unlike_published, EXPERIMENTS[experiment]["datasets"]))
    ]
