"""Growing a tissue: domains and states from smooth fields, the mixing of two tissues."""

from dataclasses import dataclass, replace

import numpy as np

from pairscape.simulation import fields as smooth
from pairscape.simulation import knobs as knob
from pairscape.simulation import placement
from pairscape.simulation.kinds import DOMAINS, STATES, Voids

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
    """A grown tissue; all lengths in µm of the Xenium frame, all grids with nodes ``STEP_UM`` apart."""

    fields: dict  # the Gaussian fields by name
    grids: dict  # of ``_make_grids``
    cells: dict  # columns, of ``placement.shape_cells``
    voids: Voids
    red_cells: np.ndarray  # centres (n, 2) of red blood cells; they are drawn, without transcripts


def grow_tissue(knobs: dict, seed: list[int], shifts: dict[str, float] | None = None) -> Tissue:
    """Grow the tissue of one seed; ``shifts`` are added to fields by name, in standard deviations."""
    fields = _draw_fields(knobs, seed)
    for name, shift in (shifts or {}).items():
        fields[name] = fields[name] + np.float32(shift)
    return _grow(knobs, fields, seed)


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
        return _grow(knobs, fields, image_seed)
    other = np.sqrt(1 - signal**2)
    blended = {name: signal * tissue.fields[name] + other * fields[name] for name in fields}
    random = knob.rng(image_seed, "keep")
    keep_void = random.random(len(tissue.voids.kind)) < signal
    keep_cell = random.random(len(tissue.cells["x_um"])) < signal
    on_rim = tissue.cells["void"] >= 0
    keep_cell[on_rim] = keep_void[tissue.cells["void"][on_rim]]
    cells = {name: column[keep_cell] for name, column in tissue.cells.items()}
    new_index = np.cumsum(keep_void) - 1
    cells["void"] = np.where(cells["void"] >= 0, new_index[cells["void"]], -1).astype(np.int32)
    kept = replace(tissue, cells=cells, voids=tissue.voids.take(keep_void))
    return _grow(knobs, blended, image_seed, kept, 1.0 - signal)


def domain_at(tissue: Tissue, x_um, y_um) -> np.ndarray:
    """Index into ``DOMAINS`` of the largest share at each point, int8."""
    shares = [grid_value(tissue, name, x_um, y_um) for name in DOMAINS]
    return np.argmax(shares, axis=0).astype(np.int8)


def grid_value(tissue: Tissue, name: str, x_um, y_um) -> np.ndarray:
    """Values of one of the tissue's grids at points, float32."""
    return smooth.at_points(tissue.grids[name], np.asarray(x_um, float), np.asarray(y_um, float))


def inside_share(tissue: Tissue, knobs: dict) -> float:
    """The share of the region that is tissue."""
    inside = tissue.grids["inside_um"]
    return float((inside[_region_nodes(knobs, inside.shape)] > 0).mean())


def _region_nodes(knobs: dict, shape: tuple[int, int]):
    """An index of the nodes of a grid that lie in the region."""
    y_um, x_um = smooth.axes_um(shape)
    return np.ix_(
        (y_um >= 0) & (y_um <= knobs["height_um"]), (x_um >= 0) & (x_um <= knobs["width_um"])
    )


def _draw_fields(knobs: dict, seed: list[int]) -> dict:
    shape = tuple(
        int(np.ceil((knobs[side] + 2 * knob.MARGIN_UM) / smooth.STEP_UM)) + 1
        for side in ("height_um", "width_um")
    )
    widths = {name: width * knobs["domain_um"] for name, width in _FIELD_WIDTHS.items()}
    widths["outline"] = _outline_sigma_um(knobs)
    return {
        name: smooth.gaussian_field(knob.rng(seed, name), shape, width)
        for name, width in widths.items()
    }


def _outline_sigma_um(knobs: dict) -> float:
    return max(40.0, 0.18 * min(knobs["width_um"], knobs["height_um"]))


def _above(field, threshold, steepness=5.0):
    return (1 / (1 + np.exp(-steepness * (field - threshold)))).astype(np.float32)


def _make_grids(knobs: dict, fields: dict, base_angle: float) -> dict:
    """``inside_um`` (signed distance to the outline, about), ``along_um`` and ``across_um`` (fibre
    coordinates), the shares of the ``DOMAINS``, and the ``STATES``.
    """
    nest = fields["nest"]
    y_um, x_um = smooth.axes_um(nest.shape)
    y_um, x_um = y_um[:, None], x_um[None, :]
    tumour = _above(fields["tumour"] + 0.35 * nest, 0.1)
    adipose = _above(fields["fat"] + 0.15 * nest, 0.95) * (1 - tumour)
    muscle = _above(fields["muscle"] + 0.1 * nest, 1.0) * (1 - tumour) * (1 - adipose)
    immune = _above(fields["immune"] + 0.2 * nest, 0.85, 4.0) * (1 - adipose)
    stroma = (1 - tumour) * (1 - adipose) * (1 - muscle)
    along = x_um * np.cos(base_angle) + y_um * np.sin(base_angle)
    across = y_um * np.cos(base_angle) - x_um * np.sin(base_angle)
    wave = 0.7 * knobs["domain_um"] * fields["fibre"]
    grids = {
        "inside_um": _signed_distance(knobs, fields, x_um, y_um),
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


def _signed_distance(knobs: dict, fields: dict, x_um, y_um) -> np.ndarray:
    """About how far (µm) each node lies within the tissue."""
    # The outer edge of the piece lies well outside the region, so that it tells nothing of place.
    to_edge = np.minimum(
        np.minimum(x_um, knobs["width_um"] - x_um) + knob.MARGIN_UM,
        np.minimum(y_um, knobs["height_um"] - y_um) + knob.MARGIN_UM,
    )
    inside = to_edge - 20.0 - 8.0 * np.clip(fields["nest"], -2, 2)
    if knobs["tissue_cover"] >= 1:
        return inside
    # A stationary field, without any preferred place: a common prior of the outline would
    # join image and transcripts where they should be independent.
    outline = fields["outline"]
    region = outline[_region_nodes(knobs, outline.shape)]
    threshold = np.quantile(region, 1 - knobs["tissue_cover"])
    scale = _outline_sigma_um(knobs) * np.sqrt(2)
    return np.minimum(inside, (outline - threshold) * scale + 3.0 * fields["nest"])


def _grow(knobs, fields, seed, kept: Tissue | None = None, share: float = 1.0) -> Tissue:
    """Grow structures and cells; where some are kept, only a share of them grows anew."""
    base_angle = float(knob.rng(seed, "fibre angle").uniform(0, np.pi))
    ground = placement.Ground(knobs, seed, fields, _make_grids(knobs, fields, base_angle), share)
    voids, n_kept = placement.place_voids(ground, kept.voids if kept else None)
    rim = placement.rim_cells(voids, n_kept, knob.rng(seed, "rims"))
    old = placement.uncovered(kept.cells, voids) if kept else None
    free = placement.free_cells(ground, voids, rim, old)
    places = {name: np.concatenate([rim[name], free[name]]) for name in rim}
    cells = placement.shape_cells(ground, places, knob.rng(seed, "shapes"))
    if old is not None:
        cells = {name: np.concatenate([old[name], cells[name]]) for name in cells}
    red = placement.red_cells(voids, knob.rng(seed, "blood"))
    return Tissue(fields, ground.grids, cells, voids, red)
