"""What evaluation, calibration, audit and report ask for: scores, tables and figures by name."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pairscape.audit.protocols import variants_in
from pairscape.core.errors import InputError, one_of
from pairscape.encoders import specs
from pairscape.plan import commands, datasets, runs, samples
from pairscape.plan.plan import Plan

# Every form of a table and of a figure: one that was deleted is made again.
TABLES = (".tsv", ".md", ".tex")
SHOWN = (*TABLES, ".png", ".svg")


def made(
    plan: Plan,
    names: Sequence[str],
    extensions: Iterable[str],
    pictures: Sequence[str] | None = None,
) -> list[str]:
    """Tables and figures by name and extension; pictures lie in figures/, all others in tables/.

    ``pictures`` are the names of figures, where they aren't those of the tables.
    """
    folders = {".png": "figures", ".svg": "figures"}
    return [
        f"{plan.results}/{folders.get(extension, 'tables')}/{name}{extension}"
        for extension in extensions
        for name in (names if pictures is None or extension not in folders else pictures)
    ]


def score_files(plan: Plan, shown: str, file: str) -> list[str]:
    """A file of scores, such as ``retrieval.tsv``, of each dataset of what is shown."""
    experiment, names = plan.shown[shown]
    return [f"{plan.results}/scores/{experiment}/{dataset}/{file}" for dataset in names]


def encoder_titles(plan: Plan, shown: str) -> dict[str, dict[str, str]]:
    """What figures call the encoders of what is shown, by kind and name."""
    images, genes = zip(*plan.experiments[plan.shown[shown][0]].pairs, strict=True)
    named = {"image": [*images, *plan.config["expression"]["also"]], "gene": genes}
    return {
        kind: {name: plan.encoders[kind][name]["title"] for name in names}
        for kind, names in named.items()
    }


def control_pairs(plan: Plan, shown: str) -> list[list[str]]:
    """The encoder pairs of what is shown in which either one is a control."""
    images, genes = (plan.encoders[kind] for kind in ("image", "gene"))
    return [
        [image, gene]
        for image, gene in plan.experiments[plan.shown[shown][0]].pairs
        if images[image].get("control") or genes[gene].get("control")
    ]


def shown_shards(plan: Plan, shown: str) -> list[str]:
    """The shards of the datasets of what is shown, each once."""
    files = [file for name in plan.shown[shown][1] for file in datasets.shard_files(plan, name)]
    return list(dict.fromkeys(files))


def retrieval_files(plan: Plan, *extensions: str) -> list[str]:
    """The tables and figures of retrieval of a plain run."""
    return made(plan, [f"retrieval_{experiment}" for experiment in plan.in_all], extensions)


def hits_files(plan: Plan, *extensions: str) -> list[str]:
    """The tables and figures of what is retrieved, where it is told."""
    scored = plan.fully_scored if plan.config["hits"]["score"] else []
    return made(plan, [f"hits_{experiment}" for experiment in scored], extensions)


def batch_effect_scores(plan: Plan, names: Iterable[str]) -> list[str]:
    """The batch-effect scores of datasets; none where the configuration leaves them out."""
    scored = names if plan.config["batch_effect"]["score"] else ()
    return [f"{plan.results}/scores/batch_effect/{dataset}.tsv" for dataset in scored]


def batch_effect_scoring(plan: Plan) -> dict:
    """The options that batch effects are scored by: a change of the figure scores nothing anew."""
    others = ("score", "recall_at", "pair")
    return {key: value for key, value in plan.config["batch_effect"].items() if key not in others}


def batch_effect_pair(plan: Plan, experiment: str) -> list[str] | None:
    """The encoder pair that the figure shows, where the experiment has it."""
    pair, grid = plan.config["batch_effect"]["pair"], plan.experiments[experiment]
    if (
        not pair
        or pair["image_encoder"] not in grid.image_encoders
        or pair["gene_encoder"] not in grid.gene_encoders
    ):
        return None
    return [pair["image_encoder"], pair["gene_encoder"]]


def batch_effect_files(plan: Plan, *extensions: str) -> list[str]:
    """The table and the figures of batch effects of a plain run.

    An experiment with one panel has no figure: its points are panels.
    """
    if not plan.config["batch_effect"]["score"] or not plan.datasets_in_all:
        return []
    pictures = [
        f"batch_effect_{experiment}"
        for experiment in plan.fully_scored
        if len({plan.datasets[name].panel for name in plan.experiments[experiment].datasets}) > 1
    ]
    return made(plan, ["batch_effect"], extensions, pictures)


def calibration_scores(plan: Plan) -> list[str]:
    """The scores of every batch effect and seed of the calibration grid."""
    return [
        f"{plan.results}/scores/calibration/batch-effect{effect:g}_seed{seed}.tsv"
        for effect in (plan.calibration or {}).get("batch_effect", [])
        for seed in plan.calibration["seeds"]
    ]


def calibration_files(plan: Plan, *extensions: str) -> list[str]:
    """The table and the figure of the calibration."""
    return made(plan, ["calibration"], extensions) if plan.calibration else []


def expression_encoders(plan: Plan, experiment: str) -> dict[str, dict]:
    """The image encoders that expression is predicted from: whose features, and what control."""
    names = [run["image_encoder"] for run in runs.expected_runs(plan, experiment)]
    chosen = {}
    for name in dict.fromkeys([*names, *plan.config["expression"]["also"]]):
        base = runs.base_images(plan, name)
        for encoder in (name, base):
            control = plan.encoders["image"][encoder].get("control")
            chosen.setdefault(encoder, {"features_of": base, "control": control})
    return chosen


def expression_features(plan: Plan, experiment: str, dataset: str) -> list[str]:
    """The features of those encoders as they came, tuned in the pretraining or not."""
    home = runs.features_home(plan, dataset)
    encoders = expression_encoders(plan, experiment).values()
    bases = dict.fromkeys(encoder["features_of"] for encoder in encoders)
    folders = [plan.image_features.format(dataset=home, image=image) for image in bases]
    return [f"{folder}/features.npy" for folder in folders]


def expression_scoring(plan: Plan) -> dict:
    """The options that expression is scored by."""
    options = plan.config["expression"]
    others = {"score", "also"} if options["within_test"] else {"score", "also", "within_test"}
    return {key: value for key, value in options.items() if key not in others}


def expression_files(plan: Plan, *extensions: str) -> list[str]:
    """The tables and figures of expression prediction of a plain run, where it is scored."""
    scored = plan.fully_scored if plan.config["expression"]["score"] else []
    return made(plan, [f"expression_{experiment}" for experiment in scored], extensions)


def audit_files(plan: Plan, *extensions: str) -> list[str]:
    """The tables and figures of the audits of a plain run."""
    return made(plan, [f"audit_{name}" for name in plan.audits_in_all], extensions)


def smoke_scores(plan: Plan) -> list[str]:
    """The scores of the experiment named `smoke`."""
    if "smoke" not in plan.experiments:
        remedy = "choose: --config 'smoke={dataset: <name>, image: <encoder>, gene: <encoder>}'"
        raise InputError(plan.source, "smoke", "neither the key nor an experiment", remedy)
    return score_files(plan, "smoke", "retrieval.tsv")


def kept_files(plan: Plan) -> list[str]:
    """Pairs, trained pairs and scores: made again where they are missing, though all that was made of
    them is there. Spots and features aren't among them: who deletes those may want the space.
    """
    files = [
        shard
        for name in datasets.reported_datasets(plan)
        for shard in datasets.shard_files(plan, name)
    ]
    files += runs.run_files(plan, "model.ckpt")
    files += [file for name in plan.in_all for file in score_files(plan, name, "retrieval.tsv")]
    for score, file in (("hits", "hits.parquet"), ("expression", "expression.tsv")):
        scored = plan.fully_scored if plan.config[score]["score"] else []
        files += [path for name in scored for path in score_files(plan, name, file)]
    files += batch_effect_scores(plan, plan.datasets_in_all)
    files += runs.audit_run_files(plan, "model.ckpt")
    return list(dict.fromkeys(files))


def viewer_inputs(plan: Plan, sample: str, spots: str) -> dict:
    """What the viewer of a sample's spots tells beside them: the first dataset that pairs them."""
    named = {sample, *viewer_parts(plan, sample)}
    for name in plan.datasets_in_all:
        dataset = plan.datasets[name]
        if dataset.spots == spots and named & {*dataset.samples}:
            of_sample = zip(dataset.samples, datasets.shard_files(plan, name), strict=True)
            shards = [file for one, file in of_sample if one in named]
            scored = plan.fully_scored if plan.config["hits"]["score"] else []
            shown = [one for one in scored if name in plan.experiments[one].datasets]
            hits = [f"{plan.results}/scores/{one}/{name}/hits.parquet" for one in shown]
            files = {"splits": f"{plan.results}/datasets/{name}/splits.tsv", "shards": shards}
            return files | ({"hits": hits} if hits else {})
    return {}


