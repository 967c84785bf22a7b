"""What slide-level prediction asks for: cohorts, models, folds, predictions.

Functions only; workflow/common.smk includes them.
"""


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
