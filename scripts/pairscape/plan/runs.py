"""What pretraining asks of the stages before, and others of it: features, weights, runs."""

import json
from collections.abc import Iterable
from pathlib import Path

from pairscape.audit.protocols import audit_rows
from pairscape.core.errors import InputError
from pairscape.encoders.specs import features_name, uses_train_facts, weights_name
from pairscape.plan import datasets
from pairscape.plan.plan import Plan
from pairscape.pretrain.experiment import runs_once, stored_views
from pairscape.pretrain.options import machine_options


def run_folders(plan: Plan, experiment: str, dataset: str) -> list[str]:
    """The run folders of an experiment on a dataset."""
    return [
        plan.run.format(experiment=experiment, dataset=dataset, image=image, gene=gene, seed=seed)
        for image, gene in plan.experiments[experiment].pairs
        for seed in plan.experiments[experiment].seeds
    ]


def expected_runs(plan: Plan, shown: str) -> list[dict]:
    """Every run of what is shown, so that a table can say which is missing."""
    experiment, names = plan.shown[shown]
    return [
        {"dataset": dataset, "image_encoder": image, "gene_encoder": gene, "seed": seed}
        for dataset in names
        for image, gene in plan.experiments[experiment].pairs
        for seed in plan.experiments[experiment].seeds
    ]


def weight_files(plan: Plan, kind: str, name: str) -> list[str]:
    """The files of an encoder that have to be fetched, the weights first."""
    spec = plan.encoders[kind][name]
    weights = spec["weights"]
    if weights is None or weights["source"] == "package":
        return []
    folder = f"{plan.weights}/{kind}/{weights_name(spec, name)}"
    return [f"{folder}/{Path(file).name}" for file in (weights["file"], *weights["extra_files"])]


def image_weights(plan: Plan, image: str) -> list[str]:
    """The weights of an image encoder, or of the one whose features it deals out anew."""
    return weight_files(plan, "image", base_images(plan, image))


def gene_weights(plan: Plan, dataset: str, gene: str) -> list[str]:
    """What a gene encoder reads, the weights first: fetched files, or what was fitted before."""
    if plan.encoders["gene"][gene]["learned_from"] == "dataset":
        return [f"{plan.fitted_encoder.format(dataset=dataset, gene=gene)}/encoder.pt"]
    return weight_files(plan, "gene", gene)


def leaked_in_published_fit(plan: Plan, dataset: str, gene: str) -> dict[str, list[str]]:
    """The held-out samples that the published DRVI was fitted on, for the variant that repeats it."""
    spec = plan.encoders["gene"][gene]
    if spec["arguments"].get("fit_on") != "published":
        return {}
    fitted = (spec["builder"], plan.datasets[dataset].panel)
    rows = datasets.published_fits(plan.config)
    leaked = [row["sample"] for row in rows if (row["encoder"], row["panel"]) == fitted]
    return {"also_fit": [name for name in leaked if name not in plan.datasets[dataset].lost]}


def features_home(plan: Plan, dataset: str) -> str:
    """The dataset whose image features this one reads.

    Folds and other splits of the same samples share the features as they share the shards.
    """
    home = datasets.shards_home(plan, dataset)
    return home if plan.datasets[home].samples == plan.datasets[dataset].samples else dataset


def views_of(plan: Plan, dataset: str, image: str) -> dict:
    """How many views of each patch are embedded (the most that an experiment trains on), and which."""
    trainings = [
        experiment.training
        for experiment in plan.experiments.values()
        if any(features_home(plan, name) == dataset for name in experiment.datasets)
        and image in [base_images(plan, one) for one, _ in experiment.pairs]
        and stored_views(experiment.training) > 1
    ]
    if not trainings:
        return {"views": 1}
    kinds = {training["augmentation"] for training in trainings}
    if len(kinds) > 1:
        fault = f"stored views of {dataset} by {' and '.join(sorted(kinds))}"
        remedy = "name one training.augmentation for all experiments with stored_views on it"
        raise InputError(plan.source, "experiments", fault, remedy)
    views = max(map(stored_views, trainings))
    return {"views": views, "augmentation": kinds.pop(), "seed": plan.config["seed"]}


def base_images(plan: Plan, image: str) -> str:
    """The encoder whose features this one uses: its own, but for one that deals them out anew."""
    return features_name(plan.encoders["image"][image], image)


def frozen_sides(plan: Plan, experiment: str, gene: str) -> dict[str, bool]:
    """Which sides of a run's pair are frozen and so have run before, once."""
    return runs_once(plan.experiments[experiment].training, plan.encoders["gene"][gene])


def frozen_features(plan: Plan, run) -> dict[str, str]:
    """The stored features of the sides that run once; a tuned side runs in the pretraining.

    ``run`` has the attributes ``experiment``, ``dataset``, ``image`` and ``gene``, as wildcards have.
    """
    frozen, files = frozen_sides(plan, run.experiment, run.gene), {}
    if frozen["image"]:
        home, image = features_home(plan, run.dataset), base_images(plan, run.image)
        folder = plan.image_features.format(dataset=home, image=image)
        files |= {"image_features": f"{folder}/features.npy"}
        files |= {"image_index": f"{folder}/features.json"}
    if frozen["gene"]:
        folder = plan.gene_features.format(dataset=run.dataset, gene=run.gene)
        files |= {"gene_features": f"{folder}/features.npy"}
        files |= {"gene_index": f"{folder}/features.json"}
    return files


