"""Retrieval scores of embedded pairs: recall and ranks in four galleries, chance, and intervals.

Embeddings are paired row by row. Galleries, side by side:

``split``
    All pairs of the split.
``sample``
    The pairs of the query's own sample.
``other_donors``
    The query's partner among the spots of all other donors: what is left of recall where knowing the
    section doesn't help. Not there for a split of one donor.
``in_batch_<n>``, ``in_batch_<n>_ranks_<r>``
    Batches of n in data set order, read by one process, or dealt out to r of them. The published
    numbers are those of 64 and 4. The short last batch of each process is kept, and batches are
    averaged by their size, so that every query weighs the same.

Ties. Gallery entries as similar to the query as its partner may come out before or after it, so a
hit is counted with its expected value under random breaking, and a rank is the expected one;
``pessimistic`` is the bound at which every tie is lost.

``recall@k_within_<r>um`` counts a hit when any spot within r µm of the query's, in its sample, is
among the first k: neighbouring spots are near-duplicates. In batches only those count that are in
the batch.

Chance is the same rule applied to targets that lie anywhere in the gallery, averaged over the
queries: 1 - C(n - t, k) / C(n, k) for Recall@k with t targets in a gallery of n, (n + 1) / 2 for a
rank.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.core.tsv import Table, numbers, text
from pairscape.evaluate import intervals, ranks
from pairscape.evaluate.nearby_hits import shift_p_values
from pairscape.evaluate.ranks import Ranks
from pairscape.pretrain import runs

SCORES = Table(
    "retrieval.tsv",
    "score_retrieval",
    (
        *text(experiment="the run's experiment", dataset="its dataset"),
        *text(image_encoder="its image encoder", gene_encoder="its gene encoder"),
        *text(control="what makes it a control; empty where it is none", seed="its seed"),
        *text(status="scored, or why it isn't", split="the split whose pairs are scored"),
        *text(
            direction="i2g: images look for genes; g2i: genes for images",
            gallery="among whom a query looks for its partner",
            group_by="all, donor, organ, disease_state or sample",
            group="the group of queries",
            metric="recall@k, recall@k_within_<r>um, mean_rank or median_rank",
        ),
        *numbers(
            value="expected where ties break at random",
            pessimistic="the same where every tie is lost",
            chance="the value of targets that lie anywhere in the gallery",
        ),
        *numbers(ci_low="lower end of the 95 % interval", ci_high="its upper end"),
        *text(ci_over="what is resampled for the interval, or why there is none"),
        *numbers(
            donors="donors of the group", donor_low="the lowest of them", donor_high="the highest"
        ),
        *numbers(p_value="that pairs are no closer than their shifted sections"),
        *text(p_test="how the p-value was made"),
        *numbers(queries="queries of the group", gallery_size="entries of a gallery, their mean"),
        *text(donors_shared="how the dataset admits donors of this split elsewhere, in words"),
        *text(options_sha256="of the run's options"),
    ),
)
DIRECTIONS = ("i2g", "g2i")
ALL = "all"
GROUPS = ("donor", "organ", "disease_state", "sample")
SCORED = "scored"


@dataclass(frozen=True)
class RetrievalOptions:
    """The configuration's part ``retrieval``, and which split is scored by which seed."""

    recall_at: Sequence[int]
    in_batch: int
    in_batch_ranks: Sequence[int]
    radius_um: Sequence[float]
    device: str
    bootstrap: int
    permutations: int
    block_um: float
    split: str = "test"
    seed: int = 0

    @classmethod
    def of(cls, options: Mapping) -> "RetrievalOptions":
        """The options, checked, with the schema's defaults."""
        run = {name: options[name] for name in ("split", "seed") if name in options}
        part = {name: value for name, value in options.items() if name not in run}
        options = cls(**resolve_part("retrieval", part), **run)
        if not isinstance(options.seed, int) or options.seed < 0:
            raise InputError("--options", "seed", repr(options.seed), "give a whole number from 0")
        return options


# ------------------------------------------------------------------------------- metrics and chance


def mid_rank(ranked: Ranks) -> np.ndarray:
    """The best target's expected rank (N,), from 1, ties broken at random."""
    return ranked.better + (ranked.level + ranked.ties + 1) / (ranked.level + 1)


def worst_rank(ranked: Ranks) -> np.ndarray:
    """The best target's rank (N,), from 1, after all that it ties with."""
    return 1.0 + ranked.better + ranked.ties