def viewer_flags(plan: Plan, sample: str, spots: str) -> str:
    """The flags of those files, and of the H&E."""
    files = viewer_inputs(plan, sample, spots)
    flags = [commands.flags(samples.he_files(plan, sample), "he_image")]
    flags += [commands.flags(files, "splits")]
    flags += [commands.many(f"--{name}", files.get(name, [])) for name in ("shards", "hits")]
    return " ".join(filter(None, flags))


def viewer_parts(plan: Plan, sample: str) -> list[str]:
    """The names of a sample's blocks, where some dataset splits it into them."""
    return [name for name, row in plan.parts.items() if row["part_of"] == sample]


def targets(plan: Plan) -> list[str]:
    """Files that a user may name, for the nearest to a misspelt one."""
    stems = [
        f"{kind}_{name}" for kind in ("retrieval", "hits", "expression") for name in plan.shown
    ]
    stems += [f"batch_effect_{name}" for name in plan.shown] + ["batch_effect", "calibration"]
    stems += ["mutation", *(f"audit_{name}" for name in plan.audits)]
    files = [f"{plan.results}/datasets/{name}/README.md" for name in plan.datasets]
    files += [
        f"{plan.results}/samples/{sample}/{file}.json"
        for sample in plan.samples
        for file in ("check", "alignment")
    ]
    trained = [f"{run}/model.ckpt" for name in plan.experiments for run in _folders(plan, name)]
    return [*made(plan, stems, SHOWN), *files, *trained, f"{plan.results}/report.html"]


