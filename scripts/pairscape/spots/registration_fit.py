"""The alignment of an H&E that came without one: the similarity that brings it to the bundle.

Coarse to fine. First the search of ``check_alignment``, over turns, mirrors, shifts and the pixel sizes
that may be; its best places are turned, moved and scaled to where haematoxylin, nuclei and transcripts
correlate best. Then single nuclei tell: the alignment is moved to where haematoxylin is darker at the
nuclei than around them, on the whole and, block by block, as a map of what is left (residuals), whose
outliers RANSAC (scikit-image) leaves out.

A fit is a proposal: it is used only where ``registration.judge`` accepts it by a clear margin.
"""

import math
from dataclasses import dataclass

import numpy as np

from pairscape.acquire.alignment import apply
from pairscape.spots import registration
from pairscape.spots.registration_maps import (
    APART_UM,
    BLOCK_UM,
    MIN_CELLS,
    PIXEL_UM,
    SPOT_UM,
    Picture,
    Region,
    blur,
)
from pairscape.spots.registration_search import Board, about, search

# Pixel sizes of slide scanners and of their first reductions, where nothing tells it.
SMALLEST_UM, LARGEST_UM, SCALE_STEP = 0.2, 2.2, 1.09
KEPT = 8  # places that are looked at closely
NUCLEUS_UM, AROUND_UM = 3.0, 12.0  # widths of what a nucleus is told from
REACH_UM, REACH_STEP_UM = 16.0, 2.0  # of the residual of a block
MIN_BLOCK_NUCLEI = 20
CLEAR_MARGIN = registration.MARGIN  # of score, to the best rival: as clear as a refusal has to be
CLEAR_RATIO = 2.0  # of the nuclei's contrast, to that of the best other place
MAX_RESIDUAL_UM = 10.0  # median over the blocks


@dataclass(frozen=True)
class Fit:
    """A proposed alignment, (3, 3) H&E pixels to morphology pixels, and what is left in each block.

    ``blocks`` (n, 2): centres in Xenium micrometres; ``residuals`` (n, 2): how far the haematoxylin
    lies from its nuclei there (µm). ``contrast``: how much darker the H&E is at nuclei than around them
    (standard deviations), and ``rival_contrast`` the same of the best other place that was looked at.
    """

    matrix: np.ndarray
    blocks: np.ndarray
    residuals: np.ndarray
    contrast: float = 0.0
    rival_contrast: float = 0.0

    @property
    def residual_um(self) -> float | None:
        """The median length of the residuals; None without a block that tells."""
        return float(np.median(np.hypot(*self.residuals.T))) if len(self.residuals) else None


def fit(
    picture: Picture,
    close: Picture,
    region: Region,
    pixel_size_um: float,
    *,
    he_um_per_px: float | None,
) -> Fit | None:
    """Find the alignment of an H&E; None where it is far too large for the bundle's region.

    Parameters
    ----------
    picture, close
        Its haematoxylin, small and as fine as single nuclei need it (2 µm a pixel will do).
    region
        What the bundle says (``registration_maps.read_region``).
    pixel_size_um
        Of the morphology image.
    he_um_per_px
        Of the H&E, by its header or the sample table; None tries all that scanners have.
    """
    board, nuclei_um = Board(picture, region, pixel_size_um), region.nuclei_um
    scales = [he_um_per_px] if he_um_per_px else _scales()
    everywhere = np.ones(board.blocks, bool)
    found = search(board, [everywhere], scales, 0.0, KEPT)[0]
    coarse = [_refined(matrix, region, pixel_size_um, _coarse_misfit(board)) for matrix in found]
    if not coarse:
        return None
    if len(nuclei_um) < MIN_CELLS:
        return Fit(min(coarse, key=lambda pair: pair[0])[1], np.empty((0, 2)), np.empty((0, 2)))
    # Where a section fits many places alike, its single nuclei fit one.
    closer = [_by_nuclei(close, matrix, region, nuclei_um, pixel_size_um) for _, matrix in coarse]
    misfit, matrix, dark = min(closer, key=lambda fitted: fitted[0])
    far = (
        -one[0]
        for one in closer
        if registration.farthest_um(matrix, one[1], region, pixel_size_um) > APART_UM
    )
    contrasts = -misfit, max(far, default=0.0)
    blocks, residuals = _residuals(dark, matrix, nuclei_um, pixel_size_um)
    bent = _by_blocks(matrix, blocks, residuals, pixel_size_um)
    if _fine_misfit(dark, nuclei_um, pixel_size_um)(bent) < misfit:
        matrix = bent
        blocks, residuals = _residuals(dark, matrix, nuclei_um, pixel_size_um)
    return Fit(matrix, blocks, residuals, *contrasts)


