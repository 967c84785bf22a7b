"""Ranks of partners among galleries, by blocked products: exact, and never an N x N matrix.

A *query* of one modality looks for its *targets* in a *gallery* of the other: its partner alone, or
the partner and the spots around it. Similarity is the dot product. What is counted is how many
entries of the gallery are more similar than the best target, and how many are as similar.

Two traps of such counts. The target's own similarity is taken from the same product as the others:
another one (einsum, a smaller block) may differ in the last bit, and the target would beat itself.
Entries that are the same vector take one column of the product between them: BLAS may give equal
columns different last bits, which would break ties by the place in the matrix.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from pairscape.core import devices
from pairscape.core.errors import InputError
from pairscape.evaluate.equal_vectors import distinct_rows, kinds
from pairscape.evaluate.kernels import compiled

_BLOCK_NUMBERS = 1 << 22  # similarities held at once (16 MB), large enough for BLAS to be at speed
_DEVICE_BLOCK_NUMBERS = 1 << 27
_DEVICE_QUERIES = 20_000  # from here on it is worth looking for a GPU
_CHUNK = 1 << 14


class Ranks(NamedTuple):
    """Per query (M,): what its target competes with.

    ``better``: entries more similar than the best target; ``ties``: entries as similar that aren't
    targets; ``size``: entries of the gallery; ``level``: targets as similar as the best one, it
    included; ``targets``: targets in the gallery; ``rows``: the query's row, None for 0 to N - 1;
    ``batch``: the batch (M,) it was ranked in, None where galleries aren't batches.
    """

    better: np.ndarray
    ties: np.ndarray
    size: np.ndarray
    level: np.ndarray | int = 1
    targets: np.ndarray | int = 1
    rows: np.ndarray | None = None
    batch: np.ndarray | None = None


class Targets(NamedTuple):
    """Which gallery rows are a hit for each query: ``rows[starts[i] : starts[i + 1]]``."""

    starts: np.ndarray  # (N + 1,) int64
    rows: np.ndarray  # (K,) int32

    def counts(self) -> np.ndarray:
        return np.diff(self.starts)


def partners(count: int) -> Targets:
    """Row i of the gallery is the only target of query i."""
    return Targets(np.arange(count + 1), np.arange(count, dtype=np.int32))


def neighbours(samples: np.ndarray, xy_um: np.ndarray, radius_um: float) -> Targets:
    """The spots within ``radius_um`` of each spot in its own sample, itself included.

    Spots at the very radius count, whatever the last digits of their places.
    """
    from scipy.spatial import cKDTree

    counts = np.empty(len(samples), np.int64)
    parts = []
    for sample in np.unique(samples):
        of_sample = np.flatnonzero(samples == sample)
        tree = cKDTree(xy_um[of_sample])
        for start in range(0, len(of_sample), _CHUNK):
            rows = of_sample[start : start + _CHUNK]
            within = tree.query_ball_point(xy_um[rows], radius_um * (1 + 1e-6), return_sorted=True)
            counts[rows] = [len(one) for one in within]
            flat = np.fromiter(chain.from_iterable(within), np.int64, int(counts[rows].sum()))
            parts.append((rows, of_sample[flat].astype(np.int32)))
    starts = np.concatenate([[0], np.cumsum(counts)])
    places = np.empty(starts[-1], np.int32)
    for rows, flat in parts:
        places[_spread(starts[rows], counts[rows])] = flat
    return Targets(starts, places)


def _spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """start, start + 1, ... of each range, one range after the other."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def finite(array: np.ndarray) -> np.ndarray:
    """The array as float32; raises ValueError where a number isn't finite."""
    array = np.ascontiguousarray(array, np.float32)
    for start in range(0, len(array), _CHUNK):
        if not np.isfinite(array[start : start + _CHUNK]).all():
            raise ValueError("embeddings that aren't finite can't be ranked")
    return array


# --------------------------------------------------------------------------------- whole galleries


