"""Whether an alignment is right: nuclei of the H&E against nuclei and transcripts of the bundle.

Under the right alignment the haematoxylin of the H&E is dense where the bundle has many nuclei and
many transcripts. An alignment is judged against its rivals: the mistakes that are made with
alignment files (the inverse, the identity, a mirror, a turn, another unit, another level of the
pyramid) and the best that a search over turns, mirrors and shifts finds. A hypothesis that
puts the tissue within a spot of where the alignment puts it counts as the same.

A score is the mean of two correlations (Pearson, of square roots and with extremes cut), of
haematoxylin with nuclei and with transcripts, over pixels of ``PIXEL_UM`` that are smoothed by
``SMOOTHING_UM``; beyond the edge of the H&E there is glass. The rival is chosen on the black
fields of a chequerboard of blocks and judged on the white ones, and the other way round, so that a
search among thousands gains little by chance; resampling the blocks tells how sure its lead is. And
where a section is small, or has nothing to do with its H&E, many places fit alike: so a rival has
to stand out from the other places as well.
"""

import math
from typing import NamedTuple

import numpy as np

from pairscape.acquire import bundle as xenium
from pairscape.acquire.alignment import decompose
from pairscape.core.errors import InputError

PIXEL_UM = 20.0
SMOOTHING_UM = 30.0
BLOCK_UM = 220.0
SPOT_UM = 55.0  # hypotheses that differ by no more than this everywhere are one
APART_UM = 4 * SPOT_UM  # those that differ by more than this somewhere are other places
CONFIDENCE = 0.975  # that a rival has to be better with
MARGIN = 0.05  # of score, that a rival has to lead by
MIN_SCORE = 0.1  # of the alignment; below it there is nothing to go by
MIN_CELLS = 200
MIN_TRANSCRIPTS = 2000
MIN_QV = 20
MIN_BLOCKS = 16  # with tissue
RESAMPLES = 2000
THUMBNAIL_PX = 2048
LARGEST_UM = 100_000.0  # four slides: coordinates beyond it are damage
BLACK = 12  # all channels below this: no tissue, but the fill of an image that was turned

SEARCH_SIDE = 64  # pixels along the region
SEARCH_STEP_DEGREES = 6.0
SEARCH_KEPT = 3  # peaks that are refined
REFINED_POINTS = 6_000


class Region(NamedTuple):
    """What the bundle says, on a grid of ``PIXEL_UM``, smoothed, as standardised rows."""

    maps: dict[str, np.ndarray]  # name -> (rows, columns) float32
    counts: dict[str, int]  # points behind each map
    low_um: np.ndarray  # (2,) x and y of the outer corner
    tissue: np.ndarray  # (rows, columns) bool: a nucleus or a transcript is near

    @property
    def centres_um(self) -> np.ndarray:
        """Centres of the pixels, (rows * columns, 2), in the order of ``ravel``."""
        rows, columns = self.tissue.shape
        y, x = np.mgrid[:rows, :columns].reshape(2, -1) + 0.5
        return np.column_stack([x, y]) * PIXEL_UM + self.low_um


class Picture(NamedTuple):
    """The haematoxylin of an H&E, on a grid of its own."""

    density: np.ndarray  # (height, width) float32, 0 glass to 1
    scale: float  # H&E pixels per pixel of the grid
    size_px: tuple[int, int]  # of the H&E, width and height


