"""What slide-level prediction asks for: cohorts, models, folds, predictions."""

import itertools
from collections.abc import Iterable, Mapping

from pairscape.core.errors import InputError, one_of
from pairscape.encoders.specs import sees_patches, takes_stored_images
from pairscape.plan import commands, runs
from pairscape.plan.plan import Cohort, Experiment, Model, Plan
from pairscape.plan.scores import made
from pairscape.slides import cohorts


def cohort_table(plan: Plan, cohort: str) -> str:
    """The table of a cohort: the user's, or the one that is simulated with its slides."""
    return plan.cohorts[cohort].table or f"{plan.slides}/{cohort}/cohort.tsv"


def fetched_cohorts(plan: Plan) -> list[str]:
    """The cohorts whose tables can be filled from the portals."""
    return [name for name, cohort in plan.cohorts.items() if cohort.fetch]


def slide_files(plan: Plan, cohort: str) -> list[str]:
    """The slides of a cohort that are on disk; those that aren't are listed when it is embedded."""
    if plan.cohorts[cohort].simulation:
        return [f"{plan.slides}/{cohort}/slides"]
    files = [cohorts.slide_file(plan.slides, row) for row in plan.cohorts[cohort].rows]
    return [str(file) for file in files if file.is_file()]


def run_folder(plan: Plan, name: str) -> str | None:
    """The run folder of a pretrained model; none for an encoder as it came."""
    model = plan.models[name]
    return plan.run.format(**vars(model)) if model.experiment else None


def base_model(plan: Plan, name: str) -> str | None:
    """The encoder as it came whose features of a slide a model projects; none for the others."""
    model = plan.models[name]
    if not model.experiment:
        return None
    frozen = takes_stored_images(plan.experiments[model.experiment].training)
    return runs.base_images(plan, model.image) if frozen else None


def model_files(plan: Plan, cohort: str, name: str) -> dict[str, str | list[str]]:
    """What a model of slides is made of: weights, a pretrained pair, its frozen encoder's features."""
    run, base = run_folder(plan, name), base_model(plan, name)
    files = {"pair": f"{run}/model.ckpt"} if run else {}
    if base:
        return files | {"base": slides_table(plan, cohort, base)}
    return files | {"weights": runs.image_weights(plan, plan.models[name].image)}


def model_flags(plan: Plan, cohort: str, name: str) -> str:
    """The flags of the files of a model of slides."""
    files = model_files(plan, cohort, name)
    weights = commands.first_flag("--weights", files.get("weights", []))
    return f"{commands.flags(files, 'pair', 'base')} {weights}"


def slide_figures(plan: Plan, cohort: str, name: str) -> str:
    """The flag of a cohort's figures, for the one model that draws them."""
    first = next(
        model
        for entry in plan.mutation.values()
        if cohort in (entry.cohort, *entry.external)
        for model in entry.models
    )
    draws = name == (base_model(plan, first) or first)
    return commands.many("--figures", [f"{plan.results}/slides/{cohort}/figures"] if draws else [])


def fold_file(plan: Plan, cohort: str, target: str, leaking: bool, ext: str = "tsv") -> str:
    """The folds of a cohort's patients for a target (.tsv), or how balanced they are (.json)."""
    name = f"{target}_leaking" if leaking else target
    return f"{plan.results}/slides/{cohort}/folds/{name}.{ext}"


def folds_of(plan: Plan, mutation: str, target: str) -> str:
    """The folds that an entry of ``mutation`` trains and tests in."""
    entry = plan.mutation[mutation]
    return fold_file(plan, entry.cohort, target, entry.leaking)


def slides_table(plan: Plan, cohort: str, model: str) -> str:
    """The list of a cohort's slides, with their features by a model beside it."""
    return f"{plan.results}/slides/{cohort}/{model}/slides.tsv"


def external_files(plan: Plan, mutation: str, model: str) -> dict[str, list[str]]:
    """Tables and features of the cohorts that are only predicted."""
    external = plan.mutation[mutation].external
    return {
        "external_cohorts": [cohort_table(plan, cohort) for cohort in external],
        "external_slides": [slides_table(plan, cohort, model) for cohort in external],
    }


