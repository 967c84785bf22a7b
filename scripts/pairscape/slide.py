"""H&E slides: regions, patches and thumbnails of a TIFF, read tile by tile.

Pixel coordinates are those of the full-resolution page: pixel ``i`` covers ``[i, i + 1)``, so
(0, 0) is the outer corner of the top-left pixel. x is the column, y the row.
"""

import collections
import math
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from pairscape.errors import InputError

WHITE = 255
CACHE_BYTES = 256 << 20
MAX_TILE_BYTES = 1 << 30  # one decoded tile or strip; a larger one doesn't belong in memory
_UM = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


class Slide:
    """An open slide: its size and its decoded tiles, of which the latest stay in memory.

    Use it as a context manager. ``width`` and ``height`` are in pixels, ``um_per_px`` is what the
    file says of itself (None where it says nothing).

    Parameters
    ----------
    path
        A TIFF (OME-TIFF, SVS, generic) with an 8-bit RGB page, tiled or in strips.
    cache_bytes
        Memory for decoded tiles.

    Raises
    ------
    InputError
        The file is missing, is no TIFF, or has no page of this kind.
    """

    def __init__(self, path, cache_bytes: int = CACHE_BYTES):
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
            self._levels, self.um_per_px = self._choose_series()
            self._page = self._levels[0]
            self.height, self.width = self._page.imagelength, self._page.imagewidth
            self.tile_height, self.tile_width = _chunk_shape(self._page)
            self._check_page(self._page)
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

        Raises
        ------
        InputError
            A tile doesn't decode.
        """
        return self._read(0, x0, y0, width, height)

    def _read(self, level: int, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        page = self._levels[level]
        tile_height, tile_width = _chunk_shape(page)
        left, right = max(x0, 0), min(x0 + width, page.imagewidth)
        top, bottom = max(y0, 0), min(y0 + height, page.imagelength)
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
        page = self._levels[level]
        _, tile_width = _chunk_shape(page)
        index = row * math.ceil(page.imagewidth / tile_width) + column
        try:
            offset, size = page.dataoffsets[index], page.databytecounts[index]
            handle = self._tiff.filehandle
            handle.seek(offset)
            data = handle.read(size) if size else None
            if data is not None and len(data) < size:
                raise EOFError(f"only {len(data)} of {size} bytes")
            tables = {"jpegtables": page.jpegtables} if page.jpegtables is not None else {}
            tile, _, shape = page.decode(data, index, **tables)
        except Exception as error:  # each codec has its own exceptions, all mean the same
            raise InputError(
                self.path,
                f"tile in row {row}, column {column} of level {level}",
                f"bytes that don't decode ({error or type(error).__name__})",
                "the image is damaged or cut off: fetch or export it again",
            ) from error
        if tile is None:  # a sparse tile: nothing was scanned there
            return np.full((*shape[1:3], 3), WHITE, np.uint8)
        return np.ascontiguousarray(tile[0, ..., :3])

    def _choose_series(self):
        """Pages (full resolution first) of the largest RGB image, and its µm per pixel."""
        best = None
        for number, series in enumerate(self._tiff.series):
            page = series.levels[0].keyframe
            rgb = page.samplesperpixel in (3, 4) and page.photometric.name in ("RGB", "YCBCR")
            area = page.imagelength * page.imagewidth
            if rgb and len(series.levels[0].pages) == 1 and (best is None or area > best[0]):
                best = area, number, series
        if best is None:
            shapes = ", ".join(f"{s.axes} {s.shape} {s.dtype}" for s in self._tiff.series[:4])
            raise InputError(
                self.path,
                "image",
                f"no RGB page ({shapes or 'no image'})",
                "save the H&E as one 8-bit RGB page with interleaved samples",
            )
        _, number, series = best
        return [level.keyframe for level in series.levels], _um_per_px(self._tiff, number)

    def _check_page(self, page) -> None:
        if page.dtype != np.uint8 or page.planarconfig.name != "CONTIG":
            raise InputError(
                self.path,
                "image",
                f"{page.dtype} samples, {page.planarconfig.name.lower()} planes",
                "save the H&E as 8-bit RGB with interleaved samples",
            )
        if self.tile_height * self.tile_width * page.samplesperpixel > MAX_TILE_BYTES:
            raise InputError(
                self.path,
                "tiles",
                f"one strip of {self.tile_height} x {self.tile_width} pixels",
                "save the H&E as a tiled TIFF (512 x 512), e.g. with `vips tiffsave --tile`",
            )


def iter_patches(
    slide: Slide, centres_px: np.ndarray, side_px: float, patch_px: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Cut square patches around points, in the order of the slide's tiles.

    A patch is exactly the box ``[centre - side_px / 2, centre + side_px / 2)``, sub-pixel position
    included: each of its pixels is the mean of the area that it covers, or, where the patch is
    finer than the slide, a bicubic interpolation. Its axes are those of the slide.

    Parameters
    ----------
    slide
        The open slide.
    centres_px
        (N, 2) x and y in slide pixels.
    side_px
        Side of the box in slide pixels.
    patch_px
        Side of the patch in its own pixels.

    Yields
    ------
    The index of the centre and its uint8 (patch_px, patch_px, 3) patch; white outside the slide.
    """
    centres_px = np.asarray(centres_px, float).reshape(-1, 2)
    if not np.isfinite(centres_px).all() or not (side_px > 0 and patch_px > 0):
        raise ValueError("patches need finite centres and positive sides")
    cut = _cut_by_area if side_px >= patch_px else _cut_by_interpolation
    for index in _tile_order(slide, centres_px, side_px):
        x0, y0 = centres_px[index] - side_px / 2
        yield int(index), cut(slide, x0, y0, side_px, patch_px)


