"""Growing a tissue: domains from smooth fields, structures and cells from domains."""

from dataclasses import dataclass, replace

import numba
import numpy as np

from pairscape.simulation import fields as smooth
from pairscape.simulation import knobs as knob

KINDS = (
    "tumour",
    "epithelium",
    "fibroblast",
    "muscle",
    "lymphocyte",
    "macrophage",
    "endothelial",
    "adipocyte",
)
"""Cell types; a cell's ``kind`` is an index into them."""

DOMAINS = ("tumour", "adipose", "muscle", "immune", "stroma")
"""Tissue domains; a place belongs to the one with the largest share."""

STATES = ("grade", "collagen", "hypoxia", "oedema")
"""Continuous states of a place, each visible in the image and in the expression of some types."""

VOIDS = ("adipocyte", "duct", "vessel")
"""Round structures with an empty or bloody inside and cells on their rim."""

OUTLINE_POINTS = 24
"""Vertices of a nucleus or cell outline; the instrument writes 25, the first one twice."""

# Nucleus of each type: half axes in µm, spread of its size (log), amount of haematoxylin (optical
# density), irregularity of its outline. Textbook sizes of human nuclei, a little widened.
MAJOR_UM = np.array([4.7, 4.0, 6.4, 8.0, 2.9, 3.9, 5.6, 4.4])
MINOR_UM = np.array([3.9, 2.7, 1.5, 1.4, 2.7, 2.9, 1.2, 1.2])
SIZE_SD = np.array([0.13, 0.08, 0.14, 0.12, 0.07, 0.14, 0.14, 0.10])
HAEMATOXYLIN = np.array([0.62, 0.75, 0.78, 0.70, 1.10, 0.70, 0.85, 0.85])
WOBBLE = np.array([0.06, 0.03, 0.04, 0.03, 0.03, 0.11, 0.03, 0.04])

_TUMOUR, _EPITHELIUM, _FIBROBLAST, _MUSCLE, _LYMPHOCYTE, _MACROPHAGE, _ENDOTHELIAL, _ADIPOCYTE = (
    range(len(KINDS))
)

# Smoothing kernel of each field, as a multiple of ``domain_um``. Different widths give each place
# its own mixture: retrieval has to tell single spots apart, not a handful of domains.
_FIELD_WIDTHS = {
    "tumour": 0.7,
    "nest": 0.2,
    "immune": 0.45,
    "fat": 0.8,
    "muscle": 0.9,
    "macrophage": 0.5,
    "vessel": 0.6,
    "duct": 0.7,
    "grade": 0.7,
    "collagen": 0.6,
    "hypoxia": 0.65,
    "oedema": 0.55,
    "fibre": 1.0,
}


@dataclass(frozen=True)
class Tissue:
    """A grown tissue; all lengths in µm of the Xenium frame, all grids with nodes ``STEP_UM`` apart.

    Attributes
    ----------
    origin_um
        Coordinate of the grids' first node on both axes (the margin, negative).
    fields
        The Gaussian fields by name.
    grids
        ``inside_um`` (signed distance to the outline, about), ``along_um`` and ``across_um`` (fibre
        coordinates), the shares of the ``DOMAINS`` and the ``STATES``.
    cells
        Columns x_um, y_um, kind, major_um, minor_um, angle, haematoxylin, states (n, 4), outline
        (n, ``OUTLINE_POINTS``) with the radius of the nucleus relative to its ellipse, and ``void``,
        the index of the structure on whose rim the cell sits, or -1.
    voids
        Columns x_um, y_um, radius_um, kind (an index into ``VOIDS``), phase.
    red_cells
        Centres of red blood cells (n, 2); they are drawn and have no transcripts.
    """

    origin_um: float
    fields: dict
    grids: dict
    cells: dict
    voids: dict
    red_cells: np.ndarray


def grow_tissue(knobs: dict, seed: list[int], shifts: dict[str, float] | None = None) -> Tissue:
    """Grow the tissue of one seed; ``shifts`` are added to fields by name, in standard deviations."""
    fields = _draw_fields(knobs, seed)
    for name, shift in (shifts or {}).items():
        fields[name] = fields[name] + np.float32(shift)
    return _grow(knobs, fields, seed, _base_angle(seed), None, 1.0)