def rank_pairs(
    queries: np.ndarray,
    gallery: np.ndarray,
    donors: np.ndarray,
    samples: np.ndarray,
    nearby: Sequence[Targets] = (),
    device: str = "cpu",
    block: int | None = None,
) -> dict[str, list[Ranks]]:
    """Ranks of row i of ``queries`` for row i of ``gallery``, in one pass for three galleries.

    ``queries`` and ``gallery`` (N, D) are float32 and finite; a sample of two donors is a
    ``ValueError``. ``nearby`` are further targets, all of the query's own sample (``neighbours``).
    Products are taken on the ``device`` (``cpu``, or one of torch), of ``block`` queries each: by
    default so many that a product takes about 16 MB.

    Returns
    -------
    ``split``: all pairs, and ``sample``: those of the query's sample; each a list, first for the
    partner, then for each of ``nearby``. ``other_donors``: the partner among the spots of other
    donors, a list of one; not there for a single donor.
    """
    import pandas as pd

    count = len(queries)
    # Numbered in order of first appearance: data set order stays as it is.
    donor, sample = (pd.factorize(np.asarray(names))[0] for names in (donors, samples))
    if len(np.unique(donor * count + sample)) > len(np.unique(sample)):
        raise ValueError("a sample is of two donors")
    # Rows of a donor and in it of a sample side by side: galleries are then ranges of columns.
    order = np.lexsort((sample, donor))
    sets = [partners(count), *nearby]
    if not (order == np.arange(count)).all():
        back = np.empty(count, np.int32)
        back[order] = np.arange(count, dtype=np.int32)
        queries, gallery = queries[order], gallery[order]
        donor, sample = donor[order], sample[order]
        sets = [_reorder(targets, order, back) for targets in sets]
    of_donor = donor * count + sample  # the samples, in ascending order like the donors
    edges = np.column_stack(
        [
            np.zeros(count, np.int64),
            np.searchsorted(donor, donor),
            np.searchsorted(of_donor, of_donor),
            np.searchsorted(of_donor, of_donor, "right"),
            np.searchsorted(donor, donor, "right"),
            np.full(count, count),
        ]
    )
    better, level, best = _count(queries, gallery, edges, sets, device, block)
    in_sample = edges[:, 3] - edges[:, 2]
    in_donor = edges[:, 4] - edges[:, 1]
    ranks: dict[str, list[Ranks]] = {"split": [], "sample": []}
    for i, targets in enumerate(sets):
        hits = best[i], targets.counts()
        ties = level[i].sum(1) - best[i]
        ranks["split"].append(Ranks(better[i].sum(1), ties, np.full(count, count), *hits))
        ties = level[i, :, 2] - best[i]
        ranks["sample"].append(Ranks(better[i, :, 2].copy(), ties, in_sample, *hits))
    if donor.any():  # more than the first
        outside = [0, 4]
        ranks["other_donors"] = [
            Ranks(better[0][:, outside].sum(1), level[0][:, outside].sum(1), count - in_donor + 1)
        ]
    back = np.argsort(order)
    return {
        name: [Ranks(*(f[back] if isinstance(f, np.ndarray) else f for f in one)) for one in each]
        for name, each in ranks.items()
    }


def _reorder(targets: Targets, order: np.ndarray, back: np.ndarray) -> Targets:
    counts = targets.counts()[order]
    rows = back[targets.rows[_spread(targets.starts[:-1][order], counts)]]
    return Targets(np.concatenate([[0], np.cumsum(counts)]), rows)