def patches_inside(slide: Slide, centres_px: np.ndarray, side_px: float) -> np.ndarray:
    """Tell (N,) bool which boxes around ``centres_px`` lie wholly within the slide."""
    corner = np.asarray(centres_px, float).reshape(-1, 2) - side_px / 2
    size = np.array([slide.width, slide.height])
    slack = 1e-6  # of a pixel: rounding of the alignment, not tissue
    return ((corner >= -slack) & (corner + side_px <= size + slack)).all(1)


def thumbnail(path, max_px: int) -> tuple[np.ndarray, float]:
    """Read a small picture of a whole slide, from the pyramid level that suffices.

    Returns
    -------
    uint8 (height, width, 3) with no side above ``max_px``, and the slide pixels per thumbnail pixel
    (the same along both axes; the top-left corners coincide).
    """
    from PIL import Image

    with Slide(path, cache_bytes=0) as slide:
        scale = max(max(slide.width, slide.height) / max_px, 1.0)
        width, height = (max(int(side / scale), 1) for side in (slide.width, slide.height))
        factors = [_whole(slide.width / page.imagewidth) for page in slide._levels]
        level = max(i for i, factor in enumerate(factors) if factor <= scale)
        factor = factors[level]
        page = slide._levels[level]
        # Bands of whole tiles are reduced by an integer as they are read, so that a slide without
        # a pyramid never stands in memory at full resolution.
        reduction = max(int(scale / factor / 2), 1)
        tile_height, _ = _chunk_shape(page)
        band = reduction * math.ceil(tile_height / reduction)
        rows = [
            np.asarray(
                Image.fromarray(
                    slide._read(level, 0, top, page.imagewidth, min(band, page.imagelength - top))
                ).reduce(reduction)
            )
            for top in range(0, page.imagelength, band)
        ]
        image = Image.fromarray(np.concatenate(rows))
        step = scale / factor / reduction
        box = (0, 0, min(width * step, image.width), min(height * step, image.height))
        return np.asarray(image.resize((width, height), Image.Resampling.BOX, box=box)), scale


def um_per_px(path) -> float | None:
    """The µm per pixel that a slide states of itself, or None."""
    with Slide(path) as slide:
        return slide.um_per_px


def _chunk_shape(page) -> tuple[int, int]:
    """Height and width of a page's tiles; a strip is a tile as wide as the page."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _um_per_px(tiff, number: int) -> float | None:
    found = None
    if tiff.ome_metadata:
        pixels = ElementTree.fromstring(tiff.ome_metadata).findall("{*}Image/{*}Pixels")
        attributes = pixels[number].attrib if number < len(pixels) else {}
        unit = _UM.get(attributes.get("PhysicalSizeXUnit", "µm"))
        if unit and "PhysicalSizeX" in attributes:
            found = float(attributes["PhysicalSizeX"]) * unit
    elif match := re.search(r"\bMPP\s*=\s*([0-9.]+)", tiff.pages[0].description or ""):
        found = float(match[1])  # Aperio
    return found if found and math.isfinite(found) and found > 0 else None


def _tile_order(slide: Slide, centres_px: np.ndarray, side_px: float) -> np.ndarray:
    """Order patches so that each tile is decoded once and the tiles at hand fit the cache.

    Patches go by rows of tiles. Where a row of a wide slide wouldn't fit the cache, the slide is
    worked off in vertical stripes, and only tiles on their borders are decoded twice.
    """
    corner = centres_px - side_px / 2
    column = np.floor(corner[:, 0] / slide.tile_width).astype(int)
    row = np.floor(corner[:, 1] / slide.tile_height).astype(int)
    rows_at_hand = math.ceil(side_px / slide.tile_height) + 1
    tile_bytes = slide.tile_height * slide.tile_width * 3
    columns_at_hand = slide.cache_bytes // (tile_bytes * rows_at_hand)
    stripe = max(columns_at_hand - math.ceil(side_px / slide.tile_width) - 1, 1)
    return np.lexsort((corner[:, 1], corner[:, 0], column, row, column // stripe))


def _cut_by_area(slide: Slide, x0: float, y0: float, side_px: float, patch_px: int) -> np.ndarray:
    from pairscape.resampling import area_resample

    left, top = math.floor(x0), math.floor(y0)
    width, height = math.ceil(x0 + side_px) - left, math.ceil(y0 + side_px) - top
    region = slide.read_region(left, top, width, height)
    return area_resample(region, x0 - left, y0 - top, side_px, patch_px)


def _cut_by_interpolation(
    slide: Slide, x0: float, y0: float, side_px: float, patch_px: int
) -> np.ndarray:
    from PIL import Image

    # The cubic kernel reaches two pixels beyond the box; at the slide's edge it makes do with less.
    def margins(start: float, size: int) -> tuple[int, int]:
        low, high = math.floor(start), math.ceil(start + side_px)
        return max(low - 2, min(low, 0)), min(high + 2, max(high, size))

    left, right = margins(x0, slide.width)
    top, bottom = margins(y0, slide.height)
    region = Image.fromarray(slide.read_region(left, top, right - left, bottom - top))
    box = (x0 - left, y0 - top, x0 - left + side_px, y0 - top + side_px)
    box = (box[0], box[1], min(box[2], region.width), min(box[3], region.height))
    return np.asarray(region.resize((patch_px, patch_px), Image.Resampling.BICUBIC, box=box))


def _whole(ratio: float) -> float:
    """A pyramid's factor: levels of odd sizes are rounded, their factors are whole."""
    return round(ratio) if abs(ratio - round(ratio)) < 0.02 * ratio else ratio
