"""Where the H&E lies in a TIFF: which of its pages, in which tiles, at which resolutions."""

import math
import re
from collections.abc import Iterator

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.images.pixel_size import ome_images, stated_by_tiff
from pairscape.images.tiled import Level

ROWS_BYTES = 1 << 20  # read at once of an uncompressed page without tiles
_FLUORESCENCE = re.compile(r"dapi|hoechst|cy[357]|fitc|tritc|alexa|atp1a1|18s", re.IGNORECASE)


def find_image(path, tiff) -> tuple[list[Level], float | None]:
    """The levels of the largest RGB image (full resolution first) and its µm per pixel."""
    images = list(_iter_images(path, tiff))
    if not images:
        shapes = ", ".join(f"{s.axes} {s.shape} {s.dtype}" for s in tiff.series[:4])
        found = f"no RGB page ({shapes or 'no image'})"
        raise InputError(path, "image", found, "save the H&E as 8-bit RGB")
    number, pages_of_levels = max(images, key=lambda image: _area(image[1]))
    page = pages_of_levels[0][0].keyframe
    if not _has_8_bits(page):
        raise InputError(path, "image", f"{page.dtype} samples", "save the H&E as 8-bit RGB")
    if page.tags.valueof("Orientation", 1) not in (None, 0, 1):
        log.warning(
            "%s: it asks to be shown turned (orientation %s); its pixels are read as they are "
            "stored, as the alignment counts them",
            path,
            int(page.tags.valueof("Orientation")),
        )
    levels = [_level(pages) for pages in pages_of_levels]
    if len(levels) == 1:
        levels += _separate_levels(levels[0], [pages for _, pages in images])
    return levels, stated_by_tiff(tiff, number, page)


def _iter_images(path, tiff) -> Iterator[tuple[int, list[tuple]]]:
    """Each RGB image: the number of its series, and for each of its levels the pages."""
    channels = []
    for number, series in enumerate(tiff.series):
        key, pages = series.levels[0].keyframe, len(series.levels[0].pages)
        is_grey = key.samplesperpixel == 1 and key.photometric.name == "MINISBLACK"
        if key.samplesperpixel in (3, 4) and key.photometric.name in ("RGB", "YCBCR"):
            if pages == 1:
                yield number, [(level.keyframe,) for level in series.levels]
        elif is_grey and pages == 3 and series.axes[0] in "CSQI":
            order = _channel_order(path, tiff, number)
            yield number, [tuple(level.pages[i] for i in order) for level in series.levels]
        elif is_grey and pages == 1:
            channels.append(series)
    if len(channels) == 3 and len({series.shape for series in channels}) == 1:
        _channel_order(path, tiff, None)
        levels = zip(*(series.levels for series in channels), strict=False)
        yield 0, [tuple(channel.keyframe for channel in level) for level in levels]


def _channel_order(path, tiff, number: int | None) -> tuple[int, int, int]:
    """Which channel is red, green and blue; as they come where they have no such names."""
    images = ome_images(tiff)
    names = [
        channel.get("Name", "")
        for image in (images if number is None else images[number : number + 1])
        for channel in image.findall("{*}Pixels/{*}Channel")
    ]
    if any(_FLUORESCENCE.search(name) for name in names):
        remedy = "give the H&E image, this is one of fluorescence"
        raise InputError(path, "channels", ", ".join(names), remedy)
    letters = [name[:1].lower() for name in names]
    if number is not None and sorted(letters) == ["b", "g", "r"]:
        return tuple(letters.index(letter) for letter in "rgb")
    return 0, 1, 2


def _separate_levels(full: Level, images: list[list[tuple]]) -> list[Level]:
    """Other images of the file that show the whole slide smaller by a whole factor."""
    levels = {}
    for pages_of_levels in images:
        if not _has_8_bits(pages_of_levels[0][0].keyframe):
            continue
        level = _level(pages_of_levels[0])
        factor = round(full.width / level.width)
        sides = ((full.width, level.width), (full.height, level.height))
        if factor > 1 and all(abs(large / factor - small) <= 1 for large, small in sides):
            levels.setdefault(level.width, level)
    return [levels[width] for width in sorted(levels, reverse=True)]


def _area(pages_of_levels: list[tuple]) -> int:
    page = pages_of_levels[0][0].keyframe
    return page.imagelength * page.imagewidth


def _has_8_bits(page) -> bool:
    return page.dtype == np.uint8 and page.bitspersample == 8


def _level(pages: tuple) -> Level:
    page = pages[0].keyframe
    width, height = page.imagewidth, page.imagelength
    if page.is_tiled:
        tile_height, tile_width = page.tilelength, page.tilewidth
    else:  # a strip is a tile as wide as the page
        tile_height, tile_width = min(page.rowsperstrip or height, height), width
    first = (0,) * len(pages)
    if page.samplesperpixel > 1 and getattr(page.planarconfig, "name", "") == "SEPARATE":
        per_plane = math.ceil(height / tile_height) * math.ceil(width / tile_width)
        pages, first = pages * 3, (0, per_plane, 2 * per_plane)
    samples = 1 if len(pages) > 1 else page.samplesperpixel
    # Rows of one uncompressed strip need no decoding: they are read in bits of a good size.
    as_stored = not page.is_tiled and page.compression == 1 and tile_height == height
    as_stored = as_stored and page.predictor == 1 and page.fillorder == 1
    if as_stored:
        tile_height = min(max(ROWS_BYTES // (width * samples), 1), height)
    return Level(width, height, tile_width, tile_height, pages, first, as_stored)
