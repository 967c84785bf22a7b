"""The files of a Xenium bundle (analysis software 3.0), its H&E, and the truth beside them.

All bytes follow from the seed: no clock, no host, no random identifier gets into them.
"""

import hashlib
import json
import math
import uuid
import zipfile
from pathlib import Path

import numpy as np

from pairscape.core.files import write_json, write_tsv
from pairscape.jobs.program import progress
from pairscape.simulation import histology, segmentation, transcripts
from pairscape.simulation import knobs as knob
from pairscape.simulation import tissue as tissues
from pairscape.simulation.tissue import DOMAINS, KINDS, STATES, Tissue
from pairscape.simulation.transcripts import MIN_QV

FOV_UM = 640.0
SOFTWARE = "xenium-3.0.0.15"
SEGMENTATION = "Segmented by nucleus expansion of 5.0µm"

_FIRST_TRANSCRIPT = 281_474_976_710_656  # 2^48, as the instrument counts
_FOV_STRIDE = 2**32
_HE_TILE_PX = 512
_DAPI_TILE_PX = 1024
_MASK_CHUNKS = 8


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
    assigned, nuclear = _write_cells_zarr(
        folder / "cells.zarr.zip", cells, molecules, rows, columns
    )
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
    _write_panel(folder / "gene_panel.json", sample, features)
    numbers = _numbers(knobs, features, molecules, cells, assigned, nuclear, counts)
    _write_experiment(folder / "experiment.xenium", sample, features, numbers, seeds)
    _write_metrics(folder / "metrics_summary.csv", sample, numbers)
    (folder / "morphology_focus").mkdir()
    _write_dapi(
        folder / "morphology_focus" / "morphology_focus_0000.ome.tif", tissue, rows, columns, seeds
    )
    frame, degrees, mirrored = histology.he_frame(knobs, seeds["image"])
    stain = histology.donor_stain(knobs, seeds)
    name = sample["sample"]
    picture = histology.draw_he(image_tissue, frame, stain, seeds["image"])
    _write_he(folder / f"{name}_he_image.ome.tif", picture, knobs["he_um_per_px"], seeds)
    matrix = histology.alignment_matrix(frame)
    lines = [",".join(repr(float(value)) for value in line) for line in matrix[:2]]
    (folder / f"{name}_he_imagealignment.csv").write_text("\n".join([*lines, "0,0,1"]) + "\n")
    _write_truth(
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


def _write_cells_zarr(path, cells, molecules, rows, columns):
    """Write ``cells.zarr.zip``; returns each transcript's cell (-1: none) and whether in a nucleus.

    The rasters pass strip by strip, and the transcripts are looked up in each strip.
    """
    n = len(cells["id"])
    assigned = np.full(len(molecules["qv"]), -1, np.int32)
    nuclear = np.zeros(len(assigned), bool)
    # In float64: a place a hair below the border of the region must not round up to it.
    pixel_row = np.minimum(
        (molecules["y_um"].astype(float) / knob.PIXEL_SIZE_UM).astype(int), rows - 1
    )
    pixel_column = np.minimum(
        (molecules["x_um"].astype(float) / knob.PIXEL_SIZE_UM).astype(int), columns - 1
    )
    by_row = np.argsort(pixel_row, kind="stable")
    chunk = (-(-rows // _MASK_CHUNKS), -(-columns // _MASK_CHUNKS))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _zarr_group(
            archive,
            "",
            {
                "major_version": 6,
                "minor_version": 2,
                "name": "CellSegmentationDataset",
                "number_cells": n,
                "polygon_set_descriptions": ["DAPI-based nuclei segmentation", "Cell Segmentation"],
                "polygon_set_display_names": ["Nucleus boundaries", "Cell boundaries"],
                "polygon_set_names": ["nucleus", "cell"],
                "segmentation_methods": [
                    "Segmented by boundary stain (None)",
                    "Segmented by interior stain (None)",
                    SEGMENTATION,
                    "Segmented by nuclear stain (DAPI)",
                ],
                "spatial_units": "microns",
            },
        )
        ids = np.stack([cells["prefix"], np.ones(n, np.uint32)], axis=1).astype("<u4")
        _zarr_array(archive, "cell_id", ids)
        _zarr_group(archive, "masks")
        scale = np.diag([1 / knob.PIXEL_SIZE_UM, 1 / knob.PIXEL_SIZE_UM, 1, 1])
        _zarr_array(archive, "masks/homogeneous_transform", scale.astype("<f4"))
        for mask in (0, 1):
            _zarr_header(archive, f"masks/{mask}", (rows, columns), chunk, "<u4", _ZSTD)
        for strip in progress(range(_MASK_CHUNKS), "cell masks", unit="strip"):
            start = strip * chunk[0]
            height = min(chunk[0], rows - start)
            if height <= 0:
                break
            here = by_row[
                np.searchsorted(pixel_row[by_row], start) : np.searchsorted(
                    pixel_row[by_row], start + height
                )
            ]
            at = pixel_row[here] - start, pixel_column[here]
            for mask, name in enumerate(("nucleus", "cell")):
                labels = segmentation.raster_labels(cells[name], start, height, columns)
                if mask == 0:
                    nuclear[here] = labels[at] > 0
                else:
                    assigned[here] = labels[at].astype(np.int32) - 1
                _zarr_chunk_row(archive, f"masks/{mask}", strip, labels, chunk, _ZSTD)
        _zarr_group(archive, "polygon_sets")
        for mask, name in enumerate(("nucleus", "cell")):
            ring = _closed(cells[name]).reshape(n, -1)
            _zarr_group(archive, f"polygon_sets/{mask}")
            _zarr_array(archive, f"polygon_sets/{mask}/vertices", ring.astype("<f4"))
            _zarr_array(
                archive, f"polygon_sets/{mask}/num_vertices", np.full(n, ring.shape[1] // 2, "<i4")
            )
            _zarr_array(archive, f"polygon_sets/{mask}/cell_index", np.arange(n, dtype="<u4"))
            _zarr_array(
                archive, f"polygon_sets/{mask}/method", np.full(n, 3 if mask == 0 else 2, "<u4")
            )
        cell_area, cell_centre = segmentation.areas_and_centroids(cells["cell"].astype(float))
        nucleus_area, nucleus_centre = segmentation.areas_and_centroids(
            cells["nucleus"].astype(float)
        )
        summary = np.column_stack(
            [cell_centre, cell_area, nucleus_centre, nucleus_area, np.full(n, 4.0), np.ones(n)]
        )
        _zarr_array(
            archive,
            "cell_summary",
            summary.astype("<f8"),
            {
                "column_descriptions": [
                    "Cell centroid in X", "Cell centroid in Y", "Cell area",
                    "Nucleus centroid in X", "Nucleus centroid in Y", "Nucleus area",
                    "z_level", "Nucleus count",
                ],
                "column_names": [
                    "cell_centroid_x", "cell_centroid_y", "cell_area",
                    "nucleus_centroid_x", "nucleus_centroid_y", "nucleus_area",
                    "z_level", "nucleus_count",
                ],
            },
            chunk_columns=1,
        )  # fmt: skip
    nuclear &= assigned >= 0
    return assigned, nuclear


_LZ4 = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
_ZSTD = {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0}


# Zarr version 2 in an uncompressed zip, each entry once and without a clock time. The instrument
# writes version 2; the zarr library can write it too, but not strip by strip into a zip without
# doubling entries.


def _zarr_put(archive, name: str, data) -> None:
    text = data if isinstance(data, bytes) else json.dumps(data, indent=4).encode()
    archive.writestr(zipfile.ZipInfo(name.lstrip("/")), text)


def _zarr_group(archive, name: str, attributes: dict | None = None) -> None:
    _zarr_put(archive, f"{name}/.zgroup", {"zarr_format": 2})
    if attributes:
        _zarr_put(archive, f"{name}/.zattrs", attributes)


def _zarr_header(archive, name, shape, chunks, dtype, compressor, attributes=None) -> None:
    _zarr_put(
        archive,
        f"{name}/.zarray",
        {
            "chunks": list(chunks),
            "compressor": compressor,
            "dtype": dtype,
            "fill_value": 0.0 if "f" in dtype else 0,
            "filters": None,
            "order": "C",
            "shape": list(shape),
            "zarr_format": 2,
        },
    )
    if attributes:
        _zarr_put(archive, f"{name}/.zattrs", attributes)


def _zarr_array(archive, name, values, attributes=None, chunk_columns=None) -> None:
    """A small array whole, or in chunks of columns."""
    chunks = tuple(max(side, 1) for side in values.shape)
    if chunk_columns:
        chunks = (chunks[0], chunk_columns)
    _zarr_header(archive, name, values.shape, chunks, values.dtype.str, _LZ4, attributes)
    if values.size == 0:
        return
    if values.ndim == 1:
        _zarr_chunk(archive, f"{name}/0", values, _LZ4)
        return
    for column in range(-(-values.shape[1] // chunks[1])):
        part = values[:, column * chunks[1] : (column + 1) * chunks[1]]
        _zarr_chunk(archive, f"{name}/0.{column}", part, _LZ4)


def _zarr_chunk_row(archive, name, row, values, chunks, compressor) -> None:
    """All chunks of one row of chunks; those at the edges are filled up with zeros."""
    for column in range(-(-values.shape[1] // chunks[1])):
        part = np.zeros(chunks, values.dtype)
        cut = values[:, column * chunks[1] : (column + 1) * chunks[1]]
        part[: cut.shape[0], : cut.shape[1]] = cut
        _zarr_chunk(archive, f"{name}/{row}.{column}", part, compressor)


def _zarr_chunk(archive, name, values, compressor) -> None:
    from numcodecs import Blosc, blosc

    blosc.use_threads = False  # threads write the blocks of a chunk in the order they end
    settings = {key: value for key, value in compressor.items() if key != "id"}
    _zarr_put(archive, name, bytes(Blosc(**settings).encode(np.ascontiguousarray(values))))


def _closed(outlines: np.ndarray) -> np.ndarray:
    return np.concatenate([outlines, outlines[:, :1]], axis=1)


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

    ring = _closed(outlines)
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


def _panel_names(sample) -> tuple[str, str]:
    panel = sample.get("panel") or "panel"
    return f"Simulated {panel}", f"{panel}_simulated"


def _write_panel(path, sample, features):
    name, design = _panel_names(sample)
    identity = {"design_id": design, "name": name, "version": "1.0.0"}
    descriptors = {
        "predesigned_gene": "gene",
        "negative_control_probe": "negative_control",
        "genomic_control_probe": "genomic_control",
        "deprecated_codeword": "deprecated_codeword",
    }
    targets = []
    for i, category in enumerate(features["category"]):
        # Codewords without a target don't stand in the instrument's panel either.
        if category not in descriptors:
            continue
        data = {"name": features["name"][i]}
        if features["is_gene"][i]:
            data = {"id": features["id"][i]} | data
        targets.append(
            {
                "codewords": [int(features["codeword"][i])],
                "info": {"gene_coverage": 1},
                "source": {"category": "current", "identity": identity},
                "type": {"data": data, "descriptor": descriptors[category]},
            }
        )
    payload = {
        "chemistry": {"decoder": "xenium_decoding_v1", "version": "v1"},
        "customer": {"email": None, "name": None},
        "designer": {
            "date_created": "2024-02-26T17:00:00",
            "designed_by": {"email": None, "name": "Pairscape"},
            "version": "1.0.0",
        },
        "panel": {
            "description": name,
            "identity": identity,
            "num_gene_targets": int(features["is_gene"].sum()),
            "species": "Human",
            "tissue": sample.get("organ") or "Multi",
            "type": {"descriptor": "predesigned"},
        },
        "spec_version": "0.1.0",
        "targets": targets,
    }
    checksum = hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()
    metadata = {"sha256_checksum": checksum, "ui_props": {"visible": True}}
    write_json(path, {"metadata": metadata, "payload": payload})


def _numbers(knobs, features, molecules, cells, assigned, nuclear, counts) -> dict:
    """What the instrument reports about a run."""
    good = molecules["qv"] >= MIN_QV
    genes = features["is_gene"][molecules["feature"]]
    cell_area, _ = segmentation.areas_and_centroids(cells["cell"].astype(float))
    nucleus_area, _ = segmentation.areas_and_centroids(cells["nucleus"].astype(float))
    region_area = knobs["width_um"] * knobs["height_um"]
    gene_counts = counts[: int(features["is_gene"].sum())]
    per_cell = np.asarray(gene_counts.sum(axis=0)).ravel()
    kinds = np.diff(gene_counts.tocsc().indptr)
    good_genes = max(int((good & genes).sum()), 1)
    n = len(cell_area)
    depth = molecules["z_um"][good]
    low, high = np.percentile(depth, [2.5, 97.5]) if len(depth) else (0.0, 0.0)
    return {
        "num_cells": n,
        "median_transcripts": int(np.median(per_cell)) if n else 0,
        "median_genes": int(np.median(kinds)) if n else 0,
        "empty": float((per_cell == 0).mean()) if n else 0.0,
        "per_100um2": float(100 * good_genes / region_area),
        "region_area": float(region_area),
        "total_cell_area": float(cell_area.sum()),
        "thickness": float(high - low),
        "nuclear_per_100um2": float(
            100 * (good & genes & nuclear).sum() / max(nucleus_area.sum(), 1.0)
        ),
        "assigned": float((good & genes & (assigned >= 0)).sum() / good_genes),
        "good": int((good & genes).sum()),
        "good_fraction": float((good & genes).sum() / max(int(genes.sum()), 1)),
        "cells_per_100um2": float(100 * n / region_area),
    }


def _write_experiment(path, sample, features, numbers, seeds):
    panel, design = _panel_names(sample)
    random = knob.rng(seeds["molecules"], "identifiers")

    def identifier() -> str:
        return str(uuid.UUID(bytes=random.bytes(16), version=4))

    write_json(
        path,
        {
            "major_version": 5,
            "minor_version": 0,
            "patch_version": 0,
            "run_name": "Pairscape simulation",
            "run_start_time": "2024-05-29T00:14:01Z",
            "region_name": sample["sample"],
            "preservation_method": (sample.get("preservation") or "FFPE").lower(),
            "num_cells": numbers["num_cells"],
            "transcripts_per_cell": numbers["median_transcripts"],
            "transcripts_per_100um": numbers["per_100um2"],
            "region_area": numbers["region_area"],
            "total_cell_area": numbers["total_cell_area"],
            "thickness_of_high_quality_decoded_transcripts": numbers["thickness"],
            "nuclear_transcripts_per_100um": numbers["nuclear_per_100um2"],
            "fraction_transcripts_assigned": numbers["assigned"],
            "segmented_cell_stain_frac": 0.0,
            "segmented_cell_boundary_frac": 0.0,
            "segmented_cell_interior_frac": 0.0,
            "segmented_cell_nuc_expansion_frac": 1.0,
            "imported_cell_frac": 0.0,
            "cassette_name": "simulation",
            "slide_id": "simulation",
            "panel_type": "predesigned",
            "panel_design_id": design,
            "panel_predesigned_id": "",
            "panel_name": panel,
            "panel_organism": "Human",
            "panel_tissue_type": sample.get("organ") or "Multi",
            "panel_num_targets_predesigned": int(features["is_gene"].sum()),
            "panel_num_targets_custom": 0,
            "chemistry_version": "v1",
            "pixel_size": knob.PIXEL_SIZE_UM,
            "instrument_sn": "simulated",
            "instrument_sw_version": "simulated",
            "analysis_sw_version": SOFTWARE,
            "analysis_uuid": identifier(),
            "experiment_uuid": identifier(),
            "cassette_uuid": identifier(),
            "roi_uuid": identifier(),
            "z_step_size": 3.0,
            "well_uuid": f"def_{random.bytes(4).hex()}_rec_{random.bytes(4).hex()}",
            "calibration_uuid": identifier(),
            "images": {
                "morphology_filepath": "morphology.ome.tif",
                "morphology_focus_filepath": "morphology_focus/morphology_focus_0000.ome.tif",
            },
            "xenium_explorer_files": {
                "transcripts_zarr_filepath": "transcripts.zarr.zip",
                "cells_zarr_filepath": "cells.zarr.zip",
                "cell_features_zarr_filepath": "cell_feature_matrix.zarr.zip",
                "analysis_zarr_filepath": "analysis.zarr.zip",
                "analysis_summary_filepath": "analysis_summary.html",
            },
            "segmentation_stain": "",
        },
    )


def _write_metrics(path, sample, numbers):
    panel, design = _panel_names(sample)
    values = {
        "run_name": "Pairscape simulation",
        "cassette_name": "simulation",
        "region_name": sample["sample"],
        "panel_name": panel,
        "panel_design_id": design,
        "predesigned_panel_id": "",
        "region_area": numbers["region_area"],
        "total_cell_area": numbers["total_cell_area"],
        "total_high_quality_decoded_transcripts": numbers["good"],
        "fraction_transcripts_decoded_q20": numbers["good_fraction"],
        "fraction_predesigned_transcripts_decoded_q20": numbers["good_fraction"],
        "fraction_custom_transcripts_decoded_q20": "",
        "nuclear_transcripts_per_100um2": numbers["nuclear_per_100um2"],
        "decoded_transcripts_per_100um2": numbers["per_100um2"],
        "adjusted_negative_control_probe_rate": "",
        "adjusted_negative_control_codeword_rate": "",
        "adjusted_genomic_control_probe_rate": "",
        "negative_control_probe_counts_per_control_per_cell": "",
        "genomic_control_probe_counts_per_control_per_cell": "",
        "estimated_number_of_false_positive_transcripts_per_cell": "",
        "estimated_number_of_false_positive_transcripts_per_cell_including_genomic_counts": "",
        "num_cells_detected": numbers["num_cells"],
        "fraction_empty_cells": numbers["empty"],
        "cells_per_100um2": numbers["cells_per_100um2"],
        "fraction_transcripts_assigned": numbers["assigned"],
        "median_genes_per_cell": numbers["median_genes"],
        "median_predesigned_genes_per_cell": numbers["median_genes"],
        "median_custom_genes_per_cell": "",
        "median_transcripts_per_cell": numbers["median_transcripts"],
        "median_predesigned_transcripts_per_cell": numbers["median_transcripts"],
        "median_custom_transcripts_per_cell": "",
        "thickness_transcripts_high_quality": numbers["thickness"],
        "stain_definition": "",
        "segmented_cell_stain_frac": 0.0,
        "segmented_cell_boundary_frac": 0.0,
        "segmented_cell_interior_frac": 0.0,
        "segmented_cell_nuc_expansion_frac": 1.0,
        "segmented_cell_boundary_count": 0,
        "segmented_cell_interior_count": 0,
        "segmented_cell_nuc_expansion_count": numbers["num_cells"],
        "fraction_of_ambiguous_nucleus_mask_pixels": "",
        "fraction_of_ambiguous_cell_mask_pixels": "",
        "fraction_of_nucleus_polygons_removed": "",
        "fraction_of_cell_polygons_removed": "",
        "fraction_of_nuclei_without_cell": "",
        "number_of_cell_non_simple_polygons": "",
        "number_of_cell_multi_polygons": "",
        "number_of_nucleus_non_simple_polygons": "",
        "number_of_nucleus_multi_polygons": "",
        "segmented_cell_imported_frac": 0.0,
        "segmented_cell_imported_count": 0,
    }
    lines = [",".join(values), ",".join(str(value) for value in values.values())]
    path.write_text("\n".join(lines) + "\n")


# Images


def _ome_xml(name, rows, columns, samples, kind, um_per_px, channel, identifier) -> bytes:
    order = "XYCZT" if samples > 1 else "XYZCT"
    interleaved = ' Interleaved="true"' if samples > 1 else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" '
        f'UUID="urn:uuid:{identifier}" Creator="Pairscape">'
        '<Instrument ID="Instrument:0"><Microscope Manufacturer="Pairscape" '
        'Model="simulation"/></Instrument>'
        f'<Image ID="Image:0" Name="{name}"><InstrumentRef ID="Instrument:0"/>'
        f'<Pixels ID="Pixels:0" DimensionOrder="{order}" Type="{kind}" SizeX="{columns}" '
        f'SizeY="{rows}" SizeC="{samples}" SizeZ="1" SizeT="1"{interleaved} '
        f'PhysicalSizeX="{um_per_px!r}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{um_per_px!r}" PhysicalSizeYUnit="µm">'
        f'<Channel ID="Channel:0:0" Name="{channel}" SamplesPerPixel="{samples}"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    ).encode()


def _identifier(seeds, name) -> str:
    return str(uuid.UUID(bytes=knob.rng(seeds["molecules"], name).bytes(16), version=4))


def _levels(picture, least: int) -> list[np.ndarray]:
    """The picture's smaller versions, each half the one before, down to ``least`` pixels."""
    levels = []
    while min(picture.shape[:2]) >= 2 * least:
        picture = histology.halve(picture)
        levels.append(picture)
    return levels


def _write_he(path, picture, um_per_px, seeds):
    import tifffile

    rows, columns = picture.shape[:2]
    levels = _levels(picture, 256)
    identifier = _identifier(seeds, "he image")
    options = {
        "photometric": "rgb",
        "tile": (_HE_TILE_PX, _HE_TILE_PX),
        "compression": "jpeg",
        "compressionargs": {"level": 90, "subsampling": "420"},
        "subsampling": (2, 2),
        "resolutionunit": "CENTIMETER",
        "software": "pairscape",
        "metadata": None,
        "maxworkers": 1,
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            picture,
            subifds=len(levels),
            resolution=(1e4 / um_per_px, 1e4 / um_per_px),
            description=_ome_xml(
                path.name, rows, columns, 3, "uint8", um_per_px, "RGB", identifier
            ),
            **options,
        )
        for i, level in enumerate(levels):
            density = 1e4 / um_per_px / 2 ** (i + 1)
            tif.write(level, subfiletype=1, resolution=(density, density), **options)


def _write_dapi(path, tissue, rows, columns, seeds):
    import tifffile

    texture = histology.dapi_texture(seeds["expression"])
    half = np.zeros((rows // 2, columns // 2), np.uint16)
    side = _DAPI_TILE_PX

    def tiles():
        for start in progress(range(0, rows, side), "DAPI", unit="strip"):
            strip = histology.draw_dapi(tissue, start, min(side, rows - start), columns, texture)
            smaller = histology.halve(strip)
            half[start // 2 : start // 2 + len(smaller)] = smaller
            for left in range(0, columns, side):
                cut = strip[:, left : left + side]
                tile = np.zeros((side, side), np.uint16)
                tile[: cut.shape[0], : cut.shape[1]] = cut
                yield tile

    options = {
        "photometric": "minisblack",
        "tile": (side, side),
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "predictor": True,
        "software": "pairscape",
        "metadata": None,
        "maxworkers": 1,
    }
    n_levels = 0
    while min(rows, columns) // 2 ** (n_levels + 1) >= 128:
        n_levels += 1
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            tiles(),
            shape=(rows, columns),
            dtype=np.uint16,
            subifds=n_levels,
            description=_ome_xml(
                path.name, rows, columns, 1, "uint16", knob.PIXEL_SIZE_UM, "DAPI",
                _identifier(seeds, "dapi image"),
            ),
            **options,
        )  # fmt: skip
        level = half
        for i in range(n_levels):
            tif.write(level, subfiletype=1, **options)
            if i + 1 < n_levels:
                level = histology.halve(level)


# Truth


def _write_truth(
    folder, sample, knobs, seeds, run_seed, tissue, features, molecules, cells, counts, picture,
    shift,
):  # fmt: skip
    """What the sample was made from, and what a reader must find in it."""
    from scipy import sparse

    folder.mkdir()
    n_genes = int(features["is_gene"].sum())
    rows, columns = transcripts.tile_grid(knobs)
    spots = transcripts.count_tiles(molecules, features["is_gene"], knobs)
    sparse.save_npz(folder / "counts.npz", spots)
    write_tsv(
        folder / "genes.tsv",
        [
            {"gene_symbol": name, "gene_id": identity}
            for name, identity in zip(
                features["name"][:n_genes], features["id"][:n_genes], strict=True
            )
        ],
        ("gene_symbol", "gene_id"),
    )

    index = cells["index"]
    x_um, y_um = tissue.cells["x_um"][index], tissue.cells["y_um"][index]
    kind = tissue.cells["kind"][index]
    types = transcripts.cells_per_tile(x_um, y_um, kind, knobs)
    centre_x = np.minimum((np.arange(columns) + 0.5) * knob.SPOT_UM, knobs["width_um"])
    centre_y = np.minimum((np.arange(rows) + 0.5) * knob.SPOT_UM, knobs["height_um"])
    centre_x, centre_y = np.tile(centre_x, rows), np.repeat(centre_y, columns)
    inside = tissues.grid_value(tissue, "inside_um", centre_x, centre_y) > 0
    domain = tissues.domain_at(tissue, centre_x, centre_y)
    states = [tissues.grid_value(tissue, name, centre_x, centre_y) for name in STATES]
    total = np.asarray(spots.sum(axis=1)).ravel()
    write_tsv(
        folder / "spots.tsv",
        (
            {"row": i // columns, "col": i % columns, "transcripts": total[i]}
            | {"domain": DOMAINS[domain[i]] if inside[i] else "glass"}
            | {kind_name: types[i, t] for t, kind_name in enumerate(KINDS)}
            | {name: f"{value[i]:.4f}" for name, value in zip(STATES, states, strict=True)}
            for i in range(rows * columns)
        ),
        ("row", "col", "transcripts", "domain", *KINDS, *STATES),
    )
    domain = tissues.domain_at(tissue, x_um, y_um)
    in_cell = np.asarray(counts[:n_genes].sum(axis=0)).ravel()
    write_tsv(
        folder / "cells.tsv",
        (
            {
                "cell_id": cells["id"][i],
                "x_um": f"{x_um[i]:.4f}",
                "y_um": f"{y_um[i]:.4f}",
                "type": KINDS[kind[i]],
                "domain": DOMAINS[domain[i]],
                "transcripts": in_cell[i],
            }
            for i in range(len(index))
        ),
        ("cell_id", "x_um", "y_um", "type", "domain", "transcripts"),
    )
    write_json(
        folder / "tissue.json",
        {
            "sample": sample["sample"],
            "donor": sample["donor"],
            "seed": run_seed,
            "seeds": seeds,
            "simulation": knobs,
            "spot_um": knob.SPOT_UM,
            "grid": {"rows": rows, "columns": columns},
            "donor_expression_shift": {
                name: round(float(value), 6)
                for name, value in zip(features["name"][:n_genes], shift, strict=True)
            },
        }
        | picture,
    )
