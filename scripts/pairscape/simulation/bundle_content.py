"""What the files of a bundle hold: its cells, and its transcripts in the instrument's order."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairscape.simulation import knobs as knob
from pairscape.simulation import segmentation
from pairscape.simulation.sample import Drawn
from pairscape.simulation.tiles import MIN_QV

FOV_UM = 640.0
SEGMENTATION = "Segmented by nucleus expansion of 5.0µm"


class Cells(NamedTuple):
    """The cells of the bundle: those with their centre in the region, sorted by their id."""

    id: np.ndarray  # (n,) as the instrument names them
    prefix: np.ndarray  # (n,) the number behind the id
    index: np.ndarray  # (n,) in the tissue's cells
    nucleus: np.ndarray  # (n, points, 2) outlines in µm
    cell: np.ndarray

    def areas_and_centroids(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Areas (n,) and centroids (n, 2) of the outlines ``nucleus`` or ``cell``."""
        return segmentation.areas_and_centroids(getattr(self, name).astype(float))


@dataclass(frozen=True)
class Content:
    """All that a bundle is written from; ``molecules`` stand in the instrument's order."""

    row: dict  # of the sample table
    run_seed: int
    drawn: Drawn
    cells: Cells
    molecules: dict
    fov: np.ndarray  # of each molecule, an index into ``fov_names``
    fov_names: np.ndarray
    number: np.ndarray  # of each molecule within its field of view
    assigned: np.ndarray  # each molecule's cell, or -1
    nuclear: np.ndarray  # whether it lies in the nucleus of its cell
    counts: object  # (features, cells) good transcripts within cells, compressed by cell, int32


def place_in_cells(row: dict, run_seed: int, drawn: Drawn, cells: Cells, owners) -> Content:
    """Order the molecules as the instrument does and count them by cell.

    ``owners`` are each molecule's cell (-1: none) and whether it lies in its nucleus, in the order
    of ``drawn``.
    """
    order, fov, names, number = _instrument_order(drawn)
    molecules = {name: column[order] for name, column in drawn.molecules.items()}
    assigned, nuclear = (column[order] for column in owners)
    counts = _cell_counts(molecules, assigned, (len(drawn.features["name"]), len(cells.id)))
    return Content(
        row, run_seed, drawn, cells, molecules, fov, names, number, assigned, nuclear, counts
    )


def segment(drawn: Drawn) -> Cells:
    """Name and outline the cells of a sample."""
    cells, knobs = drawn.tissue.cells, drawn.knobs
    index = np.flatnonzero(knob.in_region(cells["x_um"], cells["y_um"], knobs))
    random = knob.rng(drawn.seeds["molecules"], "cell ids")
    prefixes = np.empty(0, np.uint32)
    while len(prefixes) < len(index):
        more = random.integers(0, 2**32, len(index) - len(prefixes), dtype=np.uint32)
        prefixes = np.unique(np.concatenate([prefixes, more]))
    index = random.permutation(index)
    centres = np.stack([cells["x_um"][index], cells["y_um"][index]], axis=1)
    limits = np.array([knobs["width_um"], knobs["height_um"]])
    nuclei, outlines = (
        _cut_to_region(shapes, centres[:, None], limits).astype(np.float32)
        for shapes in segmentation.outline_cells(drawn.tissue, index)
    )
    names = np.array([_cell_id(prefix) for prefix in prefixes], object)
    return Cells(names, prefixes, index, nuclei, outlines)


def closed(outlines: np.ndarray) -> np.ndarray:
    """Outlines with their first vertex again as the last."""
    return np.concatenate([outlines, outlines[:, :1]], axis=1)


def _cut_to_region(shapes, centres, limits):
    """Shorten the spokes of outlines that leave the region, so that they end on its border."""
    spokes = shapes - centres
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(spokes > 0, (limits - centres) / spokes, -centres / spokes)
    share = np.clip(np.nan_to_num(room, nan=1.0, posinf=1.0), 0.0, 1.0).min(axis=2)
    return np.clip(centres + share[:, :, None] * spokes, 0, limits)


def _cell_id(prefix: int) -> str:
    """The instrument's name of a cell: eight letters a to p, one for each hexadecimal digit."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{prefix:08x}") + "-1"


def _instrument_order(drawn: Drawn):
    """Rows as the instrument writes them: field of view by field of view, unsorted within.

    The order, and in that order the field of view of each and its number there; between them the
    names of the fields.
    """
    columns = math.ceil(drawn.knobs["width_um"] / FOV_UM)
    rows = math.ceil(drawn.knobs["height_um"] / FOV_UM)
    fov = (drawn.molecules["y_um"] // FOV_UM).astype(np.int64) * columns
    fov += (drawn.molecules["x_um"] // FOV_UM).astype(np.int64)
    shuffled = knob.rng(drawn.seeds["molecules"], "order").permutation(len(fov))
    order = shuffled[np.argsort(fov[shuffled], kind="stable")]
    fov = fov[order]
    first = np.searchsorted(fov, np.arange(rows * columns))
    number = np.arange(len(fov)) - first[fov]
    names = np.array([f"{_letters(r)}{c + 1}" for r in range(rows) for c in range(columns)], object)
    return order, fov, names, number


def _letters(row: int) -> str:
    return chr(ord("A") + row) if row < 26 else _letters(row // 26 - 1) + _letters(row % 26)


def _cell_counts(molecules: dict, assigned: np.ndarray, shape: tuple[int, int]):
    from scipy import sparse

    good = (molecules["qv"] >= MIN_QV) & (assigned >= 0)
    ones = np.ones(int(good.sum()), np.int32)
    counts = sparse.csc_matrix((ones, (molecules["feature"][good], assigned[good])), shape=shape)
    counts.sum_duplicates()
    counts.sort_indices()
    return counts