def external_flags(plan: Plan, mutation: str, model: str) -> str:
    """The flags of those files."""
    files = external_files(plan, mutation, model)
    return " ".join(commands.many(f"--{name.replace('_', '-')}", files[name]) for name in files)


def fold_number(plan: Plan, cohort: str, leaking: bool) -> int:
    """Into how many folds a cohort is split: every entry of `mutation` on it says the same."""
    entries = plan.mutation.values()
    return next((e.folds for e in entries if (e.cohort, e.leaking) == (cohort, leaking)), 5)


def predictions_of(plan: Plan, names: Iterable[str]) -> list[dict]:
    """Every prediction of some entries of `mutation`, so that a table can say which is missing."""
    return [
        {
            "mutation": name,
            "leaking": plan.mutation[name].leaking,
            "cohort": plan.mutation[name].cohort,
            "target": target,
            "model": model,
        }
        for name in names
        for target in plan.mutation[name].targets
        for model in plan.mutation[name].models
    ]


def mutation_comparisons(plan: Plan, name: str) -> list[dict]:
    """Which predictions are compared: before and after pretraining, leaked and preserved sites.

    A pretrained model is compared with its image encoder as it came, that with its untrained
    control, and an entry with leaking sites with those of the same cohort that preserve them.
    """
    entry, comparisons = plan.mutation[name], []
    preserving = [
        (other, alike)
        for other, alike in plan.mutation.items()
        if entry.leaking and not alike.leaking and alike.cohort == entry.cohort
    ]
    for run in predictions_of(plan, [name]):
        target, model = run["target"], run["model"]
        image, pretrained = plan.models[model].image, run_folder(plan, model) is not None
        before = runs.base_images(plan, image) if pretrained else f"{image}_untrained"
        pairs = [(name, before)] if before in entry.models else []
        pairs += [
            (other, model)
            for other, alike in preserving
            if model in alike.models and target in alike.targets
        ][:1]
        comparisons += [
            {"target": target, "model": model, "compared_mutation": other, "compared_model": rival}
            for other, rival in pairs
        ]
    return comparisons


def mutation_runs(plan: Plan, name: str) -> list[dict]:
    """The predictions that score_mutation reads: those of the entry and what they are compared with."""
    entry_runs = [
        {key: run[key] for key in ("mutation", "target", "model")}
        for run in predictions_of(plan, [name])
    ]
    others = [
        {
            "mutation": pair["compared_mutation"],
            "target": pair["target"],
            "model": pair["compared_model"],
        }
        for pair in mutation_comparisons(plan, name)
        if pair["compared_mutation"] != name
    ]
    return entry_runs + others


def prediction_files(plan: Plan, name: str) -> list[str]:
    """The files of those predictions."""
    return [
        f"{plan.mutation_fit.format(**run)}/predictions.tsv" for run in mutation_runs(plan, name)
    ]


def tabled(plan: Plan) -> list[str]:
    """The entries of `mutation` in the table: those of a plain run, or all where there are none."""
    return plan.mutation_in_all or list(plan.mutation)


def pretrained_on(plan: Plan, names: Iterable[str]) -> list[str]:
    """The datasets that the pairs among the models of some entries were trained on."""
    models = [model for name in names for model in plan.mutation[name].models.values()]
    return [model.dataset for model in models if model.dataset]


def tabled_scores(plan: Plan) -> list[str]:
    """The scores of those entries."""
    return [f"{plan.results}/scores/mutation/{name}.tsv" for name in tabled(plan)]


def balances(plan: Plan) -> list[str]:
    """How balanced the folds are that those entries use."""
    files = [
        fold_file(plan, run["cohort"], run["target"], run["leaking"], "json")
        for run in predictions_of(plan, tabled(plan))
    ]
    return list(dict.fromkeys(files))


def mutation_files(plan: Plan, *extensions: str) -> list[str]:
    """The table and the figures of slide-level predictions that a plain run makes."""
    if not plan.mutation_in_all:
        return []
    pictures = [f"mutation_{name}" for name in plan.mutation_in_all]
    return made(plan, ["mutation"], extensions, pictures)


# ------------------------------------------------------------------------------- reading and checks


