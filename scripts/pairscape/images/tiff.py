"""H&E slides: regions, patches and thumbnails of a TIFF, read tile by tile.

Read are OME-TIFF, SVS and generic (Big)TIFF, in tiles or strips, with the codecs of imagecodecs.
RGB may stand in one page, interleaved or plane after plane, or in three pages or images of one
channel each. A fourth sample (alpha) is left out.

Pixel coordinates are those of the full-resolution page as it is stored: pixel ``i`` covers
``[i, i + 1)``, so (0, 0) is the outer corner of the top-left pixel. x is the column, y the row.
"""

import collections
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.logs import log

WHITE = 255
CACHE_BYTES = 256 << 20
MAX_TILE_BYTES = 128 << 20  # one decoded tile or strip; of larger ones the cache can't hold two
MAX_STRIP_BYTES = 2 << 30  # what retiling decodes at once where a codec can't be streamed
ROWS_BYTES = 1 << 20  # read at once of an uncompressed page without tiles
UM_PER_PX_RANGE = (0.05, 20.0)  # of a scan; printers' resolutions (72 dpi) lie beyond it
_UM = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_APERIO_YCBCR = 33003
_FLUORESCENCE = re.compile(r"dapi|hoechst|cy[357]|fitc|tritc|alexa|atp1a1|18s", re.IGNORECASE)


