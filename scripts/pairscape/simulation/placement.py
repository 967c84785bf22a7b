"""Placing the structures and cells of a tissue on its grids, and shaping their nuclei."""

from typing import NamedTuple

import numba
import numpy as np

from pairscape.simulation import fields as smooth
from pairscape.simulation import kinds
from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import OUTLINE_POINTS, STATES, Voids


class Ground(NamedTuple):
    """What a tissue grows on; ``share`` of its structures and free cells are to grow."""

    knobs: dict
    seed: list[int]
    fields: dict
    grids: dict
    share: float


def place_voids(ground: Ground, kept: Voids | None) -> tuple[Voids, int]:
    """Round structures that don't touch, and how many come first because they are kept."""
    random = knob.rng(ground.seed, "voids")
    fields, inside = ground.fields, ground.grids["inside_um"]
    stroma = ground.grids["stroma"] * (inside > 30)
    densities = (
        5000e-6 * ground.grids["adipose"] * (inside > 12),
        60e-6 * stroma * np.exp(1.2 * np.clip(fields["duct"], -3, 2) - 0.9),
        70e-6 * stroma * np.exp(1.0 * np.clip(fields["vessel"], -3, 2) - 0.5),
    )
    scatters = [_scatter(random, ground.knobs, ground.share * density) for density in densities]
    kind = np.repeat(np.arange(3, dtype=np.int8), [points.shape[1] for points in scatters])
    x_um, y_um = np.concatenate(scatters, axis=1)
    radii = [random.uniform(low, high, len(kind)) for low, high in ((14, 25), (5, 20), (4, 11))]
    radius = np.choose(kind, radii)
    # Ducts and vessels first: fat then fills what room is left, large cells before small ones.
    order = np.lexsort((-radius, kind == 0))
    voids = Voids(x_um, y_um, radius, kind, np.empty(len(kind))).take(order)
    voids = voids._replace(phase=random.uniform(0, 2 * np.pi, len(kind)))
    n_kept = 0
    if kept is not None:
        n_kept = len(kept.kind)
        voids = Voids(*map(np.concatenate, zip(kept, voids, strict=True)))
    accepted = _spaced(voids.x_um, voids.y_um, voids.reach(1.2, 9.0, 5.0), n_kept)
    return voids.take(accepted), n_kept


def rim_cells(voids: Voids, n_kept: int, random: np.random.Generator) -> dict:
    """One nucleus beside an adipocyte's drop, a ring of them around a duct's or vessel's lumen."""
    parts = []
    rims = (kinds.ADIPOCYTE, kinds.EPITHELIUM, kinds.ENDOTHELIAL)
    for i in range(n_kept, len(voids.kind)):
        radius, kind = voids.radius_um[i], voids.kind[i]
        turn = random.uniform(0, 2 * np.pi)
        if kind == 0:
            angles, reach, tilt = np.array([turn]), radius - 0.3, np.pi / 2
        else:
            beyond, pitch, tilt = ((4.6, 5.8, 0.0), (1.2, 12.0, np.pi / 2))[kind - 1]
            reach = radius + beyond
            n = max(3, round(2 * np.pi * reach / pitch))
            angles = turn + 2 * np.pi * (np.arange(n) + random.normal(0, 0.08, n)) / n
        reach = reach * _void_outline(angles, voids.phase[i])
        x_um = voids.x_um[i] + reach * np.cos(angles)
        y_um = voids.y_um[i] + reach * np.sin(angles)
        parts.append(
            (x_um, y_um, np.full(len(angles), rims[kind]), angles + tilt, np.full(len(angles), i))
        )
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)] or [np.empty(0)] * 5
    return _places(*columns)


def _places(x_um, y_um, kind, angle, void) -> dict:
    return {
        "x_um": x_um,
        "y_um": y_um,
        "kind": kind.astype(np.int8),
        "angle": angle,
        "void": void.astype(np.int32),
    }


def _void_outline(angle, phase):
    """Radius of a structure at an angle, relative to its mean."""
    return 1 + 0.06 * np.sin(2 * angle + phase) + 0.035 * np.sin(3 * angle + 2.3 * phase)


def uncovered(cells: dict, voids: Voids) -> dict:
    """The cells that no structure covers, and those on a rim."""
    covered = _in_circles(cells["x_um"], cells["y_um"], voids.x_um, voids.y_um, voids.radius_um)
    covered &= cells["void"] < 0
    return {name: column[~covered] for name, column in cells.items()}


