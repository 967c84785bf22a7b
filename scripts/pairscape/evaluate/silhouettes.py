"""Silhouette widths and iLISI, blocked so that no square matrix of distances is held."""

import math

import numpy as np

from pairscape.evaluate.kernels import compiled

BETWEEN = ("nearest", "mean_other", "furthest")
_BLOCK = 1024  # spots on a side of a block of distances: 4 MB
_FLUSH = 64  # rows whose distances are added in single precision


def silhouette_widths(
    points: np.ndarray, codes: np.ndarray, metric: str = "euclidean", between: str = "nearest"
) -> np.ndarray:
    """Silhouette of each spot (N,), float64; 0 where it is alone in its cluster or all is equal.

    ``points`` (N, D) are finite; ``codes`` (N,) the cluster of each, 0 to clusters - 1, none empty;
    ``metric`` and ``between`` as for ``score_labels``.
    """
    sums_by = {"euclidean": _euclidean_sums, "cosine": _cosine_sums}
    for name, value, allowed in (("metric", metric, sums_by), ("between", between, BETWEEN)):
        if value not in allowed:
            raise ValueError(f"{name}: {value!r}, allowed: {', '.join(allowed)}")
    sizes = np.bincount(codes)
    sums = sums_by[metric](points, codes, sizes)
    rows = np.arange(len(codes))
    within = sums[rows, codes]
    if between == "mean_other":
        outer = (sums.sum(axis=1) - within) / (len(codes) - sizes[codes])
    else:
        means = sums / sizes
        means[rows, codes] = np.inf if between == "nearest" else -np.inf
        outer = means.min(axis=1) if between == "nearest" else means.max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = within / (sizes[codes] - 1)
        widths = (outer - inner) / np.maximum(inner, outer)
    return np.nan_to_num(widths)


