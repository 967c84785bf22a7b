"""The files of a Xenium bundle (analysis software 3.0), its H&E, and the truth beside them.

All bytes follow from the seed: no clock, no host, no random identifier gets into them.
"""

import math
from pathlib import Path

import numpy as np

from pairscape.simulation import (
    bundle_content,
    bundle_images,
    bundle_tables,
    bundle_texts,
    histology,
    truth,
)
from pairscape.simulation import knobs as knob
from pairscape.simulation.cells_zarr import write_cells_zarr
from pairscape.simulation.sample import Drawn
from pairscape.simulation.tissue import Tissue


def write_bundle(folder: Path, row: dict, run_seed: int, drawn: Drawn, shown: Tissue) -> dict:
    """Write all files of a sample into ``folder``; returns its numbers of cells and transcripts.

    ``row`` is the sample's of the sample table, ``shown`` the tissue that the H&E shows.
    """
    knobs, seeds = drawn.knobs, drawn.seeds
    cells = bundle_content.segment(drawn)
    columns, rows = (
        math.ceil(knobs[side] / knob.PIXEL_SIZE_UM - 1e-9) for side in ("width_um", "height_um")
    )
    path = folder / "cells.zarr.zip"
    owners = write_cells_zarr(path, cells, drawn.molecules, (rows, columns))
    content = bundle_content.place_in_cells(row, run_seed, drawn, cells, owners)
    bundle_tables.write_tables(folder, content)
    bundle_texts.write_texts(folder, content)
    (folder / "morphology_focus").mkdir()
    path = folder / "morphology_focus" / "morphology_focus_0000.ome.tif"
    bundle_images.write_dapi(path, drawn.tissue, rows, columns, seeds)
    picture = _write_he(folder, content, shown)
    truth.write_truth(folder / "truth", content, picture)
    return {"cells": len(cells.id), "transcripts": len(content.fov)}


def _write_he(folder: Path, content: bundle_content.Content, shown: Tissue) -> dict:
    """Draw the H&E and write it with its alignment; returns the facts of it."""
    knobs, seeds = content.drawn.knobs, content.drawn.seeds
    frame, degrees, mirrored = histology.he_frame(knobs, seeds["image"])
    stain = histology.donor_stain(knobs, seeds)
    name = content.row["sample"]
    picture = histology.draw_he(shown, frame, stain, seeds["image"])
    path = folder / f"{name}_he_image.ome.tif"
    bundle_images.write_he(path, picture, knobs["he_um_per_px"], seeds)
    matrix = histology.alignment_matrix(frame)
    lines = [",".join(repr(float(value)) for value in line) for line in matrix[:2]]
    (folder / f"{name}_he_imagealignment.csv").write_text(
        "\n".join([*lines, "0,0,1"]) + "\n", encoding="utf-8"
    )
    return {
        "he_to_morphology": matrix.tolist(),
        "he_size_px": [frame.columns, frame.rows],
        "rotation_degrees": degrees,
        "mirrored": mirrored,
        "stain": {key: np.asarray(value).tolist() for key, value in stain._asdict().items()},
    }
