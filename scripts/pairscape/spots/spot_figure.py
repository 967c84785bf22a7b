"""The quality figure of a sample's spots: a gene per cell and per spot, and the distributions."""

import numpy as np

from pairscape.acquire.alignment import he_px_to_um

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
    corners_um: np.ndarray | None = None,
    cell_sums: tuple | None = None,
    distances: dict[str, float] | None = None,
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
    corners_um
        (K, 2) corners of a spot from its centre; None for circles and upright squares.
    cell_sums
        Transcripts (C,) and genes (C,) of each cell first; None where the bundle has none.
    distances
        Between spots and cells, by the measures of ``spot_qc``.
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
        figsize=(13, map_height + 3.9), dpi=130, layout="constrained", facecolor="white"
    )
    FigureCanvasAgg(figure)
    head, maps, histograms = figure.subfigures(3, 1, height_ratios=[0.3, map_height + 0.5, 3.1])
    head.text(0.5, 0.4, title, fontsize=12, color=INK, ha="center", va="center")

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
        if corners_um is None:
            corners_um = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
        spots = PolyCollection(spot_xy_um[:, None] + corners_um)
    spots.set(array=spot_counts, cmap=_colours(), clim=(0, _top(spot_counts)))
    spots.set(edgecolor="#77777755", linewidth=0.3)  # shows the spots without a transcript
    per_spot.add_collection(spots, autolim=False)
    _colour_bar(maps, spots, per_spot, "transcripts per spot", spot_counts)
    per_spot.set_title(
        f"{gene} per pseudo-spot ({len(spot_counts):,} {shape}s of {size_um:g} µm)", fontsize=10
    )

    for i, (axes, what, of_spots) in enumerate(
        zip(histograms.subplots(1, 2), ("transcripts", "genes"), (transcripts, genes), strict=True)
    ):
        of_cells = None if cell_sums is None else cell_sums[i]
        _draw_distributions(axes, what, of_spots, of_cells, distances or {})
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


def _draw_distributions(axes, what: str, per_spot, per_cell, distances: dict) -> None:
    """Spots against cells on a logarithmic axis; what holds nothing can't stand there."""
    groups = [("spot", np.asarray(per_spot), BAR, True)]
    if per_cell is not None:
        groups.append(("cell", np.asarray(per_cell), LINE, False))
    groups = [(of, values[values > 0], *style) for of, values, *style in groups]
    groups = [group for group in groups if len(group[1])]
    top = max(int(values.max()) for _, values, *_ in groups)
    # Edges between whole numbers, so that no bar holds more of them than its width tells.
    edges = np.unique(np.round(2 ** np.arange(0, np.log2(top + 1) + 0.25, 0.25))) - 0.5
    edges = np.append(edges, top + 0.5) if edges[-1] < top else edges
    for of, values, colour, fill in groups:
        share = np.histogram(values, edges)[0] / len(values) / np.diff(np.log2(edges))
        median = float(np.median(values))
        axes.stairs(
            share,
            edges,
            fill=fill,
            color=colour,
            alpha=0.55 if fill else 1,
            linewidth=1.5,
            label=f"per {of}: median {median:,.4g}, n = {len(values):,}",
        )
        axes.axvline(median, color=colour, linewidth=1.2, linestyle="--")
    ks, moved = (distances.get(f"{what}_{name}") for name in ("ks", "wasserstein_log2_centred"))
    if ks is not None and moved is not None:
        text = f"spots against cells: KS {ks:.2f}; {moved:.2f} doublings apart once centred"
        axes.set_title(text, fontsize=9, color=INK)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
    axes.set(xlabel=f"{what} (of those with any)", ylabel="share per doubling", xlim=(0.5, None))
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    axes.margins(y=0.35)
    axes.set_ylim(0, None)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
