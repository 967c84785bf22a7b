"""Kernels that draw a strip of a tissue: which nucleus is near, and the stains of each pixel."""

from typing import NamedTuple

import numba
import numpy as np

from pairscape.simulation.fields import STEP_UM, interpolate
from pairscape.simulation.knobs import MARGIN_UM

# How far cytoplasm reaches beyond the nucleus (µm), and its eosin and haematoxylin, by cell type;
# the last row is a red blood cell.
REACH_UM = np.array([4.6, 4.4, 0.9, 1.7, 0.9, 3.4, 0.9, 0.5, 3.1])
_EOSIN = np.array([0.27, 0.36, 0.38, 0.46, 0.14, 0.22, 0.36, 0.34, 0.62])
_BASOPHILIA = np.array([0.15, 0.10, 0.06, 0.07, 0.12, 0.05, 0.05, 0.02, 0.0])
RED_CELL = 8
_FAR_UM = np.float32(1e6)


class Drawn(NamedTuple):
    """Columns of all that is stamped: cells, and for the H&E red blood cells after them."""

    x_um: np.ndarray
    y_um: np.ndarray
    major_um: np.ndarray
    minor_um: np.ndarray
    angle: np.ndarray
    haematoxylin: np.ndarray
    kind: np.ndarray
    outline: np.ndarray
    reach_um: np.ndarray
    states: np.ndarray


@numba.njit(cache=True)
def texture_at(texture, row, column):
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
def _to_px(frame, x_um, y_um):
    """Column and row of a point."""
    matrix = frame.matrix
    dx, dy = x_um - frame.shift_um[0], y_um - frame.shift_um[1]
    column = (matrix[1, 1] * dx - matrix[0, 1] * dy) / _determinant(matrix)
    return column, (matrix[0, 0] * dy - matrix[1, 0] * dx) / _determinant(matrix)


@numba.njit(cache=True)
def _to_um(matrix, x_px, y_px):
    """What so many pixels are in µm."""
    return (
        matrix[0, 0] * x_px + matrix[0, 1] * y_px,
        matrix[1, 0] * x_px + matrix[1, 1] * y_px,
    )


@numba.njit(cache=True)
def _determinant(matrix):
    return matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]


@numba.njit(cache=True)
def stamp(index, cells, frame, start, rows):
    """Distance (µm, negative inside) to the nearest and second nearest nucleus, and whose it is.

    Of the rows from ``start`` on; only the cells of ``index`` are looked at.
    """
    major, minor, outline, reach = cells.major_um, cells.minor_um, cells.outline, cells.reach_um
    matrix, columns = frame.matrix, frame.columns
    near = np.full((rows, columns), _FAR_UM, np.float32)
    second = np.full((rows, columns), _FAR_UM, np.float32)
    owner = np.full((rows, columns), -1, np.int32)
    um_per_px = np.sqrt(abs(_determinant(matrix)))
    points = outline.shape[1]
    for i in index:
        column, row = _to_px(frame, cells.x_um[i], cells.y_um[i])
        row -= start
        extent = (1.4 * major[i] + reach[i]) / um_per_px
        cosine, sine = np.cos(cells.angle[i]), np.sin(cells.angle[i])
        for r in range(max(0, int(row - extent)), min(rows, int(row + extent) + 2)):
            for c in range(max(0, int(column - extent)), min(columns, int(column + extent) + 2)):
                ux, uy = _to_um(matrix, c + 0.5 - column, r + 0.5 - row)
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
def stamp_voids(voids, frame, start, rows):
    """Distance (µm, negative inside) to the nearest structure's lumen, and the structure's kind."""
    radius, phase, matrix, columns = voids.radius_um, voids.phase, frame.matrix, frame.columns
    depth = np.full((rows, columns), _FAR_UM, np.float32)
    which = np.full((rows, columns), -1, np.int8)
    um_per_px = np.sqrt(abs(_determinant(matrix)))
    for i in range(len(radius)):
        column, row = _to_px(frame, voids.x_um[i], voids.y_um[i])
        row -= start
        extent = (1.1 * radius[i] + 4.0) / um_per_px
        for r in range(max(0, int(row - extent)), min(rows, int(row + extent) + 2)):
            for c in range(max(0, int(column - extent)), min(columns, int(column + extent) + 2)):
                ux, uy = _to_um(matrix, c + 0.5 - column, r + 0.5 - row)
                a = np.arctan2(uy, ux)
                edge = radius[i] * (
                    1 + 0.06 * np.sin(2 * a + phase[i]) + 0.035 * np.sin(3 * a + 2.3 * phase[i])
                )
                distance = np.sqrt(ux * ux + uy * uy) - edge
                if distance < depth[r, c]:
                    depth[r, c] = distance
                    which[r, c] = voids.kind[i]
    return depth, which


@numba.njit(cache=True)
def shade(picture, stamps, cells, grids, textures, frame, start, stain):
    """Amounts of both stains for each pixel, from the ground up, then light through them.

    ``stamps`` is all that ``stamp`` and ``stamp_voids`` made of the same rows.
    """
    near, second, owner, depth, void_kind = stamps
    fibres, chromatin, grain = textures
    vectors, strengths, glass = stain
    kind, states = cells.kind, cells.states
    rows, columns = near.shape
    log10 = np.log(10.0)
    for r in range(rows):
        for c in range(columns):
            x, y = _to_um(frame.matrix, c + 0.5, r + start + 0.5)
            x, y = x + frame.shift_um[0], y + frame.shift_um[1]
            row, column = (y + MARGIN_UM) / STEP_UM, (x + MARGIN_UM) / STEP_UM
            speckle = grain[(r + start) & 255, c & 255]
            mottle = texture_at(chromatin, y * 0.9, x * 0.9)
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
                coarse = texture_at(fibres, across * 0.45, along * 0.45)
                fine = texture_at(fibres, across * 1.3 + 300.0, along * 1.3)
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
                    body = _ramp(REACH_UM[k] - distance, 0.0, 1.3)
                    if d < 0 and k != 8 and not (k == 7 or k == 6):
                        body *= _ramp(d, -0.9, -0.1)
                    grade = min(max(states[i, 0], -2.5), 2.5)
                    lack = min(max(states[i, 2], -2.5), 2.5)
                    cell_eosin = _EOSIN[k]
                    cell_haem = _BASOPHILIA[k]
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
                            tone = 1 + 0.16 * texture_at(chromatin, y * 1.7, x * 1.7)
                            amount = cells.haematoxylin[i] * tone * (1 - clearing * (1 - rim))
                            if k == 0 and grade > -0.4:
                                # Nucleolus, at a place of its own in each nucleus.
                                turn = 7.0 * cells.x_um[i]
                                ox = x - cells.x_um[i] - 0.25 * cells.major_um[i] * np.cos(turn)
                                oy = y - cells.y_um[i] - 0.25 * cells.minor_um[i] * np.sin(turn)
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
def glow(near, owner, haematoxylin, texture, pixel_um, start):
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
                tone = 1 + 0.2 * texture_at(texture, y * 3.0, x * 3.0)
                level += core * 2600.0 * haematoxylin[i] * max(tone, 0.2)
            image[r, c] = np.uint16(int(level) // 8 * 8)
    return image
