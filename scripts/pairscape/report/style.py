"""The style of all figures."""

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


def save_figure(figure, png, svg) -> None:
    """Write a figure as PNG (150 dpi) and SVG, the same bytes for the same figure."""
    with files.atomic_path(png) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    with files.atomic_path(svg) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
