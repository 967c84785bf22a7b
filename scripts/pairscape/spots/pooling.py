"""Pooling transcripts to pseudo-spots: exact counts, streamed, every row accounted for.

A row is dropped for the first of these reasons that holds, in this order:

1. ``not_a_gene``: a control or an unassigned codeword (``bundle.gene_rows``);
2. ``low_quality``: its quality value is below ``min_qv``, or missing (never where min_qv is 0);
3. ``unassigned``: it belongs to no cell or nucleus, where only such are pooled;
4. ``outside_spots``: it lies in no spot;
5. ``no_tissue``: less than ``min_tissue`` of its spot is tissue;
6. ``in_dropped_spots``: its spot holds fewer than ``min_transcripts`` pooled transcripts.

All the others are pooled, so that rows read = pooled + dropped; each run checks it.

Which spot holds a transcript is computed in float64 from the coordinates as they are stored (they
are float32 in the files), in the units of a frame: Xenium micrometres, or pixels of the H&E, which
an affine map makes of them. From the frame's origin on, with a pitch p:

- square lattice: column ``floor(u / p)``, row ``floor(v / p)``; the cell of column c spans
  [c, c + 1) pitches, and the centre of its spot is the centre of the cell;
- hexagonal lattice: centres at ``u = column * p / 2``, ``v = p / (2 sqrt 3) + row * p sqrt(3) / 2``
  where row and column are both even or both odd (the numbering of Visium); the cell of a centre
  is what lies nearest to it, a hexagon p wide between its upright sides (of which the left one
  belongs to it). Nothing with u, v >= 0 falls into a negative row or column.

A square narrower than the pitch holds the points with ``-size/2 <= d < size/2``, both ways; a
circle those with ``du**2 + dv**2 <= (size/2)**2``; squares and hexagons of the pitch leave no gap.
Around given centres, circles hold the points at most a radius away; where two circles overlap, a
transcript counts once, in the circle with the nearest centre (the first one listed, if two are as
near).
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from pairscape.acquire import bundle as xenium
from pairscape.core.errors import InputError
from pairscape.spots import counting
from pairscape.spots.lattice import (
    MAX_ENTRIES,
    MAX_EXTENT_UM,
    Frame,
    Layout,
    describe_spots,
    spot_centres_um,
    widen,
    xenium_frame,
)
from pairscape.spots.preset import SpotPreset, check_words

REASONS = (
    "not_a_gene",
    "low_quality",
    "unassigned",
    "outside_spots",
    "no_tissue",
    "in_dropped_spots",
)


class Pooled(NamedTuple):
    """Spots that are kept, and what became of every row."""

    counts: sparse.csr_matrix  # (S, G) int32, indices sorted, no stored zeros
    layout: dict  # arrays (S,): spot (text), array_row, array_col, x_um, y_um (, tissue_fraction)
    rows_read: int
    pooled: int
    dropped: dict  # reason -> rows, in the order of REASONS
    spots_dropped: int  # with some transcript, but fewer than min_transcripts
    spots_without_tissue: int  # with some transcript, but less tissue than min_tissue


def transcript_bounds(bundle, frame: Frame | None = None) -> tuple[float, float, float, float]:
    """Least u, v and greatest u, v over all rows, controls and poor ones included.

    In micrometres from the statistics in the file's footer where every row group has them; else,
    and in any other frame, by reading the columns. NaN is left out; a file of nothing but NaN is
    refused.
    """
    frame = frame or xenium_frame()
    bounds = _stated_bounds(bundle) if frame.is_um and not frame.origin.any() else None
    if bounds is None:
        bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        for batch in xenium.iter_transcripts(bundle, ["x_location", "y_location"]):
            x, y = (batch.column(i).to_numpy(zero_copy_only=False) for i in range(2))
            widen(bounds, x, y, frame.to_units, frame.origin)
    if not np.isfinite(bounds).all():
        path = xenium.find_transcripts(bundle)
        raise InputError(path, "x_location, y_location", "no finite value", xenium.DAMAGED)
    return tuple(float(value) for value in bounds)


def _stated_bounds(bundle) -> np.ndarray | None:
    if xenium.find_transcripts(bundle).suffix != ".parquet":
        return None
    with xenium.open_transcripts(bundle) as file:
        columns = [file.schema_arrow.names.index(axis) for axis in ("x_location", "y_location")]
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        statistics = [[group.column(c).statistics for c in columns] for group in groups]
        if not all(s is not None and s.has_min_max for pair in statistics for s in pair):
            return None
        low = np.array([[s.min for s in pair] for pair in statistics], np.float64)
        high = np.array([[s.max for s in pair] for pair in statistics], np.float64)
    bounds = np.concatenate([low.min(axis=0), high.max(axis=0)])
    return bounds if np.isfinite(bounds).all() else None


def pool(
    batches: Iterable[pa.RecordBatch],
    layout: Layout,
    genes: list[str],
    preset: SpotPreset,
    *,
    cells=None,
    tissue_of: Callable[[np.ndarray], np.ndarray] | None = None,
    file="transcripts.parquet",
) -> Pooled:
    """Count the transcripts of each gene in each spot.

    Memory: one byte for each spot and gene where there is tissue, the result, and one batch; it
    doesn't grow with the number of rows.

    Parameters
    ----------
    batches
        With the columns that ``columns_needed`` names.
    genes
        The columns of the counts; transcripts of other genes are refused.
    preset
        Which transcripts count and which spots stay. Given centres are all kept.
    cells
        For ``assigned: cells_within``: (cell ids, text; centroids (C, 2) µm).
    tissue_of
        Gives the share of tissue, (N,) from 0 to 1, of spots with centres (N, 2) µm.
    file
        For messages.
    """
    check_words(preset, "assigned")
    if preset.min_transcripts < 1:
        field, least = "spots.min_transcripts", preset.min_transcripts
        raise InputError("--options", field, least, "give 1 or more")
    _refuse_extent(layout, len(genes), file)
    small, carries, tally, rows_read = _count(batches, layout, genes, preset, cells, file)
    totals, filled = counting.sum_spots(small)
    totals += 256 * np.bincount(carries // len(genes), minlength=layout.spots)
    kept = np.arange(layout.spots) if layout.names else np.flatnonzero(totals)
    tissue = None
    if tissue_of is not None and len(kept):
        tissue = np.asarray(tissue_of(spot_centres_um(layout, kept)), np.float64)
    bare = np.zeros(len(kept), bool)
    poor = np.zeros(len(kept), bool)
    if not layout.names:
        bare = tissue < (preset.min_tissue or 0) if tissue is not None else bare
        poor = ~bare & (totals[kept] < preset.min_transcripts)
    dropped = dict(zip(REASONS, tally.tolist(), strict=False))
    dropped["no_tissue"] = int(totals[kept[bare]].sum())
    dropped["in_dropped_spots"] = int(totals[kept[poor]].sum())
    stay = ~(bare | poor)
    if not totals[kept[stay]].any():
        none = f"no spot with {preset.min_transcripts} or more of quality {preset.min_qv:g} or more"
        none += f" and {preset.min_tissue or 0:g} of tissue" if bare.any() else ""
        remedy = "lower min_qv, min_transcripts or min_tissue, or leave the sample out"
        raise InputError(file, "transcripts", none, remedy)
    kept, tissue = kept[stay], tissue[stay] if tissue is not None else None
    counts = counting.to_csr(small, kept, filled, carries)
    pooled = int(counts.data.sum(dtype=np.int64))
    if rows_read != pooled + sum(dropped.values()):
        raise AssertionError(f"{rows_read} rows read, but {pooled} pooled and {dropped} dropped")
    described = describe_spots(layout, kept)
    if tissue is not None:
        described["tissue_fraction"] = tissue.astype(np.float32)
    return Pooled(
        counts=counts,
        layout=described,
        rows_read=rows_read,
        pooled=pooled,
        dropped=dropped,
        spots_dropped=int(poor.sum()),
        spots_without_tissue=int(bare.sum()),
    )


def _refuse_extent(layout: Layout, genes: int, file) -> None:
    grid = layout.grid
    extent_um = max(grid.rows, grid.cols) * layout.pitch_um
    if not layout.names and (extent_um > MAX_EXTENT_UM or layout.spots * genes > MAX_ENTRIES):
        fault = f"an extent of {grid.cols} x {grid.rows} spots"
        remedy = "mend the coordinates (they must be micrometres), or make the spots larger"
        raise InputError(file, "x_location, y_location", fault, remedy)


def _count(batches, layout: Layout, genes: list[str], preset: SpotPreset, cells, file):
    """Bytes (spots, genes) and sorted carries (see ``counting``), the first four reasons, rows."""
    column_of = {gene: index for index, gene in enumerate(genes)}
    small = np.zeros(layout.spots * len(genes), np.uint8)
    carries = [np.empty(0, np.int64)]
    tally = np.zeros(4, np.int64)
    rows_read = 0
    carry = np.empty(xenium.BATCH_ROWS, np.int64)
    for batch in batches:
        names = batch.column("feature_name")
        codes = names.indices.fill_null(len(names.dictionary)).to_numpy(zero_copy_only=False)
        known = [column_of.get(name, -1) for name in names.dictionary.to_pylist()]
        x, y, qv = (
            batch.column(name).to_numpy(zero_copy_only=False)
            for name in ("x_location", "y_location", "qv")
        )
        is_assigned, (u, v) = _assign(batch, preset.assigned, cells, (x, y), file, rows_read)
        if len(carry) < len(batch):
            carry = np.empty(len(batch), np.int64)
        fault, carried = counting.accumulate(
            np.asarray(codes, np.int32),
            np.array([*known, -1], np.int64),
            xenium.gene_rows(batch),
            is_assigned,
            u,
            v,
            qv,
            float(preset.min_qv),
            layout.grid,
            len(genes),
            small,
            carry,
            tally,
        )
        if fault >= 0:
            _refuse_row(file, rows_read + fault, names[fault].as_py(), x[fault], y[fault])
        carries.append(carry[:carried].copy())
        rows_read += len(batch)
    if layout.gapless and tally[3]:  # the lattice was laid by the extent that the file states
        field, less = (
            "statistics of x_location, y_location",
            "a smaller extent than that of the rows",
        )
        raise InputError(file, field, less, xenium.DAMAGED)
    return small.reshape(layout.spots, -1), np.sort(np.concatenate(carries)), tally, rows_read


def _refuse_row(file, row: int, name: str | None, x: float, y: float) -> None:
    if not (np.isfinite(x) and np.isfinite(y)):
        field = f"row {row}, x_location, y_location"
        raise InputError(file, field, f"{x}, {y}", xenium.DAMAGED)
    unlisted = f"gene {name}, which gene_panel.json doesn't list"
    remedy = "use the gene_panel.json of this bundle"
    raise InputError(file, f"row {row}, feature_name", unlisted, remedy)


def _assign(batch: pa.RecordBatch, assigned: str, cells, points, file, rows_read: int):
    """Which rows belong to what is pooled (empty for all), and the points that place them."""
    if assigned == "all":
        return np.empty(0, bool), points
    if assigned == "nuclei":
        column = batch.column("overlaps_nucleus").cast(pa.bool_()).fill_null(False)
        return column.to_numpy(zero_copy_only=False), points
    is_assigned = xenium.cell_rows(batch)
    if assigned == "cells":
        return is_assigned, points
    ids, centroids_um = cells
    column = batch.column("cell_id")
    value_set = pa.array(ids, pa.string())
    if pa.types.is_dictionary(column.type):
        cell_of = pc.index_in(column.dictionary, value_set=value_set).fill_null(-1)
        words = column.indices.fill_null(len(cell_of)).to_numpy(zero_copy_only=False)
        cell = np.append(cell_of.to_numpy(zero_copy_only=False), -1)[words]
    else:
        cell = pc.index_in(column.cast(pa.string()), value_set=value_set).fill_null(-1)
        cell = cell.to_numpy(zero_copy_only=False)
    unknown = np.flatnonzero(is_assigned & (cell < 0))
    if len(unknown):
        name = batch.column("cell_id")[unknown[0]].as_py()
        fault = f"cell {name}, which cells.parquet doesn't list"
        remedy = "use the cells.parquet of this bundle, or assigned: cells"
        raise InputError(file, f"row {rows_read + unknown[0]}, cell_id", fault, remedy)
    # A row that isn't finite itself is refused wherever its cell lies.
    fine = is_assigned & np.isfinite(points).all(axis=0)
    places = centroids_um[np.where(fine, cell, 0)]
    return is_assigned, np.ascontiguousarray(np.where(fine, places.T, points))
