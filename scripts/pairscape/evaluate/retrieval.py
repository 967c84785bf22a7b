"""Retrieval scores of embedded pairs: recall and ranks in four galleries, chance, and intervals.

Everything starts from two arrays of embeddings whose rows are paired. Galleries, side by side:

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

import numpy as np

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.evaluate import intervals, ranks
from pairscape.evaluate.nearby_hits import shift_p_values
from pairscape.evaluate.ranks import Ranks
from pairscape.pretrain import runs

COLUMNS = (
    "experiment",
    "dataset",
    "image_encoder",
    "gene_encoder",
    "control",
    "seed",
    "status",
    "split",
    "direction",
    "gallery",
    "group_by",
    "group",
    "metric",
    "value",
    "pessimistic",
    "chance",
    "ci_low",
    "ci_high",
    "ci_over",
    "donors",
    "donor_low",
    "donor_high",
    "p_value",
    "p_test",
    "queries",
    "gallery_size",
    "donors_shared",
    "options_sha256",
)
NUMBERS = (
    "value",
    "pessimistic",
    "chance",
    "ci_low",
    "ci_high",
    "donors",
    "donor_low",
    "donor_high",
    "p_value",
    "queries",
    "gallery_size",
)
DIRECTIONS = ("i2g", "g2i")
ALL = "all"
GROUPS = ("donor", "organ", "disease_state", "sample")
SCORED = "scored"


# ------------------------------------------------------------------------------- metrics and chance


def mid_rank(found: Ranks) -> np.ndarray:
    """The best target's expected rank (N,), from 1, ties broken at random."""
    level = np.asarray(found.level)
    return found.better + (level + found.ties + 1) / (level + 1)


def worst_rank(found: Ranks) -> np.ndarray:
    """The best target's rank (N,), from 1, after all that it ties with."""
    return 1.0 + found.better + found.ties


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