def _cosine_sums(points: np.ndarray, codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sum of 1 - cosine from each spot to the spots of each cluster, (N, clusters).

    It is linear in the cluster's sum of directions, so no pair has to be looked at.
    """
    points = points.astype(np.float64)
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError("a spot at the origin has no direction")
    points /= lengths
    totals = np.zeros((len(sizes), points.shape[1]))
    np.add.at(totals, codes, points)
    return np.maximum(sizes - points @ totals.T, 0.0)


def _euclidean_sums(points: np.ndarray, codes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sum of the Euclidean distances from each spot to the spots of each cluster, (N, clusters).

    Half the blocks of the distance matrix are made, one at a time, and read once for their rows and
    their columns. Each lies within one pair of clusters and is taken from the middle between their
    centres: ``|x|² + |y|² - 2xy`` loses digits where the points are far from the origin.
    """
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(sizes)
    centres = np.stack(
        [points[codes == c].mean(axis=0, dtype=np.float64) for c in range(len(sizes))]
    )
    blocks = [
        (cluster, order[start : min(start + _BLOCK, end)])
        for cluster, end in enumerate(ends)
        for start in range(end - sizes[cluster], end, _BLOCK)
    ]
    sums = np.zeros((len(codes), len(sizes)))
    for number, (first, rows) in enumerate(blocks):
        for second, columns in blocks[number:]:
            middle = (centres[first] + centres[second]) / 2
            left = (points[rows] - middle).astype(np.float32)
            right = left if columns is rows else (points[columns] - middle).astype(np.float32)
            squares = _squares(left), _squares(right)
            totals = np.zeros(len(rows)), np.zeros(len(columns))
            _add_distances(left @ right.T, *squares, columns is rows, *totals)
            sums[rows, second] += totals[0]
            if columns is not rows:
                sums[columns, first] += totals[1]
    return sums


def _squares(points: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", points, points, dtype=np.float64).astype(np.float32)


def finite(points: np.ndarray) -> np.ndarray:
    """The points, float64 or made float32; ``ValueError`` where a number isn't finite."""
    points = np.asarray(points)
    if points.dtype != np.float64:
        points = points.astype(np.float32, copy=False)
    if not np.isfinite(points).all():
        raise ValueError("points that aren't finite have no distance")
    return points


def ilisi(
    points: np.ndarray, batch: np.ndarray, neighbours: int = 90, queries: int = 5000, seed: int = 0
) -> float | None:
    """``scib_metrics.ilisi_knn``, scaled, with exact neighbours, over at most ``queries`` spots.

    ``points`` (N, D), ``batch`` (N,). A neighbourhood of ``neighbours`` holds the spot itself; the
    perplexity is a third of it. The median is that of ``queries`` spots drawn at random, or of all.

    0: around each spot one batch; 1: all alike; None where there is one batch only, or no more spots
    than ``neighbours``. Spots whose neighbourhood has no width are left out.
    """
    from sklearn.neighbors import NearestNeighbors

    points = finite(points)
    names, codes = np.unique(batch, return_inverse=True)
    if len(names) < 2 or len(points) <= neighbours:
        return None
    chosen = np.arange(len(points))
    if len(points) > queries:
        chosen = np.sort(np.random.default_rng([seed, 1]).choice(len(points), queries, False))
    finder = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(points)
    distances, indices = finder.kneighbors(points[chosen])
    simpson = simpson_index(
        distances, codes.reshape(-1)[indices], indices != chosen[:, None], len(names)
    )
    lisi = np.median(1 / simpson[np.isfinite(simpson)])
    return float((lisi - 1) / (len(names) - 1))


def simpson_index(
    distances: np.ndarray, batch: np.ndarray, others: np.ndarray, batches: int
) -> np.ndarray:
    """Simpson's index of the batches around each spot (Q,), weighed by a Gaussian of fixed perplexity.

    ``distances`` and ``batch`` (Q, k) are those of the neighbours; ``others`` (Q, k) is False where
    the neighbour is the spot itself. NaN where all neighbours are too far away to have a weight.
    """
    entropy = math.log(distances.shape[1] // 3)
    index = np.empty(len(distances))
    _simpson(distances.astype(np.float64), batch, others, batches, entropy, index)
    return index


@compiled(fastmath=True)
def _add_distances(product, of_rows, of_columns, diagonal, row_sums, column_sums):
    height, width = product.shape
    columns = np.zeros(width, np.float32)
    for i in range(height):
        norm = of_rows[i]
        total = np.float32(0)
        for j in range(width):
            squared = norm + of_columns[j] - np.float32(2) * product[i, j]
            distance = np.sqrt(max(squared, np.float32(0)))
            total += distance
            columns[j] += distance
        if diagonal:  # a spot has no distance from itself; rounding would give it one
            squared = norm + of_columns[i] - np.float32(2) * product[i, i]
            total -= np.sqrt(max(squared, np.float32(0)))
        row_sums[i] += total
        if i % _FLUSH == _FLUSH - 1 or i == height - 1:
            for j in range(width):
                column_sums[j] += columns[j]
                columns[j] = np.float32(0)


@compiled()
def _simpson(distances, batch, others, batches, entropy, index):
    # The search is that of scib-metrics: Gaussian in the distance, at most 50 steps.
    count = distances.shape[1]
    weights = np.zeros(count)
    shares = np.zeros(batches)
    for i in range(distances.shape[0]):
        beta, low, high = 1.0, -np.inf, np.inf
        for step in range(51):
            total, moment = 0.0, 0.0
            for j in range(count):
                weights[j] = math.exp(-distances[i, j] * beta) if others[i, j] else 0.0
                total += weights[j]
                moment += distances[i, j] * weights[j]
            reached = 0.0 if total == 0 else math.log(total) + beta * moment / total
            excess = reached - entropy
            if abs(excess) < 1e-5 or step == 50:
                break
            if excess > 0:
                low = beta
                beta = beta * 2 if high == np.inf else (beta + high) / 2
            else:
                high = beta
                beta = beta / 2 if low == -np.inf else (beta + low) / 2
        if total == 0:
            index[i] = np.nan
            continue
        shares[:] = 0
        for j in range(count):
            shares[batch[i, j]] += weights[j] / total
        index[i] = (shares * shares).sum()
