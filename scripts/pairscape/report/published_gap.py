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

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core import options, tsv
from pairscape.report import published_scores
from pairscape.report.published_scores import DIRECTIONS, GALLERY, REPORTED

CELL = ("panel", "image_encoder", "gene_encoder", "direction", "recall_at")
COLUMNS = (
    *("source", "factor", "level", "panel", "image_encoder", "gene_encoder", "direction"),
    *("recall_at", "published_mean", "published_sd", "published_seeds", "published_status"),
    *("published_note", "experiment", "dataset", "ours_mean", "ours_sd", "ours_seeds"),
    *("ours_chance", "ours_status", "seeds_missing", "difference", "spread", "inside", "setting"),
)
NUMBERS = (
    *("recall_at", "published_mean", "published_sd", "published_seeds", "ours_mean", "ours_sd"),
    *("ours_seeds", "ours_chance", "difference", "spread"),
)
RANK_COLUMNS = ("source", "panel", "direction", "recall_at", "of", "items", "spearman", "p", "test")
ABSENT = "not published"
SCORED, MISSING, NOT_PLANNED, FAILED = "scored", "not run", "not planned", "failed"
NOT_COMPARED = "not compared"
ROUNDING = 0.0005  # published means have three digits
EXACT_UP_TO, LEAST_ITEMS, SHUFFLES = 8, 4, 9999
# Options that name the machine, or that make the level of an ablation.
_NO_DIFFERENCE = {
    *("devices", "nodes", "loader_workers", "precision", "loggers", "micro_batch"),
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
    Rows of ``COLUMNS``: the published cells in their order, then what only we have, then the
    datasets that aren't compared.
    """
    factors = _tables_of(experiments)
    cells = [row for row in published if row["factor"] in factors]
    ours = _collect(scores, experiments, datasets)
    settings = {name: _setting(of) for name, of in experiments.items()}
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
    wanted = {cell["recall_at"] for cell in cells} or {k for of in ours.values() for k in of["at"]}
    for key, of in ours.items():
        for k in sorted(wanted & set(of["at"])):
            if (*key, k) not in used:
                cell = dict.fromkeys(("source", "factor", "level", "note"), "") | {
                    "panel": datasets[key[1]]["panel"],
                    **dict(zip(CELL[1:4], key[2:], strict=True)),
                    "recall_at": k,
                    "status": ABSENT,
                    **dict.fromkeys(("mean", "sd", "seeds")),
                }
                rows.append(_row(cell, key, of, settings[key[0]]))
    for name, of in datasets.items():
        if of["unlike"]:
            rows.append(
                dict.fromkeys(COLUMNS, "")
                | dict.fromkeys(NUMBERS)
                | {"panel": of["panel"], "dataset": name}
                | {"ours_status": f"{NOT_COMPARED}: {of['unlike']}"}
            )
    return rows


def _tables_of(experiments: Mapping[str, Mapping]) -> set[str]:
    """The factors of the published tables that all the experiments fit into.

    What fits the benchmark isn't compared with the ablation that repeats its numbers.
    """
    trainings = [of["training"] for of in experiments.values()]
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
    return "; ".join([f"protocol {protocol}"] * bool(protocol) + words)


def _collect(scores, experiments, datasets) -> dict[tuple, dict]:
    """What we have of each experiment, dataset, image and gene encoder and direction.

    ``at``: the values by k and seed, and the chance; ``planned``: seeds; ``failed``: reasons.
    """
    found: dict[tuple, dict] = {}

    def of(experiment, row, direction):
        key = (experiment, row["dataset"], row["image_encoder"], row["gene_encoder"], direction)
        return found.setdefault(key, {"at": {}, "planned": [], "failed": {}, "chance": {}})

    comparable = {name for name, of in datasets.items() if not of["unlike"]}
    for name, plan in experiments.items():
        for run in plan["expected"]:
            if run["dataset"] in comparable:
                for direction in DIRECTIONS:
                    of(name, run, direction)["planned"].append(str(run["seed"]))
    for row in scores:
        if row["dataset"] not in comparable:
            continue
        if row["status"] not in (SCORED, ""):
            for direction in DIRECTIONS:
                of(row["experiment"], row, direction)["failed"][str(row["seed"])] = row["status"]
            continue
        metric, _, k = row["metric"].partition("@")
        wanted = row["gallery"] == GALLERY and row["group_by"] == "all"
        if wanted and metric == "recall" and k.isdigit() and row["value"] is not None:
            entry = of(row["experiment"], row, row["direction"])
            entry["at"].setdefault(int(k), {})[str(row["seed"])] = row["value"]
            entry["chance"][int(k)] = row["chance"]
    return found


def _row(cell: Mapping, key: tuple | None, of: Mapping, setting: str) -> dict:
    k = cell["recall_at"]
    values = of.get("at", {}).get(k, {})
    mean, deviation = _mean_sd(list(values.values()))
    row = {name: cell[name] for name in ("source", "factor", "level", *CELL)}
    row |= {f"published_{name}": cell[name] for name in ("mean", "sd", "seeds", "status", "note")}
    row |= {
        "experiment": key[0] if key else "",
        "dataset": key[1] if key else "",
        "ours_mean": mean,
        "ours_sd": deviation,
        "ours_seeds": len(values),
        "ours_chance": of.get("chance", {}).get(k),
        "ours_status": _status(key, of, values),
        "seeds_missing": " ".join(
            seed
            for seed in of.get("planned", [])
            if seed not in values and seed not in of["failed"]
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


def _status(key, of: Mapping, values: Mapping) -> str:
    failed = [f"{why} (seed {seed})" for seed, why in of.get("failed", {}).items()]
    words = [f"{FAILED}: {', '.join(failed)}"] if failed else []
    if values:
        return "; ".join([SCORED, *words])
    if key is None:
        return NOT_PLANNED
    if of["at"]:
        words.append("scored without this k")
    return "; ".join(words) or MISSING


def _mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


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


# -------------------------------------------------------------------------------- rank agreement


def agreement(rows: Sequence[Mapping]) -> list[dict]:
    """Whether encoders (levels, cells) stand in the order in which the paper has them.

    For each published table, panel, direction and k: Spearman's rank correlation of published and
    our means, with the probability that it is as large or larger in a random order (one-sided).
    Means over the cells that all of them have; items are left out that share none.

    Returns
    -------
    Rows of ``RANK_COLUMNS``; ``of`` is image encoders, gene encoders, levels, or cells; ``test``
    says how ``p`` was found, or why not.
    """
    found = []
    for group, members in groups(rows, ("source", "panel", "direction", "recall_at")).items():
        both = [row for row in members if row["difference"] is not None]
        for of, name in (
            ("image encoders", "image_encoder"),
            ("gene encoders", "gene_encoder"),
            ("levels", "level"),
        ):
            if len({row[name] for row in members}) > 1:
                found.append(_agreement(group, of, *_margins(both, name)))
        means = ("published_mean", "ours_mean")
        found.append(_agreement(group, "cells", *([row[n] for row in both] for n in means)))
    return found


def _margins(rows: Sequence[Mapping], name: str) -> tuple[list[float], list[float]]:
    """Published and our mean of each item, over the other names that all items have."""
    others = [n for n in ("image_encoder", "gene_encoder", "level", "dataset") if n != name]
    values: dict[str, dict[tuple, Mapping]] = {}
    for row in rows:
        values.setdefault(row[name], {})[tuple(row[n] for n in others)] = row
    common = set.intersection(*map(set, values.values())) if values else set()
    if not common:
        return [], []
    return tuple(
        [statistics.fmean(of[c][mean] for c in sorted(common)) for of in values.values()]
        for mean in ("published_mean", "ours_mean")
    )


def _agreement(group: tuple, of: str, published: Sequence, ours: Sequence) -> dict:
    value, p, test = spearman(published, ours)
    row = dict(zip(("source", "panel", "direction", "recall_at"), group, strict=True))
    return row | {"of": of, "items": len(ours), "spearman": value, "p": p, "test": test}


def spearman(first: Sequence[float], second: Sequence[float]) -> tuple:
    """Spearman's rank correlation, its one-sided p, and how that was found.

    Every order is gone through up to ``EXACT_UP_TO`` items; beyond, ``SHUFFLES`` random ones. With
    fewer than ``LEAST_ITEMS`` even perfect agreement says little, and there is neither. Values that
    agree to nine digits are ties.
    """
    from scipy.stats import rankdata

    if len(first) < LEAST_ITEMS:
        return None, None, "too few"
    a, b = (rankdata(np.round(values, 9)) for values in (first, second))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None, None, "all equal"
    a, b = ((x - x.mean()) / np.linalg.norm(x - x.mean()) for x in (a, b))
    value = float(np.clip(a @ b, -1, 1))
    if len(a) <= EXACT_UP_TO:
        orders = np.array(list(itertools.permutations(range(len(a)))))
        return value, float(np.mean(b[orders] @ a >= value - 1e-9)), "exact"
    rng = np.random.default_rng(0)
    shuffled = rng.permuted(np.tile(b, (SHUFFLES, 1)), axis=1) @ a
    above = int(np.sum(shuffled >= value - 1e-9))
    return value, (1 + above) / (1 + SHUFFLES), f"{SHUFFLES} random orders"


def groups(rows: Iterable[Mapping], names: Sequence[str]) -> dict[tuple, list[Mapping]]:
    """The rows that stand for published cells, by some of their columns."""
    found: dict[tuple, list[Mapping]] = {}
    for row in rows:
        if row["source"]:
            found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


# ------------------------------------------------------------------------------------------- format


def write_table(path, rows: Iterable[Mapping]) -> None:
    """Write the rows of ``compare``."""
    tsv.write_numbers(path, rows, COLUMNS)


def write_ranks(path, rows: Iterable[Mapping]) -> None:
    """Write the rows of ``agreement``."""
    tsv.write_numbers(path, rows, RANK_COLUMNS)


def is_gap_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return set(COLUMNS) <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    return tsv.read_numbers(path, COLUMNS, "delete it and compare again", NUMBERS)


# ----------------------------------------------------------------------------------- for the reader


def filled(rows: Iterable[Mapping]) -> list[Mapping]:
    """The cells that the paper couldn't train, and that we have."""
    return [row for row in rows if untrained(row) and row["ours_mean"] is not None]


def missing(rows: Sequence[Mapping]) -> list[str]:
    """What we lack of the published cells, by name; a panel without any number is named whole."""
    found = {}
    for (panel,), members in groups(rows, ("panel",)).items():
        lacking = [row for row in members if row["ours_mean"] is None or row["seeds_missing"]]
        if all(row["ours_mean"] is None and row["ours_status"] == MISSING for row in members):
            found[f"{panel}: nothing is scored"] = None
        elif all(row["ours_status"] == NOT_PLANNED for row in members):
            found[f"{panel}: {NOT_PLANNED}"] = None
        else:
            found |= dict.fromkeys(f"{panel}: {_lacking_words(row)}" for row in lacking)
    return list(found)


def _lacking_words(row: Mapping) -> str:
    words = f"{pair(row)}, "
    if row["ours_status"] != SCORED and row["ours_mean"] is None:
        words += row["ours_status"]
        return words + (f" (Recall@{row['recall_at']:g})" if "this k" in words else "")
    return words + f"seed {row['seeds_missing'].replace(' ', ', ')}"


def untrained(row: Mapping) -> bool:
    return row["published_status"] not in (REPORTED, ABSENT, "")


def pair(row: Mapping) -> str:
    level = f", {row['level']}" if row["level"] else ""
    return f"{row['image_encoder']} with {row['gene_encoder']}{level}"
