"""The tables of a simulated bundle: transcripts, cells, outlines, and counts by cell."""

import json

import numpy as np

from pairscape.simulation import segmentation
from pairscape.simulation.bundle_content import SEGMENTATION, Cells, Content, closed

_FIRST_TRANSCRIPT = 281_474_976_710_656  # 2^48, as the instrument counts
_FOV_STRIDE = 2**32


def write_tables(folder, content: Content) -> None:
    """Write the tables of a bundle into its folder."""
    _write_transcripts(folder / "transcripts.parquet", content)
    _write_cells(folder / "cells.parquet", content)
    for name in ("cell", "nucleus"):
        _write_boundaries(folder / f"{name}_boundaries.parquet", content.cells, name)
    _write_matrix(folder / "cell_feature_matrix.h5", content)


def _write_parquet(path, columns: dict, row_group_rows: int = 1_000_000) -> None:
    """As the instrument does: nullable columns, plain encoding, zstd, pandas' note in the schema."""
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(columns)
    # The note makes pandas read the same types back; it is made from an empty frame of them.
    empty = pa.Table.from_pandas(table.schema.empty_table().to_pandas(), preserve_index=False)
    note = json.loads(empty.schema.metadata[b"pandas"])
    for field in note["columns"]:
        kind = table.schema.field(field["name"]).type
        text = pa.types.is_string(kind)
        field["pandas_type"] = "unicode" if text else str(kind)
        field["numpy_type"] = "object" if text else np.dtype(kind.to_pandas_dtype()).name
    note["pandas_version"] = pd.__version__
    table = table.replace_schema_metadata({"pandas": json.dumps(note)})
    pq.write_table(
        table,
        path,
        row_group_size=row_group_rows,
        compression="zstd",
        use_dictionary=False,
        version="1.0",
        store_schema=False,
    )