def _folders(plan: Plan, experiment: str) -> list[str]:
    named = plan.experiments[experiment].datasets
    return [run for dataset in named for run in runs.run_folders(plan, experiment, dataset)]


# ---------------------------------------------------------------- the gap to the published numbers


def compared_experiments(plan: Plan, name: str) -> list[str]:
    """The experiment of that name, or the levels of an ablation: those whose names go on after `_`.

    Where the name goes on with a point and a dataset, that dataset of each.
    """
    stem, point, dataset = name.partition(".")
    levels = [level for level in plan.experiments if level.startswith(f"{stem}_")]
    shown = [
        f"{level}{point}{dataset}" for level in ([stem] if stem in plan.experiments else levels)
    ]
    if not shown or not all(one in plan.shown for one in shown):
        fault = f"neither {stem} nor {stem}_...{f' with {dataset}' if dataset else ''}"
        remedy = "name one of them, and after a point one of its datasets"
        raise InputError(plan.source, "experiments", fault, remedy)
    return shown


def compared_scores(plan: Plan, name: str) -> list[str]:
    """The retrieval scores of the experiments that are compared under a name."""
    shown = compared_experiments(plan, name)
    return [file for one in shown for file in score_files(plan, one, "retrieval.tsv")]


def scores_so_far(plan: Plan, name: str) -> list[str]:
    """Those of them that are on disk."""
    return [file for file in compared_scores(plan, name) if Path(file).is_file()]


