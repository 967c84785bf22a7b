"""Retrieval scores of embedded pairs: ranks, recall, chance, intervals and the shift test.

Everything starts from two arrays of embeddings whose rows are paired. A *query* of one modality
looks for its partner among the *gallery* of the other; similarity is the dot product.

Ties. Gallery entries as similar to the query as its partner may come out before or after it, so a
hit is counted with its expected value under random breaking, and a rank is the middle of the ranks
that the tie covers. Gallery entries that are the same vector are merged before the product is
taken: BLAS gives equal columns of one product different last bits, which would break such ties by
their place in the matrix.

Chance is the same rule applied to a partner that lies anywhere in the gallery: min(k / n, 1) for
Recall@k in a gallery of n, (n + 1) / 2 for a rank, averaged over the queries.
"""

import functools
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pairscape import config, files
from pairscape.errors import InputError

COLUMNS = (
    "experiment",
    "dataset",
    "image_encoder",
    "gene_encoder",
    "seed",
    "split",
    "direction",
    "gallery",
    "group",
    "metric",
    "value",
    "chance",
    "ci_low",
    "ci_high",
    "ci_over",
    "p_value",
    "p_test",
    "queries",
    "gallery_size",
    "donors_shared",
    "options_sha256",
)
NUMBERS = ("value", "chance", "ci_low", "ci_high", "p_value", "queries", "gallery_size")
DIRECTIONS = ("i2g", "g2i")
_BLOCK_NUMBERS = 1 << 22  # similarities held at once (16 MB), large enough for BLAS to be at speed
_MIN_OVERLAP = 0.4  # smallest share of queries that still have a partner after a shift
_REACH_PITCHES = 1.1  # a hole in the grid takes its direct neighbour
_MAX_TEST_QUERIES = 4096


class Ranks(NamedTuple):
    """Per query (N,): gallery entries above the partner, level with it, and the gallery's size."""

    better: np.ndarray
    ties: np.ndarray
    size: np.ndarray


# ------------------------------------------------------------------------------------------- ranks


