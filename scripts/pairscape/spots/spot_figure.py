"""The quality figure of a sample's spots: a gene per cell and per spot, and the distributions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pairscape.acquire.alignment import he_px_to_um
from pairscape.spots.lattice import Layout, outline_um

THUMBNAIL_PX = 1600
BLOCK = 1 << 20
INK = "#333333"
BAR = "#4477aa"  # Tol's bright blue: told apart in every kind of colour vision
LINE = "#aa3377"


def choose_gene(counts, genes: list[str]) -> str:
    """The gene whose log counts vary most between spots: the one that shows most of the tissue."""
    sums = np.zeros((2, len(genes)))
    for start in range(0, counts.nnz, BLOCK):  # a copy of all counts would need more than pooling
        part = slice(start, start + BLOCK)
        logs = np.log1p(counts.data[part])
        for i in range(2):
            sums[i] += np.bincount(counts.indices[part], logs ** (i + 1), len(genes))
    mean, square = sums / counts.shape[0]
    return genes[int(np.argmax(square - mean**2))]


@dataclass(frozen=True)
class He:
    """A picture of the H&E, uint8 RGB, its H&E pixels per pixel, and the alignment."""

    picture: np.ndarray
    scale: float
    matrix: np.ndarray
    pixel_size_um: float


@dataclass(frozen=True)
class Cells:
    """What a bundle tells of its cells; None where it tells nothing."""

    xy_um: np.ndarray | None = None  # (C, 2)
    gene_counts: np.ndarray | None = None  # (C,) of the figure's gene
    sums: tuple | None = None  # transcripts (C,) and genes (C,) of each cell first
    distances: Mapping[str, float] | None = None  # of spots, by the measures of ``spot_quality``


def draw_spots(
    path,
    title: str,
    gene: str,
    table,
    layout: Layout,
    cells: Cells,
    he: He | None,
) -> None:
    """Draw the figure of a ``gene`` as PNG, which says the gene in its text ``Gene``.

    ``table`` is an AnnData of spots x genes, as ``spots_zarr.read_spots`` gives it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    spot_xy_um = table.obs[["x_um", "y_um"]].to_numpy()
    gene_counts = table.X[:, [table.var_names.get_loc(gene)]].toarray().ravel()
    margin = layout.size_um / 2
    low, high = spot_xy_um.min(axis=0) - margin, spot_xy_um.max(axis=0) + margin
    if cells.xy_um is not None and len(cells.xy_um):
        low = np.minimum(low, cells.xy_um.min(axis=0))
        high = np.maximum(high, cells.xy_um.max(axis=0))
    low, high = low - 0.02 * (high - low), high + 0.02 * (high - low)
    width, height = high - low
    map_height = float(np.clip(5.4 * height / width, 2.2, 7.5))
    figure = Figure(
        figsize=(13, map_height + 3.9), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    head, maps, histograms = figure.subfigures(3, 1, height_ratios=[0.3, map_height + 0.5, 3.1])
    head.text(0.5, 0.4, title, fontsize=12, color=INK, ha="center", va="center")

    per_cell, per_spot = maps.subplots(1, 2, sharex=True, sharey=True)
    for axes in (per_cell, per_spot):
        if he is not None:
            _draw_he(axes, he)
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), aspect="equal")
        axes.set(xlabel="x (µm)", ylabel="y (µm)")
        axes.tick_params(labelsize=8, colors=INK)
    per_spot.tick_params(labelleft=True)
    points_per_um = 72 * min(5.4 / width, map_height / height)
    _map_cells(maps, per_cell, gene, cells, width * height, points_per_um)
    _map_spots(maps, per_spot, gene, gene_counts, spot_xy_um, layout)

    per_spot = {name: table.obs[name].to_numpy() for name in ("transcripts", "genes")}
    for i, (axes, what) in enumerate(zip(histograms.subplots(1, 2), per_spot, strict=True)):
        per_cell = None if cells.sums is None else cells.sums[i]
        _draw_distributions(axes, what, per_spot[what], per_cell, cells.distances or {})
    figure.savefig(path, format="png", metadata={"Software": None, "Gene": gene})


