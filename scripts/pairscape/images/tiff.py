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
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.jobs.program import log, progress

WHITE = 255
CACHE_BYTES = 256 << 20
MAX_TILE_BYTES = 128 << 20  # one decoded tile or strip; of larger ones the cache can't hold two
MAX_STRIP_BYTES = 2 << 30  # what retiling decodes at once where a codec can't be streamed
ROWS_BYTES = 1 << 20  # read at once of an uncompressed page without tiles
RETILED_PX = 512
UM_PER_PX_RANGE = (0.05, 20.0)  # of a scan; printers' resolutions (72 dpi) lie beyond it
_UM = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_DEFLATE = (8, 32946)
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

    Raises
    ------
    InputError
        The file is missing, is no TIFF, has no such image, or needs retiling.
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

        Raises
        ------
        InputError
            A tile doesn't decode.
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
                _read_exactly(handle, rows * shown.width * samples), np.uint8
            ).reshape(rows, shown.width, samples)
        index += first
        size = page.databytecounts[index]
        data = None
        if size:
            handle.seek(page.dataoffsets[index])
            data = _read_exactly(handle, size)
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
        factors = [_whole(slide.width / level.width) for level in slide._levels]
        level = max(i for i, factor in enumerate(factors) if factor <= scale)
        factor = factors[level]
        shown = slide._levels[level]
        # Bands of whole tiles are reduced by an integer as they are read, so that a slide without
        # a pyramid never stands in memory at full resolution.
        reduction = max(int(scale / factor / 2), 1)
        band = reduction * math.ceil(shown.tile_height / reduction)
        rows = [
            np.asarray(
                Image.fromarray(
                    slide._read(level, 0, top, shown.width, min(band, shown.height - top))
                ).reduce(reduction)
            )
            for top in range(0, shown.height, band)
        ]
        image = Image.fromarray(np.concatenate(rows))
        step = scale / factor / reduction
        box = (0, 0, min(width * step, image.width), min(height * step, image.height))
        return np.asarray(image.resize((width, height), Image.Resampling.BOX, box=box)), scale


def um_per_px(path) -> float | None:
    """The µm per pixel that a slide states of itself, or None."""
    with Slide(path) as slide:
        return slide.um_per_px


def retile(source, target, *, compression: str = "deflate") -> None:
    """Write a slide anew as a BigTIFF of 512 px tiles with a pyramid, in bounded memory.

    Rows are streamed: uncompressed and deflated strips of any size piece by piece, those of other
    codecs one strip at a time. Each level is the 2 x 2 mean of the one before.

    Parameters
    ----------
    compression
        ``deflate`` keeps every pixel; ``jpeg`` (quality 95, all colour) is a tenth of its size.

    Raises
    ------
    InputError
        As from ``Slide``, or a strip doesn't decode or is too large to be decoded at once.
    """
    import tifffile

    codec = {
        "deflate": {"compression": "zlib", "predictor": True},
        "jpeg": {"compression": "jpeg", "compressionargs": {"level": 95, "subsampling": "444"}},
    }[compression]
    options = {"photometric": "rgb", "tile": (RETILED_PX, RETILED_PX), "maxworkers": 1, **codec}
    target = Path(target)
    with (
        Slide(source, cache_bytes=MAX_TILE_BYTES, any_layout=True) as slide,
        files.atomic_path(target) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True, ome=True) as tiff,
    ):
        stated = slide.um_per_px
        size = {"PhysicalSizeX": stated, "PhysicalSizeY": stated} if stated else {}
        height, width = slide.height, slide.width
        halvings = max(math.ceil(math.log2(max(height, width) / (2 * RETILED_PX))), 0)
        bands = progress(
            _iter_bands(slide),
            f"retiling {slide.path.name}",
            math.ceil(height / RETILED_PX),
            "band",
        )
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


def _iter_bands(slide: Slide) -> Iterator[np.ndarray]:
    """uint8 (rows, width, 3) of the full resolution, as many rows at a time as a new tile has."""
    if not slide.needs_retiling:
        for top in range(0, slide.height, RETILED_PX):
            rows = min(RETILED_PX, slide.height - top)
            yield slide.read_region(0, top, slide.width, rows)
        return
    full = slide._levels[0]
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


def _iter_rows(slide: Slide, page, first: int) -> Iterator[np.ndarray]:
    """Rows (n, columns, samples) of one plane of a page in large strips or as one large tile."""
    full, key = slide._levels[0], page.keyframe
    samples = 1 if len(full.pages) > 1 else key.samplesperpixel
    if key.is_tiled or (
        key.compression not in (1, *_DEFLATE) or key.predictor not in (1, 2) or key.fillorder != 1
    ):
        if full.tile_width < full.width or full.tile_bytes > MAX_STRIP_BYTES:
            raise InputError(
                slide.path,
                "tiles",
                f"{key.compression.name} strips or tiles of {full.tile_height} x "
                f"{full.tile_width} pixels, which can't be read piece by piece",
                "save it as a tiled TIFF (512 x 512) with the program that made it",
            )
        for row in range(math.ceil(full.height / full.tile_height)):
            rows = min(full.tile_height, full.height - row * full.tile_height)
            yield slide._decode_plane(full, page, first, row)[:rows, : full.width]
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
            raise _damaged(slide, strip, f"{left} rows too few")


def _inflate(slide: Slide, page, index: int) -> Iterator[bytes]:
    """The bytes of a strip, uncompressed, in pieces; several strips may be read in turns."""
    offset, size = page.dataoffsets[index], page.databytecounts[index]
    unpacker = zlib.decompressobj() if page.keyframe.compression in _DEFLATE else None
    handle = slide._tiff.filehandle
    for start in range(0, size, ROWS_BYTES):
        handle.seek(offset + start)
        try:
            data = _read_exactly(handle, min(ROWS_BYTES, size - start))
            while data:
                yield unpacker.decompress(data, 16 * ROWS_BYTES) if unpacker else data
                data = unpacker.unconsumed_tail if unpacker else b""
        except (zlib.error, EOFError) as error:
            raise _damaged(slide, index, str(error)) from None


def _damaged(slide: Slide, strip: int, what: str) -> InputError:
    remedy = "the image is damaged or cut off: fetch or export it again"
    return InputError(slide.path, f"strip {strip}", f"bytes that don't decode ({what})", remedy)


def _read_exactly(handle, size: int) -> bytes:
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
    from pairscape.images.resampling import area_resample

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
