"""Names that would make one path of two things are refused: one rule over all path patterns."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.encoders.specs import weights_name
from pairscape.plan.plan import Plan

# Of each rule whose log, and so its record, is named by several names: the pattern of that name.
LOGS = {
    "pool_spots": "{sample}_{spots}",
    "show_spots": "{sample}_{spots}",
    "write_spatialdata": "{sample}_{spots}",
    "write_viewer": "{sample}_{spots}",
    "export_pairs": "{dataset}_{sample}",
    "fit_gene_encoder": "{dataset}_{gene}",
    "embed_images": "{dataset}_{image}",
    "score_retrieval": "{experiment}_{dataset}",
    "embed_slides": "{cohort}_{model}",
    "split_sites": "{cohort}_{target}{dealt}",
    "fit_mutation": "{mutation}_{target}_{model}",
}
OF_SLIDES = ("folds", "figures")  # what stands beside the models in the folder of a cohort


def refuse_shared_paths(plan: Plan) -> None:
    """Refuse a configuration in which two things would be written to one path."""
    of_path: dict[str, dict] = {}
    for pattern, names in _written(plan):
        path = pattern.format(**names)
        other = of_path.setdefault(path, names)
        if other != names:
            both = " and of ".join(
                ", ".join(
                    f"{key} {value!r}" for key, value in one.items() if value != that.get(key)
                )
                for one, that in ((other, names), (names, other))
            )
            remedy = "rename one of them, so that each has a path of its own"
            raise InputError(plan.source, "names", f"{path} of {both}", remedy)


def _written(plan: Plan) -> Iterator[tuple[str, Mapping]]:
    """Each path that is made of names: its pattern, and the names."""
    runs = list(_runs(plan))
    for names in runs:
        yield plan.run, names
        yield (
            "tables/*_{shown}",
            {"shown": f"{names['experiment']}.{names['dataset']}"}
            | {key: names[key] for key in ("experiment", "dataset")},
        )
        if plan.mutation:
            yield "{experiment}.{dataset}.{image}-{gene}.seed{seed}", names
    for name in plan.experiments:
        yield "tables/*_{shown}", {"shown": name, "experiment": name}
    for kind, encoders in plan.encoders.items():
        for name, spec in encoders.items():
            weights = spec["weights"]
            if weights and weights["source"] != "package":
                names = {"kind": kind, "name": weights_name(spec, name)}
                for file in (weights["file"], *weights["extra_files"]):
                    path = f"{plan.weights}/{{kind}}/{{name}}/{Path(file).name}"
                    yield path, {**names, "file": file}
    slides = list(_slides(plan))
    for names in slides:
        yield (
            f"{plan.results}/slides/{{cohort}}/folds/{{target}}{{dealt}}",
            {key: names[key] for key in ("cohort", "target", "dealt")},
        )
        yield (
            f"{plan.results}/slides/{{cohort}}/{{model}}",
            {key: names[key] for key in ("cohort", "model")},
        )
        for word in OF_SLIDES:
            yield (
                f"{plan.results}/slides/{{cohort}}/{word}",
                {
                    "cohort": names["cohort"],
                    "folder": word,
                },
            )
    datasets = [
        {"dataset": name, "sample": sample, "spots": dataset.spots or ""}
        for name, dataset in plan.datasets.items()
        for sample in dataset.samples
    ]
    for rule, pattern in LOGS.items():
        for names in (*runs, *slides, *datasets):
            kept = {key: value for key, value in names.items() if f"{{{key}}}" in pattern}
            if len(kept) == pattern.count("{"):
                yield f"{plan.results}/logs/{rule}/{pattern}.log", kept


def _runs(plan: Plan) -> Iterator[dict]:
    for name, experiment in plan.experiments.items():
        for dataset in experiment.datasets:
            for image, gene in experiment.pairs:
                for seed in experiment.seeds:
                    names = {"experiment": name, "dataset": dataset}
                    yield names | {"image": image, "gene": gene, "seed": seed}


def _slides(plan: Plan) -> Iterator[dict]:
    for name, entry in plan.mutation.items():
        for cohort in (entry.cohort, *entry.external):
            for target in entry.targets:
                for model in _models(plan, entry.models):
                    names = {"mutation": name, "cohort": cohort, "target": target}
                    yield names | {"model": model, "dealt": "_leaking" if entry.leaking else ""}


def _models(plan: Plan, models: Iterable[str]) -> list[str]:
    """The models of an entry, and those whose features they project."""
    return [*models, *(name for name in plan.models if name not in models)]
