"""The search for rivals of an alignment."""

import math

import numpy as np

from pairscape.acquire.alignment import apply
from pairscape.spots.registration_maps import (
    APART_UM,
    BLOCK_UM,
    PIXEL_UM,
    SMOOTHING_UM,
    SPOT_UM,
    Picture,
    Region,
    blur,
    reduced_map,
)

SEARCH_SIDE = 64  # pixels along the region
SEARCH_STEP_DEGREES = 6.0
SEARCH_KEPT = 3  # peaks that are refined
REFINED_POINTS = 6_000


class Board:
    """The region in blocks, and the haematoxylin that a hypothesis puts on it."""

    def __init__(self, picture: Picture, region: Region, pixel_size_um: float):
        self.picture, self.region, self.pixel_size_um = picture, region, pixel_size_um
        self.centres_um = region.centres_um
        self.maps = np.stack([values.ravel() for values in region.maps.values()])
        rows, columns = region.tissue.shape
        block, self.white = _chequerboard(rows, columns)
        self.block, self.blocks = block.ravel(), len(self.white)
        self._blurred = {}

    def blurred(self, um_per_px: float) -> tuple[np.ndarray, float]:
        """The density smoothed as the region is, for pixels of this size; its H&E pixels a pixel."""
        sigma = SMOOTHING_UM / (um_per_px * self.picture.scale)
        key = round(math.log(sigma) * 20)
        if key not in self._blurred:
            sigma = math.exp(key / 20)
            step = max(1, min(int(sigma / 3), min(self.picture.density.shape)))
            small = reduced_map(self.picture.density, step)
            self._blurred[key] = blur(small, sigma / step), self.picture.scale * step
        return self._blurred[key]

    def under(self, matrix: np.ndarray, points=slice(None)) -> np.ndarray:
        """The haematoxylin at the region's pixels under a hypothesis; 0 beyond the H&E."""
        from scipy.ndimage import map_coordinates

        to_he = np.linalg.inv(matrix)
        um_per_px = self.pixel_size_um * math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        density, scale = self.blurred(um_per_px)
        morphology_px = self.centres_um[points] / self.pixel_size_um
        x, y = apply(to_he, morphology_px).T / scale - 0.5
        return map_coordinates(density, [y, x], order=1, mode="grid-constant", cval=0.0)

    def sums(self, matrix: np.ndarray) -> np.ndarray:
        """What ``score`` needs, (maps, 6, blocks): n, h, hh, x, xx, hx of each block."""
        h = self.under(matrix).astype(np.float64)

        def total(values):
            return np.bincount(self.block, values, self.blocks)

        picture = [total(np.ones_like(h)), total(h), total(h * h)]
        return np.stack(
            [np.stack([*picture, total(x), total(x * x), total(h * x)]) for x in self.maps]
        )