def free_cells(ground: Ground, voids: Voids, rim: dict, old: dict | None) -> dict:
    """Cells between the structures, as dense as their type is there, none in another's way."""
    random = knob.rng(ground.seed, "cells")
    points, kind = [], []
    for number, density in _densities(ground).items():
        # Crowding turns some away, so more are offered than should stand.
        points.append(_scatter(random, ground.knobs, 1.3 * ground.share * density))
        kind.append(np.full(points[-1].shape[1], number, np.int8))
    points, kind = np.concatenate(points, axis=1), np.concatenate(kind)
    order = random.permutation(len(kind))
    (x_um, y_um), kind = points[:, order], kind[order]
    taken = _in_circles(x_um, y_um, voids.x_um, voids.y_um, voids.reach(1.5, 7.5, 2.5))
    new = {"x_um": x_um[~taken], "y_um": y_um[~taken], "kind": kind[~taken]}
    all_x, all_y, all_kind = (
        np.concatenate([part[name] for part in (old, rim, new) if part]) for name in new
    )
    reach = np.sqrt(kinds.MAJOR_UM * kinds.MINOR_UM)[all_kind] + 0.35
    n_fixed = len(all_x) - len(new["kind"])
    accepted = _spaced(all_x, all_y, reach, n_fixed)[n_fixed:]
    x_um, y_um, kind = (column[accepted] for column in new.values())
    angle = _fibre_angle(ground, x_um, y_um) + random.normal(0, 0.16, len(kind))
    return _places(x_um, y_um, kind, angle, np.full(len(kind), -1))


def _densities(ground: Ground) -> dict:
    """Cells of each free type per µm², before they get in each other's way."""
    fields = ground.fields
    tumour, adipose, immune, muscle = (
        ground.grids[name] for name in ("tumour", "adipose", "immune", "muscle")
    )
    stroma = (1 - tumour) * (1 - adipose) * (1 - muscle)
    oedema = np.clip(fields["oedema"], -1, 3)
    macrophage, vessel = (np.clip(fields[name], -3, 2.5) for name in ("macrophage", "vessel"))
    per_mm2 = {
        kinds.TUMOUR: 13_000 * tumour * np.exp(-0.25 * oedema),
        kinds.FIBROBLAST: (1900 * stroma + 120) * np.exp(-0.3 * oedema),
        kinds.MUSCLE: 4500 * muscle,
        kinds.LYMPHOCYTE: 16_000 * immune + 160 * (1 - adipose),
        kinds.MACROPHAGE: 420 * np.exp(0.9 * macrophage - 0.4) * (1 - 0.6 * adipose),
        kinds.ENDOTHELIAL: 260 * np.exp(0.8 * vessel - 0.3) * (1 - 0.5 * tumour),
    }
    inside = ground.grids["inside_um"] > 3.0
    scale = 1e-6 * ground.knobs["cell_density"]
    return {kind: density * inside * scale for kind, density in per_mm2.items()}


def _scatter(random, knobs, density) -> np.ndarray:
    """Points (2, n) of an inhomogeneous Poisson process with a density (per µm²) on the grid."""
    peak = float(density.max())
    spans = [knobs[side] + 2 * knob.MARGIN_UM for side in ("width_um", "height_um")]
    n = random.poisson(peak * spans[0] * spans[1])
    x_um, y_um = (random.random(n) * span - knob.MARGIN_UM for span in spans)
    local = smooth.at_points(np.ascontiguousarray(density, np.float32), x_um, y_um)
    return np.stack([x_um, y_um])[:, random.random(n) * peak < local]


def _fibre_angle(ground: Ground, x_um, y_um) -> np.ndarray:
    """Direction of the fibres: along the lines of equal ``across_um``."""
    slope_y, slope_x = (
        smooth.at_points(np.ascontiguousarray(slope, np.float32), x_um, y_um)
        for slope in np.gradient(ground.grids["across_um"], smooth.STEP_UM)
    )
    return np.arctan2(-slope_x, slope_y).astype(float)


