"""Smooth random fields on a coarse grid."""

import numba
import numpy as np
from scipy import ndimage

from pairscape.simulation.knobs import MARGIN_UM

STEP_UM = 4.0
"""Grid step of all fields; their first node lies ``MARGIN_UM`` before the region on both axes."""


def axes_um(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (µm) of a grid's rows and of its columns."""
    return tuple(np.arange(n) * STEP_UM - MARGIN_UM for n in shape)


def gaussian_field(random: np.random.Generator, shape, sigma_um: float) -> np.ndarray:
    """Stationary Gaussian field of mean 0 and standard deviation 1, float32.

    White noise smoothed by a Gaussian kernel of ``sigma_um``, so that the correlation at distance d
    is exp(-d² / 4 sigma²). Wide kernels are drawn on a coarser grid and interpolated.
    """
    sigma = sigma_um / STEP_UM
    coarser = max(1, int(sigma // 5))
    sigma /= coarser
    pad = int(4 * sigma) + 2
    small = [-(-n // coarser) + 2 * pad + 2 for n in shape]
    noise = random.standard_normal(small)
    # The kernel's energy gives the standard deviation; dividing by the sample's own would make
    # small regions as varied as large ones.
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap", truncate=4.0)
    smooth *= 2.0 * sigma * np.sqrt(np.pi)
    if coarser == 1:
        field = smooth[pad : pad + shape[0], pad : pad + shape[1]]
    else:
        rows = pad + np.arange(shape[0]) / coarser
        columns = pad + np.arange(shape[1]) / coarser
        field = ndimage.map_coordinates(smooth, np.meshgrid(rows, columns, indexing="ij"), order=3)
    return np.ascontiguousarray(field, dtype=np.float32)


@numba.njit(cache=True)
def interpolate(field, row, column):
    """Bilinear value of a 2-D field at fractional grid indices, constant beyond its edges."""
    rows, columns = field.shape
    row = min(max(row, 0.0), rows - 1.001)
    column = min(max(column, 0.0), columns - 1.001)
    i, j = int(row), int(column)
    a, b = row - i, column - j
    return (1 - a) * ((1 - b) * field[i, j] + b * field[i, j + 1]) + a * (
        (1 - b) * field[i + 1, j] + b * field[i + 1, j + 1]
    )


@numba.njit(cache=True)
def at_um(field, x_um, y_um):
    """Value of a field at a point."""
    return interpolate(field, (y_um + MARGIN_UM) / STEP_UM, (x_um + MARGIN_UM) / STEP_UM)


@numba.njit(cache=True)
def at_points(field, x_um, y_um):
    """Values of a field at points, float32."""
    values = np.empty(len(x_um), np.float32)
    for i in range(len(x_um)):
        values[i] = at_um(field, x_um[i], y_um[i])
    return values
