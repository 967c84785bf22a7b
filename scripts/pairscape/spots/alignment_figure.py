"""The picture of an alignment: the H&E, and where it puts the nuclei of the bundle."""

from dataclasses import dataclass

import numpy as np

from pairscape.acquire.alignment import apply
from pairscape.spots.registration_maps import PIXEL_UM, Region

THUMBNAIL_PX = 1400
DETAIL_UM = 120.0  # side of a detail: 5 µm are 4 % of it
MARGIN_UM = 30.0  # around a detail, so that nuclei at its edge are read whole
CONTOUR_UM = 60.0  # smoothing of the contours, on top of the region's own
QUANTILES = (0.5, 0.85)  # of the tissue, that the contours enclose the rest of
COLOURS = ("#0b3d91", "#e69f00")  # dark outer, light inner: told apart in grey as well
INK, OUTLINE, BOX = "#333333", "#00c8ff", "#111111"


@dataclass(frozen=True)
class Detail:
    """A square of the H&E at full resolution: its picture (uint8 RGB), the H&E pixel of its corner, and
    what of the bundle lies there, in H&E pixels: outlines of nuclei, each (N, 2), or centres (N, 2).
    """

    picture: np.ndarray
    corner_px: np.ndarray
    outlines: list[np.ndarray]
    centres: np.ndarray


