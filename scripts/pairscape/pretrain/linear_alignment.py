"""A closed-form pair: image features and expression brought together by two matrices.

The control that a trained pair must beat to be worth its training. ``cca`` is regularised canonical
correlation analysis (Hotelling 1936; Vinod 1976 for the penalty), each canonical direction weighted
by the square root of its correlation, so that the inner product of two embeddings is the best
approximation of its rank to the whitened cross-covariance. ``ridge`` predicts expression from
features and keeps the leading axes of the prediction (reduced-rank ridge regression, Mukherjee and
Zhu 2011).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError, missing_file, one_of
from pairscape.core.moments import Moments

log = logging.getLogger("pairscape")

METHODS = ("cca", "ridge")
ARRAYS = ("image_mean", "image_map", "gene_mean", "gene_map")
FORMAT = 1
_BLOCK_ROWS = 1 << 13
_GALLERY = 1000  # pairs that the penalty is chosen in, at most, per donor
_FOLDS = 5


@dataclass(frozen=True)
class Alignment:
    """Two affine maps to a shared space, and how they came about.

    Attributes
    ----------
    image_mean, image_map
        (features,) and (features, width) float64.
    gene_mean, gene_map
        (genes,) and (genes, width) float64; of log1p of counts brought to ``library_size``.
    library_size
        Median sum of the train split; NaN where the gene side is no counts and is taken as it is.
    about
        ``method``, ``penalty``, ``scores`` (per penalty), ``chosen_on``, ``rows``, ``strengths``.
    """

    image_mean: np.ndarray
    image_map: np.ndarray
    gene_mean: np.ndarray
    gene_map: np.ndarray
    library_size: float
    about: dict

    def embed_images(self, features: np.ndarray) -> np.ndarray:
        """(N, features) -> (N, width) float32, rows of unit length."""
        return _embed(np.asarray(features, np.float64), self.image_mean, self.image_map)

    def embed_genes(self, counts: np.ndarray) -> np.ndarray:
        """(N, genes) raw counts -> (N, width) float32, rows of unit length."""
        return _embed(prepare(counts, self.library_size), self.gene_mean, self.gene_map)

    def save(self, path) -> None:
        """Write it as one npz file, whatever the name."""
        with files.atomic_path(path) as temporary, open(temporary, "wb") as handle:
            arrays = {name: getattr(self, name) for name in (*ARRAYS, "library_size")}
            about = json.dumps({**self.about, "format": FORMAT}, sort_keys=True)
            np.savez(handle, **arrays, about=about)


def load(path) -> Alignment:
    """Read what ``Alignment.save`` wrote."""
    again = "delete it and pretrain again"
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            library_size = float(stored["library_size"])
            arrays = {name: stored[name] for name in ARRAYS}
    except FileNotFoundError:
        raise missing_file(path, "pretrain first or correct the path") from None
    except Exception as error:  # a damaged zip breaks its reader in any way
        raise InputError(path, "linear alignment", str(error), again) from None
    if about.pop("format", None) != FORMAT:
        raise InputError(path, "format", "another version", again)
    for side in ("image", "gene"):
        mean, linear = arrays[f"{side}_mean"], arrays[f"{side}_map"]
        if linear.ndim != 2 or mean.shape != linear.shape[:1] or not np.isfinite(linear).all():
            raise InputError(path, f"{side}_map", f"shape {linear.shape}", again)
    return Alignment(**arrays, library_size=library_size, about=about)


def prepare(counts: np.ndarray, library_size: float) -> np.ndarray:
    """log1p of counts whose rows are brought to a sum; a spot without counts stays all zero.

    What is no counts has no library size (NaN) and stays as it is.
    """
    counts = np.asarray(counts, np.float64)
    if np.isnan(library_size):
        return counts
    return np.log1p(counts * (library_size / np.maximum(counts.sum(1, keepdims=True), 1)))


def identity(width: int) -> Alignment:
    """The alignment of two sides that are in one space: both stay as they are, of unit length."""
    mean, linear = np.zeros(width), np.eye(width)
    about = {"method": "given as pairs", "penalty": None, "penalties": [], "scores": []}
    return Alignment(mean, linear, mean, linear, float("nan"), about)


def fit(
    features: np.ndarray, counts, rows: Mapping[str, np.ndarray], train_facts, options: Mapping
) -> Alignment:
    """Fit the two maps to the train split.

    One pass over the train rows gathers means and covariances, in float64 and in memory that grows
    with the widths and not with the rows. The penalty is the one of ``options`` with the highest
    mean reciprocal rank (both directions, mean over donors): on the val split; without one, on train
    donors left out in up to 5 folds; with neither, it is the middle one. Test rows are never read.

    Parameters
    ----------
    features, counts
        (N, D) image features, may be mapped from disk; (N, G) raw counts, or ``Counts``.
    rows
        Row numbers of ``train`` and, where there are any, of ``val``.
    options
        ``embedding_dim``, the width unless the ranks allow less; ``method`` (``cca`` or ``ridge``);
        ``penalties``, relative to the mean variance of the standardised inputs; ``donors``: one per row
        of the dataset, or ``None``; ``seed``, of the galleries.
    """
    method, penalties = options["method"], [float(value) for value in options["penalties"]]
    one_of(method, METHODS, "linear_alignment", "method")
    if not penalties or min(penalties) <= 0:
        raise InputError("linear_alignment", "penalties", str(penalties), "give numbers above zero")
    donors = options.get("donors")
    donors = np.zeros(len(features), int) if donors is None else np.asarray(donors)
    pairs = _Pairs(features, counts, donors, options.get("seed", 0))
    train, val = np.sort(rows["train"]), np.sort(rows.get("val", np.arange(0)))
    solve = partial(
        _solve,
        method=method,
        width=options["embedding_dim"],
        library_size=float(train_facts.library_size),
    )
    folds = [train]
    train_donors = np.unique(donors[train])
    if not len(val) and len(train_donors) > 1 and len(penalties) > 1:
        groups = np.array_split(train_donors, min(_FOLDS, len(train_donors)))
        folds = [train[np.isin(donors[train], group)] for group in groups]
    parts = pairs.moments(train, folds, float(train_facts.library_size))
    whole = sum(parts[1:], parts[0])
    ranks: list[list[float]] = []
    chosen_on = "nothing: the middle one was taken"
    if len(penalties) > 1 and len(val):
        chosen_on = "val"
        ranks = pairs.ranks(solve(whole, penalties=penalties), val)
    elif len(folds) > 1:
        chosen_on = f"train donors, {len(folds)} folds"
        for part, fold in zip(parts, folds, strict=True):
            ranks += pairs.ranks(solve(whole - part, penalties=penalties), fold)
    scores, penalty = [], sorted(penalties)[len(penalties) // 2]
    if ranks:
        scores = [round(float(score), 6) for score in np.mean(ranks, axis=0)]
        penalty = penalties[int(np.argmax(scores))]
        if penalty in (min(penalties), max(penalties)):
            log.warning("the best penalty, %g, is at the end of the list %s", penalty, penalties)
    (alignment,) = solve(whole, penalties=[penalty])
    log.info("linear alignment by %s: penalty %g, chosen on %s", method, penalty, chosen_on)
    alignment.about.update(penalties=penalties, scores=scores, chosen_on=chosen_on, rows=len(train))
    return alignment


@dataclass(frozen=True)
class _Pairs:
    """The dataset: features (N, D), counts (N, G), donors (N,), and the seed of the galleries."""

    features: np.ndarray
    counts: np.ndarray
    donors: np.ndarray
    seed: int

    def moments(self, train, folds, library_size: float) -> list[Moments]:
        """The moments of each fold of the train rows."""
        # The same shift for all folds, so that their sums add up; any point near the data will do.
        first = train[: 1 << 10]
        shifts = (
            np.asarray(self.features[first], np.float64).mean(0),
            prepare(self.counts[first], library_size).mean(0),
        )
        inputs = self.features, self.counts
        return [_gather(*inputs, fold, library_size, shifts) for fold in folds]

    def ranks(self, fitted: Sequence[Alignment], rows: np.ndarray) -> list[list[float]]:
        """The reciprocal ranks of each donor (rows), per alignment (columns)."""
        ranks = []
        for donor in np.unique(self.donors[rows]):
            mine = rows[self.donors[rows] == donor]
            if len(mine) > _GALLERY:
                generator = np.random.default_rng([self.seed, len(ranks)])
                mine = np.sort(generator.choice(mine, _GALLERY, replace=False))
            if len(mine) > 1:
                images, genes = np.asarray(self.features[mine]), self.counts[mine]
                ranks.append(
                    [
                        reciprocal_rank(one.embed_images(images), one.embed_genes(genes))
                        for one in fitted
                    ]
                )
        return ranks


def reciprocal_rank(images: np.ndarray, genes: np.ndarray) -> float:
    """Mean reciprocal rank of each pair's other half among all, over both directions.

    An equal similarity counts as half a place.
    """
    similarity = images.astype(np.float64) @ genes.T.astype(np.float64)
    matched, means = similarity.diagonal()[:, None], []
    for matrix in (similarity, similarity.T):
        higher = (matrix > matched).sum(1)
        equal = (matrix == matched).sum(1) - 1
        means.append(np.mean(1 / (1 + higher + equal / 2)))
    return float(np.mean(means))


def _gather(features, counts, rows, library_size, shifts) -> Moments:
    d, g = len(shifts[0]), len(shifts[1])
    sums = tuple(np.zeros(shape) for shape in (d, g, (d, d), (d, g), (g, g)))
    for at in range(0, len(rows), _BLOCK_ROWS):
        block = rows[at : at + _BLOCK_ROWS]
        x = np.asarray(features[block], np.float64) - shifts[0]
        y = prepare(counts[block], library_size) - shifts[1]
        parts = (x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.T @ y)
        for total, value in zip(sums, parts, strict=True):
            total += value
    return Moments(shifts, len(rows), sums)


def _covariances(moments: Moments) -> tuple[np.ndarray, ...]:
    """Means of x and y, and the covariances of x, of x with y, and of y."""
    x, y, xx, xy, yy = moments.sums
    n = moments.rows
    mx, my = x / n, y / n
    return (
        mx + moments.shifts[0],
        my + moments.shifts[1],
        xx / n - np.outer(mx, mx),
        xy / n - np.outer(mx, my),
        yy / n - np.outer(my, my),
    )


def _solve(
    moments: Moments, method: str, *, penalties: Sequence[float], width: int, library_size: float
) -> list[Alignment]:
    """One alignment per penalty, from the same decompositions."""
    x_mean, y_mean, xx, xy, yy = _covariances(moments)
    x_scale, y_scale = _scales(xx), _scales(yy)
    xx *= np.outer(x_scale, x_scale)
    xy *= np.outer(x_scale, y_scale)
    yy *= np.outer(y_scale, y_scale)
    x_values, x_axes = _axes(xx, moments.rows, "image features")
    y_values, y_axes = _axes(yy, moments.rows, "expression")
    x_unit, y_unit = x_values.mean(), y_values.mean()
    crossed = x_axes.T @ xy @ y_axes
    solved = []
    for penalty in penalties:
        x_root = np.sqrt(x_values + penalty * x_unit)
        y_root = np.sqrt(y_values + penalty * y_unit) if method == "cca" else np.ones(len(y_values))
        left, strengths, right = np.linalg.svd(
            crossed / x_root[:, None] / y_root, full_matrices=False
        )
        keep = slice(0, min(width, len(strengths)))
        left, strengths, right = left[:, keep], strengths[keep], right[keep].T
        # cca: x and y meet halfway, weighted by the root of the correlation. ridge: the left map
        # is the prediction of expression, the right one the axes that it is predicted along.
        x_weight, y_weight = (0.5, 0.5) if method == "cca" else (1, 0)
        image_map = x_axes @ (left * strengths**x_weight / x_root[:, None])
        gene_map = y_axes @ (right * strengths**y_weight / y_root[:, None])
        about = {
            "method": method,
            "penalty": penalty,
            "strengths": [round(float(s), 6) for s in strengths],
        }
        image_map, gene_map = x_scale[:, None] * image_map, y_scale[:, None] * gene_map
        solved.append(Alignment(x_mean, image_map, y_mean, gene_map, library_size, about))
    return solved


def _scales(covariance: np.ndarray) -> np.ndarray:
    """One over each column's standard deviation, zero for constant columns.

    A deviation below a tenth of the median one counts as that: a gene seen in a few spots would
    otherwise outweigh all others where it is seen.
    """
    deviation = np.sqrt(np.maximum(covariance.diagonal(), 0))
    varies = deviation > 1e-9
    if not varies.any():
        return np.zeros_like(deviation)
    least = 0.1 * np.median(deviation[varies])
    return np.where(varies, 1 / np.maximum(deviation, least), 0)


def _axes(covariance: np.ndarray, count: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and axes along which there is any variance."""
    values, axes = np.linalg.eigh(covariance)
    keep = values > max(values[-1], 0) * 1e-10
    if count < 2 or not keep.any():
        remedy = "put samples with more pairs into train, or look at the encoder"
        raise InputError("split train", what, f"no variance over {count} pairs", remedy)
    return values[keep], axes[:, keep]


def _embed(values: np.ndarray, mean: np.ndarray, linear: np.ndarray) -> np.ndarray:
    embedded = (values - mean) @ linear
    norms = np.linalg.norm(embedded, axis=1, keepdims=True)
    embedded = np.divide(embedded, norms, out=np.zeros_like(embedded), where=norms > 0)
    embedded[norms[:, 0] == 0, 0] = 1  # exactly the mean: no direction, so any
    return embedded.astype(np.float32)
