"""Are pairs closer than chance, where neighbours are alike? A test that moves whole sections.

Null hypothesis: within a sample the image embeddings and the gene embeddings are independent of each
other, each autocorrelated over space as it may be.
"""

import math
import zlib
from collections.abc import Sequence

import numpy as np

from pairscape.evaluate.equal_vectors import distinct_rows
from pairscape.evaluate.kernels import compiled
from pairscape.evaluate.ranks import finite

_BLOCK_NUMBERS = 1 << 22  # similarities held at once (16 MB)
_MIN_OVERLAP = 0.4  # smallest share of queries that still have a partner after a shift
_REACH_PITCHES = 1.1  # a hole in the grid takes its direct neighbour
_MAX_TEST_QUERIES = 4096


def shifted_partners(
    xy_um: np.ndarray, count: int, seed: Sequence[int], keep: np.ndarray | None = None
) -> np.ndarray:
    """Rigid moves of a section over itself, as the partner each spot would then have.

    A move keeps the section whole, as one block, turned by 180 degrees or not, and carries its
    central spot to some other spot. That keeps the autocorrelation of whatever lies on the section,
    for any outline and any grid. Spots that leave the section have no partner; spots that fall into
    a hole take a neighbour of the hole. Moves that leave fewer than 0.4 of the spots over the section
    aren't used. They are drawn without replacement and the identity isn't among them.

    ``xy_um`` (N, 2) are the spots' centres, ``keep`` (n,) the spots whose partners are wanted, or
    all. Returned are (moves, n) int32, -1 where there is no partner: ``count`` moves, or fewer where
    the section has no more; none for fewer than three spots or where spots lie upon each other.
    """
    from scipy.spatial import cKDTree

    xy = np.asarray(xy_um, np.float64)
    keep = np.arange(len(xy)) if keep is None else keep
    none = np.empty((0, len(keep)), np.int32)
    if len(xy) < 3:
        return none
    tree = cKDTree(xy)
    pitch = float(np.median(tree.query(xy, k=2)[0][:, 1]))
    if not pitch > 0:
        return none
    # A raster of the nearest spot makes each move a look-up; finer than a quarter of the pitch so
    # that the spots of a grid are always met. Large empty sections get a coarser one.
    low = xy.min(axis=0) - 2 * pitch
    extent = xy.max(axis=0) + 2 * pitch - low
    step = max(pitch / 4, math.sqrt(extent.prod() / 4e6))
    shape = np.ceil(extent / step).astype(np.int64) + 1
    nearest = np.empty(shape, np.int32)
    y_px = low[1] + (np.arange(shape[1]) + 0.5) * step
    for column in range(shape[0]):
        x_px = np.full(shape[1], low[0] + (column + 0.5) * step)
        _, spot = tree.query(
            np.column_stack([x_px, y_px]), distance_upper_bound=_REACH_PITCHES * pitch
        )
        nearest[column] = np.where(spot < len(xy), spot, -1)

    centre = int(np.argmin(((xy - np.median(xy, axis=0)) ** 2).sum(axis=1)))
    turns, places = np.repeat([1, -1], len(xy)), np.tile(np.arange(len(xy)), 2)
    candidates = np.delete(np.column_stack([turns, places]), centre, axis=0)  # the identity
    rng = np.random.default_rng(seed)
    moves = []
    for turn, to in candidates[rng.permutation(len(candidates))]:
        if len(moves) == count:
            break
        pixel = np.floor((turn * (xy - xy[centre]) + xy[to] - low) / step).astype(np.int64)
        inside = ((pixel >= 0) & (pixel < shape)).all(axis=1)
        partner = np.full(len(xy), -1, np.int32)
        partner[inside] = nearest[pixel[inside, 0], pixel[inside, 1]]
        if (partner >= 0).mean() >= _MIN_OVERLAP:
            moves.append(partner[keep])
    return np.array(moves, np.int32) if moves else none


