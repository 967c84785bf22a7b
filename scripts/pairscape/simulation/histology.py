"""Drawing a tissue: the H&E by Beer-Lambert mixing of two stains, and the DAPI image."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from pairscape.simulation import knobs as knob
from pairscape.simulation import staining
from pairscape.simulation.tissue import Tissue

# Optical density of haematoxylin and eosin in red, green, blue: Macenko et al. 2009 (ISBI), the
# reference matrix of their published code.
STAIN_OD = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])

GLASS_RGB = np.array([243.0, 242.0, 244.0])

STRIP_ROWS = 512

# Of all images that are written: nothing of the writer or the clock gets into the bytes.
TIFF_OPTIONS = {"software": "pairscape", "metadata": None, "maxworkers": 1}

# The grids that ``staining.shade`` reads, in its order.
_GRIDS = ("inside_um", "along_um", "across_um", "collagen", "oedema", "muscle", "tumour")
_CELL_COLUMNS = ("x_um", "y_um", "major_um", "minor_um", "angle", "haematoxylin", "kind", "outline")


class Frame(NamedTuple):
    """Where an image lies: ``um = matrix @ px + shift_um``, pixel (0, 0) being the outer corner."""

    matrix: np.ndarray
    shift_um: np.ndarray
    rows: int
    columns: int

    @property
    def um_per_px(self) -> float:
        return float(np.sqrt(abs(np.linalg.det(self.matrix))))

    def to_px(self, x_um, y_um) -> tuple[np.ndarray, np.ndarray]:
        """Column and row coordinates of points in µm."""
        inverse = np.linalg.inv(self.matrix)
        x, y = np.asarray(x_um) - self.shift_um[0], np.asarray(y_um) - self.shift_um[1]
        return inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y


def he_frame(knobs: dict, image_seed: list[int]) -> tuple[Frame, float, bool]:
    """The frame of the H&E, its turn against the Xenium frame in degrees, and whether mirrored.

    The image is the upright box around the turned region with its margin.
    """
    random = knob.rng(image_seed, "frame")
    degrees = 90.0 * random.integers(4) + random.choice([-1, 1]) * random.uniform(2, 9)
    mirrored = bool(random.integers(2))
    if knobs["rotation_degrees"] is not None:
        degrees = knobs["rotation_degrees"]
    if knobs["mirrored"] is not None:
        mirrored = knobs["mirrored"]
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = knobs["he_um_per_px"] * turn @ np.diag([-1.0 if mirrored else 1.0, 1.0])
    half_um = np.array([knobs["width_um"], knobs["height_um"]]) / 2
    half_px = np.abs(np.linalg.inv(matrix)) @ (half_um + knob.MARGIN_UM)
    columns, rows = (int(n) for n in np.ceil(2 * half_px - 1e-6))
    shift_um = half_um - matrix @ (np.array([columns, rows]) / 2)
    return Frame(matrix, shift_um, rows, columns), float(degrees), mirrored


def alignment_matrix(frame: Frame) -> np.ndarray:
    """The 3 × 3 matrix that takes H&E pixels to pixels of the morphology image."""
    matrix = np.eye(3)
    matrix[:2, :2] = frame.matrix / knob.PIXEL_SIZE_UM
    matrix[:2, 2] = frame.shift_um / knob.PIXEL_SIZE_UM
    return matrix


class Stain(NamedTuple):
    """How a slide is stained."""

    vectors: np.ndarray  # (2, 3) optical density of both stains in red, green, blue
    strengths: np.ndarray  # (2,) of both stains
    glass: np.ndarray  # (3,) its colour, of 255


def donor_stain(knobs: dict, seeds: dict) -> Stain:
    """The stain of a donor's slide.

    Where ``morphology_signal`` is below 1 the shift leaves the donor for one of the sample's own.
    """
    signal = knobs["morphology_signal"]
    shift = (
        signal * knob.rng(seeds["donor"], "stain").standard_normal(11)
        + np.sqrt(1 - signal**2) * knob.rng(seeds["image_donor"], "stain").standard_normal(11)
    ) * knobs["batch_effect"]
    return shifted_stain(shift)


def shifted_stain(shift: np.ndarray) -> Stain:
    """The stain of a slide for 11 normal deviates."""
    shift = np.clip(shift, -2.0, 2.0)
    vectors = STAIN_OD * np.exp(0.22 * shift[:6].reshape(2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return Stain(
        vectors * np.linalg.norm(STAIN_OD, axis=1, keepdims=True),
        np.exp(0.28 * shift[6:8]),
        np.minimum(GLASS_RGB + 3.0 * shift[8:11], 255.0),
    )


def draw_he(tissue: Tissue, frame: Frame, stain: Stain, image_seed: list[int]) -> np.ndarray:
    """The H&E as uint8 RGB (rows, columns, 3)."""
    cells = _drawn_cells(tissue)
    textures = _textures(image_seed)
    picture = np.empty((frame.rows, frame.columns, 3), np.uint8)
    grids = np.stack([tissue.grids[name] for name in _GRIDS])
    for start in range(0, frame.rows, STRIP_ROWS):
        strip = picture[start : start + STRIP_ROWS]
        stamps = _stamp(cells, frame, start, len(strip))
        stamps += staining.stamp_voids(tissue.voids, frame, start, len(strip))
        staining.shade(strip, stamps, cells, grids, textures, frame, start, stain)
    return picture


def draw_dapi(tissue: Tissue, start: int, rows: int, columns: int, texture) -> np.ndarray:
    """Rows ``start`` to ``start + rows`` of the DAPI image, uint16, in morphology pixels."""
    frame = Frame(np.eye(2) * knob.PIXEL_SIZE_UM, np.zeros(2), start + rows, columns)
    cells = _drawn_cells(tissue, dapi=True)
    near, _, owner = _stamp(cells, frame, start, rows)
    return staining.glow(near, owner, cells.haematoxylin, texture, knob.PIXEL_SIZE_UM, start)


def dapi_texture(seed: list[int]) -> np.ndarray:
    """The chromatin texture for ``draw_dapi``."""
    return _noise(knob.rng(seed, "dapi"), 256, 2.5, 2.5)


def halve(picture: np.ndarray) -> np.ndarray:
    """The picture at half its size, each pixel the mean of four; odd edges are cut."""
    rows, columns = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    # Wide enough for the sum of four.
    wide = np.uint16 if picture.dtype == np.uint8 else np.uint32
    block = picture[:rows, :columns].astype(wide)
    total = block[::2, ::2] + block[1::2, ::2] + block[::2, 1::2] + block[1::2, 1::2]
    return ((total + 2) // 4).astype(picture.dtype)


def halvings(picture: np.ndarray, least_px: int) -> Iterator[np.ndarray]:
    """A pyramid's smaller levels: each half the one before, no side below ``least_px``."""
    while min(picture.shape[:2]) >= 2 * least_px:
        picture = halve(picture)
        yield picture


