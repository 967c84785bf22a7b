"""The cells.zarr.zip of a simulated bundle."""

import json
import zipfile

import numpy as np

from pairscape.core.logs import progress
from pairscape.simulation import knobs as knob
from pairscape.simulation import segmentation
from pairscape.simulation.bundle_texts import SEGMENTATION

_MASK_CHUNKS = 8


def write_cells_zarr(path, cells, molecules, rows, columns):
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
            ring = closed(cells[name]).reshape(n, -1)
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


def closed(outlines: np.ndarray) -> np.ndarray:
    return np.concatenate([outlines, outlines[:, :1]], axis=1)
