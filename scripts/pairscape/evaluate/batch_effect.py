"""Batch effects: how well the spots of different batches mix within each cluster.

Silhouette-batch is the score of scib (Luecken et al., "Benchmarking atlas-level data integration in
single-cell genomics", Nature Methods 2022): within each label the silhouette of the batches, 1 - |s|
per spot, the mean per label, and the mean over labels. 1: mixed. Labels of one batch, or with as many
batches as spots, are skipped. It is computed here in blocks, equal to
``scib_metrics.silhouette_batch`` (not to that package's Benchmarker, which takes BRAS since 0.5.6).

BRAS (Rautenstrauch and Ohler, 2025) is the same with the cosine distance and, in place of the
nearest other batch, the mean over all spots of other batches. iLISI (Korsunsky et al., Nature Methods
2019) needs no labels: the median over spots of the effective number of batches around them, scaled so
that 0 is one batch and 1 all alike.

Conventions. A spot that is as far from its own batch as from others, such as any of equal spots, has
the silhouette 0 and so the score 1; so has a spot that is alone in its batch. A spot that stands in two
splits counts in both. Spots in no split, and spots without counts, are left out.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pairscape.core.tsv import Table, numbers, text
from pairscape.evaluate.clustering import BatchEffectOptions, Space, cluster
from pairscape.evaluate.silhouettes import finite, ilisi, silhouette_widths

BATCHES = ("split", "donor")
CONFOUNDERS = ("organ", "disease_state")
METRICS = {  # by the distance between spots, and to which other batch
    "silhouette_batch": ("euclidean", "nearest"),
    "bras": ("cosine", "mean_other"),
}
SCORES = Table(
    "batch_effect/<dataset>.tsv",
    "score_batch_effect",
    (
        *text(dataset="the dataset", metric="silhouette_batch, bras, ilisi or cramers_v"),
        *text(batch="what the batches are: split or donor"),
        *text(label="what the labels are: leiden or given; for cramers_v organ or disease_state"),
        *numbers(resolution="of the Leiden clusters"),
        *text(group="all, or one label"),
        *numbers(value="the score, 0 to 1; empty where there is none"),
        *text(note="why there is no score, or what has to be said with it"),
        *numbers(
            spots="spots that are scored", batches="batches of these", labels="labels of these"
        ),
        *numbers(
            labels_skipped="labels that count for nothing", spots_skipped="their share of spots"
        ),
        *text(representation="how the points were made of the counts"),
        *text(clustering="how the labels were made of the points"),
        *text(distance="between spots, and to which other batch"),
        *text(
            versions="of the packages that the scores depend on", options_sha256="of the options"
        ),
    ),
)
_PACKAGES = ("scanpy", "scikit-learn", "umap-learn", "igraph", "numpy")


class LabelScore(NamedTuple):
    """A label's score: the mean of 1 - abs(silhouette of its batches), None where it is skipped."""

    label: str
    value: float | None
    spots: int
    batches: int


def score_labels(
    points: np.ndarray,
    labels: np.ndarray,
    batch: np.ndarray,
    metric: str = "euclidean",
    between: str = "nearest",
) -> list[LabelScore]:
    """Score how the batches mix within each label; points (N, D), labels and batch (N,).

    ``metric`` is ``euclidean`` or ``cosine``; ``between`` the ``nearest`` or the ``furthest`` of the
    other batches, or the ``mean_other`` of all their spots. ``ValueError``: a point isn't finite, or
    has no direction where the distance is the cosine.
    """
    points, labels, batch = finite(points), np.asarray(labels), np.asarray(batch)
    scores = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        names, codes = np.unique(batch[rows], return_inverse=True)
        value = None
        if 1 < len(names) < len(rows):
            widths = silhouette_widths(points[rows], codes.reshape(-1), metric, between)
            value = float((1 - np.abs(widths)).mean())
        scores.append(LabelScore(str(label), value, len(rows), len(names)))
    return scores


def mean_over_labels(scores: Sequence[LabelScore]) -> float | None:
    """The mean over the labels that have a score, each weighing the same; None where none has."""
    values = [score.value for score in scores if score.value is not None]
    return float(np.mean(values)) if values else None


def cramers_v(first: Sequence, second: Sequence, weights: Sequence | None = None) -> float | None:
    """Cramér's V of two groupings (no bias correction), 0 to 1; None where one of them is constant.

    ``weights`` are the number of spots that each entry stands for.
    """
    rows, row = np.unique(np.asarray(first, str), return_inverse=True)
    columns, column = np.unique(np.asarray(second, str), return_inverse=True)
    counts = np.zeros((len(rows), len(columns)))
    np.add.at(counts, (row, column), 1.0 if weights is None else np.asarray(weights, float))
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(counts.shape) < 2:
        return None
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return float(min(1.0, math.sqrt(chi2 / counts.sum() / (min(counts.shape) - 1))))


