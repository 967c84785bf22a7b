"""Pooling transcripts to pseudo-spots: exact counts, streamed, every row accounted for.

A row is dropped for the first of these reasons that holds, in this order:

1. ``not_a_gene``: a control or an unassigned codeword (``bundle.gene_rows``);
2. ``low_quality``: its quality value is below ``min_qv``, or missing;
3. ``outside_spots``: it lies in no spot;
4. ``in_dropped_spots``: its spot holds fewer than ``min_transcripts`` pooled transcripts.

All the others are pooled, so that rows read = pooled + dropped; each run asserts it.

Which spot holds a transcript is computed in float64 from the coordinates as they are stored (they
are float32 in the files). Lattice: column ``floor(x_um / pitch_um)``, row ``floor(y_um /
pitch_um)``; the cell of column c spans [c, c + 1) pitches, and the centre of its spot is the centre
of the cell. A square narrower than the pitch holds the points with ``-size/2 <= dx < size/2``, both
ways; a circle those with ``dx**2 + dy**2 <= (size/2)**2``. Around given centres, circles hold the
points at most a radius away; where two circles overlap, a transcript counts once, in the circle
with the nearest centre (the first one listed, if two are as near).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numba
import numpy as np
import pyarrow as pa
from scipy import sparse

from pairscape import bundle as xenium
from pairscape.errors import InputError

SHAPES = ("square", "circle")
MAX_ENTRIES = 1 << 34  # spots x genes, one byte each, touched only where there is tissue
MAX_EXTENT_UM = 200_000  # several slides; what lies farther apart is no position on a slide


class Layout(NamedTuple):
    """Where the spots lie: a lattice, or given centres in buckets of one diameter a side.

    For a lattice the buckets are its cells, each with one spot, and ``members`` is empty.
    """

    shape: str
    size_um: float
    pitch_um: float  # side of a bucket
    first_row: int
    first_col: int
    rows: int
    cols: int
    centres_um: np.ndarray  # (S, 2) float64 for given centres; (0, 2) for a lattice
    names: tuple[str, ...]  # of the given centres
    starts: np.ndarray  # (rows * cols + 1,) int64: where a bucket's centres start in members
    members: np.ndarray  # (S,) int64

    @property
    def spots(self) -> int:
        return len(self.centres_um) if self.names else self.rows * self.cols


class Pooled(NamedTuple):
    """Spots that are kept, and what became of every row."""

    counts: sparse.csr_matrix  # (S, G) int32, indices sorted, no stored zeros
    layout: dict  # of arrays (S,): spot (str), array_row, array_col, x_um, y_um
    rows_read: int
    pooled: int
    dropped: dict  # reason -> rows
    spots_dropped: int  # spots with some transcript, but fewer than min_transcripts


def lattice(shape: str, size_um: float, pitch_um: float, bounds_um) -> Layout:
    """A square lattice of spots from (0, 0) on that covers ``bounds_um``.

    Parameters
    ----------
    shape
        "square" or "circle".
    size_um
        Side or diameter; at most ``pitch_um``.
    bounds_um
        x_min, y_min, x_max, y_max of the transcripts.

    Raises
    ------
    InputError
        Spots overlap, or the bounds hold so many that a coordinate must be wrong.
    """
    _check_spots(shape, size_um)
    if not pitch_um >= size_um:
        raise InputError(
            "--options", "spots.pitch_um", pitch_um, f"spots overlap: give at least {size_um}"
        )
    x_min, y_min, x_max, y_max = (float(value) for value in bounds_um)
    first_col, last_col = int(x_min // pitch_um), int(x_max // pitch_um)
    first_row, last_row = int(y_min // pitch_um), int(y_max // pitch_um)
    return Layout(
        shape=shape,
        size_um=float(size_um),
        pitch_um=float(pitch_um),
        first_row=first_row,
        first_col=first_col,
        rows=last_row - first_row + 1,
        cols=last_col - first_col + 1,
        centres_um=np.empty((0, 2)),
        names=(),
        starts=np.zeros(1, np.int64),
        members=np.empty(0, np.int64),
    )


def circles(centres_um: np.ndarray, names: Iterable[str], size_um: float) -> Layout:
    """Circles of diameter ``size_um`` around given centres, (S, 2) µm; all of them are kept."""
    _check_spots("circle", size_um)
    centres_um = np.ascontiguousarray(centres_um, np.float64).reshape(-1, 2)
    cells = np.floor(centres_um / size_um).astype(np.int64)
    # One bucket more all round: a point of a circle lies at most one bucket from its centre's.
    first_col, first_row = cells.min(axis=0) - 1
    cols, rows = cells.max(axis=0) - (first_col, first_row) + 2
    if rows * cols > 1 << 26:
        raise InputError(
            "--options", "spots.centres", "centres too far apart", "give them in micrometres"
        )
    bucket = (cells[:, 1] - first_row) * cols + cells[:, 0] - first_col
    return Layout(
        shape="circle",
        size_um=float(size_um),
        pitch_um=float(size_um),
        first_row=int(first_row),
        first_col=int(first_col),
        rows=int(rows),
        cols=int(cols),
        centres_um=centres_um,
        names=tuple(names),
        starts=np.searchsorted(np.sort(bucket), np.arange(rows * cols + 1)),
        members=np.argsort(bucket, kind="stable"),
    )


def transcript_bounds(bundle) -> tuple[float, float, float, float]:
    """x_min, y_min, x_max, y_max (µm) over all rows.

    From the statistics in the footer where every row group has them, else by reading the columns.
    NaN is left out; a file of nothing but NaN is refused.
    """
    axes = ["x_location", "y_location"]
    with xenium.open_transcripts(bundle) as file:
        columns = [file.schema_arrow.names.index(axis) for axis in axes]
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        statistics = [[group.column(c).statistics for c in columns] for group in groups]
        if all(s is not None and s.has_min_max for pair in statistics for s in pair):
            low = np.array([[s.min for s in pair] for pair in statistics])
            high = np.array([[s.max for s in pair] for pair in statistics])
            bounds = (*low.min(axis=0), *high.max(axis=0))
            if np.isfinite(bounds).all():
                return tuple(float(value) for value in bounds)
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for batch in xenium.iter_transcripts(bundle, axes):
        for i in range(2):
            values = batch.column(i).to_numpy(zero_copy_only=False)
            values = values[np.isfinite(values)]
            if len(values):
                low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())
    if not np.isfinite([*low, *high]).all():
        raise InputError(
            f"{bundle}/transcripts.parquet",
            "x_location, y_location",
            "no finite value",
            xenium.DAMAGED,
        )
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1]))


def pool(
    batches: Iterable[pa.RecordBatch],
    layout: Layout,
    genes: list[str],
    *,
    min_qv: float,
    min_transcripts: int,
    file="transcripts.parquet",
) -> Pooled:
    """Count the transcripts of each gene in each spot.

    Memory: one byte for each spot and gene where there is tissue, the result, and one batch; it
    doesn't grow with the number of rows.

    Parameters
    ----------
    batches
        With columns ``feature_name`` (dictionary), ``x_location``, ``y_location``, ``qv`` and the
        one that ``bundle.gene_column`` names.
    genes
        The columns of the counts; transcripts of other genes are refused.
    min_qv
        Rows below it aren't counted.
    min_transcripts
        Spots of a lattice below it are left out. Given centres are all kept.
    file
        For messages.
    """
    if min_transcripts < 1:
        raise InputError("--options", "spots.min_transcripts", min_transcripts, "give 1 or more")
    extent_um = max(layout.rows, layout.cols) * layout.pitch_um
    if extent_um > MAX_EXTENT_UM or layout.spots * len(genes) > MAX_ENTRIES:
        raise InputError(
            file,
            "x_location, y_location",
            f"an extent of {layout.cols} x {layout.rows} spots",
            "mend the coordinates (they must be micrometres), or make the spots larger",
        )
    column_of = {gene: index for index, gene in enumerate(genes)}
    # A count is its byte here plus 256 for each time that its place stands among the carries.
    small = np.zeros(layout.spots * len(genes), np.uint8)
    carries: list[np.ndarray] = []
    tally = np.zeros(3, np.int64)  # not_a_gene, low_quality, outside_spots
    rows_read = 0
    carry = np.empty(xenium.BATCH_ROWS, np.int64)
    for batch in batches:
        names = batch.column("feature_name")
        is_gene = xenium.gene_rows(batch)
        codes = names.indices.fill_null(len(names.dictionary)).to_numpy(zero_copy_only=False)
        known = [column_of.get(name, -1) for name in names.dictionary.to_pylist()]
        x, y, qv = (
            batch.column(name).to_numpy(zero_copy_only=False)
            for name in ("x_location", "y_location", "qv")
        )
        if len(carry) < len(batch):
            carry = np.empty(len(batch), np.int64)
        fault, carried = _accumulate(
            np.asarray(codes, np.int32),
            np.array([*known, -1], np.int64),
            is_gene,
            x,
            y,
            qv,
            float(min_qv),
            layout.shape == "circle",
            layout.size_um / 2,
            layout.pitch_um,
            layout.first_row,
            layout.first_col,
            layout.rows,
            layout.cols,
            layout.centres_um,
            layout.starts,
            layout.members,
            len(genes),
            small,
            carry,
            tally,
        )
        if fault >= 0:
            _refuse_row(file, rows_read + fault, names[fault].as_py(), x[fault], y[fault])
        carries.append(carry[:carried].copy())
        rows_read += len(batch)

    carries = np.sort(np.concatenate(carries)) if carries else np.empty(0, np.int64)
    small = small.reshape(layout.spots, len(genes))
    totals, filled = _sum_spots(small)
    totals += 256 * np.bincount(carries // len(genes), minlength=layout.spots)
    kept = np.arange(layout.spots) if layout.names else np.flatnonzero(totals >= min_transcripts)
    if not len(kept) or not totals[kept].any():
        raise InputError(
            file,
            "transcripts",
            f"no spot with {min_transcripts} or more of quality {min_qv:g} or more",
            "lower min_qv or min_transcripts, or leave the sample out",
        )
    counts = _to_csr(small, kept, filled, carries)
    pooled = int(counts.data.sum(dtype=np.int64))
    dropped = dict(zip(("not_a_gene", "low_quality", "outside_spots"), tally.tolist(), strict=True))
    dropped["in_dropped_spots"] = int(totals.sum() - totals[kept].sum())
    assert rows_read == pooled + sum(dropped.values()), "rows are lost or counted twice"
    return Pooled(
        counts=counts,
        layout=_describe_spots(layout, kept),
        rows_read=rows_read,
        pooled=pooled,
        dropped=dropped,
        spots_dropped=int(np.count_nonzero(totals)) - int(np.count_nonzero(totals[kept])),
    )


def _check_spots(shape: str, size_um: float) -> None:
    if shape not in SHAPES:
        raise InputError("--options", "spots.shape", shape, f"use one of {', '.join(SHAPES)}")
    if not size_um > 0:
        raise InputError("--options", "spots.size_um", size_um, "give micrometres above 0")


def _refuse_row(file, row: int, name: str | None, x: float, y: float) -> None:
    if not (np.isfinite(x) and np.isfinite(y)):
        field, found = f"row {row}, x_location, y_location", f"{x}, {y}"
        raise InputError(file, field, found, xenium.DAMAGED)
    raise InputError(
        file,
        f"row {row}, feature_name",
        f"gene {name}, which gene_panel.json doesn't list",
        "use the gene_panel.json of this bundle",
    )


def _describe_spots(layout: Layout, kept: np.ndarray) -> dict:
    """Names, places and centres (µm) of the kept spots; given centres stand in one column."""
    if layout.names:
        rows, cols = np.arange(len(layout.names)), np.zeros(len(layout.names))
        x_um, y_um = layout.centres_um.T
        names = np.array(layout.names, object)
    else:
        rows, cols = kept // layout.cols + layout.first_row, kept % layout.cols + layout.first_col
        x_um, y_um = (cols + 0.5) * layout.pitch_um, (rows + 0.5) * layout.pitch_um
        names = np.array([f"{r:03d}x{c:03d}" for r, c in zip(rows, cols, strict=True)], object)
    return {
        "spot": names,
        "array_row": rows.astype(np.int32),
        "array_col": cols.astype(np.int32),
        "x_um": x_um.astype(np.float64),
        "y_um": y_um.astype(np.float64),
    }


@numba.njit(cache=True, nogil=True)
def _accumulate(
    codes,
    column_of_code,
    is_gene,
    x,
    y,
    qv,
    min_qv,
    is_circle,
    radius,
    pitch,
    first_row,
    first_col,
    rows,
    cols,
    centres,
    starts,
    members,
    genes,
    small,
    carry,
    tally,
):
    """Count one batch; returns the first row that must be refused (or -1), and the carries."""
    carried = 0
    full_cells = not is_circle and 2 * radius == pitch
    for i in range(len(codes)):
        x_um, y_um = np.float64(x[i]), np.float64(y[i])
        if not (np.isfinite(x_um) and np.isfinite(y_um)):
            return i, carried
        if not is_gene[i]:
            tally[0] += 1
            continue
        gene = column_of_code[codes[i]]
        if gene < 0:
            return i, carried
        if not qv[i] >= min_qv:
            tally[1] += 1
            continue
        cell_col, cell_row = np.floor(x_um / pitch), np.floor(y_um / pitch)
        col, row = np.int64(cell_col) - first_col, np.int64(cell_row) - first_row
        spot = np.int64(-1)
        if len(centres):
            nearest = radius * radius
            for r in range(max(row - 1, 0), min(row + 2, rows)):
                for c in range(max(col - 1, 0), min(col + 2, cols)):
                    for k in range(starts[r * cols + c], starts[r * cols + c + 1]):
                        centre = members[k]
                        dx, dy = x_um - centres[centre, 0], y_um - centres[centre, 1]
                        distance = dx * dx + dy * dy
                        if distance < nearest or (
                            distance == nearest and (spot < 0 or centre < spot)
                        ):
                            nearest, spot = distance, centre
        elif 0 <= row < rows and 0 <= col < cols:
            dx, dy = x_um - (cell_col + 0.5) * pitch, y_um - (cell_row + 0.5) * pitch
            if is_circle:
                inside = dx * dx + dy * dy <= radius * radius
            else:
                inside = full_cells or (-radius <= dx < radius and -radius <= dy < radius)
            if inside:
                spot = row * cols + col
        if spot < 0:
            tally[2] += 1
            continue
        place = spot * genes + gene
        small[place] += np.uint8(1)
        if small[place] == 0:
            carry[carried] = place
            carried += 1
    return -1, carried


@numba.njit(cache=True)
def _sum_spots(small):
    """Sum and number of non-zero bytes of each spot."""
    totals = np.zeros(len(small), np.int64)
    filled = np.zeros(len(small), np.int64)
    for spot in range(len(small)):
        for value in small[spot]:
            totals[spot] += value
            filled[spot] += value > 0
    return totals, filled


def _to_csr(small, kept, filled, carries) -> sparse.csr_matrix:
    """The kept spots' counts; ``carries`` are sorted places that stand for 256 each."""
    genes = small.shape[1]
    # A count of exactly 256, 512, ... has a byte of zero and a carry: it needs a place as well.
    places, times = np.unique(carries, return_counts=True)
    hidden = places[small.reshape(-1)[places] == 0] // genes
    filled = filled + np.bincount(hidden, minlength=len(small))
    indptr = np.concatenate([[0], np.cumsum(filled[kept])])
    indices = np.empty(indptr[-1], np.int32)
    data = np.empty(indptr[-1], np.int32)
    _fill_csr(small, kept, places, times, indices, data)
    if indptr[-1] < 1 << 31:
        indptr = indptr.astype(np.int32)
    return sparse.csr_matrix((data, indices, indptr), shape=(len(kept), genes))


@numba.njit(cache=True)
def _fill_csr(small, kept, places, times, indices, data):
    at = 0
    genes = small.shape[1]
    for spot in kept:
        next_carry = np.searchsorted(places, spot * genes)
        for gene in range(genes):
            count = np.int64(small[spot, gene])
            if next_carry < len(places) and places[next_carry] == spot * genes + gene:
                count += 256 * times[next_carry]
                next_carry += 1
            if count > 0:
                indices[at] = gene
                data[at] = count
                at += 1
