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
from typing import NamedTuple

import numpy as np

from pairscape.core import tsv
from pairscape.core.options import resolve_part
from pairscape.evaluate.silhouettes import finite, ilisi, silhouette_widths

COLUMNS = (
    "dataset",
    "metric",
    "batch",
    "label",
    "resolution",
    "group",
    "value",
    "note",
    "spots",
    "batches",
    "labels",
    "labels_skipped",
    "spots_skipped",
    "representation",
    "clustering",
    "distance",
    "versions",
    "options_sha256",
)
NUMBERS = (
    "resolution",
    "value",
    "spots",
    "batches",
    "labels",
    "labels_skipped",
    "spots_skipped",
)
BATCHES = ("split", "donor")
CONFOUNDERS = ("organ", "disease_state")
METRICS = {  # by the distance between spots, and to which other batch
    "silhouette_batch": ("euclidean", "nearest"),
    "bras": ("cosine", "mean_other"),
}
_PACKAGES = ("scanpy", "scikit-learn", "umap-learn", "igraph", "numpy")


# -------------------------------------------------------------------------------------- silhouettes


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
    """Score how the batches mix within each label.

    Parameters
    ----------
    points
        (N, D).
    labels, batch
        (N,) each.
    metric
        ``euclidean`` or ``cosine``.
    between
        Of the other batches, the ``nearest``, the ``furthest``, or the ``mean_other`` of all spots.

    Raises
    ------
    ValueError
        A point isn't finite, or has no direction where the distance is the cosine.
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


def silhouette_batch(points, labels, batch, metric="euclidean", between="nearest") -> float | None:
    """``scib_metrics.silhouette_batch``, in blocks; None where every label is skipped."""
    return mean_over_labels(score_labels(points, labels, batch, metric, between))


def bras(points, labels, batch, between="mean_other") -> float | None:
    """``scib_metrics.metrics.bras``; None where every label is skipped."""
    return silhouette_batch(points, labels, batch, "cosine", between)


# -------------------------------------------------------------------------------------------- iLISI


# --------------------------------------------------------------------------------------- confounding


def cramers_v(first: Sequence, second: Sequence, weights: Sequence | None = None) -> float | None:
    """Cramér's V of two groupings (no bias correction), 0 to 1; None where one of them is constant.

    ``weights`` are the number of spots that each entry stands for.
    """
    rows, row = np.unique(np.asarray(first, str), return_inverse=True)
    columns, column = np.unique(np.asarray(second, str), return_inverse=True)
    if min(len(rows), len(columns)) < 2:
        return None
    counts = np.zeros((len(rows), len(columns)))
    np.add.at(counts, (row, column), 1.0 if weights is None else np.asarray(weights, float))
    counts = counts[counts.sum(1) > 0][:, counts.sum(0) > 0]
    if min(counts.shape) < 2:
        return None
    expected = counts.sum(1, keepdims=True) * counts.sum(0) / counts.sum()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    return float(min(1.0, math.sqrt(chi2 / counts.sum() / (min(counts.shape) - 1))))


# ---------------------------------------------------------------------------------------- clustering


class Space(NamedTuple):
    """Spots as points: ``points`` (N, D) float32, ``graph`` (N, N) of their neighbours, in words."""

    points: np.ndarray
    graph: object
    representation: str
    clustering: str


def embed_counts(blocks, genes: int, options: Mapping) -> Space:
    """Standard scanpy preprocessing: counts per 10,000, log1p, variable genes, PCA, neighbours.

    Parameters
    ----------
    blocks
        The counts in blocks of (n, genes), every spot with a count.
    genes
        Their number.
    options
        As ``check_options`` returns them.
    """
    import scanpy
    from anndata import AnnData
    from scipy import sparse

    parts = [sparse.csr_matrix(block.astype(np.float32)) for block in blocks]
    table = AnnData(sparse.vstack(parts, format="csr"))
    del parts
    said = [f"normalize_total {options['target_sum']:g}", "log1p"]
    scanpy.pp.normalize_total(table, target_sum=options["target_sum"])
    scanpy.pp.log1p(table)
    if genes > options["variable_genes"]:
        scanpy.pp.highly_variable_genes(
            table, n_top_genes=options["variable_genes"], flavor="seurat"
        )
        table = table[:, table.var["highly_variable"]].copy()
        said.append(f"{table.n_vars} of {genes} genes (highly variable, flavor seurat)")
    else:
        said.append(f"all {genes} genes")
    components = max(1, min(options["components"], table.n_vars - 1, table.n_obs - 1))
    # The covariance of single-precision counts would lose the last components.
    table.X = table.X.astype(np.float64)
    scanpy.pp.pca(table, n_comps=components, svd_solver="covariance_eigh", dtype="float32")
    said += ["not scaled", f"PCA {components} (covariance_eigh)"]
    neighbours = min(options["neighbours"], table.n_obs - 1)
    # scikit-learn's are exact, and the same whatever the number of threads.
    scanpy.pp.neighbors(
        table,
        n_neighbors=neighbours,
        use_rep="X_pca",
        transformer="sklearn",
        random_state=options["seed"],
    )
    clustering = (
        f"{neighbours} exact neighbours in X_pca, umap weights, Leiden igraph, n_iterations 2, "
        f"seed {options['seed']}"
    )
    graph = table.obsp["connectivities"]
    return Space(np.asarray(table.obsm["X_pca"]), graph, ", ".join(said), clustering)


def cluster(space: Space, resolution: float, seed: int) -> np.ndarray:
    """Leiden clusters (N,) of the spots, named 0, 1, ... from the largest down."""
    import scanpy
    from anndata import AnnData

    table = AnnData(obs={"spot": np.arange(len(space.points)).astype(str)})
    scanpy.tl.leiden(
        table,
        resolution=resolution,
        adjacency=space.graph,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )
    return table.obs["leiden"].to_numpy(str)


# ---------------------------------------------------------------------------------------- one dataset


def score_dataset(
    space: Space,
    batches: Mapping[str, tuple[np.ndarray, np.ndarray]],
    options: Mapping,
    given: np.ndarray | None = None,
    notes: Mapping[str, str] | None = None,
) -> list[dict]:
    """Score the batches of a dataset in every way.

    Parameters
    ----------
    space
        From ``embed_counts``.
    batches
        By name: the spots (rows of ``space``, a spot may come twice) and the batch of each.
    options
        As ``check_options`` returns them.
    given
        (N,) labels to score beside the clusters, such as known cell types.
    notes
        By the batches' name: what has to be said with each of their scores.

    Returns
    -------
    Rows with the columns from ``metric`` to ``distance``. Those of ``group`` ``all`` are the scores;
    at the main resolution each label has a row as well.
    """
    main, seed, notes = options["resolution"], options["seed"], notes or {}
    labelled = [
        ("leiden", resolution, cluster(space, resolution, seed))
        for resolution in sorted({main, *options["resolutions"]})
    ]
    if given is not None:
        labelled.append(("given", None, np.asarray(given, str)))
    rows = []
    for batch, (spots, of) in batches.items():
        points = space.points[spots]
        head = {
            "batch": batch,
            "spots": len(spots),
            "batches": len(np.unique(of)),
            "representation": space.representation,
        }
        for label, resolution, clusters in labelled:
            clustering = space.clustering if label == "leiden" else "labels as given"
            named = {"label": label, "resolution": resolution, "clustering": clustering}
            for metric, (distance, between) in METRICS.items():
                words = f"{distance}, {between} other batch"
                if between == "mean_other":
                    words = f"{distance}, mean of all spots of other batches"
                row = {**head, **named, "metric": metric, "distance": words}
                try:
                    scores = score_labels(points, clusters[spots], of, distance, between)
                except ValueError as error:  # no direction, for the cosine
                    rows.append({**row, "group": "all", "value": None, "note": str(error)})
                    continue
                rows.append({**row, **_summary(scores, head["batches"], notes.get(batch, ""))})
                if label == "given" or resolution == main:
                    rows += [
                        {
                            **row,
                            "group": score.label,
                            "value": score.value,
                            "note": "" if score.value is not None else _why_skipped(score),
                            "spots": score.spots,
                            "batches": score.batches,
                        }
                        for score in scores
                    ]
        rows.append({**head, **_score_ilisi(points, of, options, notes.get(batch, ""))})
    return rows


def _summary(scores: Sequence[LabelScore], batches: int, note: str) -> dict:
    skipped = [score for score in scores if score.value is None]
    value = mean_over_labels(scores)
    why = "one batch only" if batches < 2 else "no label holds spots of two batches"
    return {
        "group": "all",
        "value": value,
        "note": "; ".join(filter(None, (note, why if value is None else ""))),
        "labels": len(scores),
        "labels_skipped": len(skipped),
        "spots_skipped": sum(score.spots for score in skipped) / sum(s.spots for s in scores),
    }


def _why_skipped(score: LabelScore) -> str:
    return "skipped: " + ("one batch only" if score.batches == 1 else "no batch has two spots")


def _score_ilisi(points: np.ndarray, of: np.ndarray, options: Mapping, note: str) -> dict:
    neighbours, queries = options["ilisi_neighbours"], options["ilisi_queries"]
    value = ilisi(points, of, neighbours, queries, options["seed"])
    why = f"no more than {neighbours} spots" if len(points) <= neighbours else "one batch only"
    return {
        "metric": "ilisi",
        "label": "",
        "resolution": None,
        "group": "all",
        "value": value,
        "note": "; ".join(filter(None, (note, why if value is None else ""))),
        "clustering": "",
        "distance": f"euclidean, {neighbours} exact neighbours of {min(queries, len(points))} spots",
    }


def score_confounding(splits: Sequence[Mapping], spots: Mapping[str, int]) -> list[dict]:
    """How far the split goes with the organ and the disease state: Cramér's V over spots.

    Parameters
    ----------
    splits
        Rows of splits.tsv.
    spots
        Scored spots by sample.
    """
    rows = []
    weights = [spots.get(row["sample"], 0) for row in splits]
    for fact in CONFOUNDERS:
        values = [row[fact] for row in splits]
        value = cramers_v([row["split"] for row in splits], values, weights)
        used = {v for v, weight in zip(values, weights, strict=True) if weight}
        used_splits = {r["split"] for r, weight in zip(splits, weights, strict=True) if weight}
        why = f"one {fact.replace('_', ' ')} only" if len(used) < 2 else "one split only"
        rows.append(
            {
                "metric": "cramers_v",
                "batch": "split",
                "label": fact,
                "group": "all",
                "value": value,
                "note": why if value is None else "",
                "spots": sum(weights),
                "batches": len(used_splits),
                "labels": len(used),
                "distance": "Cramér's V over spots, no bias correction",
            }
        )
    return rows


def check_options(options: Mapping) -> dict:
    """Fill in the defaults of the configuration's part ``batch_effect``."""
    return resolve_part("batch_effect", options)


def versions() -> str:
    """The packages that the scores depend on, with their versions."""
    from importlib.metadata import version

    return ", ".join(f"{name} {version(name)}" for name in _PACKAGES)


# -------------------------------------------------------------------------------------------- format


def write_scores(path, rows) -> None:
    """Write tidy scores, numbers with 8 significant digits, ``None`` as an empty field."""
    tsv.write_numbers(path, rows, COLUMNS, digits=8)


def read_scores(path) -> list[dict]:
    """Read what ``write_scores`` wrote; numbers as float, empty ones as None."""
    tsv.require_end(path, "delete it and score again")
    return tsv.read_numbers(path, COLUMNS, "delete it and score again", NUMBERS)


# ------------------------------------------------------------------------------------------- kernels