def mix_tissues(knobs: dict, tissue: Tissue, image_seed: list[int]) -> Tissue:
    """The tissue that the image shows.

    With ``morphology_signal`` 1 it is ``tissue`` itself, with 0 a tissue that depends on
    ``image_seed`` alone. Between, its fields correlate with those of ``tissue`` by that much, each
    structure and free cell of ``tissue`` stays with that probability, and what is missing grows
    anew.
    """
    signal = knobs["morphology_signal"]
    if signal == 1:
        return tissue
    fields = _draw_fields(knobs, image_seed)
    if signal == 0:
        return _grow(knobs, fields, image_seed, _base_angle(image_seed), None, 1.0)
    other = np.sqrt(1 - signal**2)
    blended = {name: signal * tissue.fields[name] + other * fields[name] for name in fields}
    random = knob.rng(image_seed, "keep")
    keep_void = random.random(len(tissue.voids["x_um"])) < signal
    keep_cell = random.random(len(tissue.cells["x_um"])) < signal
    on_rim = tissue.cells["void"] >= 0
    keep_cell[on_rim] = keep_void[tissue.cells["void"][on_rim]]
    cells = {name: column[keep_cell] for name, column in tissue.cells.items()}
    new_index = np.cumsum(keep_void) - 1
    cells["void"] = np.where(cells["void"] >= 0, new_index[cells["void"]], -1).astype(np.int32)
    kept = replace(
        tissue, cells=cells, voids={k: column[keep_void] for k, column in tissue.voids.items()}
    )
    return _grow(knobs, blended, image_seed, _base_angle(image_seed), kept, 1.0 - signal)


def domain_at(tissue: Tissue, x_um, y_um) -> np.ndarray:
    """Index into ``DOMAINS`` of the largest share at each point, int8."""
    x_um, y_um = np.asarray(x_um, float), np.asarray(y_um, float)
    shares = [smooth.at_points(tissue.grids[n], x_um, y_um, tissue.origin_um) for n in DOMAINS]
    return np.argmax(shares, axis=0).astype(np.int8)


def grid_value(tissue: Tissue, name: str, x_um, y_um) -> np.ndarray:
    """Values of one of the tissue's grids at points, float32."""
    return smooth.at_points(
        tissue.grids[name], np.asarray(x_um, float), np.asarray(y_um, float), tissue.origin_um
    )


def _grid_shape(knobs: dict) -> tuple[int, int]:
    return tuple(
        int(np.ceil((knobs[side] + 2 * knob.MARGIN_UM) / smooth.STEP_UM)) + 1
        for side in ("height_um", "width_um")
    )


def _draw_fields(knobs: dict, seed: list[int]) -> dict:
    shape = _grid_shape(knobs)
    fields = {
        name: smooth.gaussian_field(knob.rng(seed, name), shape, width * knobs["domain_um"])
        for name, width in _FIELD_WIDTHS.items()
    }
    fields["outline"] = smooth.gaussian_field(
        knob.rng(seed, "outline"), shape, _outline_sigma_um(knobs)
    )
    return fields


def _outline_sigma_um(knobs: dict) -> float:
    return max(40.0, 0.18 * min(knobs["width_um"], knobs["height_um"]))


def _base_angle(seed: list[int]) -> float:
    return float(knob.rng(seed, "fibre angle").uniform(0, np.pi))


def _above(field, threshold, steepness=5.0):
    return (1 / (1 + np.exp(-steepness * (field - threshold)))).astype(np.float32)