def _write_transcripts(path, content: Content) -> None:
    import pyarrow as pa

    molecules, features, fov = content.molecules, content.drawn.features, content.fov
    feature = molecules["feature"]
    ids = np.append(content.cells.id, "UNASSIGNED")
    owners = np.where(content.assigned < 0, len(ids) - 1, content.assigned)

    def strings(values, index):
        return pa.array(values, pa.string()).take(pa.array(index))

    transcript_id = _FIRST_TRANSCRIPT + fov * _FOV_STRIDE + content.number
    _write_parquet(
        path,
        {
            "transcript_id": pa.array(transcript_id.astype(np.uint64)),
            "cell_id": strings(ids, owners),
            "overlaps_nucleus": pa.array(content.nuclear.astype(np.uint8)),
            "feature_name": strings(features["name"], feature),
            "x_location": pa.array(molecules["x_um"]),
            "y_location": pa.array(molecules["y_um"]),
            "z_location": pa.array(molecules["z_um"]),
            "qv": pa.array(molecules["qv"]),
            "fov_name": strings(content.fov_names, fov),
            "nucleus_distance": pa.array(_nucleus_distance(content)),
            "codeword_index": pa.array(features["codeword"][feature]),
            "codeword_category": strings(features["category"], feature),
            "is_gene": pa.array(features["is_gene"][feature]),
        },
        # Several groups also in a small file: a reader has to put them together.
        row_group_rows=min(250_000, max(1000, -(-len(fov) // 4))),
    )


def _nucleus_distance(content: Content) -> np.ndarray:
    """Distance (µm, in steps of 1/64) of each transcript to the nucleus of its cell.

    For a transcript without a cell, to the nucleus with the nearest centre.
    """
    from scipy.spatial import cKDTree

    cells, molecules = content.cells, content.molecules
    if not len(cells.id):
        return np.zeros(len(content.fov), np.float32)
    nearest = content.assigned.astype(np.int64)
    lost = np.flatnonzero(content.assigned < 0)
    where = content.drawn.tissue.cells
    centres = np.stack([where["x_um"][cells.index], where["y_um"][cells.index]], axis=1)
    x_um, y_um = (molecules[name].astype(float) for name in ("x_um", "y_um"))
    nearest[lost] = cKDTree(centres).query(np.stack([x_um[lost], y_um[lost]], axis=1))[1]
    outlines = cells.nucleus.astype(float)
    distance = segmentation.distance_to_outlines(x_um, y_um, nearest, outlines)
    distance[content.nuclear] = 0
    return (np.round(distance * 64) / 64).astype(np.float32)


def _write_cells(path, content: Content) -> None:
    import pyarrow as pa

    cells, category = content.cells, content.drawn.features["category"]
    area, centre = cells.areas_and_centroids("cell")
    n = len(area)

    def counts(chosen) -> np.ndarray:
        rows = content.counts[np.flatnonzero(chosen)]
        return np.asarray(rows.sum(axis=0)).ravel().astype(np.int64)

    _write_parquet(
        path,
        {
            "cell_id": pa.array(cells.id, pa.string()),
            "x_centroid": pa.array(centre[:, 0]),
            "y_centroid": pa.array(centre[:, 1]),
            "transcript_counts": counts(content.drawn.features["is_gene"]),
            "control_probe_counts": counts(category == "negative_control_probe"),
            "genomic_control_counts": counts(category == "genomic_control_probe"),
            "control_codeword_counts": counts(category == "negative_control_codeword"),
            "unassigned_codeword_counts": counts(category == "unassigned_codeword"),
            "deprecated_codeword_counts": counts(category == "deprecated_codeword"),
            "total_counts": counts(np.ones(len(category), bool)),
            "cell_area": pa.array(area),
            "nucleus_area": pa.array(cells.areas_and_centroids("nucleus")[0]),
            "nucleus_count": pa.array(np.ones(n, np.int64)),
            "segmentation_method": pa.array([SEGMENTATION] * n, pa.string()),
        },
    )


def _write_boundaries(path, cells: Cells, name: str) -> None:
    import pyarrow as pa

    ring = closed(getattr(cells, name))
    index = np.repeat(np.arange(len(ring)), ring.shape[1])
    _write_parquet(
        path,
        {
            "cell_id": pa.array(cells.id, pa.string()).take(pa.array(index)),
            "vertex_x": pa.array(ring[:, :, 0].ravel().astype(np.float32)),
            "vertex_y": pa.array(ring[:, :, 1].ravel().astype(np.float32)),
            "label_id": pa.array(index + 1),
        },
    )


def _write_matrix(path, content: Content) -> None:
    import h5py

    features, counts = content.drawn.features, content.counts

    def fixed(values):
        width = max((len(str(value).encode()) for value in values), default=1)
        return np.array([str(value).encode() for value in values], f"S{width}")

    packed = {"compression": "gzip", "compression_opts": 4}
    with h5py.File(path, "w") as file:
        file.attrs["filetype"] = "matrix"
        file.attrs["library_ids"] = np.array([b"0000000_0000000"])
        file.attrs["original_gem_groups"] = np.array([1])
        file.attrs["version"] = np.int64(2)
        matrix = file.create_group("matrix")
        chunk = {"chunks": (80_000,), "maxshape": (None,)} | packed
        matrix.create_dataset("barcodes", data=fixed(content.cells.id), **packed)
        matrix.create_dataset("data", data=counts.data.astype("<i4"), **chunk)
        matrix.create_dataset("indices", data=counts.indices.astype("<i8"), **chunk)
        matrix.create_dataset("indptr", data=counts.indptr.astype("<i8"), **chunk)
        matrix.create_dataset("shape", data=np.array(counts.shape, "<i4"), **chunk)
        group = matrix.create_group("features")
        group.create_dataset("_all_tag_keys", data=np.array([b"genome"]))
        group.create_dataset("feature_type", data=fixed(features["type"]), **packed)
        genome = np.full(len(features["name"]), b"Unknown")
        group.create_dataset("genome", data=genome, **packed)
        group.create_dataset("id", data=fixed(features["id"]), **packed)
        group.create_dataset("name", data=fixed(features["name"]), **packed)
