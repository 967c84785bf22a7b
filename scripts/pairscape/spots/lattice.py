"""Where spots lie: lattices of squares, hexagons and circles in µm or H&E pixels."""

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numba
import numpy as np

from pairscape.acquire import bundle as xenium
from pairscape.acquire.alignment import decompose, um_to_he_matrix
from pairscape.core.errors import InputError
from pairscape.spots.preset import LATTICES

MAX_ENTRIES = 1 << 34  # spots x genes, one byte each, touched only where there is tissue
MAX_EXTENT_UM = 200_000  # several slides; what lies farther apart is no position on a slide
MAX_BUCKETS = 1 << 22
SQUARES, SMALL_SQUARES, CIRCLES, HEXAGONS, HEXAGON_CIRCLES, CENTRES = range(6)


class Frame(NamedTuple):
    """The frame of a lattice: its units are ``to_units @ (x_um, y_um, 1) - origin``."""

    to_units: np.ndarray  # (2, 3) float64
    origin: np.ndarray  # (2,) units
    unit_um: float

    @property
    def is_um(self) -> bool:
        """Whether its axes and units are those of Xenium micrometres."""
        return np.array_equal(self.to_units, np.eye(3)[:2])


class Grid(NamedTuple):
    """What the counting loop needs to find the spot of a point, all lengths in units."""

    kind: int
    radius: float  # half the size
    pitch: float
    row_pitch: float  # of a hexagonal lattice: between every other row
    first_row: int
    first_col: int
    rows: int
    cols: int
    to_units: np.ndarray
    origin: np.ndarray
    # Given centres: which of them reach into a bucket, a square of the plane.
    centres: np.ndarray = np.empty((0, 2))  # (S, 2)
    low: np.ndarray = np.zeros(2)  # (2,) corner of the first bucket
    bucket: float = 1.0  # side of a bucket
    starts: np.ndarray = np.zeros(1, np.int64)  # (rows * cols + 1,) where a bucket's centres start
    members: np.ndarray = np.empty(0, np.int64)  # centres by bucket, in the order given


class Layout(NamedTuple):
    """Where the spots lie: on a lattice, or around given centres."""

    shape: str
    lattice: str  # "square", "hexagonal" or "centres"
    size_um: float
    pitch_um: float
    frame: Frame
    names: tuple[str, ...]  # of the given centres
    grid: Grid

    @property
    def spots(self) -> int:
        return len(self.names) or self.grid.rows * self.grid.cols

    @property
    def gapless(self) -> bool:
        """Whether every point lies in a spot."""
        return self.grid.kind in (SQUARES, HEXAGONS)


def xenium_frame() -> Frame:
    """Xenium micrometres, as they stand in the transcripts."""
    return Frame(np.eye(3)[:2], np.zeros(2), 1.0)


def he_frame(he_matrix: np.ndarray, pixel_size_um: float) -> Frame:
    """Pixels of the H&E, whose axes the lattice follows.

    A micrometre is ``1 / um_per_px`` pixels along both axes, ``um_per_px`` being the root of a
    pixel's area under the alignment. (HEST takes the length of one axis, which is the same under a
    similarity.)
    """
    to_units = um_to_he_matrix(he_matrix, pixel_size_um)[:2]
    unit_um = decompose(he_matrix, pixel_size_um)["um_per_px"]
    return Frame(np.ascontiguousarray(to_units, np.float64), np.zeros(2), unit_um)


def to_um(frame: Frame, points: np.ndarray) -> np.ndarray:
    """Points (N, 2) in units of the frame, from its origin on, as Xenium micrometres (N, 2)."""
    if frame.is_um:
        return points + frame.origin
    inverse = np.linalg.inv(frame.to_units[:, :2])
    return (points + frame.origin - frame.to_units[:, 2]) @ inverse.T


