"""Where an H&E shows tissue: a mask by Otsu's threshold of the green that the stain takes away."""

import math
from typing import NamedTuple

import numpy as np

MASK_UM_PER_PX = 5.0  # finer than a spot, coarser than the gaps within tissue
MAX_MASK_PX = 6000
GREY_CHROMA = 10  # of 255: what differs less between its colours isn't stained
ABSORBED_RANGE = (30, 80)  # of 255: glass takes less than the one, well stained tissue more


class TissueMask(NamedTuple):
    """A coarse mask of an H&E; the top-left corners of both coincide."""

    mask: np.ndarray  # (H, W) bool
    scale: float  # H&E pixels per pixel of the mask
    threshold: float  # of the green that is missing, from 0 to 255


def mask_side_px(width: int, height: int, um_per_px: float) -> int:
    """The longer side, in pixels, of the thumbnail that a mask should be made of."""
    return min(math.ceil(max(width, height) * um_per_px / MASK_UM_PER_PX), MAX_MASK_PX)


def picture(path, um_per_px: float) -> tuple[np.ndarray, float]:
    """The thumbnail of an H&E that a mask should be made of, and its H&E pixels per pixel."""
    from pairscape.images.tiff import TiffImage

    with TiffImage(path, cache_bytes=0) as image:
        return image.thumbnail(mask_side_px(image.width, image.height, um_per_px))


def tissue_mask(picture: np.ndarray, scale: float) -> TissueMask:
    """Tell tissue from glass on a thumbnail.

    Both stains take away green, so the measure is 255 - green, smoothed, and 0 where the picture
    has no colour: margins, shadows and dust are as dark, but grey. Otsu's threshold always cuts in
    two, so it is held within ``ABSORBED_RANGE``: a slide full of tissue is all tissue, an empty one
    has none. ``picture`` is uint8 (H, W, 3), ``scale`` its H&E pixels per pixel.
    """
    from skimage.filters import gaussian, threshold_otsu

    picture = np.asarray(picture, np.uint8)
    chroma = gaussian((picture.max(axis=2) - picture.min(axis=2)).astype(np.float32), 1)
    absorbed = gaussian(255 - picture[..., 1].astype(np.float32), 1)
    absorbed[chroma < GREY_CHROMA] = 0
    otsu = threshold_otsu(absorbed) if np.ptp(absorbed) > 0 else 0.0
    threshold = float(np.clip(otsu, *ABSORBED_RANGE))
    return TissueMask(absorbed > threshold, float(scale), threshold)


def tissue_fraction(
    tissue: TissueMask, centres_px: np.ndarray, offsets_px: np.ndarray
) -> np.ndarray:
    """The share of points around each centre that lie on tissue, (N,); outside of the slide is none.

    ``centres_px`` (N, 2) are H&E pixels, ``offsets_px`` (K, 2) such pixels from a centre: points
    spread evenly over a spot or patch.
    """
    height, width = tissue.mask.shape
    centres = np.asarray(centres_px, np.float64) / tissue.scale
    offsets = np.asarray(offsets_px, np.float64) / tissue.scale
    hits = np.zeros(len(centres), np.int64)
    for offset in offsets:
        x, y = np.floor(centres + offset).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        hit = np.flatnonzero(inside)
        hits[hit] += tissue.mask[y[hit].astype(np.int64), x[hit].astype(np.int64)]
    return hits / len(offsets)