def shift_statistics(
    queries: np.ndarray, gallery: np.ndarray, moves: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """The test statistic of the pairs as they are, and of the pairs after each move.

    The statistic is the sum over queries of -log(mid-rank of the partner), from which each query's
    and each gallery entry's mean is taken first, divided by the root of the number of queries that
    have a partner. Without the means, a move that leaves out the entries which everyone finds
    (hubs) would differ for that; the root makes moves with different overlap comparable (Mrkvicka
    et al., "Revisiting the random shift approach for testing in spatial statistics", Spatial
    Statistics 2021). On smooth fields it is more powerful than Recall@10 or the mean reciprocal
    rank, which see only the partners that are nearly found.

    ``queries`` and ``gallery`` (N, D) are paired row by row; ``moves`` (moves, n) are those of
    ``shifted_partners`` for the queries ``rows`` (n,), or for all. Of the (1 + moves,) returned the
    first is that of the pairs as they are.
    """
    queries, gallery = finite(queries), finite(gallery)
    rows = np.arange(len(queries)) if rows is None else rows
    distinct, place = distinct_rows(gallery)
    place = np.arange(len(gallery)) if place is None else place
    copies = np.bincount(place)
    partners = np.vstack([rows[None], moves]).astype(np.int64)
    partners = np.where(partners >= 0, place[partners], -1)
    sums = np.zeros(len(partners))
    column_sums = np.zeros(len(distinct))
    row_means = np.empty(len(rows))
    block = max(32, _BLOCK_NUMBERS // len(distinct))
    for start in range(0, len(rows), block):
        at = slice(start, start + block)
        similarity = queries[rows[at]] @ distinct.T
        order = np.argsort(similarity, axis=1)
        _add_log_ranks(similarity, order, copies, partners[:, at], sums, column_sums, row_means[at])
    column_means = column_sums / len(rows)
    grand_mean = (column_means * copies).sum() / copies.sum()
    used = partners >= 0
    overlap = used.sum(axis=1)
    sums -= np.where(used, column_means[partners], 0.0).sum(axis=1)
    sums -= used @ row_means
    sums += overlap * grand_mean
    return sums / np.sqrt(overlap)


def shift_p_values(
    queries: np.ndarray,
    gallery: np.ndarray,
    samples: np.ndarray,
    xy_um: np.ndarray,
    permutations: int,
    seed: int,
) -> dict[str, tuple[float | None, str]]:
    """Are pairs closer than their shifted sections? One p-value per sample, and one over ``all``.

    The null distribution moves whole sections (``shifted_partners``);
    p = (1 + moves at least as good as the pairs) / (1 + moves). Over all samples, each draw moves
    every section by one of its moves or leaves it in place. By sample and ``all``: the p-value (None
    where there are no moves) and the name of the test.
    """
    results, every = {}, []
    for sample in np.unique(samples):
        rows = np.flatnonzero(samples == sample)
        key = [seed, zlib.crc32(str(sample).encode())]
        chosen = np.arange(len(rows))
        if len(rows) > _MAX_TEST_QUERIES:
            rng = np.random.default_rng([*key, 3])
            chosen = np.sort(rng.choice(len(rows), _MAX_TEST_QUERIES, replace=False))
        moves = shifted_partners(xy_um[rows], permutations, [*key, 2], chosen)
        if not len(moves):
            results[str(sample)] = (None, "no test: too few spots to shift")
            continue
        statistics = shift_statistics(queries[rows], gallery[rows], moves, chosen)
        every.append(statistics * math.sqrt(len(rows)))
        results[str(sample)] = (
            _p_value(statistics[0], statistics[1:]),
            f"mean log rank against {len(moves)} shifts of the section",
        )
    if len(every) == 1 and len(results) == 1:
        return {**results, "all": next(iter(results.values()))}
    if not every:
        return {**results, "all": (None, "no test: too few spots to shift")}
    rng = np.random.default_rng([seed, 4])
    drawn = sum(each[rng.integers(len(each), size=permutations)] for each in every)
    test = f"mean log rank against {permutations} joint shifts of {len(every)} sections"
    results["all"] = (_p_value(sum(each[0] for each in every), drawn), test)
    return results


def _p_value(observed: float, null: np.ndarray) -> float:
    # Equal statistics, such as those of equal embeddings, must stay equal after rounding.
    slack = 1e-9 * max(1.0, abs(observed))
    return float((1 + np.count_nonzero(null >= observed - slack)) / (1 + len(null)))


@compiled()
def _add_log_ranks(similarity, order, copies, partners, sums, column_sums, row_means):
    width = similarity.shape[1]
    score = np.empty(width)
    total = copies.sum()
    for i in range(similarity.shape[0]):
        above = 0
        weighted = 0.0
        last = width - 1
        while last >= 0:
            # From the most similar down: first..last is one run of equal similarities.
            first = last
            level = copies[order[i, last]]
            while first > 0 and similarity[i, order[i, first - 1]] == similarity[i, order[i, last]]:
                first -= 1
                level += copies[order[i, first]]
            value = -math.log(above + (level + 1) / 2)
            for place in range(first, last + 1):
                score[order[i, place]] = value
            weighted += value * level
            above += level
            last = first - 1
        row_means[i] = weighted / total
        column_sums += score
        for move in range(partners.shape[0]):
            if partners[move, i] >= 0:
                sums[move] += score[partners[move, i]]