def unlike_published(plan: Plan, name: str) -> str:
    """Why numbers of a dataset don't compare with those of the paper; empty where they do."""
    dataset = plan.datasets[name]
    if any(plan.row(sample)["source"] == "simulated" for sample in dataset.samples):
        return "simulated tissue"
    if dataset.split["method"] != "published":
        return f"split by method {dataset.split['method']}, not the published one"
    rows = datasets.split_rows(plan.config, name)
    lacking = {row["sample"] for row in rows} - set(dataset.samples)
    return f"without {', '.join(sorted(lacking))} of the published samples" if lacking else ""


def gap_options(plan: Plan, name: str) -> dict:
    """The options of compare_published: the experiments that are compared, and their datasets."""
    compared = {plan.shown[shown][0]: shown for shown in compared_experiments(plan, name)}
    return {
        "name": name,
        "experiments": {
            experiment: {
                "protocol": plan.experiments[experiment].protocol,
                "variants": variants_in(plan.experiments[experiment].flags),
                "training": plan.experiments[experiment].training,
                "expected": runs.expected_runs(plan, shown),
            }
            for experiment, shown in compared.items()
        },
        "datasets": {
            dataset: {
                "panel": plan.datasets[dataset].panel,
                "unlike": unlike_published(plan, dataset),
            }
            for shown in compared.values()
            for dataset in plan.shown[shown][1]
        },
    }


def gap_files(plan: Plan, *extensions: str) -> list[str]:
    """The comparison with the paper's numbers of the experiments that compare with them."""
    names = [
        f"published-gap_{name}"
        for name in plan.in_all
        if not all(unlike_published(plan, dataset) for dataset in plan.experiments[name].datasets)
    ]
    return made(plan, names, extensions)


def leaderboard_folders(plan: Plan) -> list[str]:
    """The results folders that the leaderboard gathers: its own, where it has tables, and others."""
    others = [*plan.config["leaderboard"]["folders"]]
    return [plan.results, *others] if _tables_in(plan.results) or not others else others


def finished_tables(plan: Plan) -> list[str]:
    """The tables that they hold, whose change makes the leaderboard anew."""
    return [table for folder in leaderboard_folders(plan) for table in _tables_in(folder)]


def _tables_in(folder: str) -> list[str]:
    found = Path(folder, "tables").glob("*.tsv")
    return sorted(
        str(path) for path in found if path.name.startswith(("retrieval_", "expression_"))
    )


# ------------------------------------------------------------------------------------------ checks


def check_batch_effect(config: Mapping, source, encoders: Mapping) -> None:
    """The figure of batch effects shows a recall that is scored, of encoders that there are."""
    options = config["batch_effect"]
    scored = config["retrieval"]["recall_at"]
    one_of(options["recall_at"], scored, source, "batch_effect.recall_at", "retrieval.recall_at")
    for key, encoder in (options["pair"] or {}).items():
        kind = key.removesuffix("_encoder")
        one_of(encoder, encoders[kind], source, f"batch_effect.pair.{key}", f"{kind} encoders")


def check_expression(config: Mapping, source, encoders: Mapping) -> None:
    """Expression is predicted from image encoders that there are."""
    for i, encoder in enumerate(config["expression"]["also"]):
        one_of(encoder, encoders["image"], source, f"expression.also[{i}]", "image encoders")


def check_calibration(config: Mapping, source, encoders: Mapping) -> None:
    """The calibration's panel has a list, and its encoders are declared and can run there."""
    grid = config["calibration"]
    if grid is None:
        return
    panels = datasets.panel_names(config)
    one_of(grid["panel"], panels, source, "calibration.panel", f"lists of {config['panels']}")
    for kind in specs.KINDS:
        place = f"calibration.{kind}_encoder"
        one_of(grid[f"{kind}_encoder"], encoders[kind], source, place, f"{kind} encoders")
    learned_from = encoders["gene"][grid["gene_encoder"]]["learned_from"]
    if learned_from != "pair":
        fault = f"{grid['gene_encoder']}, learned from {learned_from}"
        remedy = "name one that is learned with the pair, such as mlp"
        raise InputError(source, "calibration.gene_encoder", fault, remedy)