def _make_grids(knobs: dict, fields: dict, base_angle: float) -> dict:
    shape = fields["tumour"].shape
    y_um, x_um = (np.arange(n) * smooth.STEP_UM - knob.MARGIN_UM for n in shape)
    y_um, x_um = y_um[:, None], x_um[None, :]
    width_um, height_um = knobs["width_um"], knobs["height_um"]
    # The outer edge of the piece lies well outside the region, so that it tells nothing of place.
    to_edge = np.minimum(
        np.minimum(x_um, width_um - x_um) + knob.MARGIN_UM,
        np.minimum(y_um, height_um - y_um) + knob.MARGIN_UM,
    )
    inside = to_edge - 20.0 - 8.0 * np.clip(fields["nest"], -2, 2)
    if knobs["tissue_cover"] < 1:
        # A stationary field, without any preferred place: a common prior of the outline would
        # join image and transcripts where they should be independent.
        region = fields["outline"][
            np.ix_(
                (y_um[:, 0] >= 0) & (y_um[:, 0] <= height_um),
                (x_um[0] >= 0) & (x_um[0] <= width_um),
            )
        ]
        threshold = np.quantile(region, 1 - knobs["tissue_cover"])
        scale = _outline_sigma_um(knobs) * np.sqrt(2)
        to_glass = (fields["outline"] - threshold) * scale + 3.0 * fields["nest"]
        inside = np.minimum(inside, to_glass)
    tumour = _above(fields["tumour"] + 0.35 * fields["nest"], 0.1)
    adipose = _above(fields["fat"] + 0.15 * fields["nest"], 0.95) * (1 - tumour)
    muscle = _above(fields["muscle"] + 0.1 * fields["nest"], 1.0) * (1 - tumour) * (1 - adipose)
    immune = _above(fields["immune"] + 0.2 * fields["nest"], 0.85, 4.0) * (1 - adipose)
    stroma = (1 - tumour) * (1 - adipose) * (1 - muscle)
    along = x_um * np.cos(base_angle) + y_um * np.sin(base_angle)
    across = y_um * np.cos(base_angle) - x_um * np.sin(base_angle)
    wave = 0.7 * knobs["domain_um"] * fields["fibre"]
    grids = {
        "inside_um": inside,
        "along_um": along + 0.3 * wave,
        "across_um": across + wave,
        "tumour": tumour,
        "adipose": adipose,
        "muscle": muscle,
        "immune": immune * (1 - 0.6 * tumour),
        "stroma": stroma * (1 - immune),
        **{name: fields[name] for name in STATES},
    }
    return {name: np.ascontiguousarray(grid, np.float32) for name, grid in grids.items()}


def _densities(knobs: dict, fields: dict, grids: dict) -> dict:
    """Cells of each free type per µm², before they get in each other's way."""
    tumour, adipose, immune, muscle = (
        grids[name] for name in ("tumour", "adipose", "immune", "muscle")
    )
    stroma = (1 - tumour) * (1 - adipose) * (1 - muscle)
    per_mm2 = {
        _TUMOUR: 13_000 * tumour * np.exp(-0.25 * np.clip(fields["oedema"], -1, 3)),
        _FIBROBLAST: (1900 * stroma + 120) * np.exp(-0.3 * np.clip(fields["oedema"], -1, 3)),
        _MUSCLE: 4500 * muscle,
        _LYMPHOCYTE: 16_000 * immune + 160 * (1 - adipose),
        _MACROPHAGE: 420
        * np.exp(0.9 * np.clip(fields["macrophage"], -3, 2.5) - 0.4)
        * (1 - 0.6 * adipose),
        _ENDOTHELIAL: 260
        * np.exp(0.8 * np.clip(fields["vessel"], -3, 2.5) - 0.3)
        * (1 - 0.5 * tumour),
    }
    inside = grids["inside_um"] > 3.0
    scale = 1e-6 * knobs["cell_density"]
    return {kind: density * inside * scale for kind, density in per_mm2.items()}


def _grow(knobs, fields, seed, base_angle, kept: Tissue | None, share: float) -> Tissue:
    grids = _make_grids(knobs, fields, base_angle)
    tissue = Tissue(-knob.MARGIN_UM, fields, grids, {}, {}, np.empty((0, 2)))
    voids, n_kept = _place_voids(knobs, tissue, seed, kept, share)
    rim = _rim_cells(voids, n_kept, knob.rng(seed, "rims"))
    old = None
    if kept is not None:
        covered = _in_voids(
            kept.cells["x_um"], kept.cells["y_um"], voids["x_um"], voids["y_um"], voids["radius_um"]
        )
        covered &= kept.cells["void"] < 0
        old = {name: column[~covered] for name, column in kept.cells.items()}
    free = _free_cells(knobs, tissue, seed, voids, rim, old, share)
    places = {name: np.concatenate([rim[name], free[name]]) for name in rim}
    cells = _shape_cells(tissue, places, knob.rng(seed, "shapes"))
    if old is not None:
        cells = {name: np.concatenate([old[name], cells[name]]) for name in cells}
    red = _red_cells(voids, knob.rng(seed, "blood"))
    return replace(tissue, cells=cells, voids=voids, red_cells=red)


def _scatter(random, knobs, tissue, density) -> tuple[np.ndarray, np.ndarray]:
    """Points of an inhomogeneous Poisson process with a density (per µm²) given on the grid."""
    peak = float(density.max())
    spans = [knobs[side] + 2 * knob.MARGIN_UM for side in ("width_um", "height_um")]
    n = random.poisson(peak * spans[0] * spans[1])
    x_um, y_um = (random.random(n) * span - knob.MARGIN_UM for span in spans)
    density = np.ascontiguousarray(density, np.float32)
    local = smooth.at_points(density, x_um, y_um, tissue.origin_um)
    keep = random.random(n) * peak < local
    return x_um[keep], y_um[keep]


