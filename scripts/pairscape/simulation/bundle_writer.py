"""The files of a Xenium bundle (analysis software 3.0), its H&E, and the truth beside them.

All bytes follow from the seed: no clock, no host, no random identifier gets into them.
"""

import json
import math
from pathlib import Path

import numpy as np

from pairscape.simulation import histology, segmentation
from pairscape.simulation import knobs as knob
from pairscape.simulation.bundle_images import write_dapi, write_he
from pairscape.simulation.bundle_texts import (
    SEGMENTATION,
    number_texts,
    write_experiment,
    write_metrics,
    write_panel,
    write_truth,
)
from pairscape.simulation.cells_zarr import closed, write_cells_zarr
from pairscape.simulation.tissue import Tissue
from pairscape.simulation.transcripts import MIN_QV

FOV_UM = 640.0

_FIRST_TRANSCRIPT = 281_474_976_710_656  # 2^48, as the instrument counts
_FOV_STRIDE = 2**32


def segment(tissue: Tissue, knobs: dict, seeds: dict) -> dict:
    """The cells of the bundle: those with their centre in the region, sorted by their id.

    Columns: id, prefix (the number behind the id), index (in the tissue's cells), nucleus and cell
    outlines (n, points, 2) in µm.
    """
    cells = tissue.cells
    index = np.flatnonzero(
        (cells["x_um"] >= 0) & (cells["x_um"] < knobs["width_um"])
        & (cells["y_um"] >= 0) & (cells["y_um"] < knobs["height_um"])
    )  # fmt: skip
    random = knob.rng(seeds["molecules"], "cell ids")
    prefixes = np.empty(0, np.uint32)
    while len(prefixes) < len(index):
        drawn = random.integers(0, 2**32, len(index) - len(prefixes), dtype=np.uint32)
        prefixes = np.unique(np.concatenate([prefixes, drawn]))
    index = random.permutation(index)
    centres = np.stack([cells["x_um"][index], cells["y_um"][index]], axis=1)
    limits = np.array([knobs["width_um"], knobs["height_um"]])
    nuclei, outlines = (
        _cut_to_region(shapes, centres[:, None], limits).astype(np.float32)
        for shapes in segmentation.outline_cells(tissue, index)
    )
    return {
        "id": np.array([cell_id(prefix) for prefix in prefixes], object),
        "prefix": prefixes,
        "index": index,
        "nucleus": nuclei,
        "cell": outlines,
    }


def _cut_to_region(shapes, centres, limits):
    """Shorten the spokes of outlines that leave the region, so that they end on its border."""
    spokes = shapes - centres
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(spokes > 0, (limits - centres) / spokes, -centres / spokes)
    share = np.clip(np.nan_to_num(room, nan=1.0, posinf=1.0), 0.0, 1.0).min(axis=2)
    return np.clip(centres + share[:, :, None] * spokes, 0, limits)


def cell_id(prefix: int, dataset: int = 1) -> str:
    """The instrument's name of a cell: eight letters a to p, one for each hexadecimal digit."""
    return "".join(chr(ord("a") + int(digit, 16)) for digit in f"{prefix:08x}") + f"-{dataset}"


