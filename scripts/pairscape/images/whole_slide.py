"""Whole slides as OpenSlide reads them, from the pyramid's level that is just fine enough."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pairscape.core.errors import InputError, missing_file
from pairscape.images import pixel_size
from pairscape.images.he_image import SLACK_PX, WHITE, HEImage

CACHE_BYTES = 128 << 20
BLOCK_PX = 2048  # read at once for a thumbnail
DIGEST_BYTES = 1 << 20
COHORT = "write it in the column um_per_px of the cohort table"
_WRONG = "scan, export or fetch it again, or leave the slide out"
_MISSING = "put the slide there or correct the cohort table"


class WholeSlide(HEImage):
    """A slide that OpenSlide reads; ``um_per_px`` is the user's word, ``remedy`` asks for it."""

    def __init__(self, path, um_per_px: float | None = None, remedy: str = COHORT):
        import openslide

        self.path = Path(path)
        if not self.path.is_file():
            raise missing_file(path, _MISSING)
        try:
            self.handle = openslide.OpenSlide(str(path))
        except openslide.OpenSlideError as error:
            raise InputError(
                path, "image", str(error), f"OpenSlide can't read it: {_WRONG}"
            ) from None
        self.handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        self.width, self.height = self.handle.dimensions
        try:
            stated = _stated_um_per_px(self.handle, self.path)
            self.um_per_px = pixel_size.settle(self.path, um_per_px, stated, remedy)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self.handle.close()

    def read_region(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """See ``HEImage``."""
        return self.read_level(0, x0, y0, width, height)

    def read_level(self, level: int, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """A rectangle in pixels of a level, its corner in level-0 px; white where nothing lies."""
        import openslide

        try:
            region = self.handle.read_region((x0, y0), level, (width, height))
        except openslide.OpenSlideError as error:
            remedy = f"the slide is damaged or cut off: {_WRONG}"
            raise InputError(self.path, f"region at {x0}, {y0} px", str(error), remedy) from None
        pixels = np.asarray(region)
        alpha = pixels[..., 3:]
        if alpha.min() == 255:
            return np.ascontiguousarray(pixels[..., :3])
        share = alpha.astype(np.float32) / 255
        return np.round(pixels[..., :3] * share + WHITE * (1 - share)).astype(np.uint8)

    def thumbnail(self, max_px: int) -> tuple[np.ndarray, float]:
        """See ``HEImage``; the longer side is ``max_px`` or up to half as much again."""
        from PIL import Image

        wanted = max(max(self.width, self.height) / max_px, 1.0)
        level = self._level_for(wanted)
        downsample = self.handle.level_downsamples[level]
        factor = max(round(wanted / downsample), 1)
        width, height = self.handle.level_dimensions[level]
        picture = np.empty((math.ceil(height / factor), math.ceil(width / factor), 3), np.uint8)
        step = max(BLOCK_PX // factor, 1) * factor
        for top in range(0, height, step):
            for left in range(0, width, step):
                corner = round(left * downsample), round(top * downsample)
                size = min(step, width - left), min(step, height - top)
                block = Image.fromarray(self.read_level(level, *corner, *size))
                small = np.asarray(block.reduce(factor))
                y, x = top // factor, left // factor
                picture[y : y + small.shape[0], x : x + small.shape[1]] = small
        return picture, downsample * factor

    def iter_patches(
        self, centres_px: np.ndarray, side_px: float, patch_px: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """See ``HEImage``; in the order given, corners in whole pixels."""
        corners = np.floor(centres_px - side_px / 2 + SLACK_PX).astype(np.int64)
        for index, corner in enumerate(corners):
            yield index, self.read_patch(corner, side_px, patch_px)

    def read_patch(self, corner_px: np.ndarray, side_px: float, patch_px: int) -> np.ndarray:
        """Read the patch with a corner in whole level-0 px: uint8 (patch_px, patch_px, 3)."""
        from pairscape.images.resampling import area_resample

        level = self._level_for(side_px / patch_px)
        side = side_px / self.handle.level_downsamples[level]
        count = math.ceil(side - 1e-3)
        region = self.read_level(level, int(corner_px[0]), int(corner_px[1]), count, count)
        side = min(side, count)
        if side == patch_px:
            return region
        if side > patch_px:
            return area_resample(region, 0.0, 0.0, side, patch_px)
        from PIL import Image

        size, box = (patch_px, patch_px), (0, 0, side, side)
        return np.asarray(Image.fromarray(region).resize(size, Image.Resampling.BICUBIC, box=box))

    def _level_for(self, downsample: float) -> int:
        # A level that is finer by a hair's breadth is named finer by rounding of its size.
        return self.handle.get_best_level_for_downsample(downsample * (1 + 1e-3))


def digest(path) -> str:
    """A checksum of a slide's size, first, middle and last MiB: it tells another file at once."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, 2)
            checksum = hashlib.sha256(str(size).encode())
            for start in (0, size // 2, max(size - DIGEST_BYTES, 0)):
                handle.seek(start)
                checksum.update(handle.read(DIGEST_BYTES))
    except FileNotFoundError:
        raise missing_file(path, _MISSING) from None
    except OSError as error:
        raise InputError(path, "file", str(error.strerror), _MISSING) from None
    return checksum.hexdigest()


def _stated_um_per_px(handle, path: Path) -> tuple[float, float] | None:
    """The µm per pixel along x and y of the file, or of a TIFF's metadata, such as OME's."""
    import openslide

    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    try:
        stated = tuple(float(handle.properties[name]) for name in names)
    except (KeyError, ValueError):
        stated = (_um_per_px_of_metadata(path),) * 2
    return stated if None not in stated and all(map(pixel_size.is_scan, stated)) else None


def _um_per_px_of_metadata(path: Path) -> float | None:
    from pairscape.images import tiff

    try:
        with tiff.TiffImage(path, any_layout=True) as image:
            return image.um_per_px
    except InputError:
        return None
