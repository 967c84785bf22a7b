"""Tables of retrieval scores: over all queries, with spots nearby as hits, and by group."""

import re
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import tsv
from pairscape.report.columns import columns
from pairscape.report.rows import mean_sd
from pairscape.report.words import DIRECTIONS, KEYS

HEAD = (*KEYS, "direction", "gallery")
GROUP_HEAD = (*HEAD, "group_by", "group")
PARTS = {
    "": "value",
    "_sd": None,
    "_ci_low": "ci_low",
    "_ci_high": "ci_high",
    "_donor_low": "donor_low",
    "_donor_high": "donor_high",
    "_pessimistic": "pessimistic",
    "_chance": "chance",
}
SCORED = "scored"
HEADLINE = "recall@5"
GROUP_WORDS = {
    "donor": "donor",
    "organ": "organ",
    "disease_state": "disease state",
    "sample": "sample",
}
_HEAD = columns(*HEAD)
_GROUP = tsv.text(group_by="what the queries are grouped by", group="the group")
_SEEDS = (
    *columns("seeds_run", "seeds_planned", "seeds_missing"),
    *tsv.text(seeds_failed="why, and which"),
)
_TAIL = (
    *tsv.numbers(queries="queries", gallery_size="mean size of a query's gallery"),
    *columns("donors", "ci_over"),
    *tsv.numbers(p_value="largest of the seeds', within samples"),
    *columns("p_test", "control", "donors_shared"),
)
TAIL = tuple(column.name for column in _TAIL)
_METRICS = (
    "each metric: mean over seeds; `_sd`: their standard deviation; `_ci_low`, `_ci_high`, "
    "`_donor_low`, `_donor_high`, `_pessimistic`, `_chance`: means over seeds of the bounds of the "
    "interval, the least and greatest donor, the score if every tie is lost, and chance"
)


def _declare(name: str, head: Sequence[tsv.Column]) -> tsv.Table:
    columns = (*head, *_SEEDS, *_TAIL)
    return tsv.Table(name, "show_retrieval", columns, _METRICS, others_after="seeds_failed")


TABLE = _declare("retrieval_<experiment>.tsv", _HEAD)
GROUPS = _declare("retrieval-groups_<experiment>.tsv", (*_HEAD, *_GROUP))


def tabulate_retrieval(
    scores: Iterable[Mapping], expected: Iterable[Mapping], nearby: bool = False
) -> list[dict]:
    """Bring tidy retrieval scores of all queries to one row per pair, direction and gallery.

    A metric is the mean over seeds, ``_sd`` their standard deviation (from two seeds on); the
    bounds of its interval, and the least and greatest of the donors' values, are the means over the
    seeds' bounds, so that they are those of a typical run; ``p_value`` is the largest of the seeds',
    from the galleries within samples.

    ``expected`` are the planned runs: ``KEYS``, ``seed``, and perhaps ``control``. What isn't among
    the scores gets a row without values, or its seed is listed as missing, or as failed, with the
    reason that the run gave. With ``nearby`` the metrics are those that count spots nearby as hits.
    """
    scores, failed, controls = _read_status(scores)
    scored = dict.fromkeys(tuple(row[key] for key in KEYS) for row in scores)
    scores = [row for row in scores if row["group_by"] == "all"]
    metrics = (nearby_names if nearby else metric_names)(row["metric"] for row in scores)
    planned, planned_controls = _planned(expected)
    controls = planned_controls | controls
    cells = _by_seed(scores, HEAD)
    if nearby:
        cells = {
            head: seeds
            for head, seeds in cells.items()
            if any(metric in rows for rows in seeds.values() for metric in metrics)
        }
    galleries = list(dict.fromkeys(head[4] for head in cells)) or ["split"]
    table = []
    for pair in dict.fromkeys([*planned, *scored, *failed]):
        tests = {} if nearby else _largest_p(cells, pair)
        for gallery in galleries:
            for direction in DIRECTIONS:
                head = (*pair, direction, gallery)
                seeds = cells.get(head, {})
                row = _row(HEAD, head, seeds, metrics, planned, failed)
                row["p_value"], row["p_test"] = tests.get(direction, (None, ""))
                row["control"] = controls.get(pair, "")
                table.append(row)
    return table


