"""A Xenium bundle of a few transcripts, written by hand, for tests of the readers."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import tifffile

PIXEL_SIZE_UM = 0.2125
GENES = ["ALPHA", "BETA", "GAMMA", "DELTA", "EPSILON"]
CONTROLS = {
    "NegControlProbe_00001": "negative_control_probe",
    "NegControlCodeword_0500": "negative_control_codeword",
    "UnassignedCodeword_0001": "unassigned_codeword",
}
SIDE_UM = 425.0  # of the morphology image: 2000 pixels
HE_UM_PER_PX = 0.5


def make_transcripts(rows: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """Transcripts over the whole image; some are controls, some of low quality."""
    rng = np.random.default_rng(seed)
    names = np.array([*GENES, *CONTROLS])
    feature = names[rng.choice(len(names), rows, p=[0.5, 0.2, 0.1, 0.1, 0.04, 0.02, 0.02, 0.02])]
    return pd.DataFrame(
        {
            "transcript_id": np.arange(rows, dtype=np.uint64),
            "cell_id": "UNASSIGNED",
            "overlaps_nucleus": np.zeros(rows, np.uint8),
            "feature_name": feature,
            "x_location": rng.uniform(0, SIDE_UM, rows).astype(np.float32),
            "y_location": rng.uniform(0, SIDE_UM, rows).astype(np.float32),
            "z_location": np.zeros(rows, np.float32),
            "qv": rng.choice([3.5, 19.99, 20, 40], rows, p=[0.1, 0.1, 0.1, 0.7]).astype(np.float32),
            "fov_name": "A1",
            "nucleus_distance": np.zeros(rows, np.float32),
            "codeword_index": np.zeros(rows, np.int32),
            "codeword_category": [CONTROLS.get(name, "predesigned_gene") for name in feature],
            "is_gene": [name in GENES for name in feature],
        }
    )


def write_transcripts(bundle, transcripts: pd.DataFrame, **options) -> Path:
    path = Path(bundle) / "transcripts.parquet"
    table = pa.Table.from_pandas(transcripts, preserve_index=False)
    pq.write_table(table, path, **({"row_group_size": 6_000} | options))
    return path


def write_bundle(bundle, transcripts: pd.DataFrame | None = None) -> Path:
    """All files of a bundle that Pairscape looks at; returns the folder."""
    bundle = Path(bundle)
    bundle.mkdir(parents=True)
    write_transcripts(bundle, make_transcripts() if transcripts is None else transcripts)
    experiment = {
        "analysis_sw_version": "xenium-3.0.0.15",
        "pixel_size": PIXEL_SIZE_UM,
        "num_cells": 4,
        "panel_name": "Tiny",
        "region_name": "R1",
        "images": {"morphology_focus_filepath": "morphology_focus/morphology_focus_0000.ome.tif"},
    }
    (bundle / "experiment.xenium").write_text(json.dumps(experiment))
    write_panel(bundle, GENES)
    (bundle / "metrics_summary.csv").write_text("run_name,num_cells_detected\ntiny,4\n")
    cells = pd.DataFrame(
        {
            "cell_id": [f"aaaaaaa{letter}-1" for letter in "abcd"],
            "x_centroid": [50.0, 150, 250, 350],
            "y_centroid": [60.0, 160, 260, 360],
            "transcript_counts": [1, 2, 3, 4],
        }
    )
    cells.to_parquet(bundle / "cells.parquet")
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1)], float)
    for name, reach_um in (("cell_boundaries", 5), ("nucleus_boundaries", 3)):
        outlines = cells.loc[cells.index.repeat(len(corners)), ["cell_id"]]
        centres = np.repeat(cells[["x_centroid", "y_centroid"]].to_numpy(), len(corners), axis=0)
        vertices = centres + reach_um * np.tile(corners, (len(cells), 1))
        outlines[["vertex_x", "vertex_y"]] = vertices
        outlines.to_parquet(bundle / f"{name}.parquet", index=False)
    with zipfile.ZipFile(bundle / "cells.zarr.zip", "w") as packed:
        packed.writestr(".zgroup", '{"zarr_format": 2}')
    write_matrix(bundle, cells["cell_id"], np.array([[0, 2, 0, 5], [1, 0, 0, 0]]))
    (bundle / "morphology_focus").mkdir()
    tifffile.imwrite(
        bundle / "morphology_focus" / "morphology_focus_0000.ome.tif",
        np.zeros((2000, 2000), np.uint16),
        tile=(512, 512),
        compression="zlib",
    )
    return bundle


def write_panel(bundle, genes: list[str]) -> None:
    def target(name, descriptor, identity):
        data = {"name": name} | ({"id": identity} if identity else {})
        source = {"category": "current", "identity": {"name": "Tiny"}}
        return {
            "codewords": [0],
            "source": source,
            "type": {"data": data, "descriptor": descriptor},
        }

    targets = [target(gene, "gene", f"ENSG{i:011d}") for i, gene in enumerate(genes)]
    targets.append(target("NegControlProbe_00001", "negative_control", None))
    panel = {"metadata": {}, "payload": {"targets": targets}}
    (Path(bundle) / "gene_panel.json").write_text(json.dumps(panel))


def write_matrix(bundle, cells, counts: np.ndarray) -> None:
    """Counts (genes, cells) of the first genes of the panel."""
    with h5py.File(Path(bundle) / "cell_feature_matrix.h5", "w") as file:
        columns = [np.flatnonzero(column) for column in counts.T]
        matrix = file.create_group("matrix")
        matrix["barcodes"] = [cell.encode() for cell in cells]
        features = [*((gene, f"ENSG{i:011d}") for i, gene in enumerate(GENES))]
        features += [(name, name) for name in CONTROLS]
        kinds = ["Gene Expression"] * len(GENES) + ["Negative Control Probe"] * len(CONTROLS)
        matrix["features/name"] = [name.encode() for name, _ in features]
        matrix["features/id"] = [identity.encode() for _, identity in features]
        matrix["features/feature_type"] = [kind.encode() for kind in kinds]
        matrix["indices"] = np.concatenate(columns)
        matrix["indptr"] = np.concatenate([[0], np.cumsum([len(c) for c in columns])])
        values = zip(counts.T, columns, strict=True)
        matrix["data"] = np.concatenate([column[rows] for column, rows in values])


def write_he(folder, um_per_px: float = HE_UM_PER_PX, stated: float | None = None, margin=20.0):
    """An H&E that is turned by 90 degrees and reaches ``margin`` µm beyond the Xenium region.

    Returns the paths of the image and of the alignment.
    """
    folder = Path(folder)
    side = round((SIDE_UM + 2 * margin) / um_per_px)
    rng = np.random.default_rng(1)
    image = np.full((side, side, 3), 220, np.uint8) - rng.integers(0, 40, (side, side, 1), np.uint8)
    size = um_per_px if stated is None else stated
    tifffile.imwrite(
        folder / "he.ome.tif",
        image,
        tile=(256, 256),
        photometric="rgb",
        compression="zlib",
        metadata={
            "axes": "YXS",
            "PhysicalSizeX": size,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": size,
            "PhysicalSizeYUnit": "µm",
        },
    )
    scale = um_per_px / PIXEL_SIZE_UM
    matrix = np.array(
        [
            [0, -scale, (SIDE_UM + margin) / PIXEL_SIZE_UM],
            [scale, 0, -margin / PIXEL_SIZE_UM],
            [0, 0, 1],
        ]
    )
    np.savetxt(folder / "he.csv", matrix, delimiter=",", fmt="%.10g")
    return folder / "he.ome.tif", folder / "he.csv"
