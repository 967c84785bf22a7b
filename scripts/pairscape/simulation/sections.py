"""Sections in memory: the spots of a simulated sample without the files of its bundle."""

from typing import NamedTuple

import numpy as np

from pairscape.simulation import histology, tissue, transcripts
from pairscape.simulation import knobs as knob


class Section(NamedTuple):
    """The spots of a sample: full tiles of ``knobs.SPOT_UM`` that hold a cell and a transcript.

    Attributes
    ----------
    grown
        The tissue that makes the transcripts.
    counts
        (N, genes) int32: good transcripts per tile.
    xy_um
        (N, 2) centres of the tiles in the Xenium frame.
    cell_type
        (N,) the most frequent type among the tile's cells (of ``tissue.KINDS``; the first of equals).
    """

    grown: tissue.Tissue
    counts: np.ndarray
    xy_um: np.ndarray
    cell_type: np.ndarray


def draw_section(knobs: dict, seeds: dict, panel) -> Section:
    """Grow a sample's tissue and count its transcripts.

    Parameters
    ----------
    knobs
        Of ``knobs.resolve_knobs``.
    seeds
        Of ``knobs.sample_seeds``.
    panel
        Symbols, Ensembl ids and means, of ``transcripts.read_panel_table``.
    """
    symbols, ids, means = panel
    grown = tissue.grow_tissue(knobs, seeds["expression"])
    molecules = transcripts.draw_transcripts(
        grown,
        knobs,
        seeds,
        transcripts.gene_programmes(symbols, means, seeds),
        transcripts.donor_shift(symbols, knobs, seeds),
    )
    is_gene = transcripts.feature_table(symbols, ids, seeds)["is_gene"]
    counts = transcripts.count_tiles(molecules, is_gene, knobs).toarray()
    x_um, y_um = grown.cells["x_um"], grown.cells["y_um"]
    within = (x_um >= 0) & (x_um < knobs["width_um"]) & (y_um >= 0) & (y_um < knobs["height_um"])
    cells = transcripts.cells_per_tile(
        x_um[within], y_um[within], grown.cells["kind"][within], knobs
    )
    rows, columns = transcripts.tile_grid(knobs)
    corner = np.stack(np.divmod(np.arange(rows * columns), columns)[::-1], axis=1) * knob.SPOT_UM
    full = (corner + knob.SPOT_UM <= [knobs["width_um"], knobs["height_um"]]).all(axis=1)
    kept = np.flatnonzero(full & (cells.sum(1) > 0) & (counts.sum(1) > 0))
    return Section(
        grown,
        counts[kept],
        corner[kept] + knob.SPOT_UM / 2,
        np.array(tissue.KINDS)[cells[kept].argmax(1)],
    )


def draw_patches(section: Section, knobs: dict, seeds: dict, patch_px: int) -> np.ndarray:
    """Stain the section as ``knobs`` say and cut a patch around each spot.

    Parameters
    ----------
    section
        Of ``draw_section`` with the same seeds; ``morphology_signal`` may differ.
    patch_px
        Side of a patch, in pixels of ``he_um_per_px``; it must lie within the image's margin.

    Returns
    -------
    (N, patch_px, patch_px, 3) uint8, upright.
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
