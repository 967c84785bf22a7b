"""The quality figure of a sample's spots: one gene per cell and per spot, and two histograms."""

import numpy as np

from pairscape.alignment import he_px_to_um

THUMBNAIL_PX = 1600
INK = "#333333"
BAR = "#4477aa"  # Tol's bright blue: told apart in every kind of colour vision
LINE = "#aa3377"


def choose_gene(counts, genes: list[str]) -> str:
    """The gene whose log counts vary most between spots: the one that shows most of the tissue."""
    logs = counts.astype(np.float64)
    logs.data = np.log1p(logs.data)
    mean = np.asarray(logs.mean(axis=0)).ravel()
    square = np.asarray(logs.multiply(logs).mean(axis=0)).ravel()
    return genes[int(np.argmax(square - mean**2))]


def draw_spots(
    path,
    *,
    title: str,
    gene: str,
    spot_xy_um: np.ndarray,
    spot_counts: np.ndarray,
    shape: str,
    size_um: float,
    transcripts: np.ndarray,
    genes: np.ndarray,
    cell_xy_um: np.ndarray | None = None,
    cell_counts: np.ndarray | None = None,
    he: tuple[np.ndarray, float] | None = None,
    he_matrix: np.ndarray | None = None,
    pixel_size_um: float = 1.0,
) -> None:
    """Draw the figure as PNG.

    Parameters
    ----------
    spot_xy_um, spot_counts
        (S, 2) centres and (S,) counts of ``gene``.
    transcripts, genes
        (S,) transcripts and detected genes of each spot.
    cell_xy_um, cell_counts
        (C, 2) and (C,), or None where the bundle has no cells.
    he
        A thumbnail of the H&E, uint8 RGB, and its H&E pixels per pixel; None without H&E.
    he_matrix, pixel_size_um
        The alignment of the H&E.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import EllipseCollection, PolyCollection
    from matplotlib.figure import Figure

    margin = size_um / 2
    low, high = spot_xy_um.min(axis=0) - margin, spot_xy_um.max(axis=0) + margin
    if cell_xy_um is not None and len(cell_xy_um):
        low, high = (
            np.minimum(low, cell_xy_um.min(axis=0)),
            np.maximum(high, cell_xy_um.max(axis=0)),
        )
    low, high = low - 0.02 * (high - low), high + 0.02 * (high - low)
    width, height = high - low
    map_height = float(np.clip(5.4 * height / width, 2.2, 7.5))
    figure = Figure(
        figsize=(13, map_height + 3.6), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    maps, histograms = figure.subfigures(2, 1, height_ratios=[map_height + 0.5, 3.1])
    maps.suptitle(title, fontsize=12, color=INK)

    per_cell, per_spot = maps.subplots(1, 2, sharex=True, sharey=True)
    for axes in (per_cell, per_spot):
        if he is not None and he_matrix is not None:
            _draw_he(axes, he, he_matrix, pixel_size_um)
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal", xlabel="x (µm)")
        axes.tick_params(labelsize=8, colors=INK)
    per_cell.set_ylabel("y (µm)")
    per_spot.tick_params(labelleft=True)

    if cell_xy_um is None or not len(cell_xy_um):
        per_cell.text(
            0.5, 0.5, "no cells in this bundle", transform=per_cell.transAxes, ha="center"
        )
        per_cell.set_title(f"{gene} per cell", fontsize=10)
    else:
        shown = np.flatnonzero(cell_counts)
        shown = shown[np.argsort(cell_counts[shown], kind="stable")]  # the rare high ones on top
        spacing_um = np.sqrt(width * height / len(cell_counts))
        diameter_um = np.clip(0.8 * spacing_um, 8, 32)
        points_per_um = 72 * min(5.4 / width, map_height / height)
        dots = per_cell.scatter(
            *cell_xy_um[shown].T,
            c=cell_counts[shown],
            s=float(np.clip(diameter_um * points_per_um, 0.8, 6)) ** 2,
            cmap=_colours(),
            vmin=0,
            vmax=_top(cell_counts),
            linewidths=0,
        )
        _colour_bar(maps, dots, per_cell, "transcripts per cell", cell_counts)
        per_cell.set_title(f"{gene} per cell ({len(cell_counts):,} cells)", fontsize=10)

    half = size_um / 2
    if shape == "circle":
        sides = np.full(len(spot_xy_um), size_um)
        zeros = np.zeros(len(spot_xy_um))
        spots = EllipseCollection(
            sides, sides, zeros, units="xy", offsets=spot_xy_um, offset_transform=per_spot.transData
        )
    else:
        corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        spots = PolyCollection(spot_xy_um[:, None] + corners)
    spots.set(array=spot_counts, cmap=_colours(), clim=(0, _top(spot_counts)))
    spots.set(edgecolor="#77777755", linewidth=0.3)  # shows the spots without a transcript
    per_spot.add_collection(spots, autolim=False)
    _colour_bar(maps, spots, per_spot, "transcripts per spot", spot_counts)
    form = "circles" if shape == "circle" else "squares"
    per_spot.set_title(
        f"{gene} per pseudo-spot ({len(spot_counts):,} {form} of {size_um:g} µm)", fontsize=10
    )

    left, right = histograms.subplots(1, 2)
    _draw_histogram(left, transcripts, "transcripts per spot", "spots")
    _draw_histogram(right, genes, "genes per spot", "spots")
    figure.savefig(path, format="png", metadata={"Software": None})


def _colours():
    """From clear to dark, for a light ground: nothing at all is clear, much is dark."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["magma_r"](np.linspace(0.12, 0.9, 256))
    table[:, 3] = np.clip(np.linspace(0.0, 6.0, 256), 0, 0.95)
    return ListedColormap(table)


