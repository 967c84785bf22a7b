"""The loops of pooling, compiled: which spot holds a transcript, and how many it holds of each gene.

Counts are bytes, one for each spot and gene. Where one overflows, its place joins the carries: a
count is its byte plus 256 for each time that its place stands among them.
"""

import numba
import numpy as np
from scipy import sparse

from pairscape.spots.lattice import CENTRES, CIRCLES, HEXAGONS, SQUARES


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
    # Chosen by arithmetic: half of all points would be a branch guessed wrong.
    is_odd = np.int64(odd < even)
    row = 2 * np.int64(even_row) * (1 - is_odd) + (2 * np.int64(odd_row) + 1) * is_odd
    return row, np.int64(even_col) * (1 - is_odd) + np.int64(odd_col) * is_odd, inside


@numba.njit(cache=True, nogil=True)
def accumulate(
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
def sum_spots(small):
    """Sum and number of non-zero bytes of each spot."""
    totals = np.zeros(len(small), np.int64)
    filled = np.zeros(len(small), np.int64)
    for spot in range(len(small)):
        for value in small[spot]:
            totals[spot] += value
            filled[spot] += value > 0
    return totals, filled


def to_csr(small, kept, filled, carries) -> sparse.csr_matrix:
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