def read_region(bundle) -> Region:
    """The densities of nuclei and of transcripts of a bundle, in bounded memory.

    Transcripts of quality ``MIN_QV`` and more count, whatever they name. Points that aren't finite
    are left out.
    """
    try:
        cells = xenium.read_cells(bundle)[["x_centroid", "y_centroid"]].to_numpy(float)
    except InputError:  # check_bundle says so; transcripts tell as much
        cells = np.empty((0, 2))
    counted = {"nuclei": _count([cells]), "transcripts": _count(_transcripts(bundle))}
    rows, columns = np.max([grid.shape for grid in counted.values()], axis=0)
    counted = {
        name: np.pad(grid, ((0, rows - grid.shape[0]), (0, columns - grid.shape[1])))
        for name, grid in counted.items()
    }
    filled = np.argwhere(sum(counted.values()) > 0)
    if not len(filled):
        return Region({}, dict.fromkeys(counted, 0), np.zeros(2), np.zeros((1, 1), bool))
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0) + 1
    counted = {name: grid[top:bottom, left:right] for name, grid in counted.items()}
    counts = {name: int(grid.sum()) for name, grid in counted.items()}
    enough = {"nuclei": MIN_CELLS, "transcripts": MIN_TRANSCRIPTS}
    maps = {
        name: _standardised(_blur(np.sqrt(grid), SMOOTHING_UM / PIXEL_UM))
        for name, grid in counted.items()
        if counts[name] >= enough[name]
    }
    tissue = _blur(sum(counted.values()) > 0, 2.0) > 0.05
    return Region(maps, counts, np.array([left, top]) * PIXEL_UM, tissue)


