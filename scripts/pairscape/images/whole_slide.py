"""Whole slides as OpenSlide reads them: pixel size, thumbnail, tissue and patches on a grid.

Pixel coordinates are those of the full resolution (level 0). Patches have a true size in µm, whatever
magnification the scanner calls it: TRIDENT rounds 0.265 µm/px to 40x, where a patch of 256 px "at
20x" covers 136 µm and not 128 (its issue 119).
"""

import contextlib
import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.images import tissue

MAX_UPSAMPLING = 1.2  # a slide may be this much coarser than its patches; TRIDENT's bound of 20x
MAX_ANISOTROPY = 0.02
UM_PER_PX_RANGE = (0.05, 20.0)  # of a scan; printers' resolutions (72 dpi) lie beyond it
CACHE_BYTES = 128 << 20
BLOCK_PX = 2048  # read at once for a thumbnail
DIGEST_BYTES = 1 << 20
_POINTS = 12  # along a patch's side, where its tissue is looked for
_WRONG = "scan, export or fetch it again, or drop its row from the cohort table"


class WholeSlide(NamedTuple):
    """An open slide."""

    handle: object  # OpenSlide
    path: Path
    width: int
    height: int
    um_per_px: float


class Grid(NamedTuple):
    """The patches of a slide."""

    coords: np.ndarray  # (N, 2) int64 top-left corners, level-0 px, by rows
    side_px: float  # of a patch, in level-0 px
    patch_px: int  # of a patch, in its own pixels


@contextlib.contextmanager
def open_slide(path, um_per_px: float | None = None) -> Iterator[WholeSlide]:
    """Open a slide.

    Parameters
    ----------
    um_per_px
        The user's word for the pixel size; where it is None the file must tell it.
    """
    import openslide

    path = Path(path)
    if not path.is_file():
        raise InputError(path, "file", "nothing", "put the slide there or correct the cohort table")
    try:
        handle = openslide.OpenSlide(str(path))
    except openslide.OpenSlideError as error:
        raise InputError(path, "image", str(error), f"OpenSlide can't read it: {_WRONG}") from None
    with handle:
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        width, height = handle.dimensions
        yield WholeSlide(handle, path, width, height, _um_per_px(handle, path, um_per_px))


def find_tissue(slide: WholeSlide) -> tuple[np.ndarray, tissue.TissueMask]:
    """The slide's thumbnail, uint8 (h, w, 3), and the mask of tissue on its pixels."""
    max_px = tissue.mask_side_px(slide.width, slide.height, slide.um_per_px)
    picture, scale = thumbnail(slide, max_px)
    return picture, tissue.tissue_mask(picture, scale)