def _chequerboard(rows: int, columns: int):
    """The block of each pixel, (rows, columns), and for each block whether it is white."""
    size = round(BLOCK_UM / PIXEL_UM)
    row, column = np.mgrid[:rows, :columns] // size
    across = int(column.max()) + 1
    blocks = np.arange((int(row.max()) + 1) * across)
    return row * across + column, (blocks // across + blocks % across) % 2 == 1


def search(
    board: Board, halves: list, scales: list[float], degrees: float, most: int = SEARCH_KEPT
) -> list[list]:
    """The best alignments over all turns, mirrors and shifts, on each of some sets of blocks.

    The turns go in steps from ``degrees`` on. For each, the correlation under every shift comes
    from Fourier transforms of a coarse grid; the highest peaks are refined: for each set at most
    ``most`` (3, 3) matrices of H&E pixels to morphology pixels.
    """
    from scipy import fft
    from scipy.ndimage import affine_transform

    step = math.ceil(max(board.region.tissue.shape) / SEARCH_SIDE)
    coarse_um = step * PIXEL_UM
    weighed = [_weigh(board, half, step) for half in halves]
    peaks = [[] for _ in halves]
    for scale in scales:
        density, he_px = board.blurred(scale)
        side = math.ceil(math.hypot(*density.shape) * he_px * scale / coarse_um) + 1
        if side > 6 * SEARCH_SIDE:  # an H&E so large under this scale that nothing fits it
            continue
        shape = [fft.next_fast_len(side + n, real=True) for n in weighed[0][0].shape]
        wanted = [[fft.rfft2(grid, shape).conj() for grid in pair] for pair in weighed]
        middle = (np.array(density.shape) - 1) / 2
        for mirrored in (False, True):
            for turn in np.arange(0, 360, SEARCH_STEP_DEGREES) + degrees:
                back = np.linalg.inv(_turn(turn, mirrored)) * coarse_um / (scale * he_px)
                back = back[::-1, ::-1]  # of (row, column)
                offset = middle - back @ np.full(2, (side - 1) / 2)
                h = affine_transform(density, back, offset, (side, side), order=1)
                once, twice = fft.rfft2(h, shape), fft.rfft2(h * h, shape)
                for (weight, pattern), of_half in zip(wanted, peaks, strict=True):
                    variance = fft.irfft2(twice * weight, shape)
                    variance -= fft.irfft2(once * weight, shape) ** 2
                    fit = fft.irfft2(once * pattern, shape) / np.sqrt(np.maximum(variance, 1e-4))
                    place = np.unravel_index(np.argmax(fit), fit.shape)
                    shift = [p if p < side else p - n for p, n in zip(place, shape, strict=True)]
                    centre_um = (side / 2 - np.array(shift[::-1])) * coarse_um
                    centre_um += board.region.low_um
                    of_half.append((float(fit[place]), scale, mirrored, turn, centre_um))
    refined = []
    for half, of_half in zip(halves, peaks, strict=True):
        kept = []
        for peak in sorted(of_half, key=lambda peak: -peak[0]):
            if len(kept) < most and all(_apart(peak, other) for other in kept):
                kept.append(peak)
        refined.append([_refine(board, half, _placed(board, *peak[1:])) for peak in kept])
    return refined


def _weigh(board: Board, half: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of a set on a coarse grid, and what the haematoxylin there should look like.

    Both are divided by the number of pixels, so that a product with them sums to a mean. A coarse
    pixel tells of those of its fine ones that are in the set, and of no others.
    """
    mask = half[board.block].reshape(board.region.tissue.shape).astype(np.float32)
    weight = reduced_map(mask, step)
    n = float(weight.sum())
    pattern = np.zeros_like(weight)
    for fine in board.region.maps.values():
        weighted = reduced_map(fine * mask, step)
        weighted = weighted - weighted.sum() / n * weight
        square = np.divide(weighted**2, weight, out=np.zeros_like(weight), where=weight > 0)
        pattern += weighted / max(math.sqrt(square.sum() / n), 1e-6)
    return weight / n, pattern / (n * len(board.region.maps))


def _apart(one: tuple, other: tuple) -> bool:
    """Whether two peaks of the search aren't the same place found from two turns."""
    turn = abs((one[3] - other[3] + 180) % 360 - 180)
    far = np.hypot(*(one[4] - other[4])) > APART_UM
    return one[1:3] != other[1:3] or turn > 2 * SEARCH_STEP_DEGREES or bool(far)


def _placed(board: Board, scale: float, mirrored: bool, degrees: float, centre_um) -> np.ndarray:
    """The matrix that turns the H&E about its middle and puts that at ``centre_um``."""
    middle_px = np.array(board.picture.density.shape[::-1]) * board.picture.scale / 2
    matrix = np.eye(3)
    matrix[:2, :2] = _turn(degrees, mirrored) * scale / board.pixel_size_um
    matrix[:2, 2] = centre_um / board.pixel_size_um - matrix[:2, :2] @ middle_px
    return matrix


def _refine(board: Board, half: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and move an alignment a little to where it fits best on some of the blocks."""
    from scipy.optimize import minimize

    points = np.flatnonzero(half[board.block])
    points = points[:: math.ceil(len(points) / REFINED_POINTS)]
    maps = board.maps[:, points] - board.maps[:, points].mean(axis=1, keepdims=True)
    maps /= np.maximum(np.linalg.norm(maps, axis=1, keepdims=True), 1e-6)
    wanted = maps.mean(axis=0)
    middle = board.centres_um.mean(axis=0) / board.pixel_size_um

    def moved(change):
        turn = about(_turn(change[0], False), middle)
        turn[:2, 2] += change[1:] / board.pixel_size_um
        return turn @ matrix

    def misfit(change):
        h = board.under(moved(change), points)
        h = h - h.mean()
        return -float(wanted @ h / max(np.linalg.norm(h), 1e-6))

    start = np.array([[0, 0, 0], [SEARCH_STEP_DEGREES / 2, 0, 0], [0, SPOT_UM, 0], [0, 0, SPOT_UM]])
    options = {"initial_simplex": start, "maxfev": 60, "xatol": 0.3, "fatol": 1e-4}
    return moved(minimize(misfit, start[0], method="Nelder-Mead", options=options).x)


def _turn(degrees: float, mirrored: bool) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if mirrored else 1.0, 1.0])


def about(linear: np.ndarray, centre: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ centre
    return matrix