def _by_nuclei(close: Picture, matrix, region: Region, nuclei_um, pixel_size_um: float):
    """Move an alignment to where haematoxylin is dark at nuclei: (misfit, matrix, darkness)."""
    dark = _Darkness(close, matrix, pixel_size_um)
    contrast = _fine_misfit(dark, nuclei_um, pixel_size_um)
    misfit = contrast(matrix)
    for span in (0.5, 0.2):
        after, finer = _refined(matrix, region, pixel_size_um, contrast, span)
        misfit, matrix = (after, finer) if after < misfit else (misfit, matrix)
    return misfit, matrix, dark


def refusal(fitted: Fit, verdict: dict) -> str | None:
    """Why a fit isn't used, by what ``registration.judge`` says of it; None where it is."""
    if verdict["verdict"] != "accepted":
        return f"a fit that isn't the right one for sure: {verdict['why']}"
    lead = verdict["score"] - verdict["rival"]["score"]
    if lead < CLEAR_MARGIN or verdict["lead"]["high"] >= 0:
        name, score = verdict["rival"]["name"], verdict["rival"]["score"]
        return f"a fit of score {verdict['score']:.2f}, and {name} has {score:.2f}"
    if fitted.residual_um is None:
        return "too few nuclei to tell how good the fit is"
    if fitted.contrast < CLEAR_RATIO * fitted.rival_contrast:
        return (
            f"a fit whose nuclei stand out by {fitted.contrast:.2f}, and another place's by "
            f"{fitted.rival_contrast:.2f}"
        )
    if fitted.residual_um > MAX_RESIDUAL_UM:
        return f"a fit whose haematoxylin lies {fitted.residual_um:.0f} µm from its nuclei"
    return None


def _scales() -> list[float]:
    number = math.ceil(math.log(LARGEST_UM / SMALLEST_UM, SCALE_STEP))
    return [SMALLEST_UM * SCALE_STEP**i for i in range(number + 1)]


def _coarse_misfit(board: Board):
    everywhere = np.ones(board.blocks, bool)
    return lambda matrix: -float(registration.score(everywhere, board.sums(matrix)))


class _Darkness:
    """How much darker an H&E is at a place than around it, standardised, under an alignment's scale."""

    def __init__(self, close: Picture, matrix: np.ndarray, pixel_size_um: float):
        um_per_px = pixel_size_um * math.sqrt(abs(np.linalg.det(matrix[:2, :2]))) * close.scale
        near, around = NUCLEUS_UM / um_per_px, AROUND_UM / um_per_px
        contrast = blur(close.density, max(near, 0.5)) - blur(close.density, around)
        self.contrast = (contrast - contrast.mean()) / max(float(contrast.std()), 1e-9)
        self.scale = close.scale

    def at(self, he_px: np.ndarray) -> np.ndarray:
        """At pixels of the H&E, (..., 2); 0 beyond it."""
        from scipy.ndimage import map_coordinates

        x, y = np.moveaxis(he_px / self.scale - 0.5, -1, 0)
        return map_coordinates(self.contrast, [y, x], order=1, mode="grid-constant", cval=0.0)


