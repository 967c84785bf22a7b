"""The truth beside a simulated bundle: what it was made from, and what a reader must find in it."""

from pathlib import Path

import numpy as np

from pairscape.core.files import write_json
from pairscape.core.tsv import write_tsv
from pairscape.simulation import knobs as knob
from pairscape.simulation import tiles, tissue
from pairscape.simulation.bundle_content import Content
from pairscape.simulation.kinds import DOMAINS, KINDS, STATES


def write_truth(folder: Path, content: Content, picture: dict) -> None:
    """Write the counts of each tile, and tables of genes, tiles and cells; ``picture`` is the H&E's."""
    from scipy import sparse

    folder.mkdir()
    drawn = content.drawn
    names, ids = (drawn.features[name][: drawn.genes] for name in ("name", "id"))
    spots = tiles.count_tiles(content.molecules, drawn.genes, drawn.knobs)
    sparse.save_npz(folder / "counts.npz", spots)
    columns = ("gene_symbol", "gene_id")
    write_tsv(
        folder / "genes.tsv",
        (dict(zip(columns, gene, strict=True)) for gene in zip(names, ids, strict=True)),
        columns,
    )
    _write_spots(folder / "spots.tsv", content, np.asarray(spots.sum(axis=1)).ravel())
    _write_cells(folder / "cells.tsv", content)
    rows, columns = tiles.tile_grid(drawn.knobs)
    write_json(
        folder / "tissue.json",
        {
            "sample": content.row["sample"],
            "donor": content.row["donor"],
            "seed": content.run_seed,
            "seeds": drawn.seeds,
            "simulation": drawn.knobs,
            "spot_um": knob.SPOT_UM,
            "grid": {"rows": rows, "columns": columns},
            "donor_expression_shift": {
                name: round(float(value), 6) for name, value in zip(names, drawn.shift, strict=True)
            },
            **picture,
        },
    )


def _write_spots(path: Path, content: Content, total: np.ndarray) -> None:
    knobs, grown = content.drawn.knobs, content.drawn.tissue
    rows, columns = tiles.tile_grid(knobs)
    types = tiles.cells_per_tile(*_places(content), knobs)
    x_um = np.minimum((np.arange(columns) + 0.5) * knob.SPOT_UM, knobs["width_um"])
    y_um = np.minimum((np.arange(rows) + 0.5) * knob.SPOT_UM, knobs["height_um"])
    centres = np.tile(x_um, rows), np.repeat(y_um, columns)
    inside = tissue.grid_value(grown, "inside_um", *centres) > 0
    domain = tissue.domain_at(grown, *centres)
    states = [tissue.grid_value(grown, name, *centres) for name in STATES]
    write_tsv(
        path,
        (
            {"row": i // columns, "col": i % columns, "transcripts": total[i]}
            | {"domain": DOMAINS[domain[i]] if inside[i] else "glass"}
            | {name: types[i, t] for t, name in enumerate(KINDS)}
            | {name: f"{value[i]:.4f}" for name, value in zip(STATES, states, strict=True)}
            for i in range(rows * columns)
        ),
        ("row", "col", "transcripts", "domain", *KINDS, *STATES),
    )


def _write_cells(path: Path, content: Content) -> None:
    x_um, y_um, kind = _places(content)
    domain = tissue.domain_at(content.drawn.tissue, x_um, y_um)
    total = np.asarray(content.counts[: content.drawn.genes].sum(axis=0)).ravel()
    columns = ("cell_id", "x_um", "y_um", "type", "domain", "transcripts")
    rows = (
        (cell, f"{x_um[i]:.4f}", f"{y_um[i]:.4f}", KINDS[kind[i]], DOMAINS[domain[i]], total[i])
        for i, cell in enumerate(content.cells.id)
    )
    write_tsv(path, (dict(zip(columns, row, strict=True)) for row in rows), columns)


def _places(content: Content) -> list[np.ndarray]:
    """x and y (µm) and kind of the bundle's cells."""
    cells = content.drawn.tissue.cells
    return [cells[name][content.cells.index] for name in ("x_um", "y_um", "kind")]