def choose_details(nuclei_um: np.ndarray, side_um: float, fits, count: int = 2) -> np.ndarray:
    """Centres (n <= count, 2) µm of the squares that hold most nuclei, of a grid over the tissue.

    Two lie at least a quarter of the tissue's diagonal apart. ``fits`` tells of centres (N, 2) which
    may be taken, as (N,) bool.
    """
    if not len(nuclei_um):
        return np.empty((0, 2))
    squares, held = np.unique(nuclei_um // side_um, axis=0, return_counts=True)
    centres_um = (squares[np.argsort(-held, kind="stable")] + 0.5) * side_um
    centres_um = centres_um[fits(centres_um)]
    apart_um = np.hypot(*np.ptp(nuclei_um, axis=0)) / 4
    chosen: list[np.ndarray] = []
    while len(centres_um) and len(chosen) < count:
        chosen.append(centres_um[0])
        centres_um = centres_um[np.hypot(*(centres_um - centres_um[0]).T) >= apart_um]
    return np.array(chosen).reshape(-1, 2)


def draw_alignment(
    path,
    *,
    title: str,
    thumbnail: np.ndarray,
    scale: float,
    region: Region,
    pixel_size_um: float,
    panels: list[tuple[str, np.ndarray]],
    details: list[Detail],
) -> None:
    """Draw the figure as PNG: a panel for each hypothesis, and below them details of the first.

    ``thumbnail`` is uint8 RGB with ``scale`` H&E pixels per pixel of it; contours are of the first
    map of ``region``; ``panels`` are headings and (3, 3) matrices of H&E pixels to morphology pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = thumbnail.shape[:2]
    across = 6.2
    down = float(np.clip(across * height / width, 2.5, 9))
    columns = max(len(panels), len(details))
    heights = [down + 0.2, *([across - 0.3] if details else [])]
    figure = Figure(
        figsize=(across * columns, sum(heights) + 0.9),
        dpi=130,
        layout="constrained",
        facecolor="white",
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=INK)
    rows = np.atleast_1d(figure.subfigures(len(heights), 1, height_ratios=heights))
    for axes, (heading, matrix) in zip(_axes(rows[0], len(panels)), panels, strict=True):
        axes.imshow(thumbnail, extent=(0, width * scale, height * scale, 0))
        _draw_region(axes, region, matrix, pixel_size_um)
        axes.set(xlim=(0, width * scale), ylim=(height * scale, 0))
        axes.set_title(heading, fontsize=10, color=INK)
        _finish(axes, width * scale, _um_per_px(matrix, pixel_size_um))
    for axes, detail, letter in zip(_axes(rows[-1], len(details)), details, "AB", strict=False):
        _draw_detail(axes, detail, letter)
        _finish(axes, detail.picture.shape[1], _um_per_px(panels[0][1], pixel_size_um))
    if details:
        first = rows[0].axes[0]
        for detail, letter in zip(details, "AB", strict=False):
            _mark(first, detail, letter, width * scale)
    rows[-1].legend(
        handles=_handles(region, details),
        loc="outside lower center",
        ncols=4,
        fontsize=9,
        frameon=False,
    )
    figure.savefig(path, format="png")


def _axes(figure, count: int):
    return figure.subplots(1, count, squeeze=False)[0] if count else ()


def _um_per_px(matrix: np.ndarray, pixel_size_um: float) -> float:
    return pixel_size_um * np.sqrt(abs(np.linalg.det(matrix[:2, :2])))


def _handles(region: Region, details: list[Detail]) -> list:
    """What the legend explains: only what is drawn."""
    from matplotlib.lines import Line2D

    name, handles = next(iter(region.maps), None), []
    if name:
        handles += [
            Line2D(
                [], [], color=colour, linewidth=2, label=f"densest {100 - 100 * q:.0f} % in {name}"
            )
            for colour, q in zip(COLOURS, QUANTILES, strict=True)
        ]
    handles.append(Line2D([], [], color=INK, linestyle="--", label="edge of the Xenium region"))
    if any(detail.outlines for detail in details):
        handles.append(Line2D([], [], color=OUTLINE, linewidth=2, label="nucleus in the bundle"))
    elif details:
        dots = {"linestyle": "", "marker": "o", "markerfacecolor": "none"}
        handles.append(
            Line2D([], [], color=OUTLINE, label="centre of a cell in the bundle", **dots)
        )
    return handles


def _draw_detail(axes, detail: Detail, letter: str) -> None:
    from matplotlib.collections import PolyCollection

    (left, top), (height, width) = detail.corner_px, detail.picture.shape[:2]
    axes.imshow(
        detail.picture, extent=(left, left + width, top + height, top), interpolation="nearest"
    )
    axes.set(xlim=(left, left + width), ylim=(top + height, top))
    looks = {"edgecolor": OUTLINE, "facecolor": "none"}
    if detail.outlines:
        axes.add_collection(PolyCollection(detail.outlines, linewidth=1.3, **looks), autolim=False)
        what = "outlines of nuclei"
    else:
        axes.scatter(*detail.centres.T, s=30, linewidth=1.3, **looks)
        what = "centres of cells: the bundle has no outlines of nuclei"
    axes.set_title(f"{letter}, at full resolution: {what}", fontsize=10, color=INK)


def _mark(axes, detail: Detail, letter: str, width_px: float) -> None:
    """Where a detail lies."""
    from matplotlib.patches import Rectangle

    height, width = detail.picture.shape[:2]
    axes.add_patch(Rectangle(detail.corner_px, width, height, fill=False, color=BOX, linewidth=1.5))
    # Beside it, on the side where there is room.
    right = detail.corner_px[0] < 0.9 * width_px
    x, y = detail.corner_px + np.array([width if right else 0, height / 2])
    axes.annotate(
        letter,
        (x, y),
        xytext=(5 if right else -5, 0),
        textcoords="offset points",
        ha="left" if right else "right",
        va="center",
        fontsize=10,
        fontweight="bold",
        color=BOX,
        bbox={
            "boxstyle": "round,pad=0.15",
            "facecolor": "white",
            "edgecolor": "none",
            "alpha": 0.85,
        },
    )


def draw_residuals(path, name: str, fitted, region: Region) -> None:
    """Draw as PNG what a fit (``registration_fit.Fit``) leaves in each block, as arrows ten times as
    long."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.2, 6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    rows, columns = region.tissue.shape
    left, top = region.low_um
    extent = (left, left + columns * PIXEL_UM, top + rows * PIXEL_UM, top)
    axes.imshow(next(iter(region.maps.values())), extent=extent, cmap="Greys", alpha=0.6)
    (x, y), (dx, dy) = fitted.blocks.T, fitted.residuals.T
    axes.quiver(x, y, dx, dy, color=COLOURS[0], angles="xy", scale_units="xy", scale=0.1)
    axes.set(xlabel="x (µm)", ylabel="y (µm)")
    axes.set_title(f"{name}: residuals x 10, median {fitted.residual_um:.1f} µm", fontsize=10)
    figure.savefig(path, format="png")


def _draw_region(axes, region: Region, matrix: np.ndarray, pixel_size_um: float) -> None:
    from matplotlib.patheffects import Normal, Stroke
    from scipy.ndimage import gaussian_filter

    to_he = np.linalg.inv(matrix)

    def he_px(xy_um):
        return apply(to_he, xy_um / pixel_size_um)

    rows, columns = region.tissue.shape
    corners = np.array([[0, 0], [columns, 0], [columns, rows], [0, rows], [0, 0]])
    x, y = he_px(corners * PIXEL_UM + region.low_um).T
    axes.plot(x, y, color=INK, linestyle="--", linewidth=1)
    if not region.maps or min(rows, columns) < 2:
        return
    values = gaussian_filter(next(iter(region.maps.values())), CONTOUR_UM / PIXEL_UM)
    levels = np.quantile(values[region.tissue], QUANTILES)
    if levels[0] >= levels[1]:
        return
    x, y = he_px(region.centres_um).T
    axes.contour(
        x.reshape(rows, columns),
        y.reshape(rows, columns),
        values,
        levels=levels,
        colors=COLOURS,
        linewidths=1.1,
        path_effects=[Stroke(linewidth=2.2, foreground="white", alpha=0.6), Normal()],
    )


def _finish(axes, width_px: float, um_per_px: float) -> None:
    """The names of the axes, and a scale bar on a plate."""
    from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar

    axes.set(xlabel="x on the H&E (pixels)", ylabel="y on the H&E (pixels)")
    axes.tick_params(labelsize=8, colors=INK)
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    length_um = max((s for s in steps if s / um_per_px <= width_px / 4), default=1)
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
    low, high = sorted(axes.get_ylim())
    bar = AnchoredSizeBar(
        axes.transData,
        length_um / um_per_px,
        words,
        "lower left",
        pad=0.5,
        sep=3,
        size_vertical=(high - low) / 150,
        fontproperties={"size": 9},
    )
    bar.patch.set(alpha=0.85, edgecolor="none", boxstyle="round,pad=0")
    axes.add_artist(bar)