def run_weights(plan: Plan, run) -> dict[str, list[str]]:
    """The weights that a run itself reads: those of the sides that don't run once."""
    frozen = frozen_sides(plan, run.experiment, run.gene)
    return {
        "image_weights": [] if frozen["image"] else image_weights(plan, run.image),
        "gene_weights": [] if frozen["gene"] else gene_weights(plan, run.dataset, run.gene),
    }


def splits_for(plan: Plan, dataset: str, gene: str) -> list[str]:
    """splits.tsv, for gene encoders whose input depends on the train split."""
    spec = plan.encoders["gene"][gene]
    if spec["learned_from"] == "dataset" or uses_train_facts(spec):
        return [f"{plan.results}/datasets/{dataset}/splits.tsv"]
    return []


def all_weights(plan: Plan) -> list[str]:
    """Every file that the experiments would fetch: what a login node brings for the others."""
    used = [
        (kind, name)
        for experiment in plan.experiments.values()
        for pair in experiment.pairs
        for kind, name in zip(("image", "gene"), pair, strict=True)
    ]
    used += [("image", base_images(plan, model.image)) for model in plan.models.values()]
    used += [("image", plan.calibration["image_encoder"])] if plan.calibration else []
    return [
        f"{file}{end}"
        for kind, name in dict.fromkeys(used)
        for file in weight_files(plan, kind, name)
        for end in ("", ".source.json")
    ]


def deciding_training(plan: Plan, experiment: str) -> dict:
    """The training options that decide what a run becomes: another of them makes it again."""
    training = plan.experiments[experiment].training
    machine = machine_options(training)
    return {key: value for key, value in training.items() if key not in machine}


def machine_training(plan: Plan, experiment: str) -> str:
    """The other ones, as JSON."""
    training = plan.experiments[experiment].training
    return json.dumps({key: training[key] for key in machine_options(training)}, sort_keys=True)


def devices(plan: Plan, experiment: str) -> int:
    """The GPUs that a run asks for; on a machine without one they are processes."""
    training = plan.experiments[experiment].training
    return training["devices"] * training["nodes"]


def has_failed(run: str) -> bool:
    """Whether a run recorded that it can't be made (``pretrain.failures``); deleted, it is tried."""
    return Path(run, "failed.json").is_file() and not Path(run, "options.json").is_file()


def outcomes(runs: Iterable[str]) -> list[str]:
    """Of each run the file that says what it is, or why it isn't."""
    return [f"{run}/{'failed' if has_failed(run) else 'options'}.json" for run in runs]


def stored_embeddings(runs: Iterable[str]) -> list[str]:
    """The embeddings of the test split of runs that haven't failed."""
    parts = (".json", ".tsv", "_images.npy", "_genes.npy")
    return [f"{run}/embeddings/test{part}" for run in runs if not has_failed(run) for part in parts]


def predicts_expression(plan: Plan, experiment: str) -> bool:
    """Whether expression is predicted from an experiment's pairs, which then embed the train split."""
    return plan.config["expression"]["score"] and not plan.experiments[experiment].retrieval_only


def run_files(plan: Plan, file: str) -> list[str]:
    """A file of each run of the experiments of a plain run."""
    return [
        f"{run}/{file}"
        for experiment in plan.in_all
        for dataset in plan.experiments[experiment].datasets
        for run in run_folders(plan, experiment, dataset)
        if not has_failed(run)
    ]


def audit_run_files(plan: Plan, file: str) -> list[str]:
    """A file of each run of the audits of a plain run."""
    return [
        f"{run}/{file}"
        for name in plan.audits_in_all
        for run in audit_run_folders(plan, name)
        if not has_failed(run)
    ]


def audited_runs(plan: Plan, name: str) -> list[dict]:
    """The rows of an audit, each with its runs: how the audit names their encoders, and their own."""
    rows = []
    for row in audit_rows(name, plan.audits[name]):
        asked, pairs = row.pop("asked"), []
        if row["experiment"]:
            experiment = plan.experiments[row["experiment"]]
            images = zip(asked["image"], experiment.image_encoders, strict=True)
            genes = list(zip(asked["gene"], experiment.gene_encoders, strict=True))
            pairs = [
                {"image_encoder": image, "gene_encoder": gene, "image": own_image, "gene": own_gene}
                for image, own_image in images
                for gene, own_gene in genes
            ]
        rows.append({**row, "pairs": pairs, "seeds": plan.audits[name]["seeds"]})
    return rows


def audit_run_folders(plan: Plan, name: str) -> list[str]:
    """The run folders of an audit."""
    return [
        plan.run.format(
            experiment=row["experiment"],
            dataset=row["dataset"],
            image=pair["image"],
            gene=pair["gene"],
            seed=seed,
        )
        for row in audited_runs(plan, name)
        for pair in row["pairs"]
        for seed in row["seeds"]
    ]