def _drawn_cells(tissue: Tissue, dapi: bool = False) -> staining.Drawn:
    cells = tissue.cells
    columns = [cells[name] for name in _CELL_COLUMNS]
    if dapi:
        return staining.Drawn(*columns, np.full(len(cells["kind"]), 0.5), cells["states"])
    n = len(tissue.red_cells)
    red = (
        *tissue.red_cells.T,
        *(np.full(n, 0.2), np.full(n, 0.2), np.zeros(n), np.zeros(n)),
        np.full(n, staining.RED_CELL, np.int8),
        np.ones((n, cells["outline"].shape[1])),
        np.full(n, staining.REACH_UM[staining.RED_CELL]),
        np.zeros((n, cells["states"].shape[1]), np.float32),
    )
    columns += [staining.REACH_UM[cells["kind"]], cells["states"]]
    return staining.Drawn(*map(np.concatenate, zip(columns, red, strict=True)))


def _stamp(cells: staining.Drawn, frame: Frame, start: int, rows: int) -> tuple:
    """What ``staining.stamp`` makes of the cells that may touch a strip."""
    _, row = frame.to_px(cells.x_um, cells.y_um)
    extent = (1.4 * cells.major_um + cells.reach_um) / frame.um_per_px + 1
    index = np.flatnonzero((row + extent >= start) & (row - extent <= start + rows))
    return staining.stamp(index, cells, frame, start, rows)


def _noise(random, size: int, sigma_rows: float, sigma_columns: float) -> np.ndarray:
    """A periodic texture of mean 0 and standard deviation 1."""
    noise = ndimage.gaussian_filter(
        random.standard_normal((size, size)), (sigma_rows, sigma_columns), mode="wrap"
    )
    return (noise / noise.std()).astype(np.float32)


def _textures(image_seed):
    random = knob.rng(image_seed, "textures")
    return (
        _noise(random, 1024, 1.1, 12.0),
        _noise(random, 512, 1.5, 1.5),
        random.standard_normal((256, 256)).astype(np.float32),
    )
