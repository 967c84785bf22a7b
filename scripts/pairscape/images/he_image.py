"""The one interface of all H&E images: size, µm per pixel, regions, a thumbnail, patches.

Pixel coordinates are those of the full resolution as it is stored: pixel ``i`` covers ``[i, i + 1)``,
so (0, 0) is the outer corner of the top-left pixel. x is the column, y the row.
"""

import abc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pairscape.core.errors import InputError

WHITE = 255
MAX_UPSAMPLING = 1.2  # an image may be this much coarser than its patches; TRIDENT's bound of 20x
SLACK_PX = 1e-6  # rounding of an alignment or a pixel size, not tissue


class HEImage(abc.ABC):
    """An open H&E; a context manager. ``um_per_px`` is None where neither file nor user tells it."""

    path: Path
    width: int
    height: int
    um_per_px: float | None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:  # noqa: B027 (a picture in memory has nothing to close)
        """Close the file."""

    @abc.abstractmethod
    def read_region(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """A rectangle of the full resolution, uint8 (height, width, 3); white beyond the image."""

    @abc.abstractmethod
    def thumbnail(self, max_px: int) -> tuple[np.ndarray, float]:
        """A small picture, uint8 (h, w, 3), its longer side about ``max_px``, in bounded memory.

        With it come the image's pixels per pixel of the picture, the same along both axes; the
        top-left corners coincide.
        """

    @abc.abstractmethod
    def iter_patches(
        self, centres_px: np.ndarray, side_px: float, patch_px: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Cut square patches of ``side_px`` around points (N, 2), in the order that reads fastest.

        Each comes with the index of its centre: uint8 (patch_px, patch_px, 3), white beyond the
        image. Each pixel is the mean of the area that it covers, or, where the patch is finer than
        the image, a bicubic interpolation.
        """

    def holds(self, centres_px: np.ndarray, side_px: float) -> np.ndarray:
        """Tell (N,) bool which boxes of ``side_px`` around points (N, 2) lie wholly within."""
        corner = np.asarray(centres_px, float).reshape(-1, 2) - side_px / 2
        size = np.array([self.width, self.height])
        return ((corner >= -SLACK_PX) & (corner + side_px <= size + SLACK_PX)).all(1)

    def check_scale(self, patch_um_per_px: float) -> None:
        """Refuse an image that is coarser than the patches to be cut from it."""
        if self.um_per_px > MAX_UPSAMPLING * patch_um_per_px:
            found = f"{self.um_per_px:g}, coarser than the {patch_um_per_px:g} of the patches"
            remedy = "scan or export it at a higher resolution, or correct its um_per_px"
            raise InputError(self.path, "um_per_px", found, remedy)