def shape_cells(ground: Ground, places: dict, random: np.random.Generator) -> dict:
    """The cells of a tissue by their places: columns of numbers (n,), but for two.

    ``states`` is (n, 4); ``outline`` (n, ``OUTLINE_POINTS``) is the radius of the nucleus relative
    to its ellipse; ``void`` is the index of the structure on whose rim the cell sits, or -1.
    """
    kind = places["kind"]
    n = len(kind)
    points = places["x_um"], places["y_um"]
    states = [smooth.at_points(ground.grids[name], *points) for name in STATES]
    states = np.stack(states, axis=1).astype(np.float32)
    grade, hypoxia = np.clip(states[:, 0], -2.5, 2.5), np.clip(states[:, 2], -2.5, 2.5)
    malignant = kind == kinds.TUMOUR
    size = np.exp(
        random.normal(0, 1, n) * kinds.SIZE_SD[kind] * np.where(malignant, np.exp(0.35 * grade), 1)
        + np.where(malignant, 0.15 * grade - 0.06 * hypoxia, 0)
    )
    # Crowded nuclei can't be large: beyond 1.6 they would lie over each other.
    size = np.clip(size, 0.55, 1.6)
    haematoxylin = kinds.HAEMATOXYLIN[kind] * np.exp(
        random.normal(0, 0.14, n) + np.where(malignant, 0.16 * grade + 0.10 * hypoxia, 0)
    )
    stretch = np.exp(random.normal(0, 0.12, n))
    is_free = np.isin(kind, (kinds.TUMOUR, kinds.LYMPHOCYTE, kinds.MACROPHAGE))
    is_free &= places["void"] < 0
    angle = np.where(is_free, random.uniform(0, np.pi, n), places["angle"])
    around = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    outline = np.ones((n, OUTLINE_POINTS))
    for harmonic in (2, 3, 4):
        amplitude = random.normal(0, 1, n) * kinds.WOBBLE[kind] / harmonic * 1.8
        phase = random.uniform(0, 2 * np.pi, n)
        outline += amplitude[:, None] * np.cos(harmonic * around + phase[:, None])
    return places | {
        "major_um": kinds.MAJOR_UM[kind] * size * stretch,
        "minor_um": kinds.MINOR_UM[kind] * size / stretch,
        "angle": angle,
        "haematoxylin": haematoxylin,
        "states": states,
        "outline": np.clip(outline, 0.6, 1.4),
    }


def red_cells(voids: Voids, random: np.random.Generator) -> np.ndarray:
    """Centres (n, 2) of red blood cells, in the vessels."""
    points = [np.empty((0, 2))]
    for i in np.flatnonzero(voids.kind == 2):
        inner = voids.radius_um[i] - 2.2
        n = random.poisson(max(0.0, 0.045 * inner**2) * random.uniform(0, 1.6))
        radius, angle = inner * np.sqrt(random.random(n)), random.uniform(0, 2 * np.pi, n)
        x_um = voids.x_um[i] + radius * np.cos(angle)
        y_um = voids.y_um[i] + radius * np.sin(angle)
        points.append(np.stack([x_um, y_um], axis=1))
    return np.concatenate(points)


@numba.njit(cache=True)
def _spaced(x, y, reach, n_fixed):
    """Accept points in order if no earlier accepted one is nearer than the sum of both reaches.

    The first ``n_fixed`` are accepted in any case.
    """
    n = len(x)
    accepted = np.zeros(n, np.bool_)
    if n == 0:
        return accepted
    widest = reach.max()
    # Square bins as wide as the widest pair can be apart; each holds a linked list of points.
    bin_um = 2 * widest
    x0, y0 = x.min(), y.min()
    columns, rows = int((x.max() - x0) / bin_um) + 1, int((y.max() - y0) / bin_um) + 1
    head = np.full(rows * columns, -1, np.int64)
    following = np.full(n, -1, np.int64)
    for i in range(n):
        column, row = int((x[i] - x0) / bin_um), int((y[i] - y0) / bin_um)
        free = True
        if i >= n_fixed:
            for r in range(max(0, row - 1), min(rows, row + 2)):
                for c in range(max(0, column - 1), min(columns, column + 2)):
                    j = head[r * columns + c]
                    while free and j >= 0:
                        near = reach[i] + reach[j]
                        if (x[i] - x[j]) ** 2 + (y[i] - y[j]) ** 2 < near * near:
                            free = False
                        j = following[j]
        if free:
            accepted[i] = True
            following[i] = head[row * columns + column]
            head[row * columns + column] = i
    return accepted


@numba.njit(cache=True)
def _in_circles(x, y, void_x, void_y, radius):
    """Whether each point lies in one of the circles."""
    n = len(x)
    taken = np.zeros(n, np.bool_)
    if n == 0 or len(void_x) == 0:
        return taken
    by_x = np.argsort(void_x)
    ordered = void_x[by_x]
    widest = radius.max()
    for i in range(n):
        start = np.searchsorted(ordered, x[i] - widest)
        while start < len(ordered) and ordered[start] <= x[i] + widest:
            j = by_x[start]
            if (x[i] - void_x[j]) ** 2 + (y[i] - void_y[j]) ** 2 < radius[j] ** 2:
                taken[i] = True
                break
            start += 1
    return taken