def lay_grid(
    slide: WholeSlide, mask: tissue.TissueMask, patch_px: int, um_per_px: float, min_tissue: float
) -> Grid:
    """Lay patches side by side over a slide, and keep those on tissue that lie wholly within it.

    Parameters
    ----------
    patch_px, um_per_px
        Size of a patch in pixels, and of its pixels: 256 and 0.5 are the paper's "256 px at 20x".
    min_tissue
        The least share of a patch that is tissue; 0 takes all that touch any.
    """
    if slide.um_per_px > MAX_UPSAMPLING * um_per_px:
        raise InputError(
            slide.path,
            "um_per_px",
            f"{slide.um_per_px:g}, coarser than the {um_per_px:g} of the patches",
            _WRONG,
        )
    side = patch_px * um_per_px / slide.um_per_px
    columns, rows = (int((size + 1e-6) // side) for size in (slide.width, slide.height))
    if not columns or not rows:
        raise InputError(
            slide.path,
            "size",
            f"{slide.width} x {slide.height} px, less than one patch of {side:.0f}",
            _WRONG,
        )
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    coords = np.floor(np.stack([x.ravel(), y.ravel()], axis=1) * side + 1e-6).astype(np.int64)
    steps = (np.arange(_POINTS) + 0.5) / _POINTS * side
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    share = tissue.tissue_fraction(mask, coords, offsets)
    kept = coords[(share >= min_tissue) & (share > 0)]
    if not len(kept):
        raise InputError(
            slide.path,
            "tissue",
            f"none on {len(coords)} patches (most on one: {share.max():.0%})",
            "look at the slide; if there is tissue, lower slide_embedding.min_tissue",
        )
    return Grid(kept, side, patch_px)


def read_patch(slide: WholeSlide, grid: Grid, index: int) -> np.ndarray:
    """Read one patch: exactly its box, from the pyramid's level that is just fine enough.

    Each pixel is the mean of the area it covers, or a bicubic interpolation where the slide is
    coarser than the patch (as `slide.iter_patches` cuts the patches of the pretraining).

    Returns
    -------
    uint8 (patch_px, patch_px, 3); white where nothing was scanned.
    """
    from pairscape.images.resampling import area_resample

    patch_px = grid.patch_px
    # A level that is finer by a hair's breadth is named finer by rounding of its size.
    level = slide.handle.get_best_level_for_downsample(grid.side_px / patch_px * (1 + 1e-3))
    side = grid.side_px / slide.handle.level_downsamples[level]
    count = math.ceil(side - 1e-3)
    region = _read(slide, grid.coords[index], level, (count, count))
    side = min(side, count)
    if side == patch_px:
        return region
    if side > patch_px:
        return area_resample(region, 0.0, 0.0, side, patch_px)
    from PIL import Image

    size = (patch_px, patch_px)
    box = (0, 0, side, side)
    return np.asarray(Image.fromarray(region).resize(size, Image.Resampling.BICUBIC, box=box))


def thumbnail(slide: WholeSlide, max_px: int) -> tuple[np.ndarray, float]:
    """Read a small picture of a slide, in bounded memory though it has no pyramid.

    Returns
    -------
    uint8 (h, w, 3), its longer side ``max_px`` or up to half as much again, and the level-0 pixels
    per pixel of it; the top-left corners coincide.
    """
    from PIL import Image

    wanted = max(max(slide.width, slide.height) / max_px, 1.0)
    level = slide.handle.get_best_level_for_downsample(wanted * (1 + 1e-3))
    downsample = slide.handle.level_downsamples[level]
    factor = max(round(wanted / downsample), 1)
    width, height = slide.handle.level_dimensions[level]
    picture = np.empty((math.ceil(height / factor), math.ceil(width / factor), 3), np.uint8)
    step = max(BLOCK_PX // factor, 1) * factor
    for top in range(0, height, step):
        for left in range(0, width, step):
            size = (min(step, width - left), min(step, height - top))
            corner = (round(left * downsample), round(top * downsample))
            small = np.asarray(Image.fromarray(_read(slide, corner, level, size)).reduce(factor))
            y, x = top // factor, left // factor
            picture[y : y + small.shape[0], x : x + small.shape[1]] = small
    return picture, downsample * factor


def trident_attributes(slide: WholeSlide, grid: Grid, um_per_px: float) -> dict:
    """Attributes of the coordinates as TRIDENT names them, and ours: the true sizes.

    TRIDENT's are whole numbers; the magnifications are 10 / (µm per px), rounded.
    """
    return {
        "patch_size": grid.patch_px,
        "patch_size_level0": round(grid.side_px),
        "level0_magnification": round(10 / slide.um_per_px),
        "target_magnification": round(10 / um_per_px),
        "overlap": 0,
        "level0_width": slide.width,
        "level0_height": slide.height,
        "um_per_px": slide.um_per_px,
        "patch_side_px": grid.side_px,
        "patch_um_per_px": um_per_px,
    }


def side_px(attributes: Mapping) -> float | None:
    """The side of a patch in level-0 px: ours exactly, TRIDENT's in whole pixels, or None."""
    return attributes.get("patch_side_px", attributes.get("patch_size_level0"))


def digest(path) -> str:
    """A checksum of a slide's size, first, middle and last MiB: it tells another file at once."""
    try:
        with open(path, "rb") as handle:
            size = handle.seek(0, 2)
            found = hashlib.sha256(str(size).encode())
            for start in (0, size // 2, max(size - DIGEST_BYTES, 0)):
                handle.seek(start)
                found.update(handle.read(DIGEST_BYTES))
    except OSError as error:
        remedy = "put the slide there or correct the cohort table"
        found_words = "nothing" if isinstance(error, FileNotFoundError) else error.strerror
        raise InputError(path, "file", str(found_words), remedy) from None
    return found.hexdigest()


def _read(slide: WholeSlide, corner, level: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 (h, w, 3) of a level; white where nothing was scanned."""
    import openslide

    try:
        region = slide.handle.read_region((int(corner[0]), int(corner[1])), level, size)
    except openslide.OpenSlideError as error:
        raise InputError(
            slide.path,
            f"region at {int(corner[0])}, {int(corner[1])} px",
            str(error),
            f"the slide is damaged or cut off: {_WRONG}",
        ) from None
    pixels = np.asarray(region)
    alpha = pixels[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(pixels[..., :3])
    share = alpha.astype(np.float32) / 255
    return np.round(pixels[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def _um_per_px(handle, path: Path, given: float | None) -> float:
    import openslide

    names = (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    stated = [_number(handle.properties.get(name)) for name in names]
    if None in stated:
        stated = [_of_metadata(path)] * 2
    low, high = UM_PER_PX_RANGE
    if None in stated or not all(low <= value <= high for value in stated):
        stated = None
    if given is not None:
        if stated and abs(given / stated[0] - 1) > MAX_ANISOTROPY:
            log.warning(
                "%s: the cohort table says %g um/px, the file %g: the table's is taken",
                path,
                given,
                stated[0],
            )
        return float(given)
    if not stated:
        raise InputError(
            path, "um_per_px", "nothing", "write it in the column um_per_px of the cohort table"
        )
    if abs(stated[0] / stated[1] - 1) > MAX_ANISOTROPY:
        raise InputError(
            path,
            "um_per_px",
            f"{stated[0]:g} along x and {stated[1]:g} along y",
            "pixels that aren't square aren't read: export the slide with square ones",
        )
    return (stated[0] + stated[1]) / 2


def _number(text) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _of_metadata(path: Path) -> float | None:
    """What a TIFF's metadata say that OpenSlide doesn't read, such as OME's."""
    from pairscape.images import tiff

    try:
        with tiff.Slide(path, any_layout=True) as opened:
            return opened.um_per_px
    except InputError:
        return None
