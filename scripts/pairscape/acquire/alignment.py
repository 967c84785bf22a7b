"""From H&E pixels to Xenium micrometres and back.

An alignment is a 3 x 3 matrix that maps pixels of the full-resolution H&E (x, y, 1) to pixels of
the Xenium morphology image; times the pixel size of the morphology image, that is micrometres in
``transcripts.parquet`` (10x Genomics knowledge base, article 35386990499853). It is given as

- the matrix itself, without a header, one row a line;
- keypoints of Xenium Explorer, columns fixedX, fixedY (morphology pixels: the image that the other
  one is brought to) and alignmentX, alignmentY (H&E pixels);
- the word ``register`` in the sample table, for which ``register_image`` makes a matrix;
- a word in the sample table: ``identity`` where the H&E lies on the pixel grid of the morphology
  image, ``microns`` where it begins where the Xenium micrometres do and isn't turned.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairscape.acquire.samples import GRID_WORDS, REGISTER
from pairscape.core.errors import InputError
from pairscape.core.logs import log

KEYPOINT_COLUMNS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
MIN_WIDTH = 0.01  # of keypoints across their longest direction, relative to their length
MAX_SIZE_GAP = 0.02  # between two statements of the same pixel size
WRONG_SIZE_GAP = 0.2  # beyond it one of them is of another image, such as a level of the pyramid
REMEDY = (
    "give the 3 x 3 matrix that Xenium Explorer writes as *_he_imagealignment.csv, or its keypoints"
)


class Alignment(NamedTuple):
    """An alignment and where it comes from."""

    matrix: np.ndarray  # (3, 3) float64, H&E pixels to morphology pixels
    how: str  # matrix, keypoints, identity, microns or register
    residual_um: float | None = None  # root mean square distance of the keypoints
    keypoints: int | None = None


def resolve_alignment(
    path, sample: dict, pixel_size_um: float, he_um_per_px: float | None = None
) -> Alignment:
    """The alignment of a sample: that of the file, or of the word that stands for one.

    Parameters
    ----------
    path
        The alignment file, or None.
    sample
        Its row of the sample table; ``he_alignment`` may hold a word, ``he_um_per_px`` the pixel
        size of the H&E.
    pixel_size_um
        Pixel size of the morphology image.
    he_um_per_px
        Pixel size that the H&E states of itself, or None.
    """
    word = sample.get("he_alignment") or ""
    field = f"sample {sample.get('sample', '')}, he_alignment"
    if path:
        if word in GRID_WORDS:
            remedy = "keep the file or the word, not both"
            raise InputError("sample table", field, f"{word} beside the file {path}", remedy)
        matrix, distances = _read(path)
        if distances is None:
            return Alignment(matrix, REGISTER if word == REGISTER else "matrix")
        residual_um = float(np.sqrt(np.mean(distances**2))) * pixel_size_um
        return Alignment(matrix, "keypoints", residual_um, len(distances))
    if word == "identity":
        return Alignment(np.eye(3), word)
    if word == "microns":
        scale = _he_um_per_px(sample, he_um_per_px) / pixel_size_um
        return Alignment(np.diag([scale, scale, 1.0]), word)
    if word == REGISTER:
        raise InputError(
            "sample table", field, f"{word!r} and no file", "give the one that register_image made"
        )
    raise InputError(
        "sample table",
        field,
        f"{word!r} and no file",
        "give the alignment file, `identity` or `microns` where the H&E lies so, or `register`: a "
        "missing alignment is never taken for the identity",
    )


def read_alignment(path) -> np.ndarray:
    """Read the matrix of H&E pixels to morphology pixels from a matrix or keypoints file.

    Numbers are separated by commas, semicolons, tabs or spaces; a byte order mark and blank lines
    do no harm. Keypoints give the affine map of least squares over all of them.

    Returns
    -------
    (3, 3) float64; its last row is 0, 0, 1.
    """
    return _read(path)[0]


def _read(path) -> tuple[np.ndarray, np.ndarray | None]:
    """The matrix, and how far each keypoint lies from its partner (morphology pixels)."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", REMEDY) from None
    except UnicodeDecodeError:
        raise InputError(path, "file", "bytes that aren't text", REMEDY) from None
    rows = [_fields(line) for line in text.splitlines() if line.strip()]
    if rows and any(name.lower() in ("fixedx", "alignmentx") for name in rows[0]):
        return _fit_keypoints(path, *_keypoints(path, rows))
    return _matrix(path, rows), None


def _fields(line: str) -> list[str]:
    """The fields of a line, whatever separates them."""
    for separator in (";", "\t", ","):
        if separator in line:
            break
    else:
        separator = None  # any blanks
    return [field.strip().strip('"') for field in line.split(separator)]