def _map_cells(maps, axes, gene: str, cells: Cells, area_um2: float, points_per_um: float) -> None:
    if cells.xy_um is None or not len(cells.xy_um):
        axes.text(0.5, 0.5, "no cells in this bundle", transform=axes.transAxes, ha="center")
        axes.set_title(f"{gene} per cell", fontsize=10)
        return
    counts = cells.gene_counts
    shown = np.flatnonzero(counts)
    shown = shown[np.argsort(counts[shown], kind="stable")]  # the rare high ones on top
    diameter_um = np.clip(0.8 * np.sqrt(area_um2 / len(counts)), 8, 32)
    dots = axes.scatter(
        *cells.xy_um[shown].T,
        c=counts[shown],
        s=float(np.clip(diameter_um * points_per_um, 0.8, 6)) ** 2,
        cmap=_colours(),
        vmin=0,
        vmax=_top(counts),
        linewidths=0,
    )
    _colour_bar(maps, dots, axes, "transcripts per cell", counts)
    axes.set_title(f"{gene} per cell ({len(counts):,} cells)", fontsize=10)


def _map_spots(maps, axes, gene: str, counts, xy_um: np.ndarray, layout: Layout) -> None:
    from matplotlib.collections import EllipseCollection, PolyCollection

    corners_um = outline_um(layout)
    if corners_um is None:
        sides = np.full(len(xy_um), layout.size_um)
        places = {"units": "xy", "offsets": xy_um, "offset_transform": axes.transData}
        spots = EllipseCollection(sides, sides, np.zeros(len(xy_um)), **places)
    else:
        spots = PolyCollection(xy_um[:, None] + corners_um)
    spots.set(array=counts, cmap=_colours(), clim=(0, _top(counts)))
    spots.set(edgecolor="#77777755", linewidth=0.3)  # shows the spots without a transcript
    axes.add_collection(spots, autolim=False)
    _colour_bar(maps, spots, axes, "transcripts per spot", counts)
    what = f"{len(counts):,} {layout.shape}s of {layout.size_um:g} µm"
    axes.set_title(f"{gene} per pseudo-spot ({what})", fontsize=10)


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


def _draw_he(axes, he: He) -> None:
    from matplotlib.transforms import Affine2D

    picture = he.picture
    grey = picture @ np.array([0.299, 0.587, 0.114])
    pale = 0.1 * picture + 0.35 * grey[..., None] + 0.55 * 255  # a quiet ground for the colours
    rows, cols = picture.shape[:2]
    ends_px = np.array([[0, 0], [cols * he.scale, 0], [0, rows * he.scale]])
    corners = he_px_to_um(he.matrix, he.pixel_size_um, ends_px)
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
    from matplotlib.ticker import MaxNLocator

    extend = "max" if len(counts) and counts.max() > _top(counts) else "neither"
    bar = figure.colorbar(
        mappable,
        ax=axes,
        shrink=0.8,
        aspect=30,
        pad=0.015,
        extend=extend,
        ticks=MaxNLocator(
            6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1
        ),  # there are no half transcripts
    )
    bar.set_label(label, fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def _draw_distributions(axes, what: str, per_spot, per_cell, distances: Mapping) -> None:
    """Spots against cells on a logarithmic axis; what holds nothing can't stand there."""
    groups = [("spot", np.asarray(per_spot), BAR, True)]
    if per_cell is not None:
        groups.append(("cell", np.asarray(per_cell), LINE, False))
    groups = [(name, values[values > 0], *style) for name, values, *style in groups]
    groups = [group for group in groups if len(group[1])]
    top = max(int(values.max()) for _, values, *_ in groups)
    # Edges between whole numbers, so that no bar holds more of them than its width tells.
    edges = np.unique(np.round(2 ** np.arange(0, np.log2(top + 1) + 0.25, 0.25))) - 0.5
    edges = np.append(edges, top + 0.5) if edges[-1] < top else edges
    medians = {}
    for name, values, colour, fill in groups:
        share = np.histogram(values, edges)[0] / len(values) / np.diff(np.log2(edges))
        medians[name] = median = float(np.median(values))
        axes.stairs(
            share,
            edges,
            fill=fill,
            color=colour,
            alpha=0.55 if fill else 1,
            linewidth=1.5,
            label=f"{len(values):,} {name}s, median {median:,.4g}",
        )
        axes.axvline(median, color=colour, linewidth=1.2, linestyle="--")
    moved = distances.get(f"{what}_wasserstein_log2_centred")
    if len(medians) == 2 and moved is not None:
        text = (
            f"The median spot holds {medians['spot'] / medians['cell']:.3g} times the {what} of the "
            f"median cell.\nWith one median laid on the other, the two differ by {moved:.2f} doublings "
            "on average."
        )
        axes.set_title(text, fontsize=9, color=INK)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.set(xlabel=f"{what} in a spot or cell (empty ones left out)", xlim=(0.5, None))
    axes.set_ylabel("share of all per factor of 2")
    axes.legend(fontsize=8, edgecolor="none", framealpha=0.85, loc="upper left")
    axes.margins(y=0.35)
    axes.set_ylim(0, None)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
