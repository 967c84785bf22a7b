"""Drawing a tissue: the H&E by Beer-Lambert mixing of two stains, and the DAPI image."""

from dataclasses import dataclass

import numba
import numpy as np
from scipy import ndimage

from pairscape.simulation import knobs as knob
from pairscape.simulation.fields import STEP_UM, interpolate
from pairscape.simulation.tissue import Tissue

# Optical density of haematoxylin and eosin in red, green, blue: Macenko et al. 2009 (ISBI), the
# reference matrix of their published code.
STAIN_OD = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])

GLASS_RGB = np.array([243.0, 242.0, 244.0])

STRIP_ROWS = 512

# How far cytoplasm reaches beyond the nucleus (µm), and its eosin and haematoxylin, by cell type;
# the last row is a red blood cell.
_REACH_UM = np.array([4.6, 4.4, 0.9, 1.7, 0.9, 3.4, 0.9, 0.5, 3.1])
_EOSIN = np.array([0.27, 0.36, 0.38, 0.46, 0.14, 0.22, 0.36, 0.34, 0.62])
_BASOPHILIA = np.array([0.15, 0.10, 0.06, 0.07, 0.12, 0.05, 0.05, 0.02, 0.0])
_RED_CELL = 8
_FAR_UM = np.float32(1e6)


@dataclass(frozen=True)
class Frame:
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


def donor_stain(knobs: dict, seeds: dict) -> dict:
    """Stain vectors (2, 3), their strengths (2) and the glass (3) of a donor's slide.

    Where ``morphology_signal`` is below 1 the shift leaves the donor for one of the sample's own.
    """
    signal = knobs["morphology_signal"]
    shift = (
        signal * knob.rng(seeds["donor"], "stain").standard_normal(11)
        + np.sqrt(1 - signal**2) * knob.rng(seeds["image_donor"], "stain").standard_normal(11)
    ) * knobs["batch_effect"]
    return shifted_stain(shift)