def read_picture(thumbnail: np.ndarray, scale: float, size_px: tuple[int, int]) -> Picture:
    """The haematoxylin density of an H&E from its thumbnail (``slide.thumbnail``).

    Colours are unmixed after Ruifrok and Johnston (2001, scikit-image's ``rgb2hed``); glass, and
    the black fill of turned images, become 0, the densest hundredth 1.
    """
    from skimage.color import rgb2hed

    density = np.empty(thumbnail.shape[:2], np.float32)
    for top in range(0, len(density), 256):  # in bands: unmixing takes float64
        band = thumbnail[top : top + 256]
        density[top : top + 256] = rgb2hed(band)[..., 0]
        density[top : top + 256][(band < BLACK).all(axis=2)] = np.nan
    low, high = np.nanquantile(density, [0.01, 0.99]) if np.isfinite(density).any() else (0, 0)
    density = np.nan_to_num((density - low) / max(high - low, 1e-6), nan=0.0).clip(0, 1)
    step = max(1, math.ceil(max(density.shape) / (THUMBNAIL_PX // 2)))
    rows, columns = (side // step * step for side in density.shape)
    reduced = density[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return Picture(reduced.mean(axis=(1, 3)), scale * step, size_px)


def known_mistakes(
    matrix: np.ndarray, size_px, region: Region, pixel_size_um: float, he_um_per_px: float | None
) -> dict[str, np.ndarray]:
    """Alignments that would be right if the given one held a mistake that people make.

    Returns
    -------
    What it would be -> (3, 3) matrix of H&E pixels to morphology pixels.
    """
    width, height = size_px
    rows, columns = region.tissue.shape
    middle = (region.low_um + np.array([columns, rows]) * PIXEL_UM / 2) / pixel_size_um
    turned = {
        "mirrored in x": np.diag([-1.0, 1.0]),
        "mirrored in y": np.diag([1.0, -1.0]),
        "turned by 180 degrees": np.diag([-1.0, -1.0]),
        "turned by 90 degrees": np.array([[0.0, -1.0], [1.0, 0.0]]),
        "turned by 270 degrees": np.array([[0.0, 1.0], [-1.0, 0.0]]),
        "with x and y exchanged": np.array([[0.0, 1.0], [1.0, 0.0]]),
        "with x and y exchanged, turned by 180 degrees": np.array([[0.0, -1.0], [-1.0, 0.0]]),
    }
    found = {"the inverse of the matrix": np.linalg.inv(matrix), "the identity": np.eye(3)}
    if he_um_per_px:
        scale = he_um_per_px / pixel_size_um
        found["`microns`"] = np.diag([scale, scale, 1.0])
    for name, turn in turned.items():
        found[f"the H&E {name}"] = matrix @ _about(turn, np.array([width, height]) / 2)
    for name, turn in turned.items():
        found[f"the Xenium region {name}"] = _about(turn, middle) @ matrix
    swap = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    found["the matrix with rows and columns for x and y"] = swap @ matrix @ swap
    found["the matrix, taken as micrometres,"] = np.diag([1 / pixel_size_um] * 2 + [1.0]) @ matrix
    found["the matrix times the pixel size"] = np.diag([pixel_size_um] * 2 + [1.0]) @ matrix
    for factor in (2, 4, 8, 16):
        smaller = matrix @ np.diag([1 / factor, 1 / factor, 1.0])
        found[f"the matrix of an H&E {factor} times smaller"] = smaller
    return found


def farthest_um(matrix, rival, region: Region, pixel_size_um: float) -> float:
    """The largest distance over the tissue between where two alignments put the H&E (µm)."""
    # An affine map moves the hull farthest: the first and last pixel of tissue in each row will do.
    row, column = np.nonzero(region.tissue)
    ends = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(row, append=-1))
    here = np.column_stack([column[ends], row[ends]]) + 0.5
    pixels = (here * PIXEL_UM + region.low_um) / pixel_size_um
    between = rival @ np.linalg.inv(matrix)
    there = pixels @ between[:2, :2].T + between[:2, 2]
    return float(np.hypot(*(there - pixels).T).max()) * pixel_size_um


def judge(
    matrix: np.ndarray,
    picture: Picture,
    region: Region,
    pixel_size_um: float,
    he_um_per_px: float | None,
    seed: int,
) -> dict:
    """Hold an alignment against its rivals.

    Parameters
    ----------
    matrix
        (3, 3), H&E pixels to morphology pixels.
    he_um_per_px
        Pixel size of the H&E by another source than the matrix, or None.
    seed
        Of the resampling.

    Returns
    -------
    ``verdict`` (accepted, undecided, refused) and ``why``; ``score`` and ``score_low`` of the
    alignment; ``rival`` (``name``, ``matrix``, ``score``, ``farthest_um``), the best of all, or,
    where the alignment isn't led, the best of those in other places;
    ``lead`` (``value``, ``low``, ``high``), by how much the rivals that either half of the tissue
    chooses are better on the other half; ``second``, the best of the places elsewhere than the
    rival, and how far it is ``behind``; ``scores`` of the known mistakes. Without data for a verdict
    there is only the verdict and why.
    """
    if not region.maps:
        counts = " and ".join(f"{count} {name}" for name, count in region.counts.items())
        return _undecided(f"{counts} are too few")
    board = _Board(picture, region, pixel_size_um)
    blocks = len(np.unique(board.block[region.tissue.ravel()]))
    if blocks < MIN_BLOCKS:
        return _undecided(f"tissue in {blocks} blocks of {BLOCK_UM:g} µm is too little")
    if not picture.density.any():
        return _undecided("the H&E has no contrast")

    mistakes = known_mistakes(matrix, picture.size_px, region, pixel_size_um, he_um_per_px)
    scales = _scales(matrix, pixel_size_um, he_um_per_px)
    given = board.sums(matrix)

    def away(rival):
        return farthest_um(matrix, rival, region, pixel_size_um)

    rivals, chosen = {}, []
    whole = np.ones(board.blocks, bool)
    halves = [board.white, ~board.white, whole]
    searched = _search(board, halves, scales, decompose(matrix, pixel_size_um)["rotation_degrees"])
    for half, found in zip(halves, searched, strict=True):
        named = mistakes | {
            describe_change(matrix, rival, region, pixel_size_um): rival for rival in found
        }
        rivals |= {
            name: (rival, board.sums(rival))
            for name, rival in named.items()
            if name not in rivals and away(rival) > SPOT_UM
        }
        own = [name for name in named if name in rivals]
        chosen.append(max(own, key=lambda name: score(half, rivals[name][1])))
    scores = {name: float(score(whole, sums)) for name, (_, sums) in rivals.items()}
    best = max(scores, key=scores.get)
    best = next(  # by its name where a known mistake is the same place
        (
            name
            for name in mistakes
            if name in rivals
            and farthest_um(rivals[best][0], rivals[name][0], region, pixel_size_um) <= SPOT_UM
        ),
        best,
    )

    draws = _draws(board.white, seed)

    def lead(weights):
        """Of the rival that one half of the tissue chose, on the other half; mean of both."""
        leads = [
            score(weights * other, rivals[name][1]) - score(weights * other, given)
            for name, other in zip(chosen[:2], (~board.white, board.white), strict=True)
        ]
        return (leads[0] + leads[1]) / 2

    low, high = np.quantile(lead(draws), [1 - CONFIDENCE, CONFIDENCE]).tolist()
    own, best_drawn = score(draws, given), score(draws, rivals[best][1])
    others = [
        name
        for name, (rival, _) in rivals.items()
        if farthest_um(rivals[best][0], rival, region, pixel_size_um) > APART_UM
    ]
    second = max(others, key=scores.get)
    gap = best_drawn - score(draws, rivals[second][1])
    shown = best
    if low <= 0:  # what is near, and no better, is the alignment's own place
        far = [name for name, (rival, _) in rivals.items() if away(rival) > APART_UM]
        shown = max(far, key=scores.get)
    result = {
        "score": float(score(whole, given)),
        "score_low": float(np.quantile(own, 1 - CONFIDENCE)),
        "rival": {
            "name": shown,
            "matrix": rivals[shown][0],
            "score": scores[shown],
            "farthest_um": away(rivals[shown][0]),
        },
        "lead": {"value": float(lead(whole)), "low": low, "high": high},
        "second": {
            "name": second,
            "score": scores[second],
            "behind": scores[best] - scores[second],
            "behind_low": float(np.quantile(gap, 1 - CONFIDENCE)),
        },
        "scores": {name: value for name, value in scores.items() if name in mistakes},
        "blocks": blocks,
    }
    stands_out = result["second"]["behind_low"] > 0 and scores[best] > MIN_SCORE
    if result["lead"]["value"] > MARGIN and low > 0 and stands_out:
        return result | {"verdict": "refused", "why": f"{best} fits better"}
    if result["score_low"] <= MIN_SCORE:
        return result | _undecided("the H&E doesn't follow nuclei and transcripts")
    if low > 0:
        return result | _undecided(f"{best} fits a little better")
    known = max(result["scores"], key=result["scores"].get)
    if np.quantile(score(draws, rivals[known][1]) - own, CONFIDENCE) >= 0:
        return result | _undecided(f"{known} fits about as well")
    return result | {"verdict": "accepted", "why": "no rival fits as well"}


def score(weights: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The mean over maps of the correlation, under weights (..., blocks) of the blocks' sums."""
    n, h, hh, x, xx, hx = (np.asarray(weights, float) @ sums[:, i].T for i in range(6))
    variance = np.maximum(n * hh - h * h, 0) * np.maximum(n * xx - x * x, 0)
    # Rounding leaves a variance above 0 where all is glass.
    flat = (variance <= 1e-9 * (n * hh) * (n * xx)) | (variance <= 0)
    return np.where(flat, 0.0, (n * hx - h * x) / np.sqrt(np.where(flat, 1, variance))).mean(-1)


def describe_change(
    matrix: np.ndarray, rival: np.ndarray, region: Region, pixel_size_um: float
) -> str:
    """What has to be done to the alignment to make the rival of it, in words."""
    between = rival @ np.linalg.inv(matrix)
    placed = decompose(between, 1.0)
    middle = region.centres_um.mean(axis=0) / pixel_size_um
    moved = (between[:2, :2] @ middle + between[:2, 2] - middle) * pixel_size_um
    words = ["mirrored"] if placed["mirrored"] else []
    if abs(placed["um_per_px"] - 1) > MARGIN:
        words.append(f"enlarged by {placed['um_per_px']:.3g}")
    if abs(placed["rotation_degrees"]) >= 0.5:
        words.append(f"turned by {placed['rotation_degrees']:.0f} degrees")
    words.append(f"moved by {moved[0]:.0f}, {moved[1]:.0f} µm")
    return "the matrix " + ", ".join(words)


class _Board:
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
        """The picture smoothed as the region is where its pixels have this size.

        Returns the density and the H&E pixels per pixel of it.
        """
        sigma = SMOOTHING_UM / (um_per_px * self.picture.scale)
        key = round(math.log(sigma) * 20)
        if key not in self._blurred:
            sigma = math.exp(key / 20)
            step = max(1, min(int(sigma / 3), min(self.picture.density.shape)))
            small = _reduced(self.picture.density, step)
            self._blurred[key] = _blur(small, sigma / step), self.picture.scale * step
        return self._blurred[key]

    def under(self, matrix: np.ndarray, points=slice(None)) -> np.ndarray:
        """The haematoxylin at the region's pixels under a hypothesis; 0 beyond the H&E."""
        from scipy.ndimage import map_coordinates

        to_he = np.linalg.inv(matrix)
        um_per_px = self.pixel_size_um * math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        density, scale = self.blurred(um_per_px)
        morphology_px = self.centres_um[points] / self.pixel_size_um
        x, y = (morphology_px @ to_he[:2, :2].T + to_he[:2, 2]).T / scale - 0.5
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


def _draws(white: np.ndarray, seed: int) -> np.ndarray:
    """(RESAMPLES, blocks): how often each block is drawn; either colour for itself."""
    rng = np.random.default_rng([seed, 1])
    drawn = np.zeros((RESAMPLES, len(white)))
    for half in (white, ~white):
        places = np.flatnonzero(half)
        chances = np.full(len(places), 1 / len(places))
        drawn[:, places] = rng.multinomial(len(places), chances, RESAMPLES)
    return drawn


def _undecided(why: str) -> dict:
    return {"verdict": "undecided", "why": why}


def _scales(matrix, pixel_size_um: float, he_um_per_px: float | None) -> list[float]:
    """Pixel sizes of the H&E that the search tries (µm): those that something speaks for."""
    own = pixel_size_um * math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    scales = []
    for scale in (own, he_um_per_px or pixel_size_um**2 / own):
        if 0.05 <= scale <= 5 and all(abs(scale / other - 1) > MARGIN for other in scales):
            scales.append(scale)
    return scales


def _search(board: _Board, halves: list, scales: list[float], degrees: float) -> list[list]:
    """The best alignments over all turns, mirrors and shifts, on each of some sets of blocks.

    The turns go in steps from ``degrees`` on. For each, the correlation under every shift comes
    from Fourier transforms of a coarse grid; the highest peaks are refined.

    Returns
    -------
    For each set at most ``SEARCH_KEPT`` (3, 3) matrices of H&E pixels to morphology pixels.
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
                for (weight, pattern), found in zip(wanted, peaks, strict=True):
                    variance = fft.irfft2(twice * weight, shape)
                    variance -= fft.irfft2(once * weight, shape) ** 2
                    fit = fft.irfft2(once * pattern, shape) / np.sqrt(np.maximum(variance, 1e-4))
                    place = np.unravel_index(np.argmax(fit), fit.shape)
                    shift = [p if p < side else p - n for p, n in zip(place, shape, strict=True)]
                    centre_um = (side / 2 - np.array(shift[::-1])) * coarse_um
                    centre_um += board.region.low_um
                    found.append((float(fit[place]), scale, mirrored, turn, centre_um))
    refined = []
    for half, found in zip(halves, peaks, strict=True):
        kept = []
        for peak in sorted(found, key=lambda peak: -peak[0]):
            if len(kept) < SEARCH_KEPT and all(_apart(peak, other) for other in kept):
                kept.append(peak)
        refined.append([_refine(board, half, _placed(board, *peak[1:])) for peak in kept])
    return refined


def _weigh(board: _Board, half: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """The blocks of a set on a coarse grid, and what the haematoxylin there should look like.

    Both are divided by the number of pixels, so that a product with them sums to a mean. A coarse
    pixel tells of those of its fine ones that are in the set, and of no others.
    """
    mask = half[board.block].reshape(board.region.tissue.shape).astype(np.float32)
    weight = _reduced(mask, step)
    n = float(weight.sum())
    pattern = np.zeros_like(weight)
    for fine in board.region.maps.values():
        weighted = _reduced(fine * mask, step)
        weighted = weighted - weighted.sum() / n * weight
        square = np.divide(weighted**2, weight, out=np.zeros_like(weight), where=weight > 0)
        pattern += weighted / max(math.sqrt(square.sum() / n), 1e-6)
    return weight / n, pattern / (n * len(board.region.maps))


def _apart(one: tuple, other: tuple) -> bool:
    """Whether two peaks of the search aren't the same place found from two turns."""
    turn = abs((one[3] - other[3] + 180) % 360 - 180)
    far = np.hypot(*(one[4] - other[4])) > APART_UM
    return one[1:3] != other[1:3] or turn > 2 * SEARCH_STEP_DEGREES or bool(far)


def _placed(board: _Board, scale: float, mirrored: bool, degrees: float, centre_um) -> np.ndarray:
    """The matrix that turns the H&E about its middle and puts that at ``centre_um``."""
    middle_px = np.array(board.picture.density.shape[::-1]) * board.picture.scale / 2
    matrix = np.eye(3)
    matrix[:2, :2] = _turn(degrees, mirrored) * scale / board.pixel_size_um
    matrix[:2, 2] = centre_um / board.pixel_size_um - matrix[:2, :2] @ middle_px
    return matrix


def _refine(board: _Board, half: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Turn and move an alignment a little to where it fits best on some of the blocks."""
    from scipy.optimize import minimize

    points = np.flatnonzero(half[board.block])
    points = points[:: math.ceil(len(points) / REFINED_POINTS)]
    maps = board.maps[:, points] - board.maps[:, points].mean(axis=1, keepdims=True)
    maps /= np.maximum(np.linalg.norm(maps, axis=1, keepdims=True), 1e-6)
    wanted = maps.mean(axis=0)
    middle = board.centres_um.mean(axis=0) / board.pixel_size_um

    def moved(change):
        turn = _about(_turn(change[0], False), middle)
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


def _about(linear: np.ndarray, centre: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ centre
    return matrix


def _transcripts(bundle):
    for batch in xenium.iter_transcripts(bundle, ["x_location", "y_location", "qv"]):
        x, y, qv = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        yield np.column_stack([x, y])[qv >= MIN_QV]


def _count(chunks) -> np.ndarray:
    """Points (N, 2) µm per pixel, as (rows, columns) int64 from the origin on."""
    counts = np.zeros((1, 1), np.int64)
    for xy_um in chunks:
        inside = ((xy_um >= 0) & (xy_um < LARGEST_UM)).all(axis=1)  # NaN isn't
        if not inside.any():
            continue
        column, row = (xy_um[inside] // PIXEL_UM).astype(np.int64).T
        needed = row.max() + 1, column.max() + 1
        grow = [(0, max(0, end - side)) for end, side in zip(needed, counts.shape, strict=True)]
        counts = np.pad(counts, grow)
        place = row * counts.shape[1] + column
        counts += np.bincount(place, minlength=counts.size).reshape(counts.shape)
    return counts


def _reduced(values: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of pixels; the last ones repeat the edge."""
    if step == 1:
        return values
    rows, columns = (side + -side % step for side in values.shape)
    more = ((0, rows - values.shape[0]), (0, columns - values.shape[1]))
    padded = np.pad(values, more, mode="edge")
    return padded.reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))


def _blur(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values.astype(np.float32), sigma, mode="constant")


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values.clip(*np.quantile(values, [0.01, 0.99]))
    return (values - values.mean()) / max(float(values.std()), 1e-9)
