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

import functools
import math

import numpy as np

from pairscape.acquire.alignment import apply, decompose
from pairscape.spots.registration_maps import (
    APART_UM,
    BLOCK_UM,
    PIXEL_UM,
    SPOT_UM,
    Picture,
    Region,
)
from pairscape.spots.registration_search import Board, about, search

CONFIDENCE = 0.975  # that a rival has to be better with
MARGIN = 0.05  # of score, that a rival has to lead by
MIN_SCORE = 0.1  # of the alignment; below it there is nothing to go by
MIN_BLOCKS = 16  # with tissue
RESAMPLES = 2000


def known_mistakes(
    matrix: np.ndarray, size_px, region: Region, pixel_size_um: float, he_um_per_px: float | None
) -> dict[str, np.ndarray]:
    """Alignments that would be right if the given one held a mistake that people make, by its name."""
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
    mistakes = {"the inverse of the matrix": np.linalg.inv(matrix), "the identity": np.eye(3)}
    if he_um_per_px:
        scale = he_um_per_px / pixel_size_um
        mistakes["`microns`"] = np.diag([scale, scale, 1.0])
    for name, turn in turned.items():
        mistakes[f"the H&E {name}"] = matrix @ about(turn, np.array([width, height]) / 2)
    for name, turn in turned.items():
        mistakes[f"the Xenium region {name}"] = about(turn, middle) @ matrix
    swap = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])
    mistakes["the matrix with rows and columns for x and y"] = swap @ matrix @ swap
    mistakes["the matrix, taken as micrometres,"] = (
        np.diag([1 / pixel_size_um] * 2 + [1.0]) @ matrix
    )
    mistakes["the matrix times the pixel size"] = np.diag([pixel_size_um] * 2 + [1.0]) @ matrix
    for factor in (2, 4, 8, 16):
        smaller = matrix @ np.diag([1 / factor, 1 / factor, 1.0])
        mistakes[f"the matrix of an H&E {factor} times smaller"] = smaller
    return mistakes


def farthest_um(matrix, rival, region: Region, pixel_size_um: float) -> float:
    """The largest distance over the tissue between where two alignments put the H&E (µm)."""
    # An affine map moves the hull farthest: the first and last pixel of tissue in each row will do.
    row, column = np.nonzero(region.tissue)
    ends = np.flatnonzero(np.diff(row, prepend=-1) | np.diff(row, append=-1))
    here = np.column_stack([column[ends], row[ends]]) + 0.5
    pixels = (here * PIXEL_UM + region.low_um) / pixel_size_um
    there = apply(rival @ np.linalg.inv(matrix), pixels)
    return float(np.hypot(*(there - pixels).T).max()) * pixel_size_um


