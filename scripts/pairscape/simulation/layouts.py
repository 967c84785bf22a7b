"""A bundle as other versions of the analysis software, or Xenium Ranger, would have written it.

The facts about each version stand in the table at the head of ``pairscape.acquire.bundle``.
"""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP = 1 << 17
_COLUMNS = ("codeword_category", "is_gene")  # those that came with later versions
_OLD = {"text": "bytes", "images": "file", "without": _COLUMNS}
# Layout -> what it changes; versions of the software, and packed forms of them.
LAYOUTS = {
    "1.0": {"version": "xenium-1.0.2", "ids": "integer", **_OLD},
    "1.0-csv": {
        "version": "xenium-1.0.2",
        "ids": "integer",
        "csv": True,
        "absent": ["gene_panel.json", "cells.zarr.zip"],
        **_OLD,
    },
    "1.4": {"version": "xenium-1.4.0.6", **_OLD},
    "1.9": {"version": "Xenium-1.9.2.0", "without": ["is_gene"], "images": "mip"},
    "2.0": {"version": "xenium-2.0.0.10"},
    "3.0": {"version": "xenium-3.0.0.15", "stains": 4},
    "3.0-csv": {"version": "xenium-3.0.0.15", "csv": True},
    "3.1-ranger": {"version": "xenium-1.6.0.7", "ranger": "xenium-3.1.0.0"},
    "4.0": {
        "version": "xenium-4.0.1.0",
        "images": "named",
        "stains": 4,
        "absent": ["cells.zarr.zip"],
    },
}


def change_layout(bundle, layout: str) -> Path:
    """Rewrite a bundle in the layout of analysis software 3 in another one; returns it.

    ``cells.zarr.zip`` stays as version 3 writes it, or goes; no stage reads it.
    """
    bundle, spec = Path(bundle), LAYOUTS[layout]
    path = bundle / "transcripts.parquet"
    transcripts = pq.read_table(path).to_pandas().drop(columns=list(spec.get("without", [])))
    cells = pq.read_table(bundle / "cells.parquet").to_pandas()
    if spec.get("ids") == "integer":
        number = {cell: i + 1 for i, cell in enumerate(cells["cell_id"])}
        transcripts["cell_id"] = transcripts["cell_id"].map(number).fillna(-1).astype(np.int32)
        cells["cell_id"] = cells["cell_id"].map(number).astype(np.int32)
        for name in ("cell_boundaries.parquet", "nucleus_boundaries.parquet"):
            if (bundle / name).exists():
                outlines = pq.read_table(bundle / name).to_pandas()
                outlines["cell_id"] = outlines["cell_id"].map(number).astype(np.int32)
                _write_table(outlines, bundle / name, {"text": "bytes"})
        with h5py.File(bundle / "cell_feature_matrix.h5", "a") as file:
            del file["matrix/barcodes"]
            file["matrix/barcodes"] = [str(cell).encode() for cell in cells["cell_id"]]
    _write_table(transcripts, path, spec)
    _write_table(cells, bundle / "cells.parquet", spec)
    experiment = json.loads((bundle / "experiment.xenium").read_text(encoding="utf-8"))
    experiment["analysis_sw_version"] = spec["version"]
    experiment.pop("xenium_ranger", None)
    if "ranger" in spec:
        experiment["xenium_ranger"] = {"version": spec["ranger"]}
    experiment["images"] = {"morphology_focus_filepath": _change_images(bundle, spec)}
    (bundle / "experiment.xenium").write_text(json.dumps(experiment), encoding="utf-8")
    for name in spec.get("absent", []):
        (bundle / name).unlink()
    return bundle


def _write_table(table: pd.DataFrame, path: Path, spec: dict) -> None:
    if spec.get("csv"):
        path.unlink()
        packed = {"method": "gzip", "mtime": 0}  # no clock gets into the bytes
        table.to_csv(path.with_suffix(".csv.gz"), index=False, quoting=2, compression=packed)
        return
    if spec.get("text") == "bytes":
        texts = table.columns[[isinstance(value, str) for value in table.iloc[0]]]
        table = table.assign(**{name: table[name].str.encode("utf-8") for name in texts})
    pq.write_table(
        pa.Table.from_pandas(table, preserve_index=False), path, row_group_size=ROW_GROUP
    )


def _change_images(bundle: Path, spec: dict) -> str:
    """Move the morphology image to where the layout has it; returns what the bundle says of it."""
    (old,) = sorted((bundle / "morphology_focus").glob("*.ome.tif"))
    kind = spec.get("images", "numbered")
    if kind in ("file", "mip"):
        name = "morphology_focus.ome.tif" if kind == "file" else "morphology_mip.ome.tif"
        old.rename(bundle / name)
        old.parent.rmdir()
        return "morphology_focus.ome.tif"
    stains = ["dapi", "boundary", "interior_rna", "interior_protein"][: spec.get("stains", 1)]
    for number, stain in enumerate(stains):
        name = f"ch{number:04d}_{stain}" if kind == "named" else f"morphology_focus_{number:04d}"
        new = old.with_name(f"{name}.ome.tif")
        if new != old:
            shutil.copyfile(old, new)
    if kind == "named":
        old.unlink()
        return "morphology_focus/"
    return "morphology_focus/morphology_focus_0000.ome.tif"