def lattice(
    shape: str,
    size_um: float,
    pitch_um: float,
    bounds,
    arrangement: str | None = None,
    frame: Frame | None = None,
) -> Layout:
    """A lattice of spots that covers ``bounds``: least u, v and greatest u, v in units of the frame.

    See ``preset.SpotPreset`` for shape, size, pitch and arrangement (``lattice`` there); no frame
    stands for Xenium micrometres from (0, 0) on.
    """
    _check_size(shape, size_um)
    arrangement = arrangement or LATTICES[shape][0]
    refuse = functools.partial(InputError, "--options")
    if arrangement not in LATTICES[shape]:
        others = f"use {' or '.join(LATTICES[shape])}"
        raise refuse("spots.lattice", f"{arrangement} for shape {shape}", others)
    if not pitch_um >= size_um:
        raise refuse("spots.pitch_um", pitch_um, f"spots overlap: give at least {size_um}")
    if shape == "hexagon" and pitch_um != size_um:
        raise refuse("spots.pitch_um", pitch_um, f"hexagons have no gaps: give {size_um}")
    frame = frame or xenium_frame()
    pitch, radius = pitch_um / frame.unit_um, size_um / frame.unit_um / 2
    u_min, v_min, u_max, v_max = (float(value) for value in bounds)
    if arrangement == "square":
        kind = CIRCLES if shape == "circle" else SQUARES if size_um == pitch_um else SMALL_SQUARES
        row_pitch = pitch
        first_col, last_col = math.floor(u_min / pitch), math.floor(u_max / pitch)
        first_row, last_row = math.floor(v_min / pitch), math.floor(v_max / pitch)
    else:
        kind = HEXAGON_CIRCLES if shape == "circle" else HEXAGONS
        row_pitch = pitch * math.sqrt(3)
        # One more all round than can be reached: no care for the slant of the cells.
        first_col, last_col = math.floor(u_min / pitch) - 1, math.floor(u_max / pitch) + 1
        first_row = 2 * math.floor(v_min / row_pitch) - 2
        last_row = 2 * math.floor(v_max / row_pitch) + 3
    return Layout(
        shape=shape,
        lattice=arrangement,
        size_um=float(size_um),
        pitch_um=float(pitch_um),
        frame=frame,
        names=(),
        grid=Grid(
            kind=kind,
            radius=float(radius),
            pitch=float(pitch),
            row_pitch=float(row_pitch),
            first_row=first_row,
            first_col=first_col,
            rows=last_row - first_row + 1,
            cols=last_col - first_col + 1,
            to_units=frame.to_units,
            origin=np.asarray(frame.origin, np.float64),
        ),
    )