def score_dataset(
    space: Space,
    batches: Mapping[str, tuple[np.ndarray, np.ndarray]],
    options: BatchEffectOptions,
    given: np.ndarray | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[dict]:
    """Score the batches of a dataset in every way.

    ``batches`` are by name the spots (rows of ``space``, a spot may come twice) and the batch of
    each; ``given`` (N,) labels to score beside the clusters, such as known cell types; ``notes``, by
    the batches' name, what has to be said with each of their scores.

    Rows with the columns from ``metric`` to ``distance``: those of ``group`` ``all`` are the scores;
    at the main resolution each label has a row as well.
    """
    main, notes = options.resolution, notes or {}
    labelled = [
        ("leiden", resolution, cluster(space, resolution, options.seed), space.clustering)
        for resolution in sorted({main, *options.resolutions})
    ]
    if given is not None:
        labelled.append(("given", None, np.asarray(given, str), "labels as given"))
    rows = []
    for batch, (spots, batch_of) in batches.items():
        points, note = space.points[spots], notes.get(batch, "")
        head = {
            "batch": batch,
            "spots": len(spots),
            "batches": len(np.unique(batch_of)),
            "representation": space.representation,
        }
        for label, resolution, labels, clustering in labelled:
            row = {**head, "label": label, "resolution": resolution, "clustering": clustering}
            each = label == "given" or resolution == main
            rows += _score_mixing(points, labels[spots], batch_of, row, note, each=each)
        rows.append({**head, **_score_ilisi(points, batch_of, options, note)})
    return rows


def _score_mixing(points, labels, batch_of, head: Mapping, note: str, *, each: bool) -> list[dict]:
    """Every metric of one labelling and, if wanted, of ``each`` label."""
    rows = []
    for metric, (distance, between) in METRICS.items():
        words = f"{distance}, {between} other batch"
        if between == "mean_other":
            words = f"{distance}, mean of all spots of other batches"
        row = {**head, "metric": metric, "distance": words, "group": "all"}
        try:
            scores = score_labels(points, labels, batch_of, distance, between)
        except ValueError as error:  # no direction, for the cosine
            rows.append({**row, "value": None, "note": str(error)})
            continue
        skipped = [score for score in scores if score.value is None]
        value = mean_over_labels(scores)
        why = "one batch only" if head["batches"] < 2 else "no label holds spots of two batches"
        counted = {
            "labels": len(scores),
            "labels_skipped": len(skipped),
            "spots_skipped": sum(s.spots for s in skipped) / sum(s.spots for s in scores),
        }
        rows.append({**row, **_value(value, note, why), **counted})
        for score in scores if each else ():
            why = "one batch only" if score.batches == 1 else "no batch has two spots"
            of_label = _value(score.value, "", f"skipped: {why}")
            of_label |= {"group": score.label, "spots": score.spots, "batches": score.batches}
            rows.append({**row, **of_label})
    return rows


def _value(value: float | None, note: str, why: str) -> dict:
    """A score and its note, with why there is none."""
    return {"value": value, "note": "; ".join(filter(None, (note, why if value is None else "")))}


def _score_ilisi(points, batch_of, options: BatchEffectOptions, note: str) -> dict:
    neighbours, queries = options.ilisi_neighbours, options.ilisi_queries
    value = ilisi(points, batch_of, neighbours, queries, options.seed)
    why = f"no more than {neighbours} spots" if len(points) <= neighbours else "one batch only"
    return {
        "metric": "ilisi",
        "group": "all",
        **_value(value, note, why),
        "distance": f"euclidean, {neighbours} exact neighbours of {min(queries, len(points))} spots",
    }


def score_confounding(splits: Sequence[Mapping], spots: Mapping[str, int]) -> list[dict]:
    """How far the split goes with the organ and the disease state: Cramér's V over spots.

    ``splits`` are rows of splits.tsv, ``spots`` the scored spots by sample.
    """
    rows = []
    weights = [spots.get(row["sample"], 0) for row in splits]
    scored = [row for row, weight in zip(splits, weights, strict=True) if weight]
    for fact in CONFOUNDERS:
        value = cramers_v([r["split"] for r in splits], [r[fact] for r in splits], weights)
        labels = len({row[fact] for row in scored})
        why = f"one {fact.replace('_', ' ')} only" if labels < 2 else "one split only"
        rows.append(
            {
                "metric": "cramers_v",
                "batch": "split",
                "label": fact,
                "group": "all",
                **_value(value, "", why),
                "spots": sum(weights),
                "batches": len({row["split"] for row in scored}),
                "labels": labels,
                "distance": "Cramér's V over spots, no bias correction",
            }
        )
    return rows


def versions() -> str:
    """The packages that the scores depend on, with their versions."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


read_scores, write_scores = SCORES.read, partial(SCORES.write, digits=8)
