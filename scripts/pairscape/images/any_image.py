"""Any H&E image behind one interface: size in µm, patches."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairscape.core import tsv
from pairscape.core.errors import InputError

PICTURES = (".png", ".jpg", ".jpeg")


TIFFS = (".tif", ".tiff", ".btf", ".svs")


MAX_OFF = 0.02  # between the user's µm per pixel and the file's, before it is said


class HEImage(NamedTuple):
    """An open image: its size in px, and a function that cuts patches out of it.

    ``cut(centres_px, side_px, patch_px)`` yields the index of each centre and its patch, in any
    order (see ``slide.iter_patches``).
    """

    path: Path
    width: int
    height: int
    um_per_px: float
    cut: Callable[[np.ndarray, float, int], Iterator[tuple[int, np.ndarray]]]


class Picture(NamedTuple):
    """A decoded picture that ``slide.iter_patches`` takes for a slide of one tile."""

    pixels: np.ndarray  # (height, width, 3) uint8
    width: int
    height: int
    tile_width: int
    tile_height: int
    cache_bytes: int

    def read_region(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
        """uint8 (height, width, 3); white outside the picture."""
        region = np.full((height, width, 3), 255, np.uint8)
        left, top = max(x0, 0), max(y0, 0)
        found = self.pixels[top : max(y0 + height, 0), left : max(x0 + width, 0)]
        region[top - y0 : top - y0 + found.shape[0], left - x0 : left - x0 + found.shape[1]] = found
        return region


@contextlib.contextmanager
def open_image(path, um_per_px: float | None = None) -> Iterator[HEImage]:
    """Open a PNG, JPEG, TIFF, OME-TIFF or SVS, or any other slide that OpenSlide reads.

    Parameters
    ----------
    um_per_px
        The user's word for the pixel size; None takes the file's. PNG and JPEG have none.
    """
    from pairscape.images import tiff
    from pairscape.images.patches import iter_patches

    path = Path(path)
    if not path.is_file():
        raise InputError(path, "file", "nothing", "give the H&E image")
    kind = path.suffix.lower()
    if kind in PICTURES:
        picture = _read_picture(path)
        yield HEImage(
            path,
            picture.width,
            picture.height,
            _pixel_size(path, um_per_px, None),
            lambda *patches: iter_patches(picture, *patches),
        )
    elif kind in TIFFS:
        with tiff.Slide(path) as opened:
            yield HEImage(
                path,
                opened.width,
                opened.height,
                _pixel_size(path, um_per_px, opened.um_per_px),
                lambda *patches: iter_patches(opened, *patches),
            )
    else:
        from pairscape.images import whole_slide

        with contextlib.ExitStack() as stack:
            try:
                opened = stack.enter_context(whole_slide.open_slide(path, um_per_px))
            except InputError as error:
                raise _of_this_program(error) from None
            yield HEImage(
                path,
                opened.width,
                opened.height,
                opened.um_per_px,
                lambda *patches: _cut_whole_slide(opened, *patches),
            )


def lay_grid(image: HEImage, side_px: float, step_px: float) -> np.ndarray:
    """Centres (N, 2) px, by rows, of patches that lie wholly within the image."""
    counts = [int((size - side_px + 1e-6) // step_px) + 1 for size in (image.width, image.height)]
    if min(counts) < 1:
        raise InputError(
            image.path,
            "size",
            f"{image.width} x {image.height} px, less than one patch of {side_px:.1f}",
            "give a larger image, or correct its um_per_px",
        )
    x, y = np.meshgrid(*(np.arange(count) * step_px + side_px / 2 for count in counts))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def read_centres(path, image: HEImage, side_px: float) -> np.ndarray:
    """Read the centres (N, 2) of patches from a table with the columns x_px and y_px."""
    rows = tsv.read_numbers(path, ("x_px", "y_px"), "give pixels", ("x_px", "y_px"))
    centres = np.array([[row["x_px"], row["y_px"]] for row in rows], np.float64).reshape(-1, 2)
    if not len(centres) or not np.isfinite(centres).all():
        line = 2 if not len(centres) else 2 + int(np.argmin(np.isfinite(centres).all(1)))
        raise InputError(path, f"line {line}", "no centre", "give x_px and y_px of each patch")
    corners = centres - side_px / 2
    outside = (corners < -1e-6) | (corners + side_px > [image.width + 1e-6, image.height + 1e-6])
    if outside.any():
        first = int(outside.any(1).argmax())
        raise InputError(
            path,
            f"line {first + 2}",
            f"{centres[first, 0]:g}, {centres[first, 1]:g}: a patch of {side_px:.1f} px beyond the "
            f"image of {image.width} x {image.height}",
            "drop the row, or correct the pixel size",
        )
    return centres


def _read_picture(path: Path) -> Picture:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            if opened.mode not in ("RGB", "RGBA", "P"):
                raise InputError(
                    path, "colours", f"mode {opened.mode}", "save it as 8-bit RGB: H&E has colours"
                )
            pixels = opened.convert("RGBA")
            white = Image.new("RGBA", pixels.size, "white")
            white.alpha_composite(pixels)
            pixels = np.asarray(white.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(path, "image", str(error), "save or fetch it again") from None
    except Image.DecompressionBombError:
        raise InputError(
            path, "size", "more than Pillow reads at once", "save it as a tiled TIFF"
        ) from None
    height, width = pixels.shape[:2]
    return Picture(pixels, width, height, width, height, pixels.nbytes)


def _pixel_size(path: Path, given: float | None, stated: float | None) -> float:
    from pairscape.core.logs import log

    if given is None and stated is None:
        raise InputError(
            path, "um_per_px", "nothing", "give the size of its pixels with --um-per-px"
        )
    if None not in (given, stated) and abs(given / stated - 1) > MAX_OFF:
        log.warning("%s: it says %g um per px, --um-per-px %g: yours is used", path, stated, given)
    return stated if given is None else given


def _of_this_program(error: InputError) -> InputError:
    """An error of the cohorts' reader, with what can be done about it here."""
    unknown = error.field == "um_per_px" and error.found == "nothing"
    remedy = "give the size of its pixels with --um-per-px" if unknown else "save or fetch it again"
    return InputError(error.file, error.field, error.found, remedy)


def _cut_whole_slide(slide, centres_px: np.ndarray, side_px: float, patch_px: int):
    from pairscape.images import whole_slide

    corners = np.floor(centres_px - side_px / 2 + 1e-6).astype(np.int64)
    grid = whole_slide.Grid(corners, side_px, patch_px)
    for index in range(len(corners)):
        yield index, whole_slide.read_patch(slide, grid, index)