def recall_at(better: np.ndarray, ties: np.ndarray, k: int, level=1) -> np.ndarray:
    """Expected hit (N,) in [0, 1] within the first ``k``, ties broken at random.

    Of ``level`` targets and ``ties`` others that are equally similar, any target will do:
    1 - C(ties, places) / C(ties + level, places) for the places that are left to them.
    """
    places = np.maximum(k - better, 0)
    miss = np.ones(len(places))
    for i in range(min(k, int(places.max(initial=0)))):
        left = np.maximum(ties - i, 0) / np.maximum(ties + level - i, 1)
        miss *= np.where(i < places, left, 1.0)
    return 1.0 - miss


def metrics(ranked: Ranks, recall: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per-query values (N,) by metric, expected and pessimistic, of ranks for the partner."""
    rank = mid_rank(ranked), worst_rank(ranked)
    return {**recalls(ranked, recall), "mean_rank": rank, "median_rank": rank}


def recalls(ranked: Ranks, recall: Sequence[int], suffix: str = "") -> dict[str, tuple]:
    """Per-query hits (N,) by ``recall@k``, expected and pessimistic."""
    worst = worst_rank(ranked)
    return {
        f"recall@{k}{suffix}": (
            recall_at(ranked.better, ranked.ties, k, ranked.level),
            (worst <= k).astype(np.float64),
        )
        for k in recall
    }


def summarise(metric: str, values: np.ndarray, batch: np.ndarray | None = None) -> float:
    """One number of per-query values: their median for ``median_rank``, else their mean.

    In batches the median is that of each batch (the lower of two middle values), averaged by their
    sizes, as published.
    """
    return intervals.median(values, batch) if metric == "median_rank" else float(np.mean(values))


def chance(metric: str, size: np.ndarray, targets=1, batch: np.ndarray | None = None) -> float:
    """What ``summarise`` expects of targets that lie anywhere in galleries of ``size`` (N,)."""
    if metric.startswith("recall@"):
        k = recall_k(metric)
        miss = np.ones(len(size))
        for i in range(min(k, int(size.max()))):
            miss *= np.maximum(size - targets - i, 0) / np.maximum(size - i, 1)
        return float(1.0 - miss.mean())
    if metric == "mean_rank" or batch is not None:
        return float((size + 1.0).mean() / 2)
    # The median of a mixture of uniform ranks: P(rank = m) = mean over queries of [m <= n] / n.
    sizes, counts = np.unique(size, return_counts=True)
    mass = np.zeros(sizes[-1] + 1)
    np.add.at(mass, sizes - 1, counts / sizes / len(size))
    below = np.cumsum(np.cumsum(mass[::-1])[::-1])
    lower = np.searchsorted(below, 0.5 - 1e-9) + 1
    upper = np.searchsorted(below, 0.5 + 1e-9) + 1
    return float(lower + upper) / 2


def recall_k(metric: str) -> int:
    """The k of ``recall@k`` and ``recall@k_within_<r>um``."""
    return int(re.match(r"recall@(\d+)", metric)[1])


def gallery_name(batch: int, processes: int) -> str:
    """The name of a gallery of batches."""
    return f"in_batch_{batch}" + (f"_ranks_{processes}" if processes > 1 else "")


# --------------------------------------------------------------------------------------- one run


def score_run(
    embedded: Mapping,
    options: RetrievalOptions,
    placeholders: Iterable[str] = (),
    device: str = "cpu",
) -> list[dict]:
    """Score one run's embedded split in every direction, gallery and group.

    ``embedded`` holds ``images``, ``genes`` (N, D) and ``index`` with sample, donor, organ,
    disease_state, x_um and y_um, N > 0. ``placeholders`` are donors that no source names: one person
    may stand behind several of them. ``device`` is where products of the whole split are taken
    (``ranks.choose_device``). Rows with the columns from ``split`` to ``gallery_size``.
    """
    index = embedded["index"]
    samples, donors = (index[name].to_numpy(str) for name in ("sample", "donor"))
    xy_um = index[["x_um", "y_um"]].to_numpy(np.float64)
    images, genes = (ranks.finite(embedded[name]) for name in ("images", "genes"))
    groups = _groups(index, samples, donors, xy_um, set(placeholders), options)
    nearby = {
        f"_within_{radius:g}um": ranks.neighbours(samples, xy_um, radius)
        for radius in options.radius_um
    }
    rows = []
    for direction in DIRECTIONS:
        pair = (images, genes) if direction == "i2g" else (genes, images)
        tests = {}
        if options.permutations:
            tests = shift_p_values(*pair, samples, xy_um, options.permutations, options.seed)
        targets = tuple(nearby.values())
        galleries = ranks.rank_pairs(*pair, donors, samples, targets, device)
        for processes in options.in_batch_ranks:
            galleries[gallery_name(options.in_batch, processes)] = ranks.rank_in_batches(
                *pair, options.in_batch, processes, targets
            )
        for name, ranked in galleries.items():
            values = metrics(ranked[0], options.recall_at)
            ranks_of = dict.fromkeys(values, ranked[0])
            for suffix, within in zip(nearby, ranked[1:], strict=False):
                more = recalls(within, options.recall_at, suffix)
                values |= more
                ranks_of |= dict.fromkeys(more, within)
            for group in groups:
                tested = name == "sample" and group.by in (ALL, "sample")
                p_value, test = tests.get(group.name, (None, "")) if tested else (None, "")
                head = {"split": options.split, "direction": direction, "gallery": name}
                head |= {"p_value": p_value, "p_test": test}
                rows += [head | row for row in _score_group(values, ranks_of, group, donors)]
    return rows


class Group(NamedTuple):
    """Queries that are scored together, and what is resampled for their intervals."""

    by: str
    name: str
    member: np.ndarray  # (N,) bool
    donors: int
    units: intervals.Units
    over: str  # the units in words


def _groups(index, samples, donors, xy_um, placeholders: set, options) -> list[Group]:
    blocks = intervals.draw_blocks(
        samples, xy_um, options.block_um, options.bootstrap, options.seed
    )
    members = [(ALL, ALL, np.ones(len(samples), bool))]
    for by in GROUPS:
        names = index[by].to_numpy(str)
        members += [(by, str(name), names == name) for name in np.unique(names)]
    groups = []
    for by, name, member in members:
        units, over = intervals.choose_units(
            member, samples, donors, blocks, placeholders, options.block_um, options.seed
        )
        groups.append(Group(by, name, member, len(np.unique(donors[member])), units, over))
    return groups


def _score_group(values: Mapping, ranks_of: Mapping, group: Group, donors) -> list[dict]:
    """The rows of one group in one gallery, from ``group_by`` to ``gallery_size``."""
    any_ranks = next(iter(ranks_of.values()))
    rows = np.arange(len(donors)) if any_ranks.rows is None else any_ranks.rows
    chosen = np.flatnonzero(group.member[rows])
    if not len(chosen):
        return []
    batch = None if any_ranks.batch is None else any_ranks.batch[chosen]
    size = any_ranks.size[chosen]
    expected = {metric: both[0][chosen] for metric, both in values.items()}
    bounds = dict.fromkeys(expected, (None, None))
    if drawn := intervals.select(group.units, rows[chosen]):
        means = {name: each for name, each in expected.items() if name != "median_rank"}
        bounds |= intervals.of_means(means, *drawn)
        bounds["median_rank"] = intervals.of_median(expected["median_rank"], batch, *drawn)
    donor = donors[rows[chosen]]
    several = group.by not in ("donor", "sample") and group.donors > 1
    members = [donor == name for name in np.unique(donor)] if several else []
    scored = []
    for metric, each in expected.items():
        targets = ranks_of[metric].targets
        targets = targets[chosen] if isinstance(targets, np.ndarray) else targets
        by_donor = [
            summarise(metric, each[mine], None if batch is None else batch[mine])
            for mine in members
        ]
        low, high = bounds[metric]
        scored.append(
            {
                "group_by": group.by,
                "group": group.name,
                "metric": metric,
                "value": summarise(metric, each, batch),
                "pessimistic": summarise(metric, values[metric][1][chosen], batch),
                "chance": chance(metric, size, targets, batch),
                "ci_low": low,
                "ci_high": high,
                "ci_over": group.over,
                "donors": group.donors,
                "donor_low": min(by_donor, default=None),
                "donor_high": max(by_donor, default=None),
                "queries": len(chosen),
                "gallery_size": float(size.mean()),
            }
        )
    return scored


# A run that failed has one row: its names, and in `status` why.
read_scores, write_scores = SCORES.read, SCORES.write


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment."""
    scores = []
    for path in paths:
        rows = read_scores(path)
        runs.check_experiment(path, rows, experiment)
        scores += rows
    return scores
