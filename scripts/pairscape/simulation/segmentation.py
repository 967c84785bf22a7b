"""Nucleus and cell outlines as the instrument segments them, and their rasters."""

import numba
import numpy as np
from scipy.spatial import cKDTree

from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import OUTLINE_POINTS
from pairscape.simulation.tissue import Tissue

EXPANSION_UM = 5.0
"""A cell is its nucleus and what lies within this distance, up to its neighbours (10x Genomics)."""


def outline_cells(tissue: Tissue, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outlines of the nuclei and of the cells ``index``, each (n, ``OUTLINE_POINTS``, 2) in µm.

    Cells meet on the lines of equal power distance to their nuclei, so none overlaps another.
    """
    cells = tissue.cells
    points = np.stack([cells["x_um"], cells["y_um"]], axis=1)
    radius = np.sqrt(cells["major_um"] * cells["minor_um"])
    around = 2 * np.pi * np.arange(OUTLINE_POINTS) / OUTLINE_POINTS
    u = cells["major_um"][:, None] * np.cos(around) * cells["outline"]
    v = cells["minor_um"][:, None] * np.sin(around) * cells["outline"]
    cosine, sine = np.cos(cells["angle"])[:, None], np.sin(cells["angle"])[:, None]
    spokes = np.stack([cosine * u - sine * v, sine * u + cosine * v], axis=2)[index]
    reach = np.linalg.norm(spokes, axis=2)
    directions = spokes / reach[:, :, None]
    tree = cKDTree(points)
    neighbours = tree.query_ball_point(
        points[index], reach.max(axis=1) + EXPANSION_UM + 15.0, return_sorted=True
    )
    counts = np.array([len(near) for near in neighbours], np.int64)
    flat = np.array([j for near in neighbours for j in near], np.int64)
    limit = _limit(points, radius, index, counts, flat, directions, reach + EXPANSION_UM)
    nucleus = np.minimum(reach, 0.94 * limit)
    centres = points[index][:, None, :]
    return centres + directions * nucleus[:, :, None], centres + directions * limit[:, :, None]


@numba.njit(cache=True)
def _limit(points, radius, index, counts, neighbours, directions, reach):
    """How far a cell goes in each direction before a neighbour's share begins."""
    limit = reach.copy()
    start = 0
    for n in range(len(index)):
        i = index[n]
        for j in neighbours[start : start + counts[n]]:
            if j == i:
                continue
            dx, dy = points[j, 0] - points[i, 0], points[j, 1] - points[i, 1]
            apart = np.sqrt(dx * dx + dy * dy)
            share = (apart * apart + radius[i] ** 2 - radius[j] ** 2) / (2 * apart)
            # Kept from both ends alike, so that two shares always add up to the distance.
            share = min(max(share, 0.15 * apart), 0.85 * apart)
            for k in range(limit.shape[1]):
                towards = (directions[n, k, 0] * dx + directions[n, k, 1] * dy) / apart
                if towards > 0:
                    limit[n, k] = min(limit[n, k], share / towards)
        start += counts[n]
    return limit


def areas_and_centroids(outlines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (n) and centroids (n, 2) of polygons (n, points, 2)."""
    origin = outlines[:, :1]
    x, y = np.moveaxis(outlines - origin, 2, 0)
    x_next, y_next = np.roll(x, -1, axis=1), np.roll(y, -1, axis=1)
    cross = x * y_next - x_next * y
    doubled = cross.sum(axis=1)
    centroids = np.stack(
        [((x + x_next) * cross).sum(axis=1), ((y + y_next) * cross).sum(axis=1)], axis=1
    )
    return np.abs(doubled) / 2, origin[:, 0] + centroids / (3 * doubled[:, None])


def raster_labels(outlines: np.ndarray, start: int, rows: int, columns: int) -> np.ndarray:
    """Rows ``start`` to ``start + rows`` of the label image of outlines in µm, uint32.

    The label of outline i is i + 1; a pixel belongs to the outline that holds its centre.
    """
    labels = np.zeros((rows, columns), np.uint32)
    _fill(labels, np.ascontiguousarray(outlines, np.float64) / knob.PIXEL_SIZE_UM, start)
    return labels


@numba.njit(cache=True)
def _fill(labels, outlines, start):
    rows, columns = labels.shape
    points = outlines.shape[1]
    crossings = np.empty(points)
    for i in range(len(outlines)):
        low, high = outlines[i, :, 1].min(), outlines[i, :, 1].max()
        for r in range(max(start, int(low)), min(start + rows, int(high) + 1)):
            y = r + 0.5
            crossed = 0
            for k in range(points):
                x0, y0 = outlines[i, k]
                x1, y1 = outlines[i, (k + 1) % points]
                if (y0 <= y) != (y1 <= y):
                    crossings[crossed] = x0 + (y - y0) / (y1 - y0) * (x1 - x0)
                    crossed += 1
            ordered = np.sort(crossings[:crossed])
            for k in range(0, crossed - 1, 2):
                first = max(0, int(np.ceil(ordered[k] - 0.5)))
                last = min(columns, int(np.ceil(ordered[k + 1] - 0.5)))
                labels[r - start, first:last] = i + 1


@numba.njit(cache=True)
def distance_to_outlines(x_um, y_um, which, outlines):
    """Distance of each point to the border of the outline ``which`` names for it, in µm."""
    distances = np.empty(len(x_um), np.float32)
    points = outlines.shape[1]
    for n in range(len(x_um)):
        best = 1e30
        for k in range(points):
            ax, ay = outlines[which[n], k]
            bx, by = outlines[which[n], (k + 1) % points]
            dx, dy = bx - ax, by - ay
            length = dx * dx + dy * dy + 1e-12
            t = min(max(((x_um[n] - ax) * dx + (y_um[n] - ay) * dy) / length, 0.0), 1.0)
            ex, ey = x_um[n] - ax - t * dx, y_um[n] - ay - t * dy
            best = min(best, ex * ex + ey * ey)
        distances[n] = np.sqrt(best)
    return distances
