"""Where patches are cut: side by side over an image, on its tissue, or where the user says."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.images import tissue
from pairscape.images.he_image import SLACK_PX, HEImage

_POINTS = 12  # along a patch's side, where its tissue is looked for


class Grid(NamedTuple):
    """The patches of a slide."""

    coords: np.ndarray  # (N, 2) int64 top-left corners, px of the full resolution, by rows
    side_px: float  # of a patch, in such pixels
    patch_px: int  # of a patch, in its own pixels


def lay_grid(image: HEImage, side_px: float, step_px: float) -> np.ndarray:
    """Corners (N, 2) px, by rows, of patches that lie wholly within the image."""
    counts = [
        int((size - side_px + SLACK_PX) // step_px) + 1 for size in (image.width, image.height)
    ]
    if min(counts) < 1:
        found = f"{image.width} x {image.height} px, less than one patch of {side_px:.1f}"
        remedy = "give a larger image, or correct its um_per_px"
        raise InputError(image.path, "size", found, remedy)
    x, y = np.meshgrid(*(np.arange(count) * step_px for count in counts))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def find_tissue(image: HEImage) -> tuple[np.ndarray, tissue.TissueMask]:
    """The image's thumbnail, uint8 (h, w, 3), and the mask of tissue on its pixels."""
    max_px = tissue.mask_side_px(image.width, image.height, image.um_per_px)
    picture, scale = image.thumbnail(max_px)
    return picture, tissue.tissue_mask(picture, scale)


def lay_on_tissue(
    image: HEImage, mask: tissue.TissueMask, patch_px: int, um_per_px: float, min_tissue: float
) -> Grid:
    """Lay patches side by side over an image, and keep those on tissue that lie wholly within it.

    ``patch_px`` pixels of ``um_per_px``: 256 of 0.5 are the paper's "256 px at 20x". ``min_tissue``
    is the least share of a patch that is tissue; 0 takes all that touch any. Patches have a true
    size in µm, whatever magnification the scanner calls it: TRIDENT rounds 0.265 µm/px to 40x,
    where a patch of 256 px "at 20x" covers 136 µm and not 128 (its issue 119).
    """
    image.check_scale(um_per_px)
    side = patch_px * um_per_px / image.um_per_px
    coords = np.floor(lay_grid(image, side, side) + SLACK_PX).astype(np.int64)
    steps = (np.arange(_POINTS) + 0.5) / _POINTS * side
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    share = tissue.tissue_fraction(mask, coords, offsets)
    kept = coords[(share >= min_tissue) & (share > 0)]
    if not len(kept):
        found = f"none on {len(coords)} patches (most on one: {share.max():.0%})"
        remedy = "look at the slide; if there is tissue, lower slide_embedding.min_tissue"
        raise InputError(image.path, "tissue", found, remedy)
    return Grid(kept, side, patch_px)


def read_centres(path, image: HEImage, side_px: float) -> np.ndarray:
    """Read the centres (N, 2) of patches from a table with the columns x_px and y_px."""
    rows = tsv.read_numbers(path, ("x_px", "y_px"), "give pixels", ("x_px", "y_px"))
    centres = np.array([[row["x_px"], row["y_px"]] for row in rows], np.float64).reshape(-1, 2)
    wrong = np.flatnonzero(~np.isfinite(centres).all(axis=1)) if rows else [0]
    if len(wrong):
        remedy = "give x_px and y_px of each patch"
        raise InputError(path, f"line {wrong[0] + 2}", "no centre", remedy)
    beyond = np.flatnonzero(~image.holds(centres, side_px))
    if len(beyond):
        x, y = centres[beyond[0]]
        found = f"{x:g}, {y:g}: a patch of {side_px:.1f} px beyond the image of "
        found += f"{image.width} x {image.height}"
        remedy = "drop the row, or correct the pixel size"
        raise InputError(path, f"line {beyond[0] + 2}", found, remedy)
    return centres


def trident_attributes(image: HEImage, grid: Grid, um_per_px: float) -> dict:
    """Attributes of the coordinates as TRIDENT names them, and ours: the true sizes.

    TRIDENT's are whole numbers; the magnifications are 10 / (µm per px), rounded.
    """
    return {
        "patch_size": grid.patch_px,
        "patch_size_level0": round(grid.side_px),
        "level0_magnification": round(10 / image.um_per_px),
        "target_magnification": round(10 / um_per_px),
        "overlap": 0,
        "level0_width": image.width,
        "level0_height": image.height,
        "um_per_px": image.um_per_px,
        "patch_side_px": grid.side_px,
        "patch_um_per_px": um_per_px,
    }


def side_px(attributes: Mapping) -> float | None:
    """The side of a patch in level-0 px: ours exactly, TRIDENT's in whole pixels, or None."""
    return attributes.get("patch_side_px", attributes.get("patch_size_level0"))
