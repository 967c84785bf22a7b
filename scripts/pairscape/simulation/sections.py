"""Sections in memory: the spots of a simulated sample without the files of its bundle."""

from typing import NamedTuple

import numpy as np

from pairscape.simulation import histology, tiles, tissue
from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import KINDS
from pairscape.simulation.sample import draw_sample


class Section(NamedTuple):
    """The spots of a sample: full tiles of ``knobs.SPOT_UM`` that hold a cell and a transcript."""

    grown: tissue.Tissue  # that makes the transcripts
    counts: np.ndarray  # (N, genes) int32: good transcripts per tile
    xy_um: np.ndarray  # (N, 2) centres of the tiles in the Xenium frame
    cell_type: np.ndarray  # (N,) the most frequent of ``KINDS`` in the tile; the first of equals


def draw_section(knobs: dict, seeds: dict, panel) -> Section:
    """Grow a sample's tissue and count its transcripts; see ``sample.draw_sample``."""
    drawn = draw_sample(knobs, seeds, panel)
    counts = tiles.count_tiles(drawn.molecules, drawn.genes, knobs).toarray()
    cells = drawn.tissue.cells
    within = knob.in_region(cells["x_um"], cells["y_um"], knobs)
    types = tiles.cells_per_tile(*(cells[name][within] for name in ("x_um", "y_um", "kind")), knobs)
    rows, columns = tiles.tile_grid(knobs)
    corner = np.stack(np.divmod(np.arange(rows * columns), columns)[::-1], axis=1) * knob.SPOT_UM
    full = (corner + knob.SPOT_UM <= [knobs["width_um"], knobs["height_um"]]).all(axis=1)
    kept = np.flatnonzero(full & (types.sum(1) > 0) & (counts.sum(1) > 0))
    cell_type = np.array(KINDS)[types[kept].argmax(1)]
    return Section(drawn.tissue, counts[kept], corner[kept] + knob.SPOT_UM / 2, cell_type)


def draw_patches(section: Section, knobs: dict, seeds: dict, patch_px: int) -> np.ndarray:
    """Stain a section as ``knobs`` say and cut a patch around each spot, upright.

    ``seeds`` are the section's; ``morphology_signal`` may differ. ``patch_px``, of ``he_um_per_px``,
    must lie within the image's margin. Returns (N, patch_px, patch_px, 3) uint8.
    """
    pixel_um = knobs["he_um_per_px"]
    reach_um = knob.MARGIN_UM + knob.SPOT_UM / 2
    if patch_px * pixel_um > 2 * reach_um:
        raise ValueError(f"a patch of {patch_px * pixel_um:g} um reaches beyond the image")
    columns, rows = (
        round((knobs[side] + 2 * knob.MARGIN_UM) / pixel_um) for side in ("width_um", "height_um")
    )
    frame = histology.Frame(np.eye(2) * pixel_um, np.full(2, -knob.MARGIN_UM), rows, columns)
    shown = tissue.mix_tissues(knobs, section.grown, seeds["image"])
    picture = histology.draw_he(shown, frame, histology.donor_stain(knobs, seeds), seeds["image"])
    corners = np.round((section.xy_um + knob.MARGIN_UM) / pixel_um - patch_px / 2).astype(int)
    return np.stack([picture[y : y + patch_px, x : x + patch_px] for x, y in corners])