def rank_counts(
    queries: np.ndarray, gallery: np.ndarray, partner: np.ndarray, block: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Count for each query the gallery entries more similar than its partner, and as similar.

    Parameters
    ----------
    queries, gallery
        (N, D) and (M, D), float32; memory-mapped arrays will do.
    partner
        (N,) row of the gallery that belongs to each query.
    block
        Queries per matrix product; by default so many that a product takes about 16 MB.

    Returns
    -------
    ``better`` and ``ties`` (N,), int64. The partner itself is in neither.

    Raises
    ------
    ValueError
        An embedding isn't finite: it would compare as neither better nor worse, which is rank 1.
    """
    queries, gallery = _finite(queries), _finite(gallery)
    distinct, place, copies = _distinct_rows(gallery)
    partner = place[np.asarray(partner, np.int64)]
    block = block or max(32, _BLOCK_NUMBERS // max(len(distinct), 1))
    better = np.empty(len(queries), np.int64)
    ties = np.empty(len(queries), np.int64)
    count = _kernels().count_single if copies is None else _kernels().count_copies
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        similarity = queries[rows] @ distinct.T
        count(similarity, partner[rows], copies, better[rows], ties[rows])
    return better, ties


def mid_rank(ranks: Ranks) -> np.ndarray:
    """The partner's rank (N,), from 1; in a tie the middle of the ranks that the tie covers."""
    return 1.0 + ranks.better + ranks.ties / 2


def recall_at(better: np.ndarray, ties: np.ndarray, k: int) -> np.ndarray:
    """Expected hit (N,) in [0, 1] within the first ``k``, ties broken at random."""
    return np.clip((k - better) / (ties + 1.0), 0.0, 1.0)


def rank_in_batches(queries: np.ndarray, gallery: np.ndarray, batch: int) -> Ranks:
    """Ranks of row i of ``queries`` for row i of ``gallery``, within batches in data set order.

    The last batch may be short and is kept; every query weighs the same, so its few easier queries
    don't count for a whole batch.
    """
    return _rank_in_groups(queries, gallery, np.arange(len(queries)) // batch)


def rank_in_samples(queries: np.ndarray, gallery: np.ndarray, samples: np.ndarray) -> Ranks:
    """Ranks of row i of ``queries`` for row i of ``gallery``, among the pairs of its own sample."""
    return _rank_in_groups(queries, gallery, np.unique(samples, return_inverse=True)[1])


def _rank_in_groups(queries: np.ndarray, gallery: np.ndarray, group: np.ndarray) -> Ranks:
    ranks = Ranks(*(np.empty(len(queries), np.int64) for _ in range(3)))
    order = np.argsort(group, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        ranks.better[rows], ranks.ties[rows] = rank_counts(
            queries[rows], gallery[rows], np.arange(len(rows))
        )
        ranks.size[rows] = len(rows)
    return ranks


def _finite(array: np.ndarray) -> np.ndarray:
    array = np.ascontiguousarray(array, np.float32)
    for start in range(0, len(array), 1 << 14):
        if not np.isfinite(array[start : start + (1 << 14)]).all():
            raise ValueError("embeddings that aren't finite can't be ranked")
    return array


def _distinct_rows(array: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Merge equal rows: the distinct rows, each row's place among them, and how often each occurs.

    The last is None where every row is distinct; then the rows come back as they are.
    """
    count, width = array.shape
    factors = np.random.default_rng(0).integers(1 << 63, size=width, dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(count, np.uint64)
    for start in range(0, count, 1 << 12):
        # Adding zero turns -0.0 into 0.0: equal numbers, other bits.
        bits = (array[start : start + (1 << 12)] + np.float32(0)).view(np.uint32)
        hashes[start : start + (1 << 12)] = (bits.astype(np.uint64) * factors).sum(axis=1)
    if len(np.unique(hashes)) == count:
        return array, np.arange(count), None
    _, first, place, copies = np.unique(
        array + np.float32(0), axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    return array[first], place.reshape(-1), copies.astype(np.int64)


# ------------------------------------------------------------------------------- metrics and chance


def metrics(ranks: Ranks, recall: Sequence[int]) -> dict[str, np.ndarray]:
    """Per-query values (N,) by metric: ``recall@k`` averages them, the ranks say mean or median."""
    values = {f"recall@{k}": recall_at(ranks.better, ranks.ties, k) for k in recall}
    rank = mid_rank(ranks)
    return {**values, "mean_rank": rank, "median_rank": rank}


def summarise(metric: str, values: np.ndarray) -> float:
    """One number of per-query values: their median for ``median_rank``, else their mean."""
    return float(np.median(values) if metric == "median_rank" else np.mean(values))


def chance(metric: str, size: np.ndarray) -> float:
    """What ``summarise`` expects of partners that lie anywhere in galleries of ``size`` (N,)."""
    if metric.startswith("recall@"):
        return float(np.minimum(int(metric.removeprefix("recall@")) / size, 1.0).mean())
    if metric == "mean_rank":
        return float((size + 1.0).mean() / 2)
    # The median of a mixture of uniform ranks: P(rank = m) = mean over queries of [m <= n] / n.
    sizes, counts = np.unique(size, return_counts=True)
    mass = np.zeros(sizes[-1] + 1)
    np.add.at(mass, sizes - 1, counts / sizes / len(size))
    below = np.cumsum(np.cumsum(mass[::-1])[::-1])
    lower = np.searchsorted(below, 0.5 - 1e-9) + 1
    upper = np.searchsorted(below, 0.5 + 1e-9) + 1
    return float(lower + upper) / 2


# ---------------------------------------------------------------------------------------- intervals


class Blocks(NamedTuple):
    """Spatial blocks of queries, and how often each is drawn in each bootstrap sample."""

    of: np.ndarray  # (N,) block of each query
    weights: np.ndarray  # (draws, blocks)
    counts: dict[str, int]  # blocks by sample


def draw_blocks(
    samples: np.ndarray, xy_um: np.ndarray, block_um: float, draws: int, seed: int
) -> Blocks:
    """Cut each sample into squares of ``block_um`` and resample them, with replacement, within it.

    Neighbouring spots are near-duplicates, so spots aren't independent; whole blocks nearly are.
    The draws depend on the seed, the sample's name and its spots alone: all runs, directions and
    galleries are resampled alike, and can be compared draw by draw.
    """
    of = np.empty(len(samples), np.int64)
    weights, counts, first = [], {}, 0
    for sample in np.unique(samples):
        rows = np.flatnonzero(samples == sample)
        squares = np.floor((xy_um[rows] - xy_um[rows].min(axis=0)) / block_um).astype(np.int64)
        _, place = np.unique(squares, axis=0, return_inverse=True)
        place = place.reshape(-1)
        count = int(place.max()) + 1
        rng = np.random.default_rng([seed, zlib.crc32(str(sample).encode()), 1])
        weights.append(rng.multinomial(count, np.full(count, 1 / count), size=draws))
        of[rows] = first + place
        counts[str(sample)] = count
        first += count
    return Blocks(of, np.hstack(weights).astype(np.float64), counts)


def interval(metric: str, values: np.ndarray, blocks: Blocks, rows: np.ndarray, level=0.95):
    """Percentile interval of ``summarise(metric, values)`` over resampled blocks of queries.

    The gallery stays as it is: what is resampled are the queries' values, never pairs.

    Parameters
    ----------
    values
        (n,) of the queries ``rows``.
    rows
        (n,) which of the queries of ``blocks`` these are.

    Returns
    -------
    (low, high), or None where no sample has two blocks, or nothing was drawn.
    """
    used, of = np.unique(blocks.of[rows], return_inverse=True)
    of = of.reshape(-1)
    weights = blocks.weights[:, used]
    if not len(weights) or (weights == weights[0]).all():
        return None
    if metric == "median_rank":
        drawn = _weighted_medians(values, of, weights)
    else:
        sums = np.bincount(of, values, len(used))
        drawn = (weights @ sums) / (weights @ np.bincount(of, minlength=len(used)))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _weighted_medians(values: np.ndarray, of: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values, kind="stable")
    values, of = values[order], of[order]
    medians = np.empty(len(weights))
    for draw, weight in enumerate(weights):
        reached = np.cumsum(weight[of])
        middle = np.searchsorted(reached, [reached[-1] / 2 - 0.25, reached[-1] / 2 + 0.25])
        medians[draw] = values[middle].mean()
    return medians


def interval_over(blocks: Blocks, block_um: float, samples: Iterable[str], donors: int) -> str:
    """Say what an interval is over, or why there is none."""
    counts = [blocks.counts[str(sample)] for sample in samples]
    within = f"within {donors} test donor{'s' * (donors > 1)}"
    if not len(blocks.weights):
        return "no interval: no bootstrap was asked for"
    if max(counts) < 2:
        return f"no interval: no sample has two spatial blocks of {block_um:g} um"
    held = counts.count(1)
    note = f" ({held} of {len(counts)} samples are one block, held fixed)" if held else ""
    return f"{sum(counts)} spatial blocks of {block_um:g} um {within}{note}"


# --------------------------------------------------------------------------------------- shift test


def shifted_partners(xy_um: np.ndarray, count: int, seed: Sequence[int]) -> np.ndarray:
    """Rigid moves of a section over itself, as the partner each spot would then have.

    A move keeps the section whole, as one block, turned by 180 degrees or not, and carries its
    central spot to some other spot. That keeps the autocorrelation of whatever lies on the section,
    for any outline and any grid. Spots that leave the section have no partner; spots that fall into
    a hole take a neighbour of the hole. Moves that leave fewer than 0.4 of the spots over the section
    aren't used. They are drawn without replacement and the identity isn't among them.

    Parameters
    ----------
    xy_um
        (N, 2) the spots' centres.
    count
        Number of moves wanted.

    Returns
    -------
    (moves, N) int32, -1 where there is no partner; fewer moves than wanted where the section has no
    more, none for fewer than three spots or where spots lie upon each other.
    """
    from scipy.spatial import cKDTree

    xy = np.asarray(xy_um, np.float64)
    none = np.empty((0, len(xy)), np.int32)
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
        _, found = tree.query(
            np.column_stack([x_px, y_px]), distance_upper_bound=_REACH_PITCHES * pitch
        )
        nearest[column] = np.where(found < len(xy), found, -1)

    centre = int(np.argmin(((xy - np.median(xy, axis=0)) ** 2).sum(axis=1)))
    candidates = np.array(
        [(turn, to) for turn in (1, -1) for to in range(len(xy)) if (turn, to) != (1, centre)]
    )
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
            moves.append(partner)
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

    Parameters
    ----------
    queries, gallery
        (N, D), paired row by row.
    moves
        (moves, N) from ``shifted_partners``.
    rows
        The queries to use; all by default.

    Returns
    -------
    (1 + moves,); the first is that of the pairs as they are.
    """
    queries, gallery = _finite(queries), _finite(gallery)
    rows = np.arange(len(queries)) if rows is None else rows
    distinct, place, copies = _distinct_rows(gallery)
    copies = np.ones(len(distinct), np.int64) if copies is None else copies
    partners = np.vstack([rows[None], moves[:, rows]]).astype(np.int64)
    partners = np.where(partners >= 0, place[partners], -1)
    sums = np.zeros(len(partners))
    column_sums = np.zeros(len(distinct))
    row_means = np.empty(len(rows))
    block = max(32, _BLOCK_NUMBERS // len(distinct))
    for start in range(0, len(rows), block):
        at = slice(start, start + block)
        similarity = queries[rows[at]] @ distinct.T
        order = np.argsort(similarity, axis=1)
        _kernels().add_log_ranks(
            similarity, order, copies, partners[:, at], sums, column_sums, row_means[at]
        )
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

    Null hypothesis: within a sample the image embeddings and the gene embeddings are independent of
    each other, each autocorrelated over space as it may be. The null distribution moves whole
    sections (``shifted_partners``); p = (1 + moves at least as good as the pairs) / (1 + moves).
    Over all samples, each draw moves every section by one of its moves or leaves it in place.

    Returns
    -------
    By sample and ``all``: the p-value (None where there are no moves) and the name of the test.
    """
    results, every = {}, []
    for sample in np.unique(samples):
        rows = np.flatnonzero(samples == sample)
        key = [seed, zlib.crc32(str(sample).encode())]
        moves = shifted_partners(xy_um[rows], permutations, [*key, 2])
        if not len(moves):
            results[str(sample)] = (None, "no test: too few spots to shift")
            continue
        chosen = np.arange(len(rows))
        if len(rows) > _MAX_TEST_QUERIES:
            rng = np.random.default_rng([*key, 3])
            chosen = np.sort(rng.choice(len(rows), _MAX_TEST_QUERIES, replace=False))
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


# --------------------------------------------------------------------------------------- one run


def score_run(embedded: Mapping, options: Mapping) -> list[dict]:
    """Score one run's embedded split in every direction, gallery and group.

    Parameters
    ----------
    embedded
        ``images``, ``genes`` (N, D) and ``index`` with sample, donor, x_um and y_um, N > 0.
    options
        As ``check_options`` returns them.

    Returns
    -------
    Rows with the columns from ``split`` to ``gallery_size``.
    """
    index = embedded["index"]
    samples = index["sample"].to_numpy(str)
    donors = index["donor"].to_numpy(str)
    xy_um = index[["x_um", "y_um"]].to_numpy(np.float64)
    blocks = draw_blocks(samples, xy_um, options["block_um"], options["bootstrap"], options["seed"])
    images, genes = (_finite(embedded[name]) for name in ("images", "genes"))
    groups = {"all": np.arange(len(samples))}
    groups |= {str(name): np.flatnonzero(samples == name) for name in np.unique(samples)}
    rows = []
    for direction in DIRECTIONS:
        queries, gallery = (images, genes) if direction == "i2g" else (genes, images)
        size = np.full(len(queries), len(queries))
        tests = {}
        if options["permutations"]:
            tests = shift_p_values(
                queries, gallery, samples, xy_um, options["permutations"], options["seed"]
            )
        galleries = {
            f"in_batch_{options['in_batch']}": rank_in_batches(
                queries, gallery, options["in_batch"]
            ),
            "split": Ranks(*rank_counts(queries, gallery, np.arange(len(queries))), size),
            "sample": rank_in_samples(queries, gallery, samples),
        }
        for name, ranks in galleries.items():
            per_query = metrics(ranks, options["recall_at"])
            for group, members in groups.items():
                over = interval_over(
                    blocks,
                    options["block_um"],
                    np.unique(samples[members]),
                    len(np.unique(donors[members])),
                )
                p_value, test = tests.get(group, (None, "")) if name == "sample" else (None, "")
                for metric, values in per_query.items():
                    values = values[members]
                    low, high = interval(metric, values, blocks, members) or (None, None)
                    rows.append(
                        {
                            "split": options["split"],
                            "direction": direction,
                            "gallery": name,
                            "group": group,
                            "metric": metric,
                            "value": summarise(metric, values),
                            "chance": chance(metric, ranks.size[members]),
                            "ci_low": low,
                            "ci_high": high,
                            "ci_over": over,
                            "p_value": p_value,
                            "p_test": test,
                            "queries": len(members),
                            "gallery_size": float(ranks.size[members].mean()),
                        }
                    )
    return rows


def check_options(options: Mapping) -> dict:
    """Fill in the defaults of the configuration's part ``retrieval``, and of split and seed.

    Raises
    ------
    InputError
        An option has a value outside its range.
    """
    others = {"experiment", "dataset", "split", "seed"}
    scoring = {key: value for key, value in options.items() if key not in others}
    kept = {key: value for key, value in options.items() if key in others}
    resolved = {"split": "test", "seed": 0, **kept, **config.resolve_part("retrieval", scoring)}
    if not isinstance(resolved["seed"], int) or resolved["seed"] < 0:
        raise InputError("--options", "seed", repr(resolved["seed"]), "give a whole number from 0")
    return resolved


# ------------------------------------------------------------------------------------------- format


def write_scores(path, rows: Iterable[Mapping]) -> None:
    """Write tidy scores, numbers with 6 significant digits, ``None`` as an empty field."""
    files.write_tsv(
        path,
        (
            {name: f"{v:.6g}" if isinstance(v, float) else v for name, v in row.items()}
            for row in rows
        ),
        COLUMNS,
    )


def read_scores(path) -> list[dict]:
    """Read what ``write_scores`` wrote; numbers as float, empty ones as None.

    Raises
    ------
    InputError
        A column is missing, or a field that must be a number isn't one.
    """
    rows = files.read_tsv(path, COLUMNS)
    for line, row in enumerate(rows, start=2):
        for name in NUMBERS:
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError:
                raise InputError(
                    path, f"line {line}, {name}", repr(row[name]), "delete it and score again"
                ) from None
    return rows


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment.

    Raises
    ------
    InputError
        One of them is damaged or holds scores of another experiment.
    """
    scores = []
    for path in paths:
        rows = read_scores(path)
        for line, row in enumerate(rows, start=2):
            if row["experiment"] != experiment:
                raise InputError(
                    path,
                    f"line {line}, experiment",
                    row["experiment"],
                    f"give only scores of {experiment}",
                )
        scores += rows
    return scores


# ------------------------------------------------------------------------------------------ kernels


class _Kernels(NamedTuple):
    count_single: object
    count_copies: object
    add_log_ranks: object


@functools.cache
def _kernels() -> _Kernels:
    """Compile the loops on first use; importing numba takes longer than importing this module."""
    import numba

    compiled = numba.njit(cache=True, nogil=True)
    return _Kernels(compiled(_count_single), compiled(_count_copies), compiled(_add_log_ranks))


def _count_single(similarity, partner, copies, better, ties):
    for i in range(similarity.shape[0]):
        own = similarity[i, partner[i]]
        above = 0
        level = 0
        for j in range(similarity.shape[1]):
            above += similarity[i, j] > own
            level += similarity[i, j] == own
        better[i] = above
        ties[i] = level - 1


def _count_copies(similarity, partner, copies, better, ties):
    for i in range(similarity.shape[0]):
        own = similarity[i, partner[i]]
        above = 0
        level = 0
        for j in range(similarity.shape[1]):
            if similarity[i, j] > own:
                above += copies[j]
            elif similarity[i, j] == own:
                level += copies[j]
        better[i] = above
        ties[i] = level - 1


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