class _Level(NamedTuple):
    """One resolution of a slide, its colours in one plane or in three."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    pages: tuple  # one page, or that of red, of green and of blue
    first: tuple  # index of each plane's first tile in its page
    as_stored: bool  # uncompressed rows, which are read where they lie

    @property
    def tile_bytes(self) -> int:
        return self.tile_width * self.tile_height * 3


class Slide:
    """An open slide: its size and its decoded tiles, of which the latest stay in memory.

    Use it as a context manager. ``width`` and ``height`` are in pixels, ``um_per_px`` is what the
    file says of itself (None where it says nothing).

    ``is_tiled`` tells tiles from strips, ``needs_retiling`` strips that are too large to be read
    one by one.

    Parameters
    ----------
    path
        A TIFF with an 8-bit RGB image; see the module. Of several images the largest is read.
    cache_bytes
        Memory for decoded tiles.
    any_layout
        Open a slide that needs retiling as well: for its facts, its pixels can't be read.
    """

    def __init__(self, path, cache_bytes: int = CACHE_BYTES, any_layout: bool = False):
        import tifffile

        self.path = Path(path)
        self.cache_bytes = cache_bytes
        self._tiles = collections.OrderedDict()
        self._kept_bytes = 0
        self.tiles_decoded = 0
        try:
            self._tiff = tifffile.TiffFile(self.path)
        except FileNotFoundError:
            raise InputError(
                path, "file", "nothing", "put the H&E image there or correct he_image"
            ) from None
        except (tifffile.TiffFileError, struct.error, ValueError) as error:
            raise InputError(
                path, "TIFF header", str(error), "fetch or export the H&E image again"
            ) from None
        try:
            self._levels, self.um_per_px = self._find_image()
            full = self._levels[0]
            self.width, self.height = full.width, full.height
            self.tile_width, self.tile_height = full.tile_width, full.tile_height
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
        except BaseException:
            self._tiff.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the file and forget the tiles."""
        self._tiles.clear()
        self._tiff.close()

    def read_region(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """Read a rectangle of the full-resolution page.

        Returns
        -------
        uint8 (height, width, 3), white where it lies outside the slide.
        """
        return self._read(0, x0, y0, width, height)

    def _read(self, level: int, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        shown = self._levels[level]
        tile_height, tile_width = shown.tile_height, shown.tile_width
        left, right = max(x0, 0), min(x0 + width, shown.width)
        top, bottom = max(y0, 0), min(y0 + height, shown.height)
        inside = (left, right, top, bottom) == (x0, x0 + width, y0, y0 + height)
        shape = (height, width, 3)
        region = np.empty(shape, np.uint8) if inside else np.full(shape, WHITE, np.uint8)
        if left >= right or top >= bottom:
            return region
        for row in range(top // tile_height, (bottom - 1) // tile_height + 1):
            tile_top = row * tile_height
            upper, lower = max(top, tile_top), min(bottom, tile_top + tile_height)
            for column in range(left // tile_width, (right - 1) // tile_width + 1):
                tile_left = column * tile_width
                first, last = max(left, tile_left), min(right, tile_left + tile_width)
                region[upper - y0 : lower - y0, first - x0 : last - x0] = self._tile(
                    level, row, column
                )[upper - tile_top : lower - tile_top, first - tile_left : last - tile_left]
        return region

    def _tile(self, level: int, row: int, column: int) -> np.ndarray:
        key = (level, row, column)
        if (tile := self._tiles.get(key)) is not None:
            self._tiles.move_to_end(key)
            return tile
        tile = self._decode(level, row, column)
        self.tiles_decoded += 1
        self._tiles[key] = tile
        self._kept_bytes += tile.nbytes
        while self._kept_bytes > self.cache_bytes and len(self._tiles) > 1:
            self._kept_bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def _decode(self, level: int, row: int, column: int) -> np.ndarray:
        shown = self._levels[level]
        index = row * math.ceil(shown.width / shown.tile_width) + column
        planes = []
        for page, first in zip(shown.pages, shown.first, strict=True):
            try:
                plane = self._decode_plane(shown, page, first, index)
            except Exception as error:  # each codec has its own exceptions, all mean the same
                raise InputError(
                    self.path,
                    f"tile in row {row}, column {column} of level {level}",
                    f"bytes that don't decode ({error or type(error).__name__})",
                    "the image is damaged or cut off: fetch or export it again",
                ) from error
            planes.append(plane)
        if len(planes) == 1:
            return np.ascontiguousarray(planes[0][..., :3])
        return np.concatenate(planes, axis=-1)

    def _decode_plane(self, shown: _Level, page, first: int, index: int) -> np.ndarray:
        """uint8 (rows, columns, samples) of a tile, the last ones of a row or column maybe cut."""
        handle = self._tiff.filehandle
        samples = 1 if len(shown.pages) > 1 else page.keyframe.samplesperpixel
        if shown.as_stored:
            top = index * shown.tile_height
            rows = min(shown.tile_height, shown.height - top)
            handle.seek(page.dataoffsets[first] + top * shown.width * samples)
            return np.frombuffer(
                read_exactly(handle, rows * shown.width * samples), np.uint8
            ).reshape(rows, shown.width, samples)
        index += first
        size = page.databytecounts[index]
        data = None
        if size:
            handle.seek(page.dataoffsets[index])
            data = read_exactly(handle, size)
        tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
        tile, _, shape = page.keyframe.decode(data, index, **tables)
        if tile is None:  # a sparse tile: nothing was scanned there
            return np.full((*shape[1:3], samples), WHITE, np.uint8)
        tile = tile[0]
        if page.keyframe.compression == _APERIO_YCBCR and _keeps_ycbcr(data):
            from PIL import Image

            return np.asarray(Image.fromarray(tile, "YCbCr").convert("RGB"))
        return tile

    def _find_image(self) -> tuple[list[_Level], float | None]:
        """The levels of the largest RGB image (full resolution first) and its µm per pixel."""
        best = None
        for number, pages_of_levels in self._images():
            page = pages_of_levels[0][0].keyframe
            area = page.imagelength * page.imagewidth
            if best is None or area > best[0]:
                best = area, number, pages_of_levels
        if best is None:
            shapes = ", ".join(f"{s.axes} {s.shape} {s.dtype}" for s in self._tiff.series[:4])
            raise InputError(
                self.path,
                "image",
                f"no RGB page ({shapes or 'no image'})",
                "save the H&E as 8-bit RGB",
            )
        _, number, pages_of_levels = best
        page = pages_of_levels[0][0].keyframe
        if page.dtype != np.uint8 or page.bitspersample != 8:
            raise InputError(
                self.path, "image", f"{page.dtype} samples", "save the H&E as 8-bit RGB"
            )
        if page.tags.valueof("Orientation", 1) not in (None, 0, 1):
            log.warning(
                "%s: it asks to be shown turned (orientation %s); its pixels are read as they are "
                "stored, as the alignment counts them",
                self.path,
                int(page.tags.valueof("Orientation")),
            )
        levels = [_level(pages) for pages in pages_of_levels]
        levels += self._separate_levels(levels[0]) if len(levels) == 1 else []
        full, *smaller = levels
        smaller = [
            level
            for level in smaller
            if level.tile_bytes <= MAX_TILE_BYTES and level.width < full.width
        ]
        return [full, *smaller], _um_per_px(self._tiff, number, page)

    def _images(self) -> Iterator[tuple[int, list[tuple]]]:
        """Each RGB image: the number of its series, and for each of its levels the pages."""
        channels = []
        for number, series in enumerate(self._tiff.series):
            key = series.levels[0].keyframe
            if _is_rgb(key) and len(series.levels[0].pages) == 1:
                yield number, [(level.keyframe,) for level in series.levels]
            elif _is_grey(key) and len(series.levels[0].pages) == 3 and series.axes[0] in "CSQI":
                order = self._channel_order(number)
                yield (
                    number,
                    [tuple(level.pages[i] for i in order) for level in series.levels],
                )
            elif _is_grey(key) and len(series.levels[0].pages) == 1:
                channels.append(series)
        if len(channels) == 3 and len({series.shape for series in channels}) == 1:
            self._channel_order(None)
            depth = min(len(series.levels) for series in channels)
            yield (
                0,
                [
                    tuple(series.levels[level].keyframe for series in channels)
                    for level in range(depth)
                ],
            )

    def _channel_order(self, number: int | None) -> tuple[int, int, int]:
        """Which channel is red, green and blue; as they come where they have no such names."""
        names = []
        if self._tiff.ome_metadata:
            images = _ome_images(self._tiff)
            chosen = images if number is None else images[number : number + 1]
            names = [
                channel.get("Name", "")
                for image in chosen
                for channel in image.findall("{*}Pixels/{*}Channel")
            ]
        if any(_FLUORESCENCE.search(name) for name in names):
            raise InputError(
                self.path,
                "channels",
                ", ".join(names),
                "give the H&E image, this is one of fluorescence",
            )
        letters = [name[:1].lower() for name in names]
        if number is not None and sorted(letters) == ["b", "g", "r"]:
            return tuple(letters.index(letter) for letter in "rgb")
        return 0, 1, 2

    def _separate_levels(self, full: _Level) -> list[_Level]:
        """Other images of the file that show the whole slide smaller by a whole factor."""
        found = {}
        for _, pages_of_levels in self._images():
            page = pages_of_levels[0][0].keyframe
            if page.dtype != np.uint8 or page.bitspersample != 8:
                continue
            level = _level(pages_of_levels[0])
            factor = round(full.width / level.width)
            if factor > 1 and all(
                abs(large / factor - small) <= 1
                for large, small in ((full.width, level.width), (full.height, level.height))
            ):
                found.setdefault(level.width, level)
        return [found[width] for width in sorted(found, reverse=True)]


def um_per_px(path) -> float | None:
    """The µm per pixel that a slide states of itself, or None."""
    with Slide(path) as slide:
        return slide.um_per_px


def damaged(slide: Slide, strip: int, what: str) -> InputError:
    remedy = "the image is damaged or cut off: fetch or export it again"
    return InputError(slide.path, f"strip {strip}", f"bytes that don't decode ({what})", remedy)


def read_exactly(handle, size: int) -> bytes:
    data = handle.read(size)
    if len(data) < size:
        raise EOFError(f"only {len(data)} of {size} bytes")
    return data


def _is_rgb(page) -> bool:
    return page.samplesperpixel in (3, 4) and page.photometric.name in ("RGB", "YCBCR")


def _is_grey(page) -> bool:
    return page.samplesperpixel == 1 and page.photometric.name == "MINISBLACK"


def _level(pages: tuple) -> _Level:
    page = pages[0].keyframe
    width, height = page.imagewidth, page.imagelength
    tile_height, tile_width = _chunk_shape(page)
    first = (0,) * len(pages)
    if page.samplesperpixel > 1 and page.planarconfig.name == "SEPARATE":
        per_plane = math.ceil(height / tile_height) * math.ceil(width / tile_width)
        pages, first = pages * 3, (0, per_plane, 2 * per_plane)
    samples = 1 if len(pages) > 1 else page.samplesperpixel
    # Rows of one uncompressed strip need no decoding: they are read in bits of a good size.
    as_stored = not page.is_tiled and page.compression == 1 and tile_height == height
    as_stored = as_stored and page.predictor == 1 and page.fillorder == 1
    if as_stored:
        tile_height = min(max(ROWS_BYTES // (width * samples), 1), height)
    return _Level(width, height, tile_width, tile_height, pages, first, as_stored)


def _chunk_shape(page) -> tuple[int, int]:
    """Height and width of a page's tiles; a strip is a tile as wide as the page."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _keeps_ycbcr(data: bytes) -> bool:
    """Whether a JPEG-2000 codestream comes out of the decoder as YCbCr.

    Aperio's first kind holds luma and chroma without saying so. The decoder converts them where
    the chroma is subsampled (marker SIZ, XRsiz of the second component), else it can't know.
    """
    return data[:4] == b"\xff\x4f\xff\x51" and data[46] == 1


def _ome_images(tiff) -> list:
    return [
        image
        for image in ElementTree.fromstring(tiff.ome_metadata).findall("{*}Image")
        if image.find("{*}Pixels") is not None
    ]


def _um_per_px(tiff, number: int, page) -> float | None:
    found = None
    if tiff.ome_metadata:
        images = _ome_images(tiff)
        attributes = images[number].find("{*}Pixels").attrib if number < len(images) else {}
        unit = _UM.get(attributes.get("PhysicalSizeXUnit", "µm"))
        if unit and "PhysicalSizeX" in attributes:
            found = float(attributes["PhysicalSizeX"]) * unit
    elif match := re.search(r"\bMPP\s*=\s*([0-9.]+)", tiff.pages[0].description or ""):
        found = float(match[1])  # Aperio
    else:
        found = _um_of_resolution(tiff, page)
    return found if found and math.isfinite(found) and found > 0 else None


def _um_of_resolution(tiff, page) -> float | None:
    """The µm per pixel of the tags for printers, where they hold a scanner's."""
    resolution = page.tags.valueof("XResolution")
    if not resolution or not all(resolution):
        return None
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 2)))
    if tiff.is_imagej:
        unit = _UM.get(str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ"))
    found = unit * resolution[1] / resolution[0] if unit else 0
    low, high = UM_PER_PX_RANGE
    return found if low <= found <= high else None
