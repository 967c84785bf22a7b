"""Bootstrap intervals of per-query values: over donors where they are many, else within them.

What is resampled are the queries' values against a gallery that stays as it is, never pairs: a pair
drawn twice would stand twice in the gallery and compete with itself.

From ``DONORS_NEEDED`` donors on, whole donors are drawn, and the interval speaks of further donors.
With fewer it can't: then squares of tissue are drawn within each sample, since neighbouring spots
are near-duplicates, and the interval is labelled "within these donors". The donors' own values, and
their range, stand beside it.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pairscape.evaluate.kernels import compiled

DONORS_NEEDED = 6
LEVEL = 0.95
_DRAWS_AT_ONCE = 64


class Units(NamedTuple):
    """What is drawn: the unit of each query, and how often each is drawn each time."""

    unit: np.ndarray  # (N,) int64
    weights: np.ndarray  # (draws, units) int16
    counts: dict[str, int]  # units by sample, where they are blocks


def draw_blocks(
    samples: np.ndarray, xy_um: np.ndarray, block_um: float, draws: int, seed: int
) -> Units:
    """Cut each sample into squares of ``block_um`` and resample them, with replacement, within it.

    Neighbouring spots are near-duplicates, so spots aren't independent; whole blocks nearly are.
    The draws depend on the seed, the sample's name and its spots alone: all runs, directions and
    galleries are resampled alike, and can be compared draw by draw.
    """
    unit = np.empty(len(samples), np.int64)
    weights, counts, first = [], {}, 0
    for sample in np.unique(samples):
        rows = np.flatnonzero(samples == sample)
        squares = np.floor((xy_um[rows] - xy_um[rows].min(axis=0)) / block_um).astype(np.int64)
        _, place = np.unique(squares, axis=0, return_inverse=True)
        place = place.reshape(-1)
        count = int(place.max()) + 1
        key = [seed, zlib.crc32(str(sample).encode()), 1]
        weights.append(_multinomial(count, draws, key))
        unit[rows] = first + place
        counts[str(sample)] = count
        first += count
    return Units(unit, np.hstack(weights), counts)


def draw_donors(donors: np.ndarray, draws: int, seed: int) -> Units:
    """Resample whole donors, with replacement; the draws depend on the seed and the donors' names."""
    names, unit = np.unique(donors, return_inverse=True)
    key = [seed, zlib.crc32("\n".join(map(str, names)).encode()), 5]
    return Units(unit.reshape(-1), _multinomial(len(names), draws, key), {})


def choose_units(
    member: np.ndarray,
    samples: np.ndarray,
    donors: np.ndarray,
    blocks: Units,
    placeholders: set,
    block_um: float,
    seed: int,
) -> tuple[Units, str]:
    """What is resampled for the interval of some queries, and that in words.

    Donors where there are enough of them, else blocks of tissue. ``member`` (N,) says which of the
    queries, with these ``samples`` and ``donors``; ``blocks`` are those of ``draw_blocks`` for all of
    them, and ``placeholders`` donors that no source names.
    """
    draws, names = len(blocks.weights), np.unique(donors[member])
    if not draws or len(names) < DONORS_NEEDED:
        return blocks, _over_blocks(blocks, block_um, np.unique(samples[member]), len(names))
    drawn = draw_donors(donors[member], draws, seed)
    unit = np.zeros(len(samples), np.int64)
    unit[member] = drawn.unit
    unknown = sum(donor in placeholders for donor in names)
    over = f"bootstrap over {len(names)} donors"
    return drawn._replace(unit=unit), over + (
        f", {unknown} of them placeholders" if unknown else ""
    )


def _over_blocks(units: Units, block_um: float, samples: Iterable[str], donors: int) -> str:
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


def _multinomial(count: int, draws: int, key: list[int]) -> np.ndarray:
    rng = np.random.default_rng(key)
    drawn = np.empty((draws, count), np.int16)
    for start in range(0, draws, _DRAWS_AT_ONCE):
        part = drawn[start : start + _DRAWS_AT_ONCE]
        part[:] = rng.multinomial(count, np.full(count, 1 / count), size=len(part))
    return drawn


def select(units: Units, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The units of the queries ``rows`` and the draws of those units; None where nothing varies."""
    used, unit = np.unique(units.unit[rows], return_inverse=True)
    weights = units.weights[:, used]
    if not len(weights) or (weights == weights[0]).all():
        return None
    return unit.reshape(-1), weights


def of_means(
    values: Mapping[str, np.ndarray], unit: np.ndarray, weights: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the means of several values (n,) over the draws of ``select``."""
    if not values:
        return {}
    count = weights.shape[1]
    sums = np.column_stack([np.bincount(unit, each, count) for each in values.values()])
    sizes = np.bincount(unit, minlength=count)
    drawn = np.empty((len(weights), len(values)))
    for start in range(0, len(weights), _DRAWS_AT_ONCE):
        part = weights[start : start + _DRAWS_AT_ONCE].astype(np.float64)
        drawn[start : start + _DRAWS_AT_ONCE] = (part @ sums) / (part @ sizes)[:, None]
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return dict(zip(values, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def of_median(
    values: np.ndarray, batch: np.ndarray | None, unit: np.ndarray, weights: np.ndarray
) -> tuple[float, float]:
    """Percentile interval of ``median(values, batch)`` over the draws of ``select``."""
    drawn = _medians(values, batch, unit, weights)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def median(values: np.ndarray, batch: np.ndarray | None = None) -> float:
    """The median; in batches the mean over them, by their sizes, of each one's lower median."""
    one = np.ones((1, 1), np.int16)
    return float(_medians(values, batch, np.zeros(len(values), np.int64), one)[0])


def _medians(values, batch, unit, weights) -> np.ndarray:
    batched = batch is not None
    order = np.lexsort((values, batch)) if batched else np.argsort(values, kind="stable")
    ends = np.array([len(values)])
    if batched:
        ends = np.append(np.flatnonzero(np.diff(batch[order])) + 1, len(values))
    return _weighted_medians(
        np.asarray(values, np.float64)[order], unit[order], weights, ends, batched
    )


@compiled()
def _weighted_medians(values, unit, weights, ends, lower):
    """Medians of sorted values (n,), in runs that end at ``ends``, for each draw of the units."""
    medians = np.empty(weights.shape[0])
    for draw in range(weights.shape[0]):
        total = 0.0
        everything = 0
        start = 0
        for end in ends:
            count = 0
            for i in range(start, end):
                count += weights[draw, unit[i]]
            # The values in places `first` and `second`, from 1, of the count repeated values.
            first = (count + 1) // 2
            second = first if lower else count // 2 + 1
            reached = 0
            low = 0.0
            seen = False
            for i in range(start, end):
                reached += weights[draw, unit[i]]
                if not seen and reached >= first and count:
                    low = values[i]
                    seen = True
                if seen and reached >= second:
                    total += (low + values[i]) / 2 * count
                    break
            everything += count
            start = end
        medians[draw] = total / everything
    return medians
