"""Whether encoders stand in the order in which the paper has them."""

import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from pairscape.core import tsv
from pairscape.report.columns import columns
from pairscape.report.published_gap import groups
from pairscape.report.rank_correlation import permuted

TABLE = tsv.Table(
    "published-ranks_<comparison>.tsv",
    "compare_published",
    (
        *tsv.text(source="the published table"),
        *columns("panel", "direction", "recall_at"),
        *tsv.text(of="what is ordered"),
        *tsv.numbers(items="how many", spearman="of published and our means", p="one-sided"),
        *tsv.text(test="how p was found, or why not"),
    ),
)
EXACT_UP_TO, LEAST_ITEMS, SHUFFLES = 8, 4, 9999


def agreement(rows: Sequence[Mapping]) -> list[dict]:
    """Whether encoders (levels, cells) stand in the order in which the paper has them.

    For each published table, panel, direction and k: Spearman's rank correlation of published and
    our means, with the probability that it is as large or larger in a random order (one-sided).
    Means over the cells that all of them have; items are left out that share none.

    ``of`` is image encoders, gene encoders, levels, or cells; ``test`` says how ``p`` was found, or
    why not.
    """
    table = []
    for group, members in groups(rows, "source", "panel", "direction", "recall_at").items():
        both = [row for row in members if row["difference"] is not None]
        for items, name in (
            ("image encoders", "image_encoder"),
            ("gene encoders", "gene_encoder"),
            ("levels", "level"),
        ):
            if len({row[name] for row in members}) > 1:
                table.append(_agreement(group, items, *_margins(both, name)))
        means = ("published_mean", "ours_mean")
        table.append(_agreement(group, "cells", *([row[n] for row in both] for n in means)))
    return table


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
        [statistics.fmean(rows_of[c][mean] for c in sorted(common)) for rows_of in values.values()]
        for mean in ("published_mean", "ours_mean")
    )


def _agreement(group: tuple, items: str, published: Sequence, ours: Sequence) -> dict:
    value, p, test = spearman(published, ours)
    row = dict(zip(("source", "panel", "direction", "recall_at"), group, strict=True))
    return row | {"of": items, "items": len(ours), "spearman": value, "p": p, "test": test}


def spearman(first: Sequence[float], second: Sequence[float]) -> tuple:
    """Spearman's rank correlation, its one-sided p, and how that was found.

    Every order is gone through up to ``EXACT_UP_TO`` items; beyond, ``SHUFFLES`` random ones. With
    fewer than ``LEAST_ITEMS`` even perfect agreement says little, and there is neither. Values that
    agree to nine digits are ties.
    """
    if len(first) < LEAST_ITEMS:
        return None, None, "too few"
    rng = np.random.default_rng(0)

    def deal(values):
        return rng.permuted(np.tile(values, (SHUFFLES, 1)), axis=1)

    rounded = (np.round(values, 9) for values in (first, second))
    value, null, is_exact = permuted(*rounded, EXACT_UP_TO, deal)
    if value is None:
        return None, None, "all equal"
    above = null >= value - 1e-9
    if is_exact:
        return value, float(np.mean(above)), "exact"
    return value, (1 + int(np.sum(above))) / (1 + SHUFFLES), f"{SHUFFLES} random orders"