def _top(counts: np.ndarray) -> float:
    """Where the colours end: a few extreme spots shouldn't darken all others."""
    positive = counts[counts > 0]
    return max(float(np.quantile(positive, 0.99)), 1.0) if len(positive) else 1.0


def _draw_he(axes, he, he_matrix: np.ndarray, pixel_size_um: float) -> None:
    from matplotlib.transforms import Affine2D

    picture, scale = he
    grey = picture @ np.array([0.299, 0.587, 0.114])
    pale = 0.1 * picture + 0.35 * grey[..., None] + 0.55 * 255  # a quiet ground for the colours
    rows, cols = picture.shape[:2]
    corners = he_px_to_um(
        he_matrix, pixel_size_um, np.array([[0, 0], [cols * scale, 0], [0, rows * scale]])
    )
    (a, b), (c, d) = (corners[1:] - corners[0]) / [[cols], [rows]]
    move = Affine2D(np.array([[a, c, corners[0, 0]], [b, d, corners[0, 1]], [0, 0, 1]]))
    axes.imshow(
        pale.astype(np.uint8),
        extent=(0, cols, rows, 0),
        transform=move + axes.transData,
        interpolation="bilinear",
        zorder=0,
    )


def _colour_bar(figure, mappable, axes, label: str, counts: np.ndarray) -> None:
    extend = "max" if len(counts) and counts.max() > _top(counts) else "neither"
    bar = figure.colorbar(mappable, ax=axes, shrink=0.8, aspect=30, pad=0.015, extend=extend)
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def _draw_histogram(axes, values: np.ndarray, label: str, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    values = np.asarray(values)
    median = float(np.median(values))
    step = max(
        -(-int(values.max() + 1) // 40), 1
    )  # whole numbers, so that no bar holds more of them
    axes.hist(values, np.arange(0, values.max() + step + 1, step) - 0.5, color=BAR, linewidth=0)
    axes.axvline(median, color=LINE, linewidth=1.5)
    axes.set_title(f"median {median:g}", fontsize=10, color=LINE)
    axes.set(xlabel=label, ylabel=unit, xlim=(-0.5, None))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
