"""Our retrieval beside the published one: the difference, and what the seeds' spread makes of it.

Every cell of the published tables that the experiments stand for is a row, whether we have a number
or not; so is every encoder pair that only we have. Ours are the recalls of the gallery that the paper
reports, ``published_scores.GALLERY``.

The rule of the spread. The half-width is t * sqrt(sd_p^2 / n_p + sd_o^2 / n_o), with t the 97.5 %
quantile of Student's distribution at Welch's degrees of freedom: how far the means of two sets of
seeds of the same method would lie apart, 19 times of 20. Where only one side has a standard
deviation, it stands for the other's, with its n - 1 degrees of freedom. Half a unit of the last
published digit is added.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import options, tsv
from pairscape.report import published_scores
from pairscape.report.columns import columns
from pairscape.report.published_scores import DIRECTIONS, GALLERY, REPORTED
from pairscape.report.rows import mean_sd, split_by
from pairscape.report.words import pair_words, seeds_missing_words

CELL = ("panel", "image_encoder", "gene_encoder", "direction", "recall_at")
TABLE = tsv.Table(
    "published-gap_<comparison>.tsv",
    "compare_published",
    (
        *tsv.text(
            source="the published table",
            factor="what an ablation changes",
            level="and to what",
        ),
        *columns(*CELL),
        *tsv.numbers(
            published_mean="the paper's recall",
            published_sd="its standard deviation over seeds",
            published_seeds="its seeds",
        ),
        *tsv.text(
            published_status="reported, or why not",
            published_note="what the paper says of the cell",
            experiment="ours",
            dataset="ours",
        ),
        *tsv.numbers(
            ours_mean="our recall, mean over seeds",
            ours_sd="standard deviation over seeds",
            ours_seeds="our seeds",
            ours_chance="chance of recall",
        ),
        *tsv.text(ours_status="scored, or why not"),
        *columns("seeds_missing"),
        *tsv.numbers(difference="ours less published", spread="half-width, by the rule above"),
        *tsv.text(
            inside="whether the difference is within the spread",
            setting="in which options ours differ from the paper's",
        ),
    ),
)
ABSENT = "not published"
SCORED, MISSING, NOT_PLANNED, FAILED = "scored", "not run", "not planned", "failed"
NOT_COMPARED = "not compared"
ROUNDING = 0.0005  # published means have three digits
# Options that name the machine, or that make the level of an ablation.
_NO_DIFFERENCE = {
    *("devices", "nodes", "loader_workers", "precision", "loggers", "micro_batch"),
    "activation_checkpointing",
    *("image_projection", "loss", "image_tuning", "gene_tuning", "stored_views"),
}


# --------------------------------------------------------------------------------------- comparing


def compare(
    published: Iterable[Mapping],
    scores: Iterable[Mapping],
    experiments: Mapping[str, Mapping],
    datasets: Mapping[str, Mapping],
) -> list[dict]:
    """Set scores of experiments beside the published tables that they stand for.

    Parameters
    ----------
    published
        Rows of ``published_scores.read_retrieval`` and ``read_ablations``.
    scores
        Rows of ``retrieval.read_scores``, of any of the experiments.
    experiments
        By name: ``training`` (resolved) and ``expected``, the planned runs; ``protocol``, the rules of
        computation they were made by; ``variants``, the encoders that stand for others.
    datasets
        By name: ``panel``, and ``unlike``, why its numbers don't compare (empty where they do).

    Returns
    -------
    Rows of ``TABLE``: the published cells in their order, then what only we have, then the
    datasets that aren't compared.
    """
    factors = _tables_of(experiments)
    cells = [row for row in published if row["factor"] in factors]
    ours = _collect(scores, experiments, datasets)
    settings = {name: _setting(experiment) for name, experiment in experiments.items()}
    rows, used = [], set()
    for cell in cells:
        fitting = [
            key
            for key in ours
            if all(
                experiments[key[0]].get("variants", {}).get(key[2 + i], key[2 + i]) == cell[name]
                for i, name in enumerate(CELL[1:4])
            )
            and datasets[key[1]]["panel"] == cell["panel"]
            and published_scores.level_of(experiments[key[0]]["training"], cell["factor"])
            == cell["level"]
        ]
        for key in fitting:
            used.add((*key, cell["recall_at"]))
            rows.append(_row(cell, key, ours[key], settings[key[0]]))
        if not fitting:
            rows.append(_row(cell, None, {}, ""))
    wanted = {cell["recall_at"] for cell in cells} or {
        k for cells in ours.values() for k in cells["at"]
    }
    for key, entry in ours.items():
        for k in sorted(wanted & set(entry["at"])):
            if (*key, k) not in used:
                cell = dict.fromkeys(("source", "factor", "level", "note"), "") | {
                    "panel": datasets[key[1]]["panel"],
                    **dict(zip(CELL[1:4], key[2:], strict=True)),
                    "recall_at": k,
                    "status": ABSENT,
                    **dict.fromkeys(("mean", "sd", "seeds")),
                }
                rows.append(_row(cell, key, entry, settings[key[0]]))
    for name, dataset in datasets.items():
        if dataset["unlike"]:
            rows.append(
                {column.name: "" if column.type is str else None for column in TABLE.columns}
                | {"panel": dataset["panel"], "dataset": name}
                | {"ours_status": f"{NOT_COMPARED}: {dataset['unlike']}"}
            )
    return rows


def _tables_of(experiments: Mapping[str, Mapping]) -> set[str]:
    """The factors of the published tables that all the experiments fit into.

    What fits the benchmark isn't compared with the ablation that repeats its numbers.
    """
    trainings = [experiment["training"] for experiment in experiments.values()]
    factors = ["", *published_scores.FIXED]
    fitting = {f for f in factors if all(published_scores.fits(t, f) for t in trainings)}
    return {""} if "" in fitting else fitting


def _setting(experiment: Mapping) -> str:
    """In which options ours differ from the paper's, whose are the defaults."""
    training, protocol = experiment["training"], experiment.get("protocol", "")
    paper = options.resolve_part("training", {})
    words = [
        f"{key} {training[key]} (published: {value})"
        for key, value in paper.items()
        if key not in _NO_DIFFERENCE and training[key] != value
    ]
    return "; ".join(([f"protocol {protocol}"] if protocol else []) + words)