def _place_voids(knobs, tissue, seed, kept, share):
    random = knob.rng(seed, "voids")
    fields, grids = tissue.fields, tissue.grids
    stroma = grids["stroma"] * (grids["inside_um"] > 30)
    densities = (
        5000e-6 * grids["adipose"] * (grids["inside_um"] > 12),
        60e-6 * stroma * np.exp(1.2 * np.clip(fields["duct"], -3, 2) - 0.9),
        70e-6 * stroma * np.exp(1.0 * np.clip(fields["vessel"], -3, 2) - 0.5),
    )
    scatters = [_scatter(random, knobs, tissue, share * density) for density in densities]
    kind = np.concatenate(
        [np.full(len(points[0]), i, np.int8) for i, points in enumerate(scatters)]
    )
    x_um, y_um = (np.concatenate(columns) for columns in zip(*scatters, strict=True))
    radius = np.choose(
        kind,
        [
            random.uniform(14, 25, len(kind)),
            random.uniform(5, 20, len(kind)),
            random.uniform(4, 11, len(kind)),
        ],
    )
    # Ducts and vessels first: fat then fills what room is left, large cells before small ones.
    order = np.lexsort((-radius, kind == 0))
    voids = {
        "x_um": x_um[order],
        "y_um": y_um[order],
        "radius_um": radius[order],
        "kind": kind[order],
        "phase": random.uniform(0, 2 * np.pi, len(kind)),
    }
    n_kept = 0
    if kept is not None:
        n_kept = len(kept.voids["x_um"])
        voids = {name: np.concatenate([kept.voids[name], voids[name]]) for name in voids}
    reach = voids["radius_um"] + np.choose(voids["kind"], [1.2, 9.0, 5.0])
    accepted = _spaced(voids["x_um"], voids["y_um"], reach, n_kept)
    return {name: column[accepted] for name, column in voids.items()}, n_kept


def _rim_cells(voids, n_kept, random):
    """One nucleus beside an adipocyte's drop, a ring of them around a duct's or vessel's lumen."""
    columns = {"x_um": [], "y_um": [], "kind": [], "angle": [], "void": []}
    for i in range(n_kept, len(voids["x_um"])):
        radius, kind = voids["radius_um"][i], voids["kind"][i]
        turn = random.uniform(0, 2 * np.pi)
        if kind == 0:
            angles, reach, tilt = np.array([turn]), radius - 0.3, np.pi / 2
        else:
            reach, pitch, tilt = ((radius + 4.6, 5.8, 0.0), (radius + 1.2, 12.0, np.pi / 2))[
                kind - 1
            ]
            n = max(3, round(2 * np.pi * reach / pitch))
            angles = turn + 2 * np.pi * (np.arange(n) + random.normal(0, 0.08, n)) / n
        reach = reach * void_outline(angles, voids["phase"][i])
        columns["x_um"].append(voids["x_um"][i] + reach * np.cos(angles))
        columns["y_um"].append(voids["y_um"][i] + reach * np.sin(angles))
        kinds = (_ADIPOCYTE, _EPITHELIUM, _ENDOTHELIAL)
        columns["kind"].append(np.full(len(angles), kinds[kind], np.int8))
        columns["angle"].append(angles + tilt)
        columns["void"].append(np.full(len(angles), i, np.int32))
    kinds = {"kind": np.int8, "void": np.int32}
    return {
        name: np.concatenate(parts) if parts else np.empty(0, kinds.get(name, float))
        for name, parts in columns.items()
    }


def void_outline(angle, phase):
    """Radius of a structure at an angle, relative to its mean."""
    return 1 + 0.06 * np.sin(2 * angle + phase) + 0.035 * np.sin(3 * angle + 2.3 * phase)


