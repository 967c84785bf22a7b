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

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from pairscape.acquire import bundle as xenium
from pairscape.core.errors import InputError
from pairscape.spots.lattice import (
    CENTRES,
    CIRCLES,
    HEXAGONS,
    MAX_ENTRIES,
    MAX_EXTENT_UM,
    SQUARES,
    Frame,
    Layout,
    describe_spots,
    spot_centres_um,
    widen,
    xenium_frame,
)

ASSIGNED = ("all", "cells", "nuclei", "cells_within")
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
    plain = np.array_equal(frame.to_units, np.eye(3)[:2]) and not frame.origin.any()
    bounds = _stated_bounds(bundle) if plain else None
    if bounds is None:
        bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])
        for batch in xenium.iter_transcripts(bundle, ["x_location", "y_location"]):
            x, y = (batch.column(i).to_numpy(zero_copy_only=False) for i in range(2))
            widen(bounds, x, y, frame.to_units, frame.origin)
    if not np.isfinite(bounds).all():
        raise InputError(
            xenium.find_transcripts(bundle),
            "x_location, y_location",
            "no finite value",
            xenium.DAMAGED,
        )
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
    *,
    min_qv: float,
    min_transcripts: int,
    assigned: str = "all",
    cells=None,
    tissue_of: Callable[[np.ndarray], np.ndarray] | None = None,
    min_tissue: float = 0.0,
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
    min_qv
        Rows below it aren't counted; 0 counts those without a quality value, too.
    min_transcripts
        Spots of a lattice below it are left out. Given centres are all kept.
    assigned
        Which transcripts: "all"; those of "cells"; those over "nuclei"; or "cells_within": those of
        the cells whose centroid lies in the spot, wherever they lie themselves.
    cells
        For "cells_within": (cell ids, text; centroids (C, 2) µm).
    tissue_of
        Gives the share of tissue, (N,) from 0 to 1, of spots with centres (N, 2) µm.
    min_tissue
        Spots of a lattice with less are left out.
    file
        For messages.
    """
    if min_transcripts < 1:
        raise InputError("--options", "spots.min_transcripts", min_transcripts, "give 1 or more")
    grid = layout.grid
    if assigned not in ASSIGNED:
        raise InputError(
            "--options", "spots.assigned", assigned, f"use one of {', '.join(ASSIGNED)}"
        )
    extent_um = max(grid.rows, grid.cols) * layout.pitch_um
    if not layout.names and (extent_um > MAX_EXTENT_UM or layout.spots * len(genes) > MAX_ENTRIES):
        raise InputError(
            file,
            "x_location, y_location",
            f"an extent of {grid.cols} x {grid.rows} spots",
            "mend the coordinates (they must be micrometres), or make the spots larger",
        )
    column_of = {gene: index for index, gene in enumerate(genes)}
    # A count is its byte here plus 256 for each time that its place stands among the carries.
    small = np.zeros(layout.spots * len(genes), np.uint8)
    carries: list[np.ndarray] = []
    tally = np.zeros(4, np.int64)  # the first four reasons
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
        is_assigned, (u, v) = _assign(batch, assigned, cells, x, y, file, rows_read)
        if len(carry) < len(batch):
            carry = np.empty(len(batch), np.int64)
        fault, carried = _accumulate(
            np.asarray(codes, np.int32),
            np.array([*known, -1], np.int64),
            xenium.gene_rows(batch),
            is_assigned,
            u,
            v,
            qv,
            float(min_qv),
            grid,
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
        raise InputError(
            file, "statistics of x_location, y_location", "a smaller extent than that of the rows",
            xenium.DAMAGED,
        )  # fmt: skip

    carries = np.sort(np.concatenate(carries)) if carries else np.empty(0, np.int64)
    small = small.reshape(layout.spots, len(genes))
    totals, filled = _sum_spots(small)
    totals += 256 * np.bincount(carries // len(genes), minlength=layout.spots)
    kept = np.arange(layout.spots) if layout.names else np.flatnonzero(totals)
    tissue = None
    if tissue_of is not None and len(kept):
        tissue = np.asarray(tissue_of(spot_centres_um(layout, kept)), np.float64)
    bare = np.zeros(len(kept), bool)
    poor = np.zeros(len(kept), bool)
    if not layout.names:
        bare = tissue < min_tissue if tissue is not None else bare
        poor = ~bare & (totals[kept] < min_transcripts)
    dropped = dict(zip(REASONS, tally.tolist(), strict=False))
    dropped["no_tissue"] = int(totals[kept[bare]].sum())
    dropped["in_dropped_spots"] = int(totals[kept[poor]].sum())
    stay = ~(bare | poor)
    if not totals[kept[stay]].any():
        raise InputError(
            file,
            "transcripts",
            f"no spot with {min_transcripts} or more of quality {min_qv:g} or more"
            + (f" and {min_tissue:g} of tissue" if bare.any() else ""),
            "lower min_qv, min_transcripts or min_tissue, or leave the sample out",
        )
    kept, tissue = kept[stay], tissue[stay] if tissue is not None else None
    counts = _to_csr(small, kept, filled, carries)
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


def _assign(batch: pa.RecordBatch, assigned: str, cells, x, y, file, rows_read: int):
    """Which rows belong to what is pooled (empty for all), and the points that place them."""
    if assigned == "all":
        return np.empty(0, bool), (x, y)
    if assigned == "nuclei":
        column = batch.column("overlaps_nucleus").fill_null(0).to_numpy(zero_copy_only=False)
        return column.astype(bool), (x, y)
    is_assigned = xenium.cell_rows(batch)
    if assigned == "cells":
        return is_assigned, (x, y)
    ids, centroids_um = cells
    column = batch.column("cell_id")
    if pa.types.is_dictionary(column.type):
        of_word = pc.index_in(column.dictionary, value_set=pa.array(ids, pa.string()))
        of_word = of_word.fill_null(-1).to_numpy(zero_copy_only=False)
        words = column.indices.fill_null(len(of_word)).to_numpy(zero_copy_only=False)
        cell = np.append(of_word, -1)[words]
    else:
        column = pc.index_in(column.cast(pa.string()), value_set=pa.array(ids, pa.string()))
        cell = column.fill_null(-1).to_numpy(zero_copy_only=False)
    unknown = np.flatnonzero(is_assigned & (cell < 0))
    if len(unknown):
        raise InputError(
            file,
            f"row {rows_read + unknown[0]}, cell_id",
            f"cell {batch.column('cell_id')[unknown[0]].as_py()}, which cells.parquet doesn't list",
            "use the cells.parquet of this bundle, or assigned: cells",
        )
    # A row that isn't finite itself is refused wherever its cell lies.
    fine = is_assigned & np.isfinite(x) & np.isfinite(y)
    points = np.where(fine[:, None], centroids_um[np.where(fine, cell, 0)], np.column_stack([x, y]))
    return is_assigned, np.ascontiguousarray(points.T)


# These take numbers, no tuple of arrays: counting the references of those would cost more than all
# the rest.
@numba.njit(cache=True, nogil=True)
def _square_cell(u, v, pitch, radius, kind):
    """Row and column of the lattice, and whether the point lies within the spot."""
    row, col = np.floor(v / pitch), np.floor(u / pitch)
    if kind == SQUARES:
        return np.int64(row), np.int64(col), True
    du, dv = u - (col + 0.5) * pitch, v - (row + 0.5) * pitch
    if kind == CIRCLES:
        inside = du * du + dv * dv <= radius * radius
    else:
        inside = -radius <= du < radius and -radius <= dv < radius
    return np.int64(row), np.int64(col), inside


@numba.njit(cache=True, nogil=True)
def _hexagon_cell(u, v, pitch, row_pitch, radius, kind):
    """Row of the lattice and place within that row, and whether the point lies within the spot."""
    # Even rows and odd rows are two lattices of rectangles, pitch by row_pitch.
    w = v - row_pitch / 6
    even_row, even_col = np.floor(w / row_pitch + 0.5), np.floor(u / pitch + 0.5)
    odd_row, odd_col = np.floor(w / row_pitch), np.floor(u / pitch)
    du, dv = u - even_col * pitch, w - even_row * row_pitch
    even = du * du + dv * dv
    du, dv = u - (odd_col + 0.5) * pitch, w - (odd_row + 0.5) * row_pitch
    odd = du * du + dv * dv
    inside = kind == HEXAGONS or min(even, odd) <= radius * radius
    if odd < even:
        return 2 * np.int64(odd_row) + 1, np.int64(odd_col), inside
    return 2 * np.int64(even_row), np.int64(even_col), inside


@numba.njit(cache=True, nogil=True)
def _accumulate(
    codes,
    column_of_code,
    is_gene,
    is_assigned,
    x,
    y,
    qv,
    min_qv,
    grid,
    genes,
    small,
    carry,
    tally,
):
    """Count one batch; returns the first row that must be refused (or -1), and the carries."""
    a, b, c = grid.to_units[0, 0], grid.to_units[0, 1], grid.to_units[0, 2]
    d, e, f = grid.to_units[1, 0], grid.to_units[1, 1], grid.to_units[1, 2]
    u_origin, v_origin = grid.origin[0], grid.origin[1]
    kind, radius, pitch, row_pitch = grid.kind, grid.radius, grid.pitch, grid.row_pitch
    first_row, first_col, rows, cols = grid.first_row, grid.first_col, grid.rows, grid.cols
    centres, starts, members = grid.centres, grid.starts, grid.members
    u_low, v_low, bucket = grid.low[0], grid.low[1], grid.bucket
    not_a_gene = low_quality = unassigned = outside = carried = 0
    fault = -1
    for i in range(len(codes)):
        x_um, y_um = np.float64(x[i]), np.float64(y[i])
        if not (np.isfinite(x_um) and np.isfinite(y_um)):
            fault = i
            break
        if not is_gene[i]:
            not_a_gene += 1
            continue
        gene = column_of_code[codes[i]]
        if gene < 0:
            fault = i
            break
        if min_qv > 0 and not qv[i] >= min_qv:
            low_quality += 1
            continue
        if len(is_assigned) and not is_assigned[i]:
            unassigned += 1
            continue
        u = a * x_um + b * y_um + c - u_origin
        v = d * x_um + e * y_um + f - v_origin
        spot = np.int64(-1)
        if kind == CENTRES:
            row, col = (v - v_low) / bucket, (u - u_low) / bucket
            if 0 <= row < rows and 0 <= col < cols:
                cell = np.int64(row) * cols + np.int64(col)
                nearest = radius * radius
                for k in range(starts[cell], starts[cell + 1]):
                    centre = members[k]
                    du, dv = u - centres[centre, 0], v - centres[centre, 1]
                    distance = du * du + dv * dv
                    if distance < nearest or (distance == nearest and spot < 0):
                        nearest, spot = distance, centre
        else:
            if kind >= HEXAGONS:
                r, q, inside = _hexagon_cell(u, v, pitch, row_pitch, radius, kind)
            else:
                r, q, inside = _square_cell(u, v, pitch, radius, kind)
            r, q = r - first_row, q - first_col
            if inside and 0 <= r < rows and 0 <= q < cols:
                spot = r * cols + q
        if spot < 0:
            outside += 1
            continue
        place = spot * genes + gene
        small[place] += np.uint8(1)
        if small[place] == 0:
            carry[carried] = place
            carried += 1
    tally[0] += not_a_gene
    tally[1] += low_quality
    tally[2] += unassigned
    tally[3] += outside
    return fault, carried


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
    largest = _fill_csr(small, kept, places, times, indices, data)
    if largest > np.iinfo(np.int32).max:
        raise OverflowError(f"{largest} transcripts of one gene in one spot: int32 can't hold it")
    if indptr[-1] < 1 << 31:
        indptr = indptr.astype(np.int32)
    return sparse.csr_matrix((data, indices, indptr), shape=(len(kept), genes))


@numba.njit(cache=True)
def _fill_csr(small, kept, places, times, indices, data):
    """Fill the rows; returns the largest count, which ``data`` may be too narrow for."""
    at, largest = 0, np.int64(0)
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
                data[at] = np.int32(count)
                largest = max(largest, count)
                at += 1
    return largest