def write_bundle(
    folder: Path,
    sample: dict,
    knobs: dict,
    seeds: dict,
    run_seed: int,
    tissue: Tissue,
    image_tissue: Tissue,
    features: dict,
    molecules: dict,
    shift: np.ndarray,
) -> dict:
    """Write all files of a sample into ``folder``; returns its numbers of cells and transcripts."""
    cells = segment(tissue, knobs, seeds)
    columns, rows = (
        math.ceil(knobs[side] / knob.PIXEL_SIZE_UM - 1e-9) for side in ("width_um", "height_um")
    )
    assigned, nuclear = write_cells_zarr(folder / "cells.zarr.zip", cells, molecules, rows, columns)
    order, fov, fov_names, number = _instrument_order(molecules, knobs, seeds)
    molecules = {name: column[order] for name, column in molecules.items()}
    assigned, nuclear = assigned[order], nuclear[order]
    _write_transcripts(
        folder / "transcripts.parquet",
        molecules, features, cells, assigned, nuclear, (fov, fov_names, number), tissue,
    )  # fmt: skip
    counts = _cell_counts(molecules, features, assigned, len(cells["id"]))
    _write_cells(folder / "cells.parquet", cells, counts, features)
    for name, shapes in (("cell", cells["cell"]), ("nucleus", cells["nucleus"])):
        _write_boundaries(folder / f"{name}_boundaries.parquet", cells["id"], shapes)
    _write_matrix(folder / "cell_feature_matrix.h5", cells["id"], features, counts)
    write_panel(folder / "gene_panel.json", sample, features)
    numbers = number_texts(knobs, features, molecules, cells, assigned, nuclear, counts)
    write_experiment(folder / "experiment.xenium", sample, features, numbers, seeds)
    write_metrics(folder / "metrics_summary.csv", sample, numbers)
    (folder / "morphology_focus").mkdir()
    write_dapi(
        folder / "morphology_focus" / "morphology_focus_0000.ome.tif", tissue, rows, columns, seeds
    )
    frame, degrees, mirrored = histology.he_frame(knobs, seeds["image"])
    stain = histology.donor_stain(knobs, seeds)
    name = sample["sample"]
    picture = histology.draw_he(image_tissue, frame, stain, seeds["image"])
    write_he(folder / f"{name}_he_image.ome.tif", picture, knobs["he_um_per_px"], seeds)
    matrix = histology.alignment_matrix(frame)
    lines = [",".join(repr(float(value)) for value in line) for line in matrix[:2]]
    (folder / f"{name}_he_imagealignment.csv").write_text("\n".join([*lines, "0,0,1"]) + "\n")
    write_truth(
        folder / "truth", sample, knobs, seeds, run_seed, tissue, features, molecules, cells, counts,
        {
            "he_to_morphology": matrix.tolist(),
            "he_size_px": [frame.columns, frame.rows],
            "rotation_degrees": degrees,
            "mirrored": mirrored,
            "stain": {key: np.asarray(value).tolist() for key, value in stain.items()},
        },
        shift,
    )  # fmt: skip
    return {"cells": len(cells["id"]), "transcripts": len(molecules["qv"])}


# Segmentation rasters


# Zarr version 2 in an uncompressed zip, each entry once and without a clock time. The instrument
# writes version 2; the zarr library can write it too, but not strip by strip into a zip without
# doubling entries.


# Tables