def _free_cells(knobs, tissue, seed, voids, rim, old, share):
    random = knob.rng(seed, "cells")
    densities = _densities(knobs, tissue.fields, tissue.grids)
    points, kinds = [], []
    for kind, density in densities.items():
        # Crowding turns some away, so more are offered than should stand.
        x_um, y_um = _scatter(random, knobs, tissue, 1.3 * share * density)
        points.append(np.stack([x_um, y_um]))
        kinds.append(np.full(len(x_um), kind, np.int8))
    points, kinds = np.concatenate(points, axis=1), np.concatenate(kinds)
    order = random.permutation(len(kinds))
    (x_um, y_um), kinds = points[:, order], kinds[order]
    taken = _in_voids(
        x_um,
        y_um,
        voids["x_um"],
        voids["y_um"],
        voids["radius_um"] + np.choose(voids["kind"], [1.5, 7.5, 2.5]),
    )
    x_um, y_um, kinds = x_um[~taken], y_um[~taken], kinds[~taken]
    fixed = [rim] if old is None else [old, rim]
    all_x = np.concatenate([part["x_um"] for part in fixed] + [x_um])
    all_y = np.concatenate([part["y_um"] for part in fixed] + [y_um])
    all_kinds = np.concatenate([part["kind"] for part in fixed] + [kinds])
    reach = np.sqrt(MAJOR_UM * MINOR_UM)[all_kinds] + 0.35
    n_fixed = len(all_x) - len(x_um)
    accepted = _spaced(all_x, all_y, reach, n_fixed)[n_fixed:]
    x_um, y_um, kinds = x_um[accepted], y_um[accepted], kinds[accepted]
    return {
        "x_um": x_um,
        "y_um": y_um,
        "kind": kinds,
        "angle": _fibre_angle(tissue, x_um, y_um) + random.normal(0, 0.16, len(kinds)),
        "void": np.full(len(kinds), -1, np.int32),
    }


def _fibre_angle(tissue, x_um, y_um):
    """Direction of the fibres: along the lines of equal ``across_um``."""
    slope_y, slope_x = np.gradient(tissue.grids["across_um"], smooth.STEP_UM)
    at = [
        smooth.at_points(np.ascontiguousarray(slope, np.float32), x_um, y_um, tissue.origin_um)
        for slope in (slope_x, slope_y)
    ]
    return np.arctan2(-at[0], at[1]).astype(float)


def _shape_cells(tissue, places, random) -> dict:
    kind = places["kind"]
    n = len(kind)
    states = np.stack(
        [grid_value(tissue, name, places["x_um"], places["y_um"]) for name in STATES], axis=1
    ).astype(np.float32)
    grade, hypoxia = np.clip(states[:, 0], -2.5, 2.5), np.clip(states[:, 2], -2.5, 2.5)
    malignant = kind == _TUMOUR
    size = np.exp(
        random.normal(0, 1, n) * SIZE_SD[kind] * np.where(malignant, np.exp(0.35 * grade), 1)
        + np.where(malignant, 0.15 * grade - 0.06 * hypoxia, 0)
    )
    # Crowded nuclei can't be large: beyond 1.6 they would lie over each other.
    size = np.clip(size, 0.55, 1.6)
    haematoxylin = HAEMATOXYLIN[kind] * np.exp(
        random.normal(0, 0.14, n) + np.where(malignant, 0.16 * grade + 0.10 * hypoxia, 0)
    )
    stretch = np.exp(random.normal(0, 0.12, n))
    angle = np.where(
        np.isin(kind, (_TUMOUR, _LYMPHOCYTE, _MACROPHAGE)) & (places["void"] < 0),
        random.uniform(0, np.pi, n),
        places["angle"],
    )
    around = np.linspace(0, 2 * np.pi, OUTLINE_POINTS, endpoint=False)
    outline = np.ones((n, OUTLINE_POINTS))
    for harmonic in (2, 3, 4):
        amplitude = random.normal(0, 1, n) * WOBBLE[kind] / harmonic * 1.8
        phase = random.uniform(0, 2 * np.pi, n)
        outline += amplitude[:, None] * np.cos(harmonic * around + phase[:, None])
    return {
        "x_um": places["x_um"],
        "y_um": places["y_um"],
        "kind": kind,
        "major_um": MAJOR_UM[kind] * size * stretch,
        "minor_um": MINOR_UM[kind] * size / stretch,
        "angle": angle,
        "haematoxylin": haematoxylin,
        "states": states,
        "outline": np.clip(outline, 0.6, 1.4),
        "void": places["void"],
    }


def _red_cells(voids, random) -> np.ndarray:
    points = [np.empty((0, 2))]
    for i in np.flatnonzero(voids["kind"] == 2):
        inner = voids["radius_um"][i] - 2.2
        n = random.poisson(max(0.0, 0.045 * inner**2) * random.uniform(0, 1.6))
        radius, angle = inner * np.sqrt(random.random(n)), random.uniform(0, 2 * np.pi, n)
        points.append(
            np.stack(
                [
                    voids["x_um"][i] + radius * np.cos(angle),
                    voids["y_um"][i] + radius * np.sin(angle),
                ],
                axis=1,
            )
        )
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
def _in_voids(x, y, void_x, void_y, radius):
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
