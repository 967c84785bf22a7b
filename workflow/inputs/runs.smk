"""What pretraining asks of the stages before, and the others of it: features, weights, runs.

Functions only; workflow/common.smk includes them.
"""


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
    """Whether a run recorded that it can't be made (pairscape.pretrain.failures); delete that to try again."""
    return Path(run, "failed.json").is_file() and not Path(run, "options.json").is_file()


def told_in(run: str) -> str:
    """The file in which a run says what it is, or why it isn't."""
    return f"{run}/failed.json" if has_failed(run) else f"{run}/options.json"


def predicts_expression(experiment: str) -> bool:
    """Whether expression is predicted from an experiment's pairs, for which they embed the train split."""
    return config["expression"]["score"] and not EXPERIMENTS[experiment]["retrieval_only"]


def all_runs(file: str) -> list[str]:
    return [
        f"{run}/{file}"
        for experiment in IN_ALL
        for dataset in EXPERIMENTS[experiment]["datasets"]
        for run in runs(experiment, dataset)
        if not has_failed(run)
    ]


def audit_run_files(file: str) -> list[str]:
    """A file of each run of the audits of a plain run."""
    return [
        f"{run}/{file}"
        for name in AUDITS_IN_ALL
        for run in audit_run_folders(name)
        if not has_failed(run)
    ]


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