def circles(centres_um: np.ndarray, names: Iterable[str], size_um: float) -> Layout:
    """Circles of diameter ``size_um`` around given centres, (S, 2) µm; all of them are kept."""
    _check_size("circle", size_um)
    centres_um = np.ascontiguousarray(centres_um, np.float64).reshape(-1, 2)
    frame, radius = xenium_frame(), size_um / 2
    low = centres_um.min(axis=0) - 1.001 * radius
    extent = centres_um.max(axis=0) + 1.001 * radius - low
    if extent.max() > MAX_EXTENT_UM:
        far = "centres too far apart"
        raise InputError("--options", "spots.centres", far, "give them in micrometres")
    # Small buckets: nearly all of them see one circle or none. Larger ones for a large slide.
    bucket = max(radius / 2, math.sqrt(extent[0] * extent[1] / MAX_BUCKETS))
    cols, rows = (int(value) + 1 for value in extent // bucket)
    starts, members = _fill_buckets(centres_um, radius, low, bucket, rows, cols)
    return Layout(
        shape="circle",
        lattice="centres",
        size_um=float(size_um),
        pitch_um=float(size_um),
        frame=frame,
        names=tuple(names),
        grid=Grid(
            kind=CENTRES,
            radius=float(radius),
            pitch=float(size_um),
            row_pitch=float(size_um),
            first_row=0,
            first_col=0,
            rows=rows,
            cols=cols,
            to_units=frame.to_units,
            origin=frame.origin,
            centres=centres_um,
            low=low,
            bucket=float(bucket),
            starts=starts,
            members=members,
        ),
    )


def _fill_buckets(centres, radius: float, low, bucket: float, rows: int, cols: int):
    """For each bucket the centres whose circle may reach it, in their order (CSR)."""
    reach = math.ceil(2 * radius / bucket) + 1
    first = np.floor((centres - 1.001 * radius - low) / bucket).astype(np.int64)
    step = np.arange(reach + 1)
    col = np.clip(first[:, None, None, 0] + step[:, None], 0, cols - 1)
    row = np.clip(first[:, None, None, 1] + step[None, :], 0, rows - 1)
    col, row = np.broadcast_arrays(col, row)
    u, v = centres[:, None, None, 0], centres[:, None, None, 1]
    nearest_u = np.clip(u, low[0] + col * bucket, low[0] + (col + 1) * bucket)
    nearest_v = np.clip(v, low[1] + row * bucket, low[1] + (row + 1) * bucket)
    distance = np.hypot(nearest_u - u, nearest_v - v)
    centre = np.broadcast_to(np.arange(len(centres))[:, None, None], col.shape)
    reached = distance <= 1.001 * radius  # a little more, whatever is rounded
    pairs = np.unique(np.column_stack([(row * cols + col)[reached], centre[reached]]), axis=0)
    starts = np.searchsorted(pairs[:, 0], np.arange(rows * cols + 1))
    return starts, np.ascontiguousarray(pairs[:, 1])


def widen_bounds(bounds, xy_um: np.ndarray, frame: Frame) -> tuple[float, float, float, float]:
    """``bounds`` that also cover points, (N, 2) µm."""
    bounds = np.array(bounds, np.float64)
    x, y = np.ascontiguousarray(np.asarray(xy_um, np.float64).T)
    widen(bounds, x, y, frame.to_units, frame.origin)
    return tuple(float(value) for value in bounds)


def columns_needed(names: list[str], assigned: str = "all") -> list[str]:
    """The columns of the transcripts that ``pool`` reads, of those that there are."""
    columns = ["feature_name", "x_location", "y_location", "qv", xenium.gene_column(names)]
    if assigned != "all":
        columns.append("overlaps_nucleus" if assigned == "nuclei" else "cell_id")
    return list(dict.fromkeys(columns))


def layout_of(preset, attrs: Mapping) -> Layout:
    """A layout whose spots have the outline of those of a preset, wherever they lie.

    ``attrs`` are those of ``spots.zarr``.
    """
    frame = xenium_frame()
    if preset.frame == "he_pixels":
        frame = he_frame(np.array(attrs["he_matrix"]), attrs["pixel_size_um"])
    nowhere = (0, 0, 0, 0)
    return lattice(preset.shape, preset.size_um, preset.pitch_um, nowhere, preset.lattice, frame)


def outline_um(layout: Layout) -> np.ndarray | None:
    """The corners of a spot, (K, 2) µm from its centre; None for a circle."""
    if layout.shape == "circle":
        return None
    if layout.shape == "square":
        corners = layout.size_um / 2 * np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    else:
        angles = np.radians(np.arange(30, 390, 60))
        radius = layout.size_um / math.sqrt(3)
        corners = radius * np.column_stack([np.cos(angles), np.sin(angles)])
    linear = np.linalg.inv(layout.frame.to_units[:, :2] * layout.frame.unit_um)
    return corners if np.array_equal(linear, np.eye(2)) else corners @ linear.T


def inner_points_um(layout: Layout, across: int = 8) -> np.ndarray:
    """Points spread evenly over a spot, (K, 2) µm from its centre."""
    half = layout.size_um / 2
    reach = half * (2 / math.sqrt(3) if layout.shape == "hexagon" else 1)
    step = ((np.arange(across) + 0.5) / across * 2 - 1) * reach
    points = np.array([[u, v] for v in step for u in step])
    if layout.shape == "circle":
        points = points[(points**2).sum(axis=1) <= half**2]
    elif layout.shape == "hexagon":
        normals = np.array([[math.cos(a), math.sin(a)] for a in (0, math.pi / 3, -math.pi / 3)])
        points = points[(np.abs(points @ normals.T) <= half).all(axis=1)]
    return points @ np.linalg.inv(layout.frame.to_units[:, :2] * layout.frame.unit_um).T


def spot_centres_um(layout: Layout, spots: np.ndarray) -> np.ndarray:
    """Centres of spots by their numbers, (N, 2) µm."""
    if layout.names:
        return layout.grid.centres[spots]
    rows, cols = _places(layout, spots)
    grid = layout.grid
    if layout.lattice == "square":
        points = np.column_stack([(cols + 0.5) * grid.pitch, (rows + 0.5) * grid.pitch])
    else:
        v = grid.row_pitch / 6 + rows * (grid.row_pitch / 2)  # pitch / (2 sqrt 3) is row_pitch / 6
        points = np.column_stack([cols * (grid.pitch / 2), v])
    return to_um(layout.frame, points)


def _places(layout: Layout, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """array_row and array_col of spots of a lattice."""
    rows = spots // layout.grid.cols + layout.grid.first_row
    cols = spots % layout.grid.cols + layout.grid.first_col
    return rows, cols if layout.lattice == "square" else 2 * cols + (rows & 1)


def _check_size(shape: str, size_um: float) -> None:
    if shape not in LATTICES:
        raise InputError("--options", "spots.shape", shape, f"use one of {', '.join(LATTICES)}")
    if not size_um > 0:
        raise InputError("--options", "spots.size_um", size_um, "give micrometres above 0")


def describe_spots(layout: Layout, kept: np.ndarray) -> dict:
    """Names, places and centres (µm) of the kept spots; given centres stand in one column."""
    if layout.names:
        rows, cols = np.arange(len(layout.names)), np.zeros(len(layout.names))
        names = np.array(layout.names, object)
    else:
        rows, cols = _places(layout, kept)
        names = np.array([f"{r:03d}x{c:03d}" for r, c in zip(rows, cols, strict=True)], object)
    x_um, y_um = spot_centres_um(layout, kept).T
    return {
        "spot": names,
        "array_row": rows.astype(np.int32),
        "array_col": cols.astype(np.int32),
        "x_um": np.array(x_um, np.float64),
        "y_um": np.array(y_um, np.float64),
    }


@numba.njit(cache=True, nogil=True)
def widen(bounds, x, y, to_units, origin):
    """Widen bounds (4,) by points; the arithmetic is that of ``_accumulate``."""
    a, b, c = to_units[0, 0], to_units[0, 1], to_units[0, 2]
    d, e, f = to_units[1, 0], to_units[1, 1], to_units[1, 2]
    for i in range(len(x)):
        x_um, y_um = np.float64(x[i]), np.float64(y[i])
        # Each axis by itself: a NaN in one doesn't hide the other, as in a file's statistics.
        u = a * x_um + c - origin[0] if b == 0 else a * x_um + b * y_um + c - origin[0]
        v = e * y_um + f - origin[1] if d == 0 else d * x_um + e * y_um + f - origin[1]
        if np.isfinite(u):
            bounds[0], bounds[2] = min(bounds[0], u), max(bounds[2], u)
        if np.isfinite(v):
            bounds[1], bounds[3] = min(bounds[1], v), max(bounds[3], v)