def metrics(found: Ranks, recall: Sequence[int]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per-query values (N,) by metric, expected and pessimistic, of ranks for the partner."""
    rank, worst = mid_rank(found), worst_rank(found)
    return {
        **recalls(found, recall),
        "mean_rank": (rank, worst),
        "median_rank": (rank, worst),
    }


def recalls(found: Ranks, recall: Sequence[int], suffix: str = "") -> dict[str, tuple]:
    """Per-query hits (N,) by ``recall@k``, expected and pessimistic."""
    worst = worst_rank(found)
    return {
        f"recall@{k}{suffix}": (
            recall_at(found.better, found.ties, k, found.level),
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
    embedded: Mapping, options: Mapping, placeholders: Iterable[str] = (), device: str = "cpu"
) -> list[dict]:
    """Score one run's embedded split in every direction, gallery and group.

    Parameters
    ----------
    embedded
        ``images``, ``genes`` (N, D) and ``index`` with sample, donor, organ, disease_state, x_um
        and y_um, N > 0.
    options
        As ``check_options`` returns them.
    placeholders
        Donors that no source names: one person may stand behind several of them.
    device
        Where products of the whole split are taken (``ranks.choose_device``).

    Returns
    -------
    Rows with the columns from ``split`` to ``gallery_size``.
    """
    index = embedded["index"]
    samples, donors = (index[name].to_numpy(str) for name in ("sample", "donor"))
    xy_um = index[["x_um", "y_um"]].to_numpy(np.float64)
    images, genes = (ranks.finite(embedded[name]) for name in ("images", "genes"))
    groups = _groups(index, samples, donors, xy_um, set(placeholders), options)
    nearby = {
        f"_within_{radius:g}um": ranks.neighbours(samples, xy_um, radius)
        for radius in options["radius_um"]
    }
    rows = []
    for direction in DIRECTIONS:
        queries, gallery = (images, genes) if direction == "i2g" else (genes, images)
        tests = {}
        if options["permutations"]:
            tests = shift_p_values(
                queries, gallery, samples, xy_um, options["permutations"], options["seed"]
            )
        galleries = ranks.rank_pairs(
            queries, gallery, donors, samples, tuple(nearby.values()), device
        )
        for processes in options["in_batch_ranks"]:
            galleries[gallery_name(options["in_batch"], processes)] = ranks.rank_in_batches(
                queries, gallery, options["in_batch"], processes, tuple(nearby.values())
            )
        for name, found in galleries.items():
            values = metrics(found[0], options["recall_at"])
            of_targets = dict.fromkeys(values, found[0])
            for suffix, of_radius in zip(nearby, found[1:], strict=False):
                more = recalls(of_radius, options["recall_at"], suffix)
                values |= more
                of_targets |= dict.fromkeys(more, of_radius)
            for group in groups:
                key = ALL if group["group_by"] == ALL else group["group"]
                tested = name == "sample" and group["group_by"] in (ALL, "sample")
                p_value, test = tests.get(key, (None, "")) if tested else (None, "")
                rows += [
                    {
                        "split": options["split"],
                        "direction": direction,
                        "gallery": name,
                        **row,
                        "p_value": p_value,
                        "p_test": test,
                    }
                    for row in _score_group(values, of_targets, group, donors)
                ]
    return rows


def _groups(index, samples, donors, xy_um, placeholders: set, options: Mapping) -> list[dict]:
    """The groups of queries that are scored, each with what is resampled for its intervals."""
    draws, seed = options["bootstrap"], options["seed"]
    blocks = intervals.draw_blocks(samples, xy_um, options["block_um"], draws, seed)
    found = [(ALL, ALL, np.ones(len(samples), bool))]
    for group_by in GROUPS:
        names = index[group_by].to_numpy(str)
        found += [(group_by, str(name), names == name) for name in np.unique(names)]
    groups = []
    for group_by, name, member in found:
        units, over = choose_units(member, samples, donors, blocks, placeholders, options)
        groups.append(
            {
                "group_by": group_by,
                "group": name,
                "member": member,
                "donors": len(np.unique(donors[member])),
                "units": units,
                "over": over,
            }
        )
    return groups


def choose_units(
    member: np.ndarray,
    samples: np.ndarray,
    donors: np.ndarray,
    blocks: intervals.Units,
    placeholders: set,
    options: Mapping,
) -> tuple[intervals.Units, str]:
    """What is resampled for the interval of some queries, and that in words.

    Donors where there are enough of them, else blocks of tissue.

    Parameters
    ----------
    member
        Which of the N queries, (N,) bool.
    samples, donors
        The queries' names, (N,).
    blocks
        Of ``intervals.draw_blocks``, of all queries.
    placeholders
        Donors that no source names.
    options
        ``bootstrap``, ``block_um`` and ``seed``.
    """
    draws, names = options["bootstrap"], np.unique(donors[member])
    if not draws or len(names) < intervals.DONORS_NEEDED:
        of_member = np.unique(samples[member])
        return blocks, _over_blocks(blocks, options["block_um"], of_member, len(names))
    drawn = intervals.draw_donors(donors[member], draws, options["seed"])
    of = np.zeros(len(samples), np.int64)
    of[member] = drawn.of
    unknown = sum(donor in placeholders for donor in names)
    over = f"bootstrap over {len(names)} donors"
    return drawn._replace(of=of), over + (f", {unknown} of them placeholders" if unknown else "")


def _over_blocks(units, block_um: float, samples: Iterable[str], donors: int) -> str:
    """Say what an interval within few donors is over, or why there is none."""
    counts = [units.counts[str(sample)] for sample in samples]
    if not len(units.weights):
        return "no interval: no bootstrap was asked for"
    if max(counts) < 2:
        return f"no interval: no sample has two spatial blocks of {block_um:g} um"
    held = counts.count(1)
    note = f" ({held} of {len(counts)} samples are one block, held fixed)" if held else ""
    these = "this donor" if donors == 1 else f"these donors ({donors})"
    return f"{sum(counts)} spatial blocks of {block_um:g} um within {these}{note}"


def _score_group(values: Mapping, of_targets: Mapping, group: Mapping, donors) -> list[dict]:
    """The rows of one group in one gallery, from ``group_by`` to ``gallery_size``."""
    any_ranks = next(iter(of_targets.values()))
    rows = np.arange(len(donors)) if any_ranks.rows is None else any_ranks.rows
    chosen = np.flatnonzero(group["member"][rows])
    if not len(chosen):
        return []
    batch = None if any_ranks.batch is None else any_ranks.batch[chosen]
    size = any_ranks.size[chosen]
    expected = {metric: both[0][chosen] for metric, both in values.items()}
    bounds = dict.fromkeys(expected)
    drawn = intervals.select(group["units"], rows[chosen])
    if drawn:
        means = {name: each for name, each in expected.items() if name != "median_rank"}
        bounds |= intervals.of_means(means, *drawn)
        bounds["median_rank"] = intervals.of_median(expected["median_rank"], batch, *drawn)
    of_donor = donors[rows[chosen]]
    several = group["group_by"] not in ("donor", "sample") and group["donors"] > 1
    members = [of_donor == name for name in np.unique(of_donor)] if several else []
    scored = []
    for metric, each in expected.items():
        targets = of_targets[metric].targets
        targets = targets[chosen] if isinstance(targets, np.ndarray) else targets
        low, high = bounds[metric] or (None, None)
        by_donor = [
            summarise(metric, each[of], None if batch is None else batch[of]) for of in members
        ]
        scored.append(
            {
                "group_by": group["group_by"],
                "group": group["group"],
                "metric": metric,
                "value": summarise(metric, each, batch),
                "pessimistic": summarise(metric, values[metric][1][chosen], batch),
                "chance": chance(metric, size, targets, batch),
                "ci_low": low,
                "ci_high": high,
                "ci_over": group["over"],
                "donors": group["donors"],
                "donor_low": min(by_donor, default=None),
                "donor_high": max(by_donor, default=None),
                "queries": len(chosen),
                "gallery_size": float(size.mean()),
            }
        )
    return scored


def check_options(options: Mapping) -> dict:
    """Fill in the defaults of the configuration's part ``retrieval``, and of split and seed."""
    others = {"experiment", "dataset", "split", "seed"}
    scoring = {key: value for key, value in options.items() if key not in others}
    kept = {key: value for key, value in options.items() if key in others}
    resolved = {"split": "test", "seed": 0, **kept, **resolve_part("retrieval", scoring)}
    if not isinstance(resolved["seed"], int) or resolved["seed"] < 0:
        raise InputError("--options", "seed", repr(resolved["seed"]), "give a whole number from 0")
    return resolved


# ------------------------------------------------------------------------------------------- format


def write_scores(path, rows: Iterable[Mapping]) -> None:
    """Write tidy scores, numbers with 6 significant digits, ``None`` as an empty field.

    A run that failed has one row: its names, and in ``status`` why.
    """
    tsv.write_numbers(path, rows, COLUMNS)


def read_scores(path) -> list[dict]:
    """Read what ``write_scores`` wrote; numbers as float, empty ones as None."""
    tsv.require_end(path, "delete it and score again")
    return tsv.read_numbers(path, COLUMNS, "delete it and score again", NUMBERS)


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment."""
    scores = []
    for path in paths:
        rows = read_scores(path)
        runs.check_experiment(path, rows, experiment)
        scores += rows
    return scores