def _fine_misfit(dark: _Darkness, nuclei_um: np.ndarray, pixel_size_um: float):
    step = math.ceil(len(nuclei_um) / 20_000)
    points = nuclei_um[::step] / pixel_size_um

    def misfit(matrix):
        return -float(dark.at(apply(np.linalg.inv(matrix), points)).mean())

    return misfit


def _refined(matrix, region: Region, pixel_size_um: float, misfit, span: float = 1.0):
    """Turn, scale and move an alignment to where it fits best: (misfit, matrix).

    ``span`` 1 looks a spot and some degrees around.
    """
    from scipy.optimize import minimize

    middle = region.centres_um[region.tissue.ravel()].mean(axis=0) / pixel_size_um
    half = np.hypot(*region.tissue.shape) / 2 * PIXEL_UM

    def moved(change):
        # All four in micrometres at the edge of the tissue, so that they count alike.
        turn, growth = change[0] / half, math.exp(change[1] / half)
        c, s = math.cos(turn) * growth, math.sin(turn) * growth
        placed = about(np.array([[c, -s], [s, c]]), middle)
        placed[:2, 2] += change[2:] / pixel_size_um
        return placed @ matrix

    size = span * SPOT_UM
    start = np.vstack([np.zeros(4), np.eye(4) * size])
    options = {"initial_simplex": start, "maxfev": 220, "xatol": 0.1, "fatol": 1e-6}
    best = minimize(
        lambda change: misfit(moved(change)), start[0], method="Nelder-Mead", options=options
    )
    return float(best.fun), moved(best.x)


def _residuals(dark: _Darkness, matrix, nuclei_um, pixel_size_um: float):
    """The centre of each block with enough nuclei, and the shift that would fit them better."""
    steps = np.arange(-REACH_UM, REACH_UM + 1e-6, REACH_STEP_UM)
    shifts = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    to_he = np.linalg.inv(matrix)
    number = (nuclei_um // BLOCK_UM).astype(np.int64)
    _, block = np.unique(number, axis=0, return_inverse=True)
    centres, residuals = [], []
    for one in range(block.max() + 1):
        here = nuclei_um[block.ravel() == one]
        if len(here) < MIN_BLOCK_NUCLEI:
            continue
        moved = (here[None] + shifts[:, None]) / pixel_size_um
        contrast = dark.at(apply(to_he, moved)).mean(axis=1)
        if contrast.max() <= 0:
            continue
        centres.append(here.mean(axis=0))
        residuals.append(_peak(contrast.reshape(len(steps), len(steps)), steps))
    return np.array(centres).reshape(-1, 2), np.array(residuals).reshape(-1, 2)


def _peak(values: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """(x, y) of the highest value on a grid, between its places by a parabola."""
    place = np.unravel_index(np.argmax(values), values.shape)
    found = []
    for axis, at in enumerate(place):
        line = values[:, place[1]] if axis == 0 else values[place[0]]
        off = 0.0
        if 0 < at < len(steps) - 1:
            low, high = line[at] - line[at - 1], line[at] - line[at + 1]
            off = 0.5 * (low - high) / max(low + high, 1e-12)
        found.append(steps[at] + off * REACH_STEP_UM)
    return np.array(found[::-1])


def _by_blocks(matrix, blocks, residuals, pixel_size_um: float) -> np.ndarray:
    """The alignment after the similarity that the residuals of most blocks agree on."""
    from skimage.measure import ransac
    from skimage.transform import SimilarityTransform

    if len(blocks) < 6:
        return matrix
    # What lies at block + residual by the alignment belongs to the block.
    pairs = (blocks + residuals, blocks)
    model, inside = ransac(pairs, SimilarityTransform, 3, 4.0, max_trials=500, rng=0)
    if model is None or inside is None or inside.sum() < len(blocks) / 2:
        return matrix
    change = np.array(model.params)
    change[:2, 2] /= pixel_size_um
    return change @ matrix
