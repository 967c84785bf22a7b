"""Area resampling of a box of an image: each output pixel is the mean of the area it covers."""

import numba
import numpy as np


def area_resample(
    image: np.ndarray, x0: float, y0: float, side: float, patch_px: int
) -> np.ndarray:
    """Resample the square box ``[x0, x0 + side) x [y0, y0 + side)`` to ``patch_px`` pixels a side.

    Pixels that the grid of the patch cuts count by the share that lies on each side, as nowhere in
    Pillow (its box filter takes a pixel wholly or not at all). ``image``, uint8 (height, width, 3)
    and C-contiguous, holds the whole box; ``side`` is at least ``patch_px``.
    """
    columns = _weights(x0, side, patch_px, image.shape[1])
    rows = _weights(y0, side, patch_px, image.shape[0])
    return _resample(image.reshape(image.shape[0], -1), *rows, *columns)


def _weights(start: float, side: float, patch_px: int, size: int):
    """First source pixel (n,) and weights (n, taps) of each output pixel along one axis."""
    edges = start + side / patch_px * np.arange(patch_px + 1)
    low, high = edges[:-1, None], edges[1:, None]
    taps = int(np.ceil(side / patch_px)) + 1
    first = np.clip(np.floor(edges[:-1]).astype(np.int64), 0, max(size - taps, 0))
    pixel = first[:, None] + np.arange(min(taps, size))
    weights = np.clip(np.minimum(high, pixel + 1) - np.maximum(low, pixel), 0, None)
    return first, (weights / weights.sum(1, keepdims=True)).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _resample(image, first_row, row_weights, first_column, column_weights):
    patch_px = first_row.shape[0]
    width = image.shape[1]
    patch = np.empty((patch_px, patch_px, 3), np.uint8)
    line = np.empty(width, np.float32)
    for i in range(patch_px):
        # Down first: whole image lines are added up at vector speed.
        line[:] = 0
        for tap in range(row_weights.shape[1]):
            weight = row_weights[i, tap]
            if weight > 0:
                source = image[first_row[i] + tap]
                for x in range(width):
                    line[x] += weight * np.float32(source[x])
        for j in range(patch_px):
            red = green = blue = np.float32(0.5)  # rounds half up
            x = 3 * first_column[j]
            for tap in range(column_weights.shape[1]):
                weight = column_weights[j, tap]
                red += weight * line[x]
                green += weight * line[x + 1]
                blue += weight * line[x + 2]
                x += 3
            patch[i, j, 0] = np.uint8(red)
            patch[i, j, 1] = np.uint8(green)
            patch[i, j, 2] = np.uint8(blue)
    return patch
