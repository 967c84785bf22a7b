"""The style of all figures. Colours are Okabe and Ito's, which colour-blind readers tell apart."""

from collections.abc import Callable, Sequence

from pairscape.core import files

BLUE, ORANGE, VERMILION, BLACK = "#0072B2", "#E69F00", "#D55E00", "#000000"
DIRECTION_COLOURS = {"i2g": BLUE, "g2i": ORANGE}
DIRECTION_WORDS = {"i2g": "image to genes (I2G)", "g2i": "genes to image (G2I)"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "svg.hashsalt": "pairscape",
    "svg.fonttype": "path",
}
DPI = 150
NOT_RUN = {"fontsize": 7.5, "color": "#666666", "style": "italic"}  # the words in place of a mark


def draw(plot: Callable, png, svg) -> None:
    """Draw what ``plot`` returns in the style of all figures, and write it as PNG (150 dpi) and SVG.

    The same figure gives the same bytes.
    """
    import matplotlib.text

    with matplotlib.rc_context(STYLE):
        figure = plot()
        for text in figure.findobj(matplotlib.text.Text):
            # A $ in somebody's name is no formula; those of matplotlib's own ticks are.
            if "$" in text.get_text() and "\\mathdefault" not in text.get_text():
                text.set_parse_math(False)
        with files.atomic_path(png) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})
        with files.atomic_path(svg) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


def new_figure(width: float, height: float):
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def panel_grid(figure, lines: int, columns: int, heights: Sequence[float] | None = None):
    """Panels (lines, columns) that share the y axis along a line, of these heights."""
    ratios = {"height_ratios": heights} if heights else {}
    return figure.subplots(lines, columns, squeeze=False, sharey="row", gridspec_kw=ratios)


def legend_above(figure, handles: Sequence, title: str, columns: int = 4, size=12, **more) -> None:
    """The legend above all panels, with the title of the figure, which would else lie upon it."""
    figure.legend(
        handles=handles,
        loc="outside upper left",
        title=title,
        title_fontsize=size,
        alignment="left",
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        **more,
    )


def handle(label: str, **looks):
    """A line or mark of a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], label=label, **looks)


def plain_rows(panel) -> None:
    """A panel whose rows are named at its left, without ticks, over vertical lines."""
    panel.tick_params(axis="y", length=0, labelsize=8)
    panel.grid(axis="x", color="#EEEEEE", zorder=0)