def _collect(scores, experiments, datasets) -> dict[tuple, dict]:
    """What we have of each experiment, dataset, image and gene encoder and direction.

    ``at``: the values by k and seed, and the chance; ``planned``: seeds; ``failed``: reasons.
    """
    ours: dict[tuple, dict] = {}

    def entry_of(experiment, row, direction):
        key = (experiment, row["dataset"], row["image_encoder"], row["gene_encoder"], direction)
        return ours.setdefault(key, {"at": {}, "planned": [], "failed": {}, "chance": {}})

    comparable = {name for name, dataset in datasets.items() if not dataset["unlike"]}
    for name, plan in experiments.items():
        for run in plan["expected"]:
            if run["dataset"] in comparable:
                for direction in DIRECTIONS:
                    entry_of(name, run, direction)["planned"].append(str(run["seed"]))
    for row in scores:
        if row["dataset"] not in comparable:
            continue
        if row["status"] not in (SCORED, ""):
            for direction in DIRECTIONS:
                entry = entry_of(row["experiment"], row, direction)
                entry["failed"][str(row["seed"])] = row["status"]
            continue
        metric, _, k = row["metric"].partition("@")
        wanted = row["gallery"] == GALLERY and row["group_by"] == "all"
        if wanted and metric == "recall" and k.isdigit() and row["value"] is not None:
            entry = entry_of(row["experiment"], row, row["direction"])
            entry["at"].setdefault(int(k), {})[str(row["seed"])] = row["value"]
            entry["chance"][int(k)] = row["chance"]
    return ours


