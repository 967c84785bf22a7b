"""An untiled H&E as a tiled one, once, by streaming."""

import math
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import progress
from pairscape.images.he_image import WHITE
from pairscape.images.tiff import MAX_TILE_BYTES, TiffImage, read_exactly
from pairscape.images.tiff_layout import ROWS_BYTES

RETILED_PX = 512
MAX_STRIP_BYTES = 2 << 30  # decoded at once where a codec can't be streamed
_DEFLATE = (8, 32946)


def retile(source, target, *, compression: str = "deflate") -> None:
    """Write a slide anew as a BigTIFF of 512 px tiles with a pyramid, in bounded memory.

    Rows are streamed: uncompressed and deflated strips of any size piece by piece, those of other
    codecs one strip at a time. Each level is the 2 x 2 mean of the one before. ``deflate`` keeps
    every pixel; ``jpeg`` (quality 95, all colour) is a tenth of its size.
    """
    import tifffile

    codec = {
        "deflate": {"compression": "zlib", "predictor": True},
        "jpeg": {"compression": "jpeg", "compressionargs": {"level": 95, "subsampling": "444"}},
    }[compression]
    options = {"photometric": "rgb", "tile": (RETILED_PX, RETILED_PX), "maxworkers": 1, **codec}
    target = Path(target)
    with (
        TiffImage(source, cache_bytes=MAX_TILE_BYTES, any_layout=True) as slide,
        files.atomic_path(target) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as tiff,
    ):
        stated = slide.um_per_px
        size = {"PhysicalSizeX": stated, "PhysicalSizeY": stated} if stated else {}
        height, width = slide.height, slide.width
        halvings = max(math.ceil(math.log2(max(height, width) / (2 * RETILED_PX))), 0)
        count = math.ceil(height / RETILED_PX)
        bands = progress(_iter_bands(slide), f"retiling {slide.path.name}", count, "band")
        for level in range(halvings + 1):
            half = None
            if level < halvings:
                half = _unnamed((math.ceil(height / 2), math.ceil(width / 2), 3), target.parent)
            first = {"subifds": halvings, "metadata": {"axes": "YXS", **size}}
            tiff.write(
                _tiles(bands if half is None else _halving(bands, half)),
                shape=(height, width, 3),
                dtype=np.uint8,
                **(first if level == 0 else {"subfiletype": 1}),
                **options,
            )
            if half is not None:
                height, width = half.shape[:2]
                bands = _in_bands([half])


def _unnamed(shape: tuple[int, ...], folder: Path) -> np.ndarray:
    """uint8 pixels in a file without a name, which vanishes with them."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _halving(bands, half: np.ndarray) -> Iterator[np.ndarray]:
    """The bands as they are, while the 2 x 2 means of their pixels fill ``half``."""
    from PIL import Image

    top = 0
    for band in bands:
        small = np.asarray(Image.fromarray(band).reduce(2))
        half[top : top + len(small)] = small
        top += len(small)
        yield band


def _tiles(bands) -> Iterator[np.ndarray]:
    """The tiles of the bands, row by row, filled up with white."""
    for band in bands:
        height, width = band.shape[:2]
        columns = math.ceil(width / RETILED_PX)
        padded = np.full((RETILED_PX, columns * RETILED_PX, 3), WHITE, np.uint8)
        padded[:height, :width] = band
        for left in range(0, width, RETILED_PX):
            yield np.ascontiguousarray(padded[:, left : left + RETILED_PX])


def _iter_bands(slide: TiffImage) -> Iterator[np.ndarray]:
    """uint8 (rows, width, 3) of the full resolution, as many rows at a time as a new tile has."""
    if not slide.needs_retiling:
        for top in range(0, slide.height, RETILED_PX):
            rows = min(RETILED_PX, slide.height - top)
            yield slide.read_region(0, top, slide.width, rows)
        return
    full = slide.levels[0]
    planes = [
        _in_bands(_iter_rows(slide, page, first))
        for page, first in zip(full.pages, full.first, strict=True)
    ]
    for parts in zip(*planes, strict=True):
        yield parts[0][..., :3] if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _in_bands(pieces) -> Iterator[np.ndarray]:
    """Rows of pieces of any height, as many at a time as a new tile has."""
    waiting, ready = [], 0
    for rows in pieces:
        while len(rows):
            taken, rows = rows[: RETILED_PX - ready], rows[RETILED_PX - ready :]
            waiting.append(taken)
            ready += len(taken)
            if ready == RETILED_PX:
                yield np.concatenate(waiting)
                waiting, ready = [], 0
    if waiting:
        yield np.concatenate(waiting)


def _iter_rows(slide: TiffImage, page, first: int) -> Iterator[np.ndarray]:
    """Rows (n, columns, samples) of one plane of a page in large strips or as one large tile."""
    full, key = slide.levels[0], page.keyframe
    samples = 1 if len(full.pages) > 1 else key.samplesperpixel
    if key.is_tiled or (
        key.compression not in (1, *_DEFLATE) or key.predictor not in (1, 2) or key.fillorder != 1
    ):
        if full.tile_width < full.width or full.tile_bytes > MAX_STRIP_BYTES:
            found = f"{key.compression.name} strips or tiles of {full.tile_height} x "
            found += f"{full.tile_width} pixels, which can't be read piece by piece"
            remedy = "save it as a tiled TIFF (512 x 512) with the program that made it"
            raise InputError(slide.path, "tiles", found, remedy)
        for row in range(math.ceil(full.height / full.tile_height)):
            rows = min(full.tile_height, full.height - row * full.tile_height)
            yield slide.decode_plane(full, page, first, row)[:rows, : full.width]
        return
    line = full.width * samples
    for strip in range(math.ceil(full.height / full.tile_height)):
        left = min(full.tile_height, full.height - strip * full.tile_height)
        kept = b""
        for piece in _inflate(slide, page, first + strip):
            data = kept + piece
            count = min(len(data) // line, left)
            kept, left = data[count * line :], left - count
            rows = np.frombuffer(data, np.uint8, count * line).reshape(count, full.width, samples)
            if key.predictor == 2:  # each sample is the difference to its left neighbour
                rows = np.cumsum(rows, axis=1, dtype=np.uint8)
            if count:
                yield rows
            if not left:
                break
        if left:
            raise slide.damaged(f"strip {strip}", f"{left} rows too few")


def _inflate(slide: TiffImage, page, index: int) -> Iterator[bytes]:
    """The bytes of a strip, uncompressed, in pieces; several strips may be read in turns."""
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    unpacker = zlib.decompressobj() if page.keyframe.compression in _DEFLATE else None
    handle = slide.tiff.filehandle
    for start in range(0, size, ROWS_BYTES):
        handle.seek(offset + start)
        try:
            data = read_exactly(handle, min(ROWS_BYTES, size - start))
            while data:
                yield unpacker.decompress(data, 16 * ROWS_BYTES) if unpacker else data
                data = unpacker.unconsumed_tail if unpacker else b""
        except (zlib.error, EOFError) as error:
            raise slide.damaged(f"strip {index}", error) from None
