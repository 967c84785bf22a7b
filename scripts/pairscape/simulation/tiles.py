"""Tiles of ``SPOT_UM`` over the region: what lies in each."""

import math

import numpy as np

from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import KINDS

MIN_QV = 20.0
"""Quality from which a transcript counts, as 10x Genomics recommends."""


def tile_grid(knobs: dict) -> tuple[int, int]:
    """Rows and columns of the tiles of ``SPOT_UM`` over the region, those cut at its border too."""
    rows, columns = (math.ceil(knobs[side] / knob.SPOT_UM) for side in ("height_um", "width_um"))
    return rows, columns


def count_tiles(molecules: dict, genes: int, knobs: dict):
    """Counts of good transcripts of the first ``genes`` features, (tiles, genes) int32 in CSR.

    Tiles come row by row.
    """
    from scipy import sparse

    rows, columns = tile_grid(knobs)
    good = (molecules["qv"] >= MIN_QV) & (molecules["feature"] < genes)
    # Places as stored, in float64: multiples of 1/64 over a whole number don't round across a line.
    row, column = (
        np.floor(molecules[axis][good].astype(np.float64) / knob.SPOT_UM).astype(np.int64)
        for axis in ("y_um", "x_um")
    )
    tile = row * columns + column
    keys, counts = np.unique(tile * genes + molecules["feature"][good], return_counts=True)
    return sparse.csr_matrix(
        (counts.astype(np.int32), (keys // genes, keys % genes)), shape=(rows * columns, genes)
    )


def cells_per_tile(x_um, y_um, kind, knobs: dict) -> np.ndarray:
    """Cells of each of ``KINDS`` by their centre's tile, (tiles, kinds); all lie in the region."""
    rows, columns = tile_grid(knobs)
    home = (y_um // knob.SPOT_UM).astype(int) * columns + (x_um // knob.SPOT_UM).astype(int)
    cells = np.zeros((rows * columns, len(KINDS)), int)
    np.add.at(cells, (home, kind), 1)
    return cells
