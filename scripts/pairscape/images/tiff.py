"""H&E images in TIFF files, read tile by tile.

Read are OME-TIFF, SVS and generic (Big)TIFF, in tiles or strips, with the codecs of imagecodecs.
RGB may stand in one page, interleaved or plane after plane, or in three pages or images of one
channel each. A fourth sample (alpha) is left out.
"""

import math
import struct
from pathlib import Path

import numpy as np

from pairscape.core.errors import InputError
from pairscape.images.he_image import WHITE
from pairscape.images.stated import key_of_um_per_px
from pairscape.images.tiff_layout import find_image
from pairscape.images.tiled import Level, TiledImage

CACHE_BYTES = 256 << 20
MAX_TILE_BYTES = 128 << 20  # one decoded tile or strip; of larger ones the cache can't hold two
_APERIO_YCBCR = 33003
_DAMAGED = "the image is damaged or cut off: fetch or export it again"


class TiffImage(TiledImage):
    """An open TIFF with an 8-bit RGB image; of several the largest is read.

    ``um_per_px`` is what the file says of itself (None where it says nothing), by its key
    ``um_per_px_key``. ``is_tiled`` tells tiles from strips, ``needs_retiling`` strips that are too
    large to be read one by one: without ``any_layout`` those are refused, with it their facts may be
    looked at, not their pixels.
    """

    def __init__(self, path, cache_bytes: int = CACHE_BYTES, any_layout: bool = False):
        import tifffile

        super().__init__(cache_bytes)
        self.path = Path(path)
        self.tiff = None
        try:
            self.tiff = tifffile.TiffFile(self.path)
            self._look_at(any_layout)
        except FileNotFoundError:
            remedy = "put the H&E image there or correct he_image"
            raise InputError(path, "file", "nothing", remedy) from None
        except Exception as error:
            if self.tiff is not None:
                self.tiff.close()
            if isinstance(error, InputError) or getattr(error, "errno", None):
                raise
            # tifffile raises whatever the tags that it trusts make it raise.
            known = isinstance(error, tifffile.TiffFileError | struct.error | ValueError)
            found = str(error) if known else f"{type(error).__name__} {error}"
            remedy = "fetch the H&E image again, or export it as a tiled 8-bit RGB TIFF"
            raise InputError(path, "TIFF header", found, remedy) from error

    def _look_at(self, any_layout: bool) -> None:
        """Find the image in the open file, and refuse pieces that are too large to be read."""
        (full, *smaller), self.um_per_px = find_image(self.path, self.tiff)
        if min(full[:4]) < 1:
            raise ValueError("{} x {} px in tiles of {} x {}".format(*full[:4]))
        self.um_per_px_key = key_of_um_per_px(self.tiff)
        smaller = [
            level
            for level in smaller
            if level.tile_bytes <= MAX_TILE_BYTES and level.width < full.width
        ]
        self.set_levels([full, *smaller])
        self.is_tiled = full.pages[0].keyframe.is_tiled
        self.needs_retiling = full.tile_bytes > MAX_TILE_BYTES
        if self.needs_retiling and not any_layout:
            raise InputError(
                self.path,
                "tiles",
                f"pieces of {full.tile_height} x {full.tile_width} pixels",
                "write `untiled` in its column he_layout of the sample table, so that it is "
                "retiled first, or save it as a tiled TIFF",
            )

    def close(self) -> None:
        """Close the file and forget the tiles."""
        super().close()
        self.tiff.close()

    def decode(self, level: int, row: int, column: int) -> np.ndarray:
        """See ``TiledImage``."""
        shown = self.levels[level]
        index = row * math.ceil(shown.width / shown.tile_width) + column
        try:
            planes = [
                self.decode_plane(shown, page, first, index)
                for page, first in zip(shown.pages, shown.first, strict=True)
            ]
        except Exception as error:  # each codec has its own exceptions, all mean the same
            place = f"tile in row {row}, column {column} of level {level}"
            raise self.damaged(place, error or type(error).__name__) from error
        if len(planes) == 1:
            return np.ascontiguousarray(planes[0][..., :3])
        return np.concatenate(planes, axis=-1)

    def decode_plane(self, shown: Level, page, first: int, index: int) -> np.ndarray:
        """uint8 (rows, columns, samples) of a tile, the last ones of a row or column maybe cut."""
        handle = self.tiff.filehandle
        samples = 1 if len(shown.pages) > 1 else page.keyframe.samplesperpixel
        if shown.as_stored:
            top = index * shown.tile_height
            rows = min(shown.tile_height, shown.height - top)
            handle.seek(page.dataoffsets[first] + top * shown.width * samples)
            data = read_exactly(handle, rows * shown.width * samples)
            return np.frombuffer(data, np.uint8).reshape(rows, shown.width, samples)
        index += first
        size, data = page.databytecounts[index], None
        if size:
            handle.seek(page.dataoffsets[index])
            data = read_exactly(handle, size)
        parts = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
        parts = {name: part for name, part in parts.items() if part is not None}
        tile, _, shape = page.keyframe.decode(data, index, **parts)
        if tile is None:  # a sparse tile: nothing was scanned there
            return np.full((*shape[1:3], samples), WHITE, np.uint8)
        tile = tile[0]
        if page.keyframe.compression == _APERIO_YCBCR and _keeps_ycbcr(data):
            from PIL import Image

            return np.asarray(Image.fromarray(tile, "YCbCr").convert("RGB"))
        return tile

    def damaged(self, place: str, what) -> InputError:
        """The refusal of a tile or strip that can't be decoded."""
        return InputError(self.path, place, f"bytes that don't decode ({what})", _DAMAGED)


def um_per_px(path) -> float | None:
    """The µm per pixel that a TIFF states of itself, or None."""
    with TiffImage(path) as image:
        return image.um_per_px


def read_exactly(handle, size: int) -> bytes:
    """Read so many bytes, or raise ``EOFError``."""
    data = handle.read(size)
    if len(data) < size:
        raise EOFError(f"only {len(data)} of {size} bytes")
    return data


def _keeps_ycbcr(data: bytes) -> bool:
    """Whether a JPEG-2000 codestream comes out of the decoder as YCbCr.

    Aperio's first kind holds luma and chroma without saying so. The decoder converts them where
    the chroma is subsampled (marker SIZ, XRsiz of the second component), else it can't know.
    """
    return data[:4] == b"\xff\x4f\xff\x51" and data[46] == 1
