"""Maps that a registration compares: tissue in the H&E, cells and transcripts."""

import math
from typing import NamedTuple

import numpy as np

from pairscape.acquire import bundle as xenium
from pairscape.core.errors import InputError

PIXEL_UM = 20.0
SMOOTHING_UM = 30.0
BLOCK_UM = 220.0
SPOT_UM = 55.0  # hypotheses that differ by no more than this everywhere are one
APART_UM = 4 * SPOT_UM  # those that differ by more than this somewhere are other places
MIN_CELLS = 200
MIN_TRANSCRIPTS = 2000
MIN_QV = 20
THUMBNAIL_PX = 2048
LARGEST_UM = 100_000.0  # four slides: coordinates beyond it are damage
BLACK = 12  # all channels below this: no tissue, but the fill of an image that was turned


class Region(NamedTuple):
    """What the bundle says, on a grid of ``PIXEL_UM``, smoothed, as standardised rows."""

    maps: dict[str, np.ndarray]  # name -> (rows, columns) float32
    counts: dict[str, int]  # points behind each map
    low_um: np.ndarray  # (2,) x and y of the outer corner
    tissue: np.ndarray  # (rows, columns) bool: a nucleus or a transcript is near
    nuclei_um: np.ndarray  # (N, 2) their centres

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
    nuclei_um = _read_nuclei(bundle)
    counted = {"nuclei": _count([nuclei_um]), "transcripts": _count(_transcripts(bundle))}
    rows, columns = np.max([grid.shape for grid in counted.values()], axis=0)
    counted = {
        name: np.pad(grid, ((0, rows - grid.shape[0]), (0, columns - grid.shape[1])))
        for name, grid in counted.items()
    }
    filled = np.argwhere(sum(counted.values()) > 0)
    if not len(filled):
        nothing = np.zeros((1, 1), bool)
        return Region({}, dict.fromkeys(counted, 0), np.zeros(2), nothing, nuclei_um)
    (top, left), (bottom, right) = filled.min(axis=0), filled.max(axis=0) + 1
    counted = {name: grid[top:bottom, left:right] for name, grid in counted.items()}
    counts = {name: int(grid.sum()) for name, grid in counted.items()}
    enough = {"nuclei": MIN_CELLS, "transcripts": MIN_TRANSCRIPTS}
    maps = {
        name: _standardised(blur(np.sqrt(grid), SMOOTHING_UM / PIXEL_UM))
        for name, grid in counted.items()
        if counts[name] >= enough[name]
    }
    tissue = blur(sum(counted.values()) > 0, 2.0) > 0.05
    return Region(maps, counts, np.array([left, top]) * PIXEL_UM, tissue, nuclei_um)


def _read_nuclei(bundle) -> np.ndarray:
    """The centres of a bundle's nuclei, (N, 2) µm; none where its table of cells can't be read."""
    try:
        cells = xenium.read_cells(bundle)[["x_centroid", "y_centroid"]].to_numpy(float)
    except InputError:  # check_bundle says so; transcripts tell as much
        return np.empty((0, 2))
    return cells[np.isfinite(cells).all(axis=1)]


def read_picture(thumbnail: np.ndarray, scale: float, size_px: tuple[int, int]) -> Picture:
    """The haematoxylin density of an H&E from its thumbnail (``HEImage.thumbnail``).

    Colours are unmixed after Ruifrok and Johnston (2001, scikit-image's ``rgb2hed``); glass, and
    the black fill of turned images, become 0, the densest hundredth 1.
    """
    density = _haematoxylin(thumbnail)
    step = max(1, math.ceil(max(density.shape) / (THUMBNAIL_PX // 2)))
    rows, columns = (side // step * step for side in density.shape)
    reduced = density[:rows, :columns].reshape(rows // step, step, columns // step, step)
    return Picture(reduced.mean(axis=(1, 3)), scale * step, size_px)


def read_close_picture(thumbnail: np.ndarray, scale: float, size_px: tuple[int, int]) -> Picture:
    """The same, as fine as the thumbnail is."""
    return Picture(_haematoxylin(thumbnail), scale, size_px)


def _haematoxylin(thumbnail: np.ndarray) -> np.ndarray:
    from skimage.color import rgb2hed

    density = np.empty(thumbnail.shape[:2], np.float32)
    for top in range(0, len(density), 256):  # in bands: unmixing takes float64
        band = thumbnail[top : top + 256]
        density[top : top + 256] = rgb2hed(band)[..., 0]
        density[top : top + 256][(band < BLACK).all(axis=2)] = np.nan
    low, high = np.nanquantile(density, [0.01, 0.99]) if np.isfinite(density).any() else (0, 0)
    return np.nan_to_num((density - low) / max(high - low, 1e-6), nan=0.0).clip(0, 1)


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


def reduced_map(values: np.ndarray, step: int) -> np.ndarray:
    """Means of squares of pixels; the last ones repeat the edge."""
    if step == 1:
        return values
    rows, columns = (side + -side % step for side in values.shape)
    more = ((0, rows - values.shape[0]), (0, columns - values.shape[1]))
    padded = np.pad(values, more, mode="edge")
    return padded.reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))


def blur(values: np.ndarray, sigma: float) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values.astype(np.float32), sigma, mode="constant")


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values.clip(*np.quantile(values, [0.01, 0.99]))
    return (values - values.mean()) / max(float(values.std()), 1e-9)