def judge(
    matrix: np.ndarray,
    picture: Picture,
    region: Region,
    pixel_size_um: float,
    he_um_per_px: float | None,
    seed: int,
) -> dict:
    """Hold an alignment, (3, 3) H&E pixels to morphology pixels, against its rivals.

    ``he_um_per_px`` is the pixel size of the H&E by another source than the matrix, or None; ``seed``
    that of the resampling.

    Returns
    -------
    ``verdict`` (accepted, undecided, refused) and ``why``; ``score`` and ``score_low`` of the
    alignment; ``rival`` (``name``, ``matrix``, ``score``, ``farthest_um``), the best of all, or,
    where the alignment isn't led, the best in other places; ``lead`` (``value``, ``low``, ``high``),
    by how much the rivals that either half of the tissue chooses are better on the other half;
    ``second``, the best place elsewhere than the rival, and how far it is ``behind``; ``scores`` of
    the known mistakes. Without data for a verdict there is only the verdict and why.
    """
    if not region.maps:
        counts = " and ".join(f"{count} {name}" for name, count in region.counts.items())
        return _undecided(f"{counts} are too few")
    board = Board(picture, region, pixel_size_um)
    blocks = len(np.unique(board.block[region.tissue.ravel()]))
    if blocks < MIN_BLOCKS:
        return _undecided(f"tissue in {blocks} blocks of {BLOCK_UM:g} µm is too little")
    if not picture.density.any():
        return _undecided("the H&E has no contrast")
    draws = _draws(board.white, seed)

    apart = functools.partial(farthest_um, region=region, pixel_size_um=pixel_size_um)
    mistakes = known_mistakes(matrix, picture.size_px, region, pixel_size_um, he_um_per_px)
    rivals, chosen = _find_rivals(board, matrix, mistakes, he_um_per_px)
    whole, given = np.ones(board.blocks, bool), board.sums(matrix)
    scores = {name: float(score(whole, sums)) for name, (_, sums) in rivals.items()}
    best = max(scores, key=scores.get)
    # By its name where a known mistake is the same place.
    known = (name for name in mistakes if name in rivals)
    best = next((n for n in known if apart(rivals[best][0], rivals[n][0]) <= SPOT_UM), best)

    def lead(weights):
        """Of the rival that one half of the tissue chose, on the other half; mean of both."""
        white, black = weights * board.white, weights * ~board.white
        on_black = score(black, rivals[chosen[0]][1]) - score(black, given)
        on_white = score(white, rivals[chosen[1]][1]) - score(white, given)
        return (on_black + on_white) / 2

    low, high = np.quantile(lead(draws), [1 - CONFIDENCE, CONFIDENCE]).tolist()
    drawn = score(draws, given)
    others = [name for name in rivals if apart(rivals[best][0], rivals[name][0]) > APART_UM]
    second = max(others, key=scores.get)
    gap = score(draws, rivals[best][1]) - score(draws, rivals[second][1])
    # What is near, and no better, is the alignment's own place.
    far = [name for name in rivals if apart(matrix, rivals[name][0]) > APART_UM]
    shown = best if low > 0 else max(far, key=scores.get)
    result = {
        "score": float(score(whole, given)),
        "score_low": float(np.quantile(drawn, 1 - CONFIDENCE)),
        "rival": {
            "name": shown,
            "matrix": rivals[shown][0],
            "score": scores[shown],
            "farthest_um": apart(matrix, rivals[shown][0]),
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
    nearest = max(result["scores"], key=result["scores"].get)
    behind = np.quantile(score(draws, rivals[nearest][1]) - drawn, CONFIDENCE)
    return result | _decide(result, best, scores[best], nearest if behind >= 0 else None)


def as_json(verdict: dict) -> dict:
    """A verdict of ``judge`` with lists in the place of arrays."""
    rival = verdict.get("rival")
    return verdict | ({"rival": rival | {"matrix": rival["matrix"].tolist()}} if rival else {})


def _find_rivals(board: Board, matrix, mistakes: dict, he_um_per_px: float | None):
    """Matrix and sums of each rival by name; and the best on either colour of blocks, and on all."""
    region, pixel_size_um = board.region, board.pixel_size_um
    rivals, chosen = {}, []
    halves = [board.white, ~board.white, np.ones(board.blocks, bool)]
    scales = _scales(matrix, pixel_size_um, he_um_per_px)
    degrees = decompose(matrix, pixel_size_um)["rotation_degrees"]
    for half, matrices in zip(halves, search(board, halves, scales, degrees), strict=True):
        named = dict(mistakes)
        for rival in matrices:
            named[describe_change(matrix, rival, region, pixel_size_um)] = rival
        for name, rival in named.items():
            if name not in rivals and farthest_um(matrix, rival, region, pixel_size_um) > SPOT_UM:
                rivals[name] = rival, board.sums(rival)
        scores = {name: score(half, rivals[name][1]) for name in named if name in rivals}
        chosen.append(max(scores, key=scores.get))
    return rivals, chosen


def _decide(result: dict, best: str, best_score: float, as_good: str | None) -> dict:
    """The verdict; ``as_good`` is a known mistake that the alignment may not be better than."""
    leads = result["lead"]["low"] > 0
    stands_out = result["second"]["behind_low"] > 0 and best_score > MIN_SCORE
    if result["lead"]["value"] > MARGIN and leads and stands_out:
        return {"verdict": "refused", "why": f"{best} fits better"}
    if result["score_low"] <= MIN_SCORE:
        return _undecided("the H&E doesn't follow nuclei and transcripts")
    if leads:
        return _undecided(f"{best} fits a little better")
    if as_good:
        return _undecided(f"{as_good} fits about as well")
    return {"verdict": "accepted", "why": "no rival fits as well"}


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
    by_matrix = pixel_size_um * math.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    scales = []
    for scale in (by_matrix, he_um_per_px or pixel_size_um**2 / by_matrix):
        if 0.05 <= scale <= 5 and all(abs(scale / other - 1) > MARGIN for other in scales):
            scales.append(scale)
    return scales
