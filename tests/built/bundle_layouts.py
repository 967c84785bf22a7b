"""A tiny bundle with cells, for the tests of layouts."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import tiny_bundle

CELL_UM, NUCLEUS_UM = 20, 8  # radii of the cells that are given to a tiny bundle


def write_bundle_with_cells(bundle) -> Path:
    """A tiny bundle whose transcripts near the centre of a cell belong to it."""
    bundle = tiny_bundle.write_bundle(bundle)
    cells = pq.read_table(bundle / "cells.parquet").to_pandas()
    cells["y_centroid"] = [260.0, 60, 360, 160]  # off the diagonal, so that x and y differ
    transcripts = tiny_bundle.make_transcripts()
    xy = transcripts[["x_location", "y_location"]].to_numpy()[:, None]
    away = np.hypot(*(xy - cells[["x_centroid", "y_centroid"]].to_numpy()[None]).transpose(2, 0, 1))
    nearest = away.argmin(axis=1)
    inside = away.min(axis=1) <= CELL_UM
    transcripts["cell_id"] = np.where(inside, cells["cell_id"].to_numpy()[nearest], "UNASSIGNED")
    transcripts["overlaps_nucleus"] = (away.min(axis=1) <= NUCLEUS_UM).astype(np.uint8)
    tiny_bundle.write_transcripts(bundle, transcripts)
    counted = transcripts[inside & transcripts["is_gene"] & (transcripts["qv"] >= 20)]
    table = pd.crosstab(counted["feature_name"], counted["cell_id"])
    table = table.reindex(index=tiny_bundle.GENES, columns=cells["cell_id"], fill_value=0)
    tiny_bundle.write_matrix(bundle, cells["cell_id"], table.to_numpy())
    cells["transcript_counts"] = table.sum(axis=0).to_numpy()
    cells.to_parquet(bundle / "cells.parquet")
    return bundle


def lay_out_as_geo(bundle, folder, start: str) -> Path:
    """What GEO has of a bundle with transcripts as text, as single files in one folder."""
    folder.mkdir(exist_ok=True)
    for name in ("transcripts.csv.gz", "cell_feature_matrix.h5", "cells.csv.gz"):
        (Path(bundle) / name).rename(folder / f"{start}_{name}")
    return folder