def _instrument_order(molecules, knobs, seeds):
    """Rows as the instrument writes them: field of view by field of view, unsorted within."""
    columns = math.ceil(knobs["width_um"] / FOV_UM)
    rows = math.ceil(knobs["height_um"] / FOV_UM)
    fov = (molecules["y_um"] // FOV_UM).astype(np.int64) * columns
    fov += (molecules["x_um"] // FOV_UM).astype(np.int64)
    shuffled = knob.rng(seeds["molecules"], "order").permutation(len(fov))
    order = shuffled[np.argsort(fov[shuffled], kind="stable")]
    fov = fov[order]
    first = np.searchsorted(fov, np.arange(rows * columns))
    number = np.arange(len(fov)) - first[fov]
    names = np.array([f"{_letters(r)}{c + 1}" for r in range(rows) for c in range(columns)], object)
    return order, fov, names, number


def _letters(row: int) -> str:
    return chr(ord("A") + row) if row < 26 else _letters(row // 26 - 1) + _letters(row % 26)


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


def _write_transcripts(path, molecules, features, cells, assigned, nuclear, fovs, tissue):
    import pyarrow as pa
    from scipy.spatial import cKDTree

    fov, fov_names, number = fovs
    n = len(fov)
    distance = np.zeros(n, np.float32)
    if len(cells["id"]):
        # The own nucleus of an assigned transcript, else the one with the nearest centre.
        nearest = assigned.astype(np.int64)
        lost = np.flatnonzero(assigned < 0)
        index = cells["index"]
        centres = np.stack([tissue.cells["x_um"][index], tissue.cells["y_um"][index]], axis=1)
        places = np.stack([molecules["x_um"][lost], molecules["y_um"][lost]], axis=1)
        nearest[lost] = cKDTree(centres).query(places.astype(float))[1]
        distance = segmentation.distance_to_outlines(
            molecules["x_um"].astype(float), molecules["y_um"].astype(float), nearest,
            cells["nucleus"].astype(float),
        )  # fmt: skip
        distance[nuclear] = 0
        distance = (np.round(distance * 64) / 64).astype(np.float32)

    def strings(values, index):
        return pa.array(values, pa.string()).take(pa.array(index))

    ids = np.append(cells["id"], "UNASSIGNED")
    _write_parquet(
        path,
        {
            "transcript_id": pa.array(
                (_FIRST_TRANSCRIPT + fov * _FOV_STRIDE + number).astype(np.uint64)
            ),
            "cell_id": strings(ids, np.where(assigned < 0, len(ids) - 1, assigned)),
            "overlaps_nucleus": pa.array(nuclear.astype(np.uint8)),
            "feature_name": strings(features["name"], molecules["feature"]),
            "x_location": pa.array(molecules["x_um"]),
            "y_location": pa.array(molecules["y_um"]),
            "z_location": pa.array(molecules["z_um"]),
            "qv": pa.array(molecules["qv"]),
            "fov_name": strings(fov_names, fov),
            "nucleus_distance": pa.array(distance),
            "codeword_index": pa.array(features["codeword"][molecules["feature"]]),
            "codeword_category": strings(features["category"], molecules["feature"]),
            "is_gene": pa.array(features["is_gene"][molecules["feature"]]),
        },
        # Several groups also in a small file: a reader has to put them together.
        row_group_rows=min(250_000, max(1000, -(-n // 4))),
    )


def _cell_counts(molecules, features, assigned, n_cells):
    """Counts (features, cells) of good transcripts within cells, compressed by cell, int32."""
    from scipy import sparse

    good = (molecules["qv"] >= MIN_QV) & (assigned >= 0)
    shape = (len(features["name"]), n_cells)
    ones = np.ones(int(good.sum()), np.int32)
    counts = sparse.csc_matrix((ones, (molecules["feature"][good], assigned[good])), shape=shape)
    counts.sum_duplicates()
    counts.sort_indices()
    return counts


def _counts_of(counts, chosen) -> np.ndarray:
    return np.asarray(counts[np.flatnonzero(chosen)].sum(axis=0)).ravel().astype(np.int64)


def _write_cells(path, cells, counts, features):
    import pyarrow as pa

    area, centre = segmentation.areas_and_centroids(cells["cell"].astype(float))
    nucleus_area, _ = segmentation.areas_and_centroids(cells["nucleus"].astype(float))
    n = len(area)
    of = {category: features["category"] == category for category in set(features["category"])}
    _write_parquet(
        path,
        {
            "cell_id": pa.array(cells["id"], pa.string()),
            "x_centroid": pa.array(centre[:, 0]),
            "y_centroid": pa.array(centre[:, 1]),
            "transcript_counts": _counts_of(counts, features["is_gene"]),
            "control_probe_counts": _counts_of(counts, of["negative_control_probe"]),
            "genomic_control_counts": _counts_of(counts, of["genomic_control_probe"]),
            "control_codeword_counts": _counts_of(counts, of["negative_control_codeword"]),
            "unassigned_codeword_counts": _counts_of(counts, of["unassigned_codeword"]),
            "deprecated_codeword_counts": _counts_of(counts, of["deprecated_codeword"]),
            "total_counts": _counts_of(counts, np.ones(len(features["name"]), bool)),
            "cell_area": pa.array(area),
            "nucleus_area": pa.array(nucleus_area),
            "nucleus_count": pa.array(np.ones(n, np.int64)),
            "segmentation_method": pa.array([SEGMENTATION] * n, pa.string()),
        },
    )


def _write_boundaries(path, ids, outlines):
    import pyarrow as pa

    ring = closed(outlines)
    index = np.repeat(np.arange(len(ids)), ring.shape[1])
    _write_parquet(
        path,
        {
            "cell_id": pa.array(ids, pa.string()).take(pa.array(index)),
            "vertex_x": pa.array(ring[:, :, 0].ravel().astype(np.float32)),
            "vertex_y": pa.array(ring[:, :, 1].ravel().astype(np.float32)),
            "label_id": pa.array(index + 1),
        },
    )


def _write_matrix(path, ids, features, counts):
    import h5py

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
        matrix.create_dataset("barcodes", data=fixed(ids), **packed)
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


# Descriptions


# Images


# Truth
