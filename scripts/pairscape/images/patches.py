"""Patches cut from an image by their centres and size in µm."""

import math
from collections.abc import Iterator

import numpy as np

from pairscape.images.tiff import Slide


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