def _matrix(path, rows: list[list[str]]) -> np.ndarray:
    if [len(row) for row in rows] != [3, 3, 3]:
        shape = " + ".join(str(len(row)) for row in rows[:5]) or "no"
        shape += " + ..." if len(rows) > 5 else ""
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


def _keypoints(path, rows: list[list[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The points on the H&E and on the morphology image, each (N, 2) pixels."""
    names = [name.lower() for name in rows[0]]
    places = []
    for name in KEYPOINT_COLUMNS:
        if names.count(name.lower()) != 1:
            found = f"{names.count(name.lower())} in {', '.join(rows[0])}"
            raise InputError(path, f"column {name}", found, "export the keypoints again")
        places.append(names.index(name.lower()))
    points = np.empty((len(rows) - 1, 4))
    for number, row in enumerate(rows[1:]):
        field = f"keypoint {number + 1}"
        if len(row) != len(names):
            found = f"{len(row)} fields, not the {len(names)} of the header"
            raise InputError(path, field, found, "export the keypoints again")
        try:
            points[number] = [float(row[place]) for place in places]
        except ValueError as error:
            raise InputError(path, field, str(error), "export the keypoints again") from None
    if not np.isfinite(points).all():
        lost = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0]) + 1
        raise InputError(path, f"keypoint {lost}", "a value that isn't finite", "correct it")
    return points[:, 2:], points[:, :2]


def _fit_keypoints(path, he_px: np.ndarray, morphology_px: np.ndarray):
    """The affine map of least squares over all keypoints, and their distances from it."""
    if len(he_px) < 3:
        remedy = "set at least three keypoints, better six, all over the tissue"
        raise InputError(path, "keypoints", str(len(he_px)), remedy)
    for image, points in (("H&E", he_px), ("morphology image", morphology_px)):
        spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if spread[1] <= MIN_WIDTH * spread[0]:
            found = f"{len(points)} points on one line of the {image}"
            raise InputError(path, "keypoints", found, "set some away from that line")
    # Centred, so that pixel numbers of 50,000 beside a column of ones cost no digits.
    he_centre, morphology_centre = he_px.mean(axis=0), morphology_px.mean(axis=0)
    linear = np.linalg.lstsq(he_px - he_centre, morphology_px - morphology_centre, rcond=None)[0].T
    largest, smallest = np.linalg.svd(linear, compute_uv=False)
    if smallest <= 1e-3 * largest:
        found = "points of the two images that don't belong together (the fit flattens the image)"
        raise InputError(path, "keypoints", found, "set them again")
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = morphology_centre - linear @ he_centre
    away = he_px @ linear.T + matrix[:2, 2] - morphology_px
    return matrix, np.hypot(*away.T)


def _he_um_per_px(sample: dict, stated: float | None) -> float:
    """Pixel size of an H&E on the micron grid, where nothing else tells its scale."""
    name, settled = sample.get("sample", ""), he_um_per_px(sample, stated)
    if settled is None:
        field = f"sample {name}, he_um_per_px"
        found = "nothing, and the image doesn't say its pixel size"
        raise InputError("sample table", field, found, "give the µm per pixel of the H&E")
    if stated and settled != stated:
        words = "sample %s: he_um_per_px says %g um/px, the image %g: the sample table is taken"
        log.warning(words, name, settled, stated)
    return settled


def he_um_per_px(sample: dict, stated: float | None) -> float | None:
    """Pixel size of the H&E by another source than its alignment: the user's column, else the header.

    Where both agree the header's is taken, which has more digits. (An alignment that the tissue
    confirms outranks them both, see ``check_alignment``.)
    """
    listed = float(sample.get("he_um_per_px") or 0)
    if not listed or (stated and abs(listed / stated - 1) <= MAX_SIZE_GAP):
        return stated
    return listed


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


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An affine map, (3, 3), of points, (..., 2)."""
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def he_px_to_um(matrix: np.ndarray, pixel_size_um: float, xy_px: np.ndarray) -> np.ndarray:
    """Points of the H&E, (N, 2) pixels, in Xenium micrometres, (N, 2) float64."""
    xy_px = np.asarray(xy_px, np.float64)
    return apply(matrix, xy_px) * pixel_size_um


def um_to_he_px(matrix: np.ndarray, pixel_size_um: float, xy_um: np.ndarray) -> np.ndarray:
    """Points in Xenium micrometres, (N, 2), as H&E pixels, (N, 2) float64."""
    inverse = um_to_he_matrix(matrix, pixel_size_um)
    return apply(inverse, np.asarray(xy_um, np.float64))


def um_to_he_matrix(matrix: np.ndarray, pixel_size_um: float) -> np.ndarray:
    """The (3, 3) matrix that takes Xenium micrometres (x, y, 1) to H&E pixels."""
    return np.linalg.inv(matrix) @ np.diag([1 / pixel_size_um, 1 / pixel_size_um, 1.0])
