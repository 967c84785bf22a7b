"""The picture of an alignment: the H&E, and where it puts the nuclei of the bundle."""

import numpy as np

from pairscape.acquire.alignment import apply
from pairscape.spots.registration_maps import PIXEL_UM, Region

THUMBNAIL_PX = 1400
CONTOUR_UM = 60.0  # smoothing of the contours, on top of the region's own
QUANTILES = (0.5, 0.85)  # of the tissue, that the contours enclose the rest of
COLOURS = ("#0b3d91", "#ffd400")  # dark outer, light inner: told apart in grey as well
INK = "#333333"


def draw_alignment(
    path,
    *,
    title: str,
    thumbnail: np.ndarray,
    scale: float,
    region: Region,
    pixel_size_um: float,
    panels: list[tuple[str, np.ndarray]],
) -> None:
    """Draw the figure as PNG, one panel for each hypothesis.

    ``thumbnail`` is uint8 RGB with ``scale`` H&E pixels per pixel of it; contours are of the first
    map of ``region``; ``panels`` are headings and (3, 3) matrices of H&E pixels to morphology pixels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    height, width = thumbnail.shape[:2]
    across = 6.2
    down = float(np.clip(across * height / width, 2.5, 9))
    figure = Figure(
        figsize=(across * len(panels), down + 1.5), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=12, color=INK)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (heading, matrix) in zip(all_axes, panels, strict=True):
        axes.imshow(thumbnail, extent=(0, width * scale, height * scale, 0))
        _draw_region(axes, region, matrix, pixel_size_um)
        axes.set(xlim=(0, width * scale), ylim=(height * scale, 0), xlabel="H&E (pixels)")
        axes.tick_params(labelsize=8, colors=INK)
        axes.set_title(heading, fontsize=10, color=INK)
        um_per_px = pixel_size_um * np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
        _draw_scale_bar(axes, width * scale, height * scale, um_per_px)
    name = next(iter(region.maps), None)
    if name:
        shown = [
            Line2D([], [], color=colour, label=f"densest {100 * (1 - quantile):.0f} % in {name}")
            for colour, quantile in zip(COLOURS, QUANTILES, strict=True)
        ]
        shown.append(Line2D([], [], color=INK, linestyle="--", label="edge of the Xenium region"))
        figure.legend(
            handles=shown, loc="outside lower center", ncols=3, fontsize=9, facecolor="#bbbbbb"
        )
    figure.savefig(path, format="png")


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


def _draw_scale_bar(axes, width_px: float, height_px: float, um_per_px: float) -> None:
    steps = [step * 10**power for power in range(6) for step in (1, 2, 5)]
    length_um = max((s for s in steps if s / um_per_px <= width_px / 4), default=1)
    x, y = 0.04 * width_px, 0.96 * height_px
    axes.plot([x, x + length_um / um_per_px], [y, y], color="black", linewidth=3)
    words = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um} µm"
    axes.text(x, y - 0.015 * height_px, words, fontsize=9, va="bottom", color="black")