def tabulate_groups(scores: Iterable[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """The same by donor, organ, disease state and sample: one row per group as well.

    Takes and returns what ``tabulate_retrieval`` does, with the columns ``group_by`` and ``group``.
    """
    scores, failed, _ = _read_status(scores)
    metrics = metric_names(row["metric"] for row in scores)
    planned, _ = _planned(expected)
    wanted = [r for r in scores if r["group_by"] in GROUP_WORDS and r["metric"] in metrics]
    table = []
    for head, seeds in _by_seed(wanted, GROUP_HEAD).items():
        row = _row(GROUP_HEAD, head, seeds, metrics, planned, failed)
        p_values = [cell["p_value"] for cells in seeds.values() for cell in cells.values()]
        row["p_value"] = max((p for p in p_values if p is not None), default=None)
        table.append(row)
    return table


def _by_seed(scores: Iterable[Mapping], head: Sequence[str]) -> dict[tuple, dict]:
    """Scores by head, seed and metric."""
    cells: dict[tuple, dict] = {}
    for row in scores:
        seeds = cells.setdefault(tuple(row[key] for key in head), {})
        seeds.setdefault(str(row["seed"]), {})[row["metric"]] = row
    return cells


def _row(names, head: tuple, seeds: Mapping, metrics, planned: Mapping, failed: Mapping) -> dict:
    row = dict(zip(names, head, strict=True))
    row |= _count_seeds(seeds, planned.get(head[:3], []), failed.get(head[:3], {}))
    for metric in metrics:
        row |= _over_seeds(metric, [s[metric] for s in seeds.values() if metric in s])
    first = next((next(iter(s.values())) for s in seeds.values()), {})
    return row | {name: first.get(name) for name in TAIL}


def _read_status(scores: Iterable[Mapping]) -> tuple[list, dict, dict]:
    """The scored rows; by pair and seed why runs failed; by pair what it stands for as a control."""
    scored, failed, controls = [], {}, {}
    for row in scores:
        pair = tuple(row[key] for key in KEYS)
        if row["status"] in (SCORED, ""):
            scored.append(row)
        else:
            failed.setdefault(pair, {})[str(row["seed"])] = row["status"]
        if row["control"]:
            controls[pair] = row["control"]
    return scored, failed, controls


def _planned(expected: Iterable[Mapping]) -> tuple[dict, dict]:
    planned: dict[tuple, list[str]] = {}
    controls = {}
    for run in expected:
        pair = tuple(str(run[key]) for key in KEYS)
        planned.setdefault(pair, []).append(str(run["seed"]))
        if run.get("control"):
            controls[pair] = run["control"]
    return planned, controls


def _count_seeds(seeds: Mapping, wanted: Sequence[str], failed: Mapping[str, str]) -> dict:
    """Which seeds were run, planned, missing and failed: none is averaged away unsaid."""
    reasons: dict[str, list[str]] = {}
    for seed, why in failed.items():
        reasons.setdefault(why, []).append(seed)
    return {
        "seeds_run": len(seeds),
        "seeds_planned": len({*(wanted or seeds), *seeds, *failed}),
        "seeds_missing": " ".join(s for s in wanted if s not in seeds and s not in failed),
        "seeds_failed": "; ".join(f"{why}: {' '.join(names)}" for why, names in reasons.items()),
    }


def metric_names(names: Iterable[str]) -> list[str]:
    """The metrics for the partner alone among ``names``, in the order of the tables."""
    names = set(names)
    recall = sorted(int(match[1]) for n in names if (match := re.fullmatch(r"recall@(\d+)", n)))
    return [f"recall@{k}" for k in recall] + [
        name for name in ("mean_rank", "median_rank") if name in names
    ]


def nearby_names(names: Iterable[str]) -> list[str]:
    """The metrics that count spots nearby as hits among ``names``, by radius and k."""
    pattern = re.compile(r"recall@(\d+)_within_([\d.e+]+)um")
    matches = {name: match for name in names if (match := pattern.fullmatch(name))}
    return sorted(matches, key=lambda name: (float(matches[name][2]), int(matches[name][1])))


def headline(metrics: Sequence[str]) -> str | None:
    """The one recall that is shown where there is room for one: that of the paper's figures."""
    recall = [name for name in metrics if name.startswith("recall@")]
    wanted = [name for name in recall if name.split("_")[0] == HEADLINE]
    return (wanted or recall[-1:] or [None])[0]


def _largest_p(cells: Mapping, pair: tuple) -> dict[str, tuple]:
    largest = {}
    for direction in DIRECTIONS:
        rows = [
            row
            for seed in cells.get((*pair, direction, "sample"), {}).values()
            for row in seed.values()
            if row["p_test"]
        ]
        tested = [row for row in rows if row["p_value"] is not None]
        if tested:
            worst = max(tested, key=lambda row: row["p_value"])
            largest[direction] = (worst["p_value"], worst["p_test"])
        elif rows:
            largest[direction] = (None, rows[0]["p_test"])
    return largest


def _over_seeds(metric: str, rows: Sequence[Mapping]) -> dict:
    row = {}
    for part, name in PARTS.items():
        values = [cell[name or "value"] for cell in rows]
        mean, deviation = (None, None) if None in values else mean_sd(values)
        row[metric + part] = mean if name else deviation
    return row