def shifted_stain(shift: np.ndarray) -> dict:
    """Stain vectors (2, 3), their strengths (2) and the glass (3) for 11 normal deviates."""
    shift = np.clip(shift, -2.0, 2.0)
    vectors = STAIN_OD * np.exp(0.22 * shift[:6].reshape(2, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return {
        "vectors": vectors * np.linalg.norm(STAIN_OD, axis=1, keepdims=True),
        "strengths": np.exp(0.28 * shift[6:8]),
        "glass": np.minimum(GLASS_RGB + 3.0 * shift[8:11], 255.0),
    }


def draw_he(tissue: Tissue, frame: Frame, stain: dict, image_seed: list[int]) -> np.ndarray:
    """The H&E as uint8 RGB (rows, columns, 3)."""
    cells = _drawn_cells(tissue)
    textures = _textures(image_seed)
    picture = np.empty((frame.rows, frame.columns, 3), np.uint8)
    grids = np.stack(
        [
            tissue.grids[name]
            for name in (
                "inside_um",
                "along_um",
                "across_um",
                "collagen",
                "oedema",
                "muscle",
                "tumour",
            )
        ]
    )
    matrix, shift = frame.matrix, frame.shift_um
    void_columns = tuple(tissue.voids[n] for n in ("x_um", "y_um", "radius_um", "phase"))
    for start in range(0, frame.rows, STRIP_ROWS):
        rows = min(STRIP_ROWS, frame.rows - start)
        chosen = _near_strip(frame, cells, start, rows)
        near, second, owner = _stamp(*chosen, matrix, shift, start, rows, frame.columns)
        depth, void_kind = _stamp_voids(
            *void_columns, tissue.voids["kind"], matrix, shift, start, rows, frame.columns
        )
        _shade(
            picture[start : start + rows], near, second, owner, depth, void_kind,
            *chosen, cells["states"], grids, tissue.origin_um, *textures, matrix, shift, start,
            stain["vectors"], stain["strengths"], stain["glass"],
            _REACH_UM, _EOSIN, _BASOPHILIA,
        )  # fmt: skip
    return picture


def draw_dapi(tissue: Tissue, start: int, rows: int, columns: int, texture) -> np.ndarray:
    """Rows ``start`` to ``start + rows`` of the DAPI image, uint16, in morphology pixels."""
    pixel_um = knob.PIXEL_SIZE_UM
    frame = Frame(np.eye(2) * pixel_um, np.zeros(2), start + rows, columns)
    cells = _drawn_cells(tissue, dapi=True)
    chosen = _near_strip(frame, cells, start, rows)
    near, _, owner = _stamp(*chosen, frame.matrix, frame.shift_um, start, rows, columns)
    return _glow(near, owner, cells["haematoxylin"], texture, pixel_um, start)


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


def _drawn_cells(tissue: Tissue, dapi: bool = False) -> dict:
    """Columns of all that is stamped: cells, and for the H&E red blood cells after them."""
    cells = tissue.cells
    reach = _REACH_UM[cells["kind"]]
    names = ("x_um", "y_um", "major_um", "minor_um", "angle", "haematoxylin", "kind", "outline")
    columns = {name: cells[name] for name in names} | {"reach_um": reach}
    columns["states"] = cells["states"]
    if dapi:
        return columns | {"reach_um": np.full(len(reach), 0.5)}
    n = len(tissue.red_cells)
    red = {
        "x_um": tissue.red_cells[:, 0],
        "y_um": tissue.red_cells[:, 1],
        "major_um": np.full(n, 0.2),
        "minor_um": np.full(n, 0.2),
        "angle": np.zeros(n),
        "haematoxylin": np.zeros(n),
        "kind": np.full(n, _RED_CELL, np.int8),
        "outline": np.ones((n, cells["outline"].shape[1])),
        "reach_um": np.full(n, _REACH_UM[_RED_CELL]),
        "states": np.zeros((n, cells["states"].shape[1]), np.float32),
    }
    return {name: np.concatenate([columns[name], red[name]]) for name in columns}


def _near_strip(frame: Frame, cells: dict, start: int, rows: int) -> tuple:
    """Indices of the cells that may touch a strip, and the columns the kernels need."""
    _, row = frame.to_px(cells["x_um"], cells["y_um"])
    extent = (1.4 * cells["major_um"] + cells["reach_um"]) / frame.um_per_px + 1
    index = np.flatnonzero((row + extent >= start) & (row - extent <= start + rows))
    return (
        index, cells["x_um"], cells["y_um"], cells["major_um"], cells["minor_um"], cells["angle"],
        cells["outline"], cells["reach_um"], cells["haematoxylin"], cells["kind"],
    )  # fmt: skip


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


@numba.njit(cache=True)
def _texture(texture, row, column):
    """Bilinear value of a periodic texture whose side is a power of two."""
    side = texture.shape[0] - 1
    i, j = int(np.floor(row)), int(np.floor(column))
    a, b = row - i, column - j
    i0, i1, j0, j1 = i & side, (i + 1) & side, j & side, (j + 1) & side
    return (1 - a) * ((1 - b) * texture[i0, j0] + b * texture[i0, j1]) + a * (
        (1 - b) * texture[i1, j0] + b * texture[i1, j1]
    )


@numba.njit(cache=True)
def _ramp(value, low, high):
    """0 below ``low``, 1 above ``high``, smooth between."""
    t = min(max((value - low) / (high - low), 0.0), 1.0)
    return t * t * (3 - 2 * t)


@numba.njit(cache=True)
def _stamp(
    index, x_um, y_um, major, minor, angle, outline, reach, haematoxylin, kind,
    matrix, shift, start, rows, columns,
):  # fmt: skip
    """Distance (µm, negative inside) to the nearest and second nearest nucleus, and whose it is."""
    near = np.full((rows, columns), _FAR_UM, np.float32)
    second = np.full((rows, columns), _FAR_UM, np.float32)
    owner = np.full((rows, columns), -1, np.int32)
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    um_per_px = np.sqrt(abs(determinant))
    points = outline.shape[1]
    for i in index:
        dx, dy = x_um[i] - shift[0], y_um[i] - shift[1]
        column = (matrix[1, 1] * dx - matrix[0, 1] * dy) / determinant
        row = (matrix[0, 0] * dy - matrix[1, 0] * dx) / determinant - start
        extent = (1.4 * major[i] + reach[i]) / um_per_px
        cosine, sine = np.cos(angle[i]), np.sin(angle[i])
        for r in range(max(0, int(row - extent)), min(rows, int(row + extent) + 2)):
            for c in range(max(0, int(column - extent)), min(columns, int(column + extent) + 2)):
                px, py = c + 0.5 - column, r + 0.5 - row
                ux = matrix[0, 0] * px + matrix[0, 1] * py
                uy = matrix[1, 0] * px + matrix[1, 1] * py
                u = (cosine * ux + sine * uy) / major[i]
                v = (cosine * uy - sine * ux) / minor[i]
                relative = np.sqrt(u * u + v * v) + 1e-6
                if 0.5 < relative < 2.0:
                    place = np.arctan2(v, u) / (2 * np.pi) * points
                    if place < 0:
                        place += points
                    k = int(place)
                    share = place - k
                    k %= points
                    relative /= (1 - share) * outline[i, k] + share * outline[i, (k + 1) % points]
                distance = np.sqrt(ux * ux + uy * uy) * (1 - 1 / relative)
                if relative < 0.5:
                    distance = -minor[i] * (1 - relative)
                if distance > reach[i]:
                    continue
                if distance < near[r, c]:
                    second[r, c] = near[r, c]
                    near[r, c] = distance
                    owner[r, c] = i
                elif distance < second[r, c]:
                    second[r, c] = distance
    return near, second, owner


@numba.njit(cache=True)
def _stamp_voids(x_um, y_um, radius, phase, kind, matrix, shift, start, rows, columns):
    """Distance (µm, negative inside) to the nearest structure's lumen, and the structure's kind."""
    depth = np.full((rows, columns), _FAR_UM, np.float32)
    which = np.full((rows, columns), -1, np.int8)
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    um_per_px = np.sqrt(abs(determinant))
    for i in range(len(x_um)):
        dx, dy = x_um[i] - shift[0], y_um[i] - shift[1]
        column = (matrix[1, 1] * dx - matrix[0, 1] * dy) / determinant
        row = (matrix[0, 0] * dy - matrix[1, 0] * dx) / determinant - start
        extent = (1.1 * radius[i] + 4.0) / um_per_px
        for r in range(max(0, int(row - extent)), min(rows, int(row + extent) + 2)):
            for c in range(max(0, int(column - extent)), min(columns, int(column + extent) + 2)):
                px, py = c + 0.5 - column, r + 0.5 - row
                ux = matrix[0, 0] * px + matrix[0, 1] * py
                uy = matrix[1, 0] * px + matrix[1, 1] * py
                a = np.arctan2(uy, ux)
                edge = radius[i] * (
                    1 + 0.06 * np.sin(2 * a + phase[i]) + 0.035 * np.sin(3 * a + 2.3 * phase[i])
                )
                distance = np.sqrt(ux * ux + uy * uy) - edge
                if distance < depth[r, c]:
                    depth[r, c] = distance
                    which[r, c] = kind[i]
    return depth, which


@numba.njit(cache=True)
def _shade(
    picture, near, second, owner, depth, void_kind,
    index, x_um, y_um, major, minor, angle, outline, reach, haematoxylin, kind,
    states, grids, origin_um, fibres, chromatin, grain, matrix, shift, start,
    vectors, strengths, glass, reaches, eosin_of, basophilia_of,
):  # fmt: skip
    """Amounts of both stains for each pixel, from the ground up, then light through them."""
    rows, columns = near.shape
    log10 = np.log(10.0)
    for r in range(rows):
        for c in range(columns):
            px, py = c + 0.5, r + start + 0.5
            x = matrix[0, 0] * px + matrix[0, 1] * py + shift[0]
            y = matrix[1, 0] * px + matrix[1, 1] * py + shift[1]
            row, column = (y - origin_um) / STEP_UM, (x - origin_um) / STEP_UM
            speckle = grain[(r + start) & 255, c & 255]
            mottle = _texture(chromatin, y * 0.9, x * 0.9)
            inside = interpolate(grids[0], row, column) + 1.2 * mottle
            cover = _ramp(inside, -1.5, 1.5)
            haem = 0.0
            eosin = 0.0
            if cover > 0:
                along = interpolate(grids[1], row, column)
                across = interpolate(grids[2], row, column)
                collagen = min(max(interpolate(grids[3], row, column), -2.5), 2.5)
                oedema = min(max(interpolate(grids[4], row, column), -2.5), 2.5)
                muscle = interpolate(grids[5], row, column)
                coarse = _texture(fibres, across * 0.45, along * 0.45)
                fine = _texture(fibres, across * 1.3 + 300.0, along * 1.3)
                # Stroma: collagen bundles, pale slits between them where it is oedematous.
                eosin = (0.30 + 0.075 * collagen) * (1 + 0.16 * coarse + 0.17 * fine)
                slit = _ramp(0.8 * coarse + 0.55 * fine, 1.0 - 0.42 * oedema, 1.55 - 0.42 * oedema)
                eosin *= 1 - 0.88 * slit
                haem = 0.035 + 0.025 * max(oedema, 0.0) * (1 - slit)
                # Smooth muscle: even, strongly eosinophilic, without slits.
                bundle = 0.43 * (1 + 0.07 * coarse + 0.10 * fine)
                eosin += muscle * (bundle - eosin)
                haem += muscle * (0.07 - haem)
                # Tumour nests: little stroma, ground glass instead of fibres between the cells.
                tumour = 0.75 * interpolate(grids[6], row, column)
                eosin += tumour * (0.24 * (1 + 0.08 * fine) - eosin)
                haem += tumour * (0.07 - haem)
                # Structures: a bare inside behind a thin wall.
                d = depth[r, c]
                if d < 4.0:
                    void = void_kind[r, c]
                    wall = np.exp(-(((d - 0.4) / (0.8 if void == 0 else 1.6)) ** 2))
                    if void == 0:
                        eosin *= _ramp(d, -0.6, 0.4)
                        haem *= _ramp(d, -0.6, 0.4)
                        eosin = max(eosin, 0.34 * wall)
                    else:
                        eosin *= _ramp(d, -0.7, 0.3)
                        haem *= _ramp(d, -0.7, 0.3)
                        if void == 2:
                            eosin = max(eosin, 0.42 * wall)
                            if d < 0:
                                eosin += 0.035
                i = owner[r, c]
                if i >= 0:
                    k = kind[i]
                    distance = near[r, c]
                    body = _ramp(reaches[k] - distance, 0.0, 1.3)
                    if d < 0 and k != 8 and not (k == 7 or k == 6):
                        body *= _ramp(d, -0.9, -0.1)
                    grade = min(max(states[i, 0], -2.5), 2.5)
                    lack = min(max(states[i, 2], -2.5), 2.5)
                    cell_eosin = eosin_of[k]
                    cell_haem = basophilia_of[k]
                    if k == 0:
                        cell_eosin *= 1 + 0.26 * lack
                        cell_haem *= np.exp(0.25 * grade - 0.30 * lack)
                    elif k == 5:
                        cell_eosin *= 1 - 0.35 * _ramp(mottle, 0.2, 0.9)
                    cell_eosin *= 1 + 0.07 * mottle
                    if k <= 1:
                        # Cell borders: a pale line where two cells are equally near.
                        gap = _ramp(second[r, c] - distance, 0.0, 1.0)
                        cell_eosin *= 0.72 + 0.28 * gap
                        cell_haem *= 0.65 + 0.35 * gap
                    eosin += body * (cell_eosin - eosin)
                    haem += body * (cell_haem - haem)
                    if k != 8:
                        core = _ramp(-distance, -0.32, 0.32)
                        if core > 0:
                            rim = np.exp(-(((distance + 0.5) / 0.45) ** 2))
                            clearing = 0.20 + (0.08 * grade if k == 0 else 0.0)
                            tone = 1 + 0.16 * _texture(chromatin, y * 1.7, x * 1.7)
                            amount = haematoxylin[i] * tone * (1 - clearing * (1 - rim))
                            if k == 0 and grade > -0.4:
                                # Nucleolus, at a place of its own in each nucleus.
                                ox = x - x_um[i] - 0.25 * major[i] * np.cos(7.0 * x_um[i])
                                oy = y - y_um[i] - 0.25 * minor[i] * np.sin(7.0 * x_um[i])
                                size = 0.75 + 0.18 * grade
                                spot = np.exp(-(ox * ox + oy * oy) / (size * size))
                                amount += (0.26 + 0.12 * grade) * spot
                            haem += core * (max(amount, 0.05) - haem)
                            eosin += core * (0.10 - eosin)
                haem = max(haem, 0.0) * cover
                eosin = max(eosin, 0.0) * cover
            haem *= strengths[0] * (1 + 0.03 * mottle)
            eosin *= strengths[1] * (1 + 0.03 * mottle)
            for channel in range(3):
                density = haem * vectors[0, channel] + eosin * vectors[1, channel]
                level = glass[channel] * np.exp(-log10 * density) + 1.3 * speckle
                picture[r, c, channel] = np.uint8(min(max(level + 0.5, 0.0), 255.0))


@numba.njit(cache=True)
def _glow(near, owner, haematoxylin, texture, pixel_um, start):
    """DAPI: nuclei glow by their chromatin above an even background."""
    rows, columns = near.shape
    image = np.empty((rows, columns), np.uint16)
    for r in range(rows):
        for c in range(columns):
            # Levels in steps of 8, as fine as such noise means; they compress well.
            level = 96.0
            i = owner[r, c]
            if i >= 0:
                core = _ramp(-near[r, c], -0.45, 0.45)
                y, x = (r + start) * pixel_um, c * pixel_um
                tone = 1 + 0.2 * _texture(texture, y * 3.0, x * 3.0)
                level += core * 2600.0 * haematoxylin[i] * max(tone, 0.2)
            image[r, c] = np.uint16(int(level) // 8 * 8)
    return image
