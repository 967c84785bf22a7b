"""What evaluation, calibration and report ask for: scores, tables and figures by name.

Functions only; workflow/common.smk includes them.
"""


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


def hits_of(shown: str) -> list[str]:
    experiment, datasets = SHOWN[shown]
    return [f"{RESULTS}/scores/{experiment}/{dataset}/hits.parquet" for dataset in datasets]


def hits_files(*extensions: str) -> list[str]:
    """The tables of what is retrieved with these extensions, where it is told."""
    return [
        f"{RESULTS}/tables/hits_{experiment}{extension}"
        for extension in extensions
        for experiment in FULLY_SCORED
        if config["hits"]["score"]
    ]


def smoke_scores(wildcards) -> list[str]:
    """The scores of the experiment named `smoke`."""
    if "smoke" not in EXPERIMENTS:
        raise WorkflowError(
            f"{SOURCE}: experiments: found no smoke; add it, as config/demo.yaml does"
        )
    return scores_of("smoke")


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
                *audit_run_files("model.ckpt"),
            ]
        )
    )


def audit_files(*extensions: str) -> list[str]:
    """The tables and figures of the audits of a plain run with these extensions."""
    return [
        f"{RESULTS}/{'figures' if extension in ('.png', '.svg') else 'tables'}/audit_{name}{extension}"
        for extension in extensions
        for name in AUDITS_IN_ALL
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
