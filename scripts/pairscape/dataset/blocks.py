"""One section in train, val and test: three blocks along its longer side, with gaps between them.

For who has a single section. Nothing about other donors, sections or stainings follows from it.
"""

from collections.abc import Mapping

import numpy as np

from pairscape.core.splits import SPLITS


def place(
    xy_um: np.ndarray, fractions: Mapping[str, float], gap_um: np.ndarray, seed: int
) -> np.ndarray:
    """The split of each spot, (N,) of text; empty in the gaps.

    Parameters
    ----------
    xy_um
        Centres of the spots, (N, 2).
    fractions
        The shares of the spots that are left: train, val and test.
    gap_um
        By how much spots of two blocks lie apart at least, along x and along y: what a patch covers,
        so that no two blocks show the same tissue.
    seed
        Draws the end of the section at which train begins.

    Returns
    -------
    A split without spots is missing from it: the section is too short for its gaps.
    """
    axis = int(np.argmax(np.ptp(xy_um, axis=0)))
    direction = 1 if np.random.default_rng(seed).random() < 0.5 else -1
    along = direction * xy_um[:, axis]
    placed = np.zeros(len(along), f"<U{max(map(len, SPLITS))}")
    ends = _ends(np.sort(along), [float(fractions[split]) for split in SPLITS], gap_um[axis])
    start = -np.inf
    for split, end in zip(SPLITS, ends, strict=True):
        placed[(along >= start) & (along <= end)] = split
        start = np.nextafter(end + gap_um[axis], np.inf)
    return placed


def _ends(along: np.ndarray, shares: list[float], gap_um: float) -> list[float]:
    """Where the blocks end, so that what is left of the spots is shared as wanted; gaps take a part."""

    def cut(kept: int) -> tuple[list[float], float]:
        """The ends where so many spots are kept, and the number that is left for the last block."""
        ends, start = [], 0
        for share in shares[:-1]:
            last = min(start + max(round(share * kept), 1), len(along)) - 1
            ends.append(float(along[last]))
            start = int(np.searchsorted(along, along[last] + gap_um, side="right"))
        return ends, len(along) - start

    # The more are kept in the first blocks, the fewer are left for the last.
    few, many = len(shares), len(along)
    while many - few > 1:
        middle = (few + many) // 2
        if cut(middle)[1] >= shares[-1] * middle:
            few = middle
        else:
            many = middle
    return [*cut(few)[0], np.inf]