def _count(queries, gallery, edges, sets, device, block=None):
    """Count above and level with the best target, by set of targets, query and range of columns.

    ``better`` and ``level`` (sets, N, ranges), targets at the best included in ``level``, and the
    number ``best`` of those (sets, N).
    """
    distinct, place = distinct_rows(gallery)
    shape = (len(sets), len(queries), edges.shape[1] - 1)
    better, level = np.empty(shape, np.int32), np.empty(shape, np.int32)
    best = np.empty(shape[:2], np.int32)
    numbers = _BLOCK_NUMBERS if device == "cpu" else _DEVICE_BLOCK_NUMBERS
    block = block or max(32, numbers // max(len(gallery), 1))
    count = _host_block if device == "cpu" else _device_block(distinct, place, device)
    product = None
    for start in range(0, len(queries), block):
        rows = slice(start, start + block)
        del product  # before the next one is made, or two are held
        product = queries[rows] @ distinct.T if device == "cpu" else queries[rows]
        for i, targets in enumerate(sets):
            starts = targets.starts[start : start + block + 1]
            hits = targets.rows[starts[0] : starts[-1]]
            out = better[i, rows], level[i, rows], best[i, rows]
            product = count(product, place, edges[rows], starts - starts[0], hits, out)
    return better, level, best


def _host_block(similarity, place, edges, starts, hits, out):
    no_place = np.empty(0, np.int64) if place is None else place
    _count_block(similarity, no_place, edges, starts, hits, *out)
    return similarity


def _device_block(distinct, place, device):
    """The same counts with torch, whose products and comparisons run on ``device``."""
    import torch

    columns = torch.tensor(distinct, device=device).T
    spread = None if place is None else torch.as_tensor(place, device=device)

    def count(similarity, _, edges, starts, hits, out):
        if not isinstance(similarity, torch.Tensor):
            similarity = torch.tensor(similarity, device=device) @ columns
            if spread is not None:
                similarity = similarity[:, spread]
        queries = len(similarity)
        row = torch.as_tensor(np.repeat(np.arange(queries), np.diff(starts)), device=device)
        value = similarity[row, torch.as_tensor(hits.astype(np.int64), device=device)]
        best = torch.full((queries,), -torch.inf, device=device)
        best = best.scatter_reduce(0, row, value, "amax")
        at_best = torch.zeros(queries, dtype=torch.int32, device=device)
        at_best = at_best.index_add(0, row, (value == best[row]).to(torch.int32))
        bounds = torch.as_tensor(edges, device=device)
        counted = (similarity > best[:, None], similarity == best[:, None])
        for into, is_counted in zip(out[:2], counted, strict=True):
            upto = torch.nn.functional.pad(is_counted.cumsum(1, dtype=torch.int32), (1, 0))
            into[:] = upto.gather(1, bounds).diff(dim=1).cpu().numpy()
        out[2][:] = at_best.cpu().numpy()
        return similarity

    return count


def choose_device(wanted: str, queries: int) -> str:
    """``cpu`` or ``cuda``: for ``auto`` a GPU where there is one and enough is to be done."""
    if wanted == "cpu" or (wanted == "auto" and queries < _DEVICE_QUERIES):
        return "cpu"
    if devices.has_gpu():
        return "cuda"
    if wanted == "auto":
        return "cpu"
    raise InputError("--options", "device", "cuda, and no GPU", "give auto or cpu")


# ----------------------------------------------------------------------------------------- batches


def batch_rows(count: int, batch: int, processes: int = 1) -> list[np.ndarray]:
    """The rows of each batch, as several processes read a data set that isn't shuffled.

    torch's DistributedSampler deals row i to process i modulo ``processes`` and repeats the first
    rows until all have as many; each process cuts what it has into batches and keeps a short last
    one.
    """
    each = -(-count // processes)
    dealt = np.resize(np.arange(count), each * processes) if count else np.empty(0, np.int64)
    return [
        dealt[process::processes][start : start + batch]
        for process in range(processes)
        for start in range(0, each, batch)
    ]


def rank_in_batches(
    queries: np.ndarray,
    gallery: np.ndarray,
    batch: int,
    processes: int = 1,
    nearby: Sequence[Targets] = (),
) -> list[Ranks]:
    """Ranks of row i of ``queries`` for row i of ``gallery``, within batches in data set order.

    A short last batch is kept. With several ``processes``, the few rows that are repeated so that
    all have as many are queries twice, as in the published numbers. A list, first for the partner,
    then for each of ``nearby`` (those of them that are in the batch), each with ``rows`` and
    ``batch``.
    """
    batches = batch_rows(len(queries), batch, processes)
    sizes = np.array([len(members) for members in batches], np.int64)
    rows = np.concatenate(batches) if batches else np.empty(0, np.int64)
    kind = kinds(gallery)
    local = np.full(len(queries), -1, np.int32)
    # For each query: entries above the best target, level with it, targets at it, and targets.
    counted = [np.empty((len(rows), 4), np.int32) for _ in range(1 + len(nearby))]
    ends = np.cumsum(sizes)
    for members, end in zip(batches, ends, strict=True):
        place, candidates = None, gallery[members]
        if kind is not None:
            _, first, place = np.unique(kind[members], return_index=True, return_inverse=True)
            candidates, place = candidates[first], place.reshape(-1)
        similarity = queries[members] @ candidates.T
        edges = np.tile([0, len(members)], (len(members), 1))
        local[members] = np.arange(len(members), dtype=np.int32)
        for into, targets in zip(counted, (None, *nearby), strict=True):
            hits = partners(len(members)) if targets is None else _local(targets, members, local)
            out = [np.empty((len(members), 1), np.int32) for _ in range(2)]
            best = np.empty(len(members), np.int32)
            _host_block(similarity, place, edges, hits.starts, hits.rows, (*out, best))
            into[end - len(members) : end] = np.column_stack([*out, best, hits.counts()])
        local[members] = -1
    batch_of, size = np.repeat(np.arange(len(batches)), sizes), np.repeat(sizes, sizes)
    return [
        Ranks(better, level - best, size, best, hits, rows, batch_of)
        for better, level, best, hits in (numbers.T for numbers in counted)
    ]


def _local(targets: Targets, members: np.ndarray, local: np.ndarray) -> Targets:
    counts = targets.counts()[members]
    places = local[targets.rows[_spread(targets.starts[members], counts)]]
    query = np.repeat(np.arange(len(members)), counts)[places >= 0]
    kept = np.bincount(query, minlength=len(members))
    return Targets(np.concatenate([[0], np.cumsum(kept)]), places[places >= 0])


@compiled()
def _count_block(similarity, place, edges, starts, hits, better, level, at_best):
    spread = np.empty(place.shape[0], np.float32)
    for i in range(similarity.shape[0]):
        row = similarity[i]
        if place.shape[0]:
            for j in range(place.shape[0]):
                spread[j] = row[place[j]]
            row = spread
        best = np.float32(-np.inf)
        many = 0
        for t in range(starts[i], starts[i + 1]):
            value = row[hits[t]]
            if value > best:
                best = value
                many = 1
            elif value == best:
                many += 1
        at_best[i] = many
        for e in range(edges.shape[1] - 1):
            above = 0
            same = 0
            for j in range(edges[i, e], edges[i, e + 1]):
                above += row[j] > best
                same += row[j] == best
            better[i, e] = above
            level[i, e] = same