def models_of(
    items: Iterable[Mapping], experiments: Mapping[str, Experiment], encoders: Mapping
) -> dict[str, Model]:
    """The models that the items of an entry of ``mutation`` name, in the order of the list."""
    models = {}
    for item in items:
        if "experiment" not in item:
            models[item["image"]] = Model(item["image"])
            continue
        experiment = experiments[item["experiment"]]
        grid = itertools.product(experiment.datasets, experiment.pairs, experiment.seeds)
        for dataset, (image, gene), seed in grid:
            model = Model(image, item["experiment"], dataset, gene, seed)
            chosen = all(value == getattr(model, key) for key, value in item.items())
            if chosen and sees_patches(encoders["image"][image]):
                models[f"{item['experiment']}.{dataset}.{image}-{gene}.seed{seed}"] = model
    return models


def read_cohort(place: str, options: Mapping, source) -> Cohort:
    """A cohort with the rows of its table, none where that is still empty: the programs say so then."""
    table, simulation, fetch = (options[key] for key in ("table", "simulation", "fetch"))
    if bool(table) == bool(simulation):
        held = "both a table and a simulation" if table else "nothing"
        raise InputError(source, place, held, "give a table, or the knobs of a simulation")
    if simulation:
        cohorts.check_slide_simulation(f"{place}.simulation", simulation, source)
        if fetch:
            remedy = "drop fetch: a simulated cohort has its slides and labels"
            raise InputError(source, f"{place}.fetch", "a value, beside a simulation", remedy)
    rows = cohorts.read_cohort(table, may_be_empty=True) if table else []
    return Cohort(table, simulation, fetch, rows)


def check_mutation(name: str, config: Mapping, source, plan_cohorts: Mapping[str, Cohort]) -> None:
    """Cohorts, targets and folds of an entry of ``mutation``."""
    place, entry = f"mutation.{name}", config["mutation"][name]
    named = [("cohort", entry["cohort"])]
    named += [(f"external[{i}]", cohort) for i, cohort in enumerate(entry["external"])]
    for field, cohort in named:
        one_of(cohort, plan_cohorts, source, f"{place}.{field}", "cohorts")
        if field != "cohort" and cohort == entry["cohort"]:
            raise InputError(
                source, f"{place}.{field}", f"{cohort}, which also trains", "name another cohort"
            )
        simulation, rows = plan_cohorts[cohort].simulation, plan_cohorts[cohort].rows
        if not simulation and not rows:
            continue  # a table that is still empty: the programs say so
        targets = simulation["targets"] if simulation else cohorts.targets_of(rows)
        for i, target in enumerate(entry["targets"]):
            one_of(target, targets, source, f"{place}.targets[{i}]", f"targets of {cohort}")
    for other, alike in config["mutation"].items():
        same_file = all(alike[key] == entry[key] for key in ("cohort", "leaking"))
        if same_file and alike["folds"] != entry["folds"]:
            raise InputError(
                source,
                f"{place}.folds",
                f"{entry['folds']}, where {other} splits {entry['cohort']} into {alike['folds']}",
                "split a cohort into the same number of folds everywhere",
            )


def check_model(
    place: str, item: Mapping, experiments: Mapping[str, Experiment], encoders: Mapping, source
) -> None:
    """An item of ``models``: an image encoder as it came, or pairs of an experiment."""
    if "experiment" in item:
        name = item["experiment"]
        one_of(name, experiments, source, f"{place}.experiment", "experiments")
        experiment = experiments[name]
        pairs = [pair for pair in experiment.pairs if sees_patches(encoders["image"][pair[0]])]
        genes = [gene for image, gene in pairs if item.get("image", image) == image]
        allowed = {"dataset": experiment.datasets, "image": [image for image, _ in pairs]}
        allowed |= {"gene": genes, "seed": experiment.seeds}
        for key, values in allowed.items():
            if key in item:
                values = dict.fromkeys(map(str, values))
                one_of(str(item[key]), values, source, f"{place}.{key}", f"of {name}")
        return
    for key in ("dataset", "gene", "seed"):
        if key in item:
            raise InputError(source, place, f"{key} but no experiment", "add experiment")
    if "image" not in item:
        raise InputError(source, place, "neither image nor experiment", "add one of them")
    usable = [
        name
        for name, spec in encoders["image"].items()
        if sees_patches(spec) and not spec.get("shuffle_pairs")
    ]
    one_of(item["image"], usable, source, f"{place}.image", "image encoders that embed patches")
