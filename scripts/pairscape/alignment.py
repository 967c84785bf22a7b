"""From H&E pixels to Xenium micrometres and back.

The alignment file is a 3 x 3 matrix without a header, one row a line, separated by commas. It maps
pixels of the full-resolution H&E (x, y, 1) to pixels of the Xenium morphology image; times the
pixel size of the morphology image, that is micrometres in ``transcripts.parquet``
(10x Genomics knowledge base, article 35386990499853).
"""

import math
from pathlib import Path

import numpy as np

from pairscape.errors import InputError

REMEDY = "give the 3 x 3 matrix that Xenium Explorer writes as *_he_imagealignment.csv"


def read_alignment(path) -> np.ndarray:
    """Read the matrix of H&E pixels to morphology pixels.

    Returns
    -------
    (3, 3) float64; its last row is 0, 0, 1.

    Raises
    ------
    InputError
        The file is missing, isn't 3 x 3 numbers, or the matrix can't be inverted. A missing
        alignment is never taken for the identity.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", REMEDY) from None
    except UnicodeDecodeError:
        raise InputError(path, "file", "bytes that aren't text", REMEDY) from None
    if "fixedx" in text.lower():
        raise InputError(
            path, "header", "keypoints, which aren't read yet", "export the matrix instead"
        )
    rows = [line.split(",") for line in text.splitlines() if line.strip()]
    if [len(row) for row in rows] != [3, 3, 3]:
        shape = " + ".join(str(len(row)) for row in rows) or "no"
        raise InputError(path, "matrix", f"{shape} numbers in {len(rows)} lines", REMEDY)
    try:
        matrix = np.array([[float(value) for value in row] for row in rows])
    except ValueError as error:
        raise InputError(path, "matrix", str(error), REMEDY) from None
    if not np.isfinite(matrix).all():
        raise InputError(path, "matrix", "a value that isn't finite", REMEDY)
    if not np.allclose(matrix[2], [0, 0, 1], rtol=0, atol=1e-9):
        row = ", ".join(f"{value:g}" for value in matrix[2])
        raise InputError(path, "row 3", row, "make it 0, 0, 1: perspective isn't known here")
    matrix[2] = 0, 0, 1
    largest, smallest = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if smallest <= 1e-6 * largest:
        raise InputError(path, "matrix", "a singular matrix (it flattens the image)", REMEDY)
    return matrix


def decompose(matrix: np.ndarray, pixel_size_um: float) -> dict:
    """What a matrix does to the H&E, in words and figures.

    The linear part is rotation x mirror (of x) x stretch.

    Returns
    -------
    um_per_px
        Size of an H&E pixel, the root of its area.
    anisotropy
        Longest over shortest image of a unit vector; 1 for a similarity.
    rotation_degrees
        After the mirror, from x towards y (clockwise on the screen), in (-180, 180].
    mirrored
        Whether the H&E shows the section from its other side.
    shear
        How far the images of the two axes are from a right angle, in degrees.
    """
    linear = np.asarray(matrix, float)[:2, :2] * pixel_size_um
    mirrored = bool(np.linalg.det(linear) < 0)
    turned = linear @ np.diag([-1.0, 1.0]) if mirrored else linear
    rotation = math.degrees(math.atan2(turned[1, 0] - turned[0, 1], turned[0, 0] + turned[1, 1]))
    stretch = np.linalg.svd(linear, compute_uv=False)
    x_axis, y_axis = linear.T
    cosine = x_axis @ y_axis / (np.linalg.norm(x_axis) * np.linalg.norm(y_axis))
    return {
        "um_per_px": math.sqrt(abs(np.linalg.det(linear))),
        "anisotropy": float(stretch[0] / stretch[1]),
        "rotation_degrees": rotation,
        "mirrored": mirrored,
        "shear": math.degrees(math.asin(min(1.0, abs(cosine)))),
    }


def he_px_to_um(matrix: np.ndarray, pixel_size_um: float, xy_px: np.ndarray) -> np.ndarray:
    """Points of the H&E, (N, 2) pixels, in Xenium micrometres, (N, 2) float64."""
    xy_px = np.asarray(xy_px, np.float64)
    return (xy_px @ matrix[:2, :2].T + matrix[:2, 2]) * pixel_size_um


def um_to_he_px(matrix: np.ndarray, pixel_size_um: float, xy_um: np.ndarray) -> np.ndarray:
    """Points in Xenium micrometres, (N, 2), as H&E pixels, (N, 2) float64."""
    inverse = um_to_he_matrix(matrix, pixel_size_um)
    return np.asarray(xy_um, np.float64) @ inverse[:2, :2].T + inverse[:2, 2]


def um_to_he_matrix(matrix: np.ndarray, pixel_size_um: float) -> np.ndarray:
    """The (3, 3) matrix that takes Xenium micrometres (x, y, 1) to H&E pixels."""
    return np.linalg.inv(matrix) @ np.diag([1 / pixel_size_um, 1 / pixel_size_um, 1.0])
