"""What stands beside the spots in a sample's SpatialData: its H&E as an image, its cells as shapes.

All of them are placed in the coordinate systems of the spots (``spots_zarr``).
"""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairscape.acquire.alignment import um_to_he_matrix
from pairscape.acquire.bundle import read_outlines
from pairscape.acquire.columns import ids_as_text
from pairscape.images.he_image import HEImage

THUMBNAIL_PX = 2048
LAST_PX = 512  # the longer side of the least level of the pyramid, or up to twice that
CHUNK_PX = 2048
CELLS = "cell_boundaries.parquet"


def he_element(image: HEImage, thumbnail, he_matrix: np.ndarray, pixel_size_um: float):
    """The H&E as a multiscale image of spatialdata: of its ``thumbnail`` and the scale of that.

    Where that is None of all its pixels, which are read in pieces of ``CHUNK_PX`` when they are
    written, not here: the image has to be open until then. Pixels are those of ``HEImage``, as
    spatialdata's own: the corner of the first one is (0, 0).
    """
    import dask.array
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine

    pixels, scale = thumbnail or (_Pixels(image), 1.0)
    pixels = dask.array.from_array(pixels, chunks=(CHUNK_PX, CHUNK_PX, 3), asarray=False)
    to_he = np.diag([scale, scale, 1.0])
    to_um = np.linalg.inv(um_to_he_matrix(he_matrix, pixel_size_um)) @ to_he
    maps = {
        "xenium_um": to_um,
        "global": np.diag([1 / pixel_size_um, 1 / pixel_size_um, 1.0]) @ to_um,
        "he_px": to_he,
    }
    levels = max(int(np.log2(max(pixels.shape) / LAST_PX)), 0)
    return Image2DModel.parse(
        dask.array.moveaxis(pixels, 2, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * levels or None,
        chunks=(3, CHUNK_PX, CHUNK_PX),
        transformations={
            name: Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
            for name, matrix in maps.items()
        },
    )


class _Pixels:
    """An open image as dask takes an array: (height, width, 3) uint8, one region at a time."""

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, image: HEImage):
        self.image, self.shape = image, (image.height, image.width, 3)
        self._lock = threading.Lock()

    def __getitem__(self, place) -> np.ndarray:
        rows, columns, colours = place
        top, bottom, _ = rows.indices(self.shape[0])
        left, right, _ = columns.indices(self.shape[1])
        with self._lock:
            region = self.image.read_region(left, top, right - left, bottom - top)
        return region[:, :, colours]


def flat_picture(thumbnail, he_matrix: np.ndarray, pixel_size_um: float, xy_um: np.ndarray):
    """The H&E as it lies below the spots, uint8 (h, w, 3), and its pixels per µm.

    The corner of the picture is (0, 0) µm: squidpy and scanpy scale the places of spots, and turn
    nothing. White is what the H&E doesn't reach.
    """
    from PIL import Image

    far_um = np.max(xy_um, axis=0) + 100
    per_um = THUMBNAIL_PX / far_um.max()
    picture, scale = thumbnail
    to_he = um_to_he_matrix(he_matrix, pixel_size_um)
    to_picture = np.diag([1 / scale, 1 / scale, 1]) @ to_he @ np.diag([1 / per_um, 1 / per_um, 1])
    flat = Image.fromarray(picture).transform(
        tuple(np.ceil(far_um * per_um).astype(int).tolist()),
        Image.Transform.AFFINE,
        to_picture[:2].ravel().tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=(255, 255, 255),
    )
    return np.asarray(flat), float(per_um)


def cell_element(bundle, pixel_size_um: float, he_matrix: np.ndarray | None):
    """The outlines of the cells as shapes of spatialdata, by cell id; None where the bundle has none.

    spatialdata-io reads them, too, but wants ``cells.zarr.zip`` and the matrix of cells beside them.
    """
    import geopandas
    import shapely
    from spatialdata.models import ShapesModel

    from pairscape.spots.spots_zarr import transformations

    path = Path(bundle) / CELLS
    if not path.is_file():
        return None
    table = read_outlines(path)
    parts = table["label_id" if "label_id" in table.column_names else "cell_id"].combine_chunks()
    parts = parts if pa.types.is_dictionary(parts.type) else parts.dictionary_encode()
    part = parts.indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    ids = ids_as_text(table["cell_id"].take(pa.array(starts)), path)
    xy_um = np.column_stack([table["vertex_x"].to_numpy(), table["vertex_y"].to_numpy()])
    sizes = np.diff([*starts, len(part)])
    kept = sizes >= 4  # a ring's last vertex is its first
    ring = np.where(kept, np.cumsum(kept) - 1, -1).repeat(sizes)
    rings = shapely.linearrings(xy_um[ring >= 0].astype(float), indices=ring[ring >= 0])
    if not len(rings):
        return None
    outlines = geopandas.GeoDataFrame(
        geometry=shapely.polygons(rings), index=[ids[i] for i in np.flatnonzero(kept)]
    )
    placed = transformations(pixel_size_um, he_matrix)
    return ShapesModel.parse(outlines, transformations=placed)
