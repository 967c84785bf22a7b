"""The cells.zarr.zip of a simulated bundle.

Zarr version 2 in an uncompressed zip, each entry once and without a clock time. The instrument
writes version 2; the zarr library can write it too, but not strip by strip into a zip without
doubling entries.
"""

import json
import zipfile

import numpy as np

from pairscape.core.logs import progress
from pairscape.simulation import knobs as knob
from pairscape.simulation import segmentation
from pairscape.simulation.bundle_content import SEGMENTATION, Cells, closed

_MASK_CHUNKS = 8
_MASKS = ("nucleus", "cell")
_LZ4 = {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1, "blocksize": 0}
_ZSTD = {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0}
_ATTRIBUTES = {
    "major_version": 6,
    "minor_version": 2,
    "name": "CellSegmentationDataset",
    "number_cells": None,
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
}
_SUMMARY = {
    "cell_centroid_x": "Cell centroid in X",
    "cell_centroid_y": "Cell centroid in Y",
    "cell_area": "Cell area",
    "nucleus_centroid_x": "Nucleus centroid in X",
    "nucleus_centroid_y": "Nucleus centroid in Y",
    "nucleus_area": "Nucleus area",
    "z_level": "z_level",
    "nucleus_count": "Nucleus count",
}


def write_cells_zarr(
    path, cells: Cells, molecules: dict, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Write ``cells.zarr.zip``; returns each transcript's cell (-1: none) and whether in a nucleus.

    ``shape`` are the rows and columns of the masks.
    """
    n = len(cells.id)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _zarr_group(archive, "", _ATTRIBUTES | {"number_cells": n})
        ids = np.stack([cells.prefix, np.ones(n, np.uint32)], axis=1).astype("<u4")
        _zarr_array(archive, "cell_id", ids)
        _zarr_group(archive, "masks")
        scale = np.diag([1 / knob.PIXEL_SIZE_UM, 1 / knob.PIXEL_SIZE_UM, 1, 1])
        _zarr_array(archive, "masks/homogeneous_transform", scale.astype("<f4"))
        owners = _write_masks(archive, cells, molecules, shape)
        _zarr_group(archive, "polygon_sets")
        for mask, name in enumerate(_MASKS):
            ring = closed(getattr(cells, name)).reshape(n, -1)
            group, method = f"polygon_sets/{mask}", (3, 2)[mask]
            _zarr_group(archive, group)
            _zarr_array(archive, f"{group}/vertices", ring.astype("<f4"))
            _zarr_array(archive, f"{group}/num_vertices", np.full(n, ring.shape[1] // 2, "<i4"))
            _zarr_array(archive, f"{group}/cell_index", np.arange(n, dtype="<u4"))
            _zarr_array(archive, f"{group}/method", np.full(n, method, "<u4"))
        cell_area, cell_centre = cells.areas_and_centroids("cell")
        nucleus_area, nucleus_centre = cells.areas_and_centroids("nucleus")
        summary = np.column_stack(
            [cell_centre, cell_area, nucleus_centre, nucleus_area, np.full(n, 4.0), np.ones(n)]
        ).astype("<f8")
        names = {"column_descriptions": list(_SUMMARY.values()), "column_names": list(_SUMMARY)}
        _zarr_array(archive, "cell_summary", summary, names, chunk_columns=1)
    return owners


def _write_masks(
    archive, cells: Cells, molecules: dict, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Write the rasters strip by strip, and look the transcripts up in each strip."""
    # In float64: a place a hair below the border of the region must not round up to it.
    pixel_row, pixel_column = (
        np.minimum((molecules[axis].astype(float) / knob.PIXEL_SIZE_UM).astype(int), side - 1)
        for axis, side in zip(("y_um", "x_um"), shape, strict=True)
    )
    labels_of = {name: np.zeros(len(pixel_row), np.uint32) for name in _MASKS}
    by_row = np.argsort(pixel_row, kind="stable")
    rows, columns = shape
    chunk = (-(-rows // _MASK_CHUNKS), -(-columns // _MASK_CHUNKS))
    for mask in range(len(_MASKS)):
        _zarr_header(archive, f"masks/{mask}", shape, chunk, "<u4", _ZSTD)
    for strip in progress(range(_MASK_CHUNKS), "cell masks", unit="strip"):
        start = strip * chunk[0]
        height = min(chunk[0], rows - start)
        if height <= 0:
            break
        here = by_row[slice(*np.searchsorted(pixel_row[by_row], [start, start + height]))]
        for mask, name in enumerate(_MASKS):
            labels = segmentation.raster_labels(getattr(cells, name), start, height, columns)
            labels_of[name][here] = labels[pixel_row[here] - start, pixel_column[here]]
            _zarr_chunk_row(archive, f"masks/{mask}", strip, labels, chunk)
    assigned = labels_of["cell"].astype(np.int32) - 1
    return assigned, (labels_of["nucleus"] > 0) & (assigned >= 0)


def _zarr_put(archive, name: str, data) -> None:
    text = data if isinstance(data, bytes) else json.dumps(data, indent=4).encode()
    archive.writestr(zipfile.ZipInfo(name.lstrip("/")), text)


def _zarr_group(archive, name: str, attributes: dict | None = None) -> None:
    _zarr_put(archive, f"{name}/.zgroup", {"zarr_format": 2})
    if attributes:
        _zarr_put(archive, f"{name}/.zattrs", attributes)


def _zarr_header(archive, name: str, shape, chunks, dtype: str, compressor: dict) -> None:
    header = {
        "chunks": list(chunks),
        "compressor": compressor,
        "dtype": dtype,
        "fill_value": 0.0 if "f" in dtype else 0,
        "filters": None,
        "order": "C",
        "shape": list(shape),
        "zarr_format": 2,
    }
    _zarr_put(archive, f"{name}/.zarray", header)


def _zarr_array(archive, name: str, values, attributes=None, chunk_columns=None) -> None:
    """A small array whole, or in chunks of columns."""
    chunks = tuple(max(side, 1) for side in values.shape)
    if chunk_columns:
        chunks = (chunks[0], chunk_columns)
    _zarr_header(archive, name, values.shape, chunks, values.dtype.str, _LZ4)
    if attributes:
        _zarr_put(archive, f"{name}/.zattrs", attributes)
    if values.size == 0:
        return
    if values.ndim == 1:
        _zarr_chunk(archive, f"{name}/0", values, _LZ4)
        return
    for column, start in enumerate(range(0, values.shape[1], chunks[1])):
        _zarr_chunk(archive, f"{name}/0.{column}", values[:, start : start + chunks[1]], _LZ4)


def _zarr_chunk_row(archive, name: str, row: int, values, chunks) -> None:
    """All chunks of one row of chunks; those at the edges are filled up with zeros."""
    for column, start in enumerate(range(0, values.shape[1], chunks[1])):
        part = np.zeros(chunks, values.dtype)
        cut = values[:, start : start + chunks[1]]
        part[: cut.shape[0], : cut.shape[1]] = cut
        _zarr_chunk(archive, f"{name}/{row}.{column}", part, _ZSTD)


def _zarr_chunk(archive, name: str, values, compressor: dict) -> None:
    from numcodecs import Blosc, blosc

    blosc.use_threads = False  # threads write the blocks of a chunk in the order they end
    settings = {key: value for key, value in compressor.items() if key != "id"}
    _zarr_put(archive, name, bytes(Blosc(**settings).encode(np.ascontiguousarray(values))))
