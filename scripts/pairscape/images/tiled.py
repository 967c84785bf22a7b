"""Images in tiles, of which the latest stay in memory: regions, thumbnails and patches of them."""

import abc
import collections
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pairscape.images.he_image import WHITE, HEImage


class Level(NamedTuple):
    """One resolution of an image, its colours in one plane or in three."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    pages: tuple = ()  # of a TIFF: one page, or that of red, of green and of blue
    first: tuple = ()  # index of each plane's first tile in its page
    as_stored: bool = False  # uncompressed rows, which are read where they lie

    @property
    def tile_bytes(self) -> int:
        return self.tile_width * self.tile_height * 3


class TiledImage(HEImage):
    """An image with ``levels``, the full resolution first; ``cache_bytes`` of tiles are kept."""

    def __init__(self, cache_bytes: int):
        self.cache_bytes = cache_bytes
        self.tiles_decoded = 0
        self.kept_bytes = 0
        self._tiles = collections.OrderedDict()

    @abc.abstractmethod
    def decode(self, level: int, row: int, column: int) -> np.ndarray:
        """A tile, uint8 (rows, columns, 3); those at the right and lower edge may be cut."""

    def close(self) -> None:
        """Forget the tiles."""
        self._tiles.clear()

    def set_levels(self, levels: list[Level]) -> None:
        """Take the size of the full resolution as that of the image."""
        self.levels = levels
        self.width, self.height, self.tile_width, self.tile_height = levels[0][:4]

    def read_region(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """See ``HEImage``."""
        return self.read_level(0, x0, y0, width, height)

    def read_level(self, level: int, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """A rectangle of one of the levels, in its pixels."""
        shown = self.levels[level]
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

    def _tile(self, *place: int) -> np.ndarray:
        if (tile := self._tiles.get(place)) is not None:
            self._tiles.move_to_end(place)
            return tile
        tile = self._tiles[place] = self.decode(*place)
        self.tiles_decoded += 1
        self.kept_bytes += tile.nbytes
        while self.kept_bytes > self.cache_bytes and len(self._tiles) > 1:
            self.kept_bytes -= self._tiles.popitem(last=False)[1].nbytes
        return tile

    def thumbnail(self, max_px: int) -> tuple[np.ndarray, float]:
        """See ``HEImage``; no side is above ``max_px``. The level that suffices is read."""
        from PIL import Image

        scale = max(max(self.width, self.height) / max_px, 1.0)
        width, height = (max(int(side / scale), 1) for side in (self.width, self.height))
        factors = [_whole(self.width / level.width) for level in self.levels]
        level = max(i for i, factor in enumerate(factors) if factor <= scale)
        factor, shown = factors[level], self.levels[level]
        # Bands of whole tiles are reduced by an integer as they are read, so that a slide without
        # a pyramid never stands in memory at full resolution.
        reduction = max(int(scale / factor / 2), 1)
        band = reduction * math.ceil(shown.tile_height / reduction)
        rows = []
        for top in range(0, shown.height, band):
            read = self.read_level(level, 0, top, shown.width, min(band, shown.height - top))
            rows.append(np.asarray(Image.fromarray(read).reduce(reduction)))
        image = Image.fromarray(np.concatenate(rows))
        step = scale / factor / reduction
        box = (0, 0, min(width * step, image.width), min(height * step, image.height))
        return np.asarray(image.resize((width, height), Image.Resampling.BOX, box=box)), scale

    def iter_patches(
        self, centres_px: np.ndarray, side_px: float, patch_px: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``HEImage``; a patch is exactly its box, sub-pixel position included."""
        centres_px = np.asarray(centres_px, float).reshape(-1, 2)
        if not np.isfinite(centres_px).all() or not (side_px > 0 and patch_px > 0):
            raise ValueError("patches need finite centres and positive sides")
        cut = self._cut_by_area if side_px >= patch_px else self._cut_by_interpolation
        for index in self._tile_order(centres_px, side_px):
            x0, y0 = centres_px[index] - side_px / 2
            yield int(index), cut(x0, y0, side_px, patch_px)

    def _tile_order(self, centres_px: np.ndarray, side_px: float) -> np.ndarray:
        """Order patches so that each tile is decoded once and the tiles at hand fit the cache.

        Patches go by rows of tiles. Where a row of a wide slide wouldn't fit the cache, the slide is
        worked off in vertical stripes, and only tiles on their borders are decoded twice.
        """
        corner = centres_px - side_px / 2
        column = np.floor(corner[:, 0] / self.tile_width).astype(int)
        row = np.floor(corner[:, 1] / self.tile_height).astype(int)
        rows_at_hand = math.ceil(side_px / self.tile_height) + 1
        columns_at_hand = self.cache_bytes // (self.levels[0].tile_bytes * rows_at_hand)
        stripe = max(columns_at_hand - math.ceil(side_px / self.tile_width) - 1, 1)
        return np.lexsort((corner[:, 1], corner[:, 0], column, row, column // stripe))

    def _cut_by_area(self, x0: float, y0: float, side_px: float, patch_px: int) -> np.ndarray:
        from pairscape.images.resampling import area_resample

        left, top = math.floor(x0), math.floor(y0)
        width, height = math.ceil(x0 + side_px) - left, math.ceil(y0 + side_px) - top
        region = self.read_region(left, top, width, height)
        return area_resample(region, x0 - left, y0 - top, side_px, patch_px)

    def _cut_by_interpolation(self, x0: float, y0: float, side_px: float, patch_px: int):
        from PIL import Image

        # The kernel reaches two pixels beyond the box; at the slide's edge it makes do with less.
        def margins(start: float, size: int) -> tuple[int, int]:
            low, high = math.floor(start), math.ceil(start + side_px)
            return max(low - 2, min(low, 0)), min(high + 2, max(high, size))

        left, right = margins(x0, self.width)
        top, bottom = margins(y0, self.height)
        region = Image.fromarray(self.read_region(left, top, right - left, bottom - top))
        box = (x0 - left, y0 - top, x0 - left + side_px, y0 - top + side_px)
        box = (box[0], box[1], min(box[2], region.width), min(box[3], region.height))
        return np.asarray(region.resize((patch_px, patch_px), Image.Resampling.BICUBIC, box=box))


def _whole(ratio: float) -> float:
    """A pyramid's factor: levels of odd sizes are rounded, their factors are whole."""
    return round(ratio) if abs(ratio - round(ratio)) < 0.02 * ratio else ratio