def _row(cell: Mapping, key: tuple | None, entry: Mapping, setting: str) -> dict:
    k = cell["recall_at"]
    values = entry.get("at", {}).get(k, {})
    mean, deviation = mean_sd(list(values.values()))
    row = {name: cell[name] for name in ("source", "factor", "level", *CELL)}
    row |= {f"published_{name}": cell[name] for name in ("mean", "sd", "seeds", "status", "note")}
    row |= {
        "experiment": key[0] if key else "",
        "dataset": key[1] if key else "",
        "ours_mean": mean,
        "ours_sd": deviation,
        "ours_seeds": len(values),
        "ours_chance": entry.get("chance", {}).get(k),
        "ours_status": _status(key, entry, values),
        "seeds_missing": " ".join(
            seed
            for seed in entry.get("planned", [])
            if seed not in values and seed not in entry["failed"]
        ),
        **dict.fromkeys(("difference", "spread")),
        "inside": "",
        "setting": setting,
    }
    if mean is not None and cell["mean"] is not None:
        row["difference"] = mean - cell["mean"]
        row["spread"] = half_width(cell["sd"], cell["seeds"], deviation, len(values))
        if row["spread"] is not None:
            row["inside"] = "yes" if abs(row["difference"]) <= row["spread"] + 1e-9 else "no"
    return row


def _status(key, entry: Mapping, values: Mapping) -> str:
    failed = [f"{why} (seed {seed})" for seed, why in entry.get("failed", {}).items()]
    words = [f"{FAILED}: {', '.join(failed)}"] if failed else []
    if values:
        return "; ".join([SCORED, *words])
    if key is None:
        return NOT_PLANNED
    if entry["at"]:
        words.append("scored without this k")
    return "; ".join(words) or MISSING


def half_width(
    published_sd: float | None, published_seeds: int, sd: float | None, seeds: int
) -> float | None:
    """How far two means over seeds of one method may lie apart; None where no spread is known.

    The rule stands in the module's text; the degrees of freedom are those of Welch (1947).
    """
    from scipy.stats import t

    if published_sd is None and sd is None:
        return None
    known = [
        (s, n) for s, n in ((published_sd, published_seeds), (sd, seeds)) if s is not None and n > 1
    ]
    if not known:
        return None
    first = sd if published_sd is None else published_sd
    second = published_sd if sd is None else sd
    parts = [first**2 / published_seeds, second**2 / seeds]
    if sum(parts) == 0:
        return ROUNDING
    if len(known) == 2:
        freedom = sum(parts) ** 2 / sum(
            part**2 / (n - 1) for part, (_, n) in zip(parts, known, strict=True)
        )
    else:
        freedom = known[0][1] - 1
    return float(t.ppf(0.975, freedom)) * math.sqrt(sum(parts)) + ROUNDING


def groups(rows: Iterable[Mapping], *names: str) -> dict:
    """The rows that stand for published cells, by some of their columns."""
    return split_by((row for row in rows if row["source"]), *names)


# ----------------------------------------------------------------------------------- for the reader


def filled(rows: Iterable[Mapping]) -> list[Mapping]:
    """The cells that the paper couldn't train, and that we have."""
    return [row for row in rows if untrained(row) and row["ours_mean"] is not None]


def missing(rows: Sequence[Mapping]) -> list[str]:
    """What we lack of the published cells, by name; a panel without any number is named whole."""
    words = {}
    for panel, members in groups(rows, "panel").items():
        lacking = [row for row in members if row["ours_mean"] is None or row["seeds_missing"]]
        if all(row["ours_mean"] is None and row["ours_status"] == MISSING for row in members):
            words[f"{panel}: nothing is scored"] = None
        elif all(row["ours_status"] == NOT_PLANNED for row in members):
            words[f"{panel}: {NOT_PLANNED}"] = None
        else:
            words |= dict.fromkeys(f"{panel}: {_lacking_words(row)}" for row in lacking)
    return list(words)


def _lacking_words(row: Mapping) -> str:
    words = f"{pair(row)}, "
    if row["ours_status"] != SCORED and row["ours_mean"] is None:
        words += row["ours_status"]
        return words + (f" (Recall@{row['recall_at']:g})" if "this k" in words else "")
    return words + seeds_missing_words(row)


def untrained(row: Mapping) -> bool:
    return row["published_status"] not in (REPORTED, ABSENT, "")


def pair(row: Mapping) -> str:
    level = f", {row['level']}" if row["level"] else ""
    return pair_words(row) + level
