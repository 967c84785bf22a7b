"""The attention of an aggregator as a heat map over a slide's thumbnail."""

import numpy as np

from pairscape.core import files

TOP_PERCENTILE = 99  # of a slide's patches: where the colours end
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9, "axes.titlesize": 9.5}


def plot_attention(
    path,
    relative: np.ndarray,
    coords: np.ndarray,
    side_px: float | None,
    um_per_px: float | None,
    picture: tuple[np.ndarray, float] | None,
    title: str,
) -> None:
    """Draw a slide beside the same slide under its patches, coloured by attention, as PNG.

    Parameters
    ----------
    relative
        (N,) attention times the number of patches: 1 where nothing is chosen.
    coords, side_px
        (N, 2) top-left corners and the side of a patch, level-0 px; None takes the least step
        between corners.
    um_per_px
        Of level 0; None leaves the axes in pixels.
    picture
        The whole slide, uint8 (H, W, 3), and level-0 px per pixel of it (``HEImage.thumbnail``).
        None leaves its place white.
    """
    import matplotlib
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    side = side_px or _spacing(coords)
    unit = um_per_px / 1000 if um_per_px else 1.0
    width, height = (coords.max(axis=0) + side) * unit
    if picture is not None:
        pixels, scale = picture
        height, width = (length * scale * unit for length in pixels.shape[:2])
    tall = height / width
    with matplotlib.rc_context(_STYLE):
        size = (9, max(2.2, min(9, 3.7 * tall + 0.8)))
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, 2)
        for panel in panels:
            if picture is not None:
                panel.imshow(pixels, extent=(0, width, height, 0))
            panel.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
            panel.set_xlabel("mm" if um_per_px else "px of the full resolution")
            panel.spines[:].set_color("0.6")
            panel.tick_params(color="0.6", labelsize=8)
            panel.locator_params(nbins=5)
        squares = [Rectangle((x * unit, y * unit), side * unit, side * unit) for x, y in coords]
        heat = PatchCollection(squares, cmap="viridis", alpha=0.7, linewidth=0)
        heat.set_array(relative)
        heat.set_clim(0, max(float(np.percentile(relative, TOP_PERCENTILE)), 1.0))
        panels[1].add_collection(heat)
        bar = figure.colorbar(heat, ax=panels[1], shrink=0.85, extend="max")
        bar.set_label("attention, times that of an average patch")
        bar.solids.set_alpha(1)
        figure.suptitle(title, fontsize=10)
        with files.atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})


def _spacing(coords: np.ndarray) -> int:
    """The side of a patch in a file that doesn't say it: the least step between corners."""
    steps = np.concatenate([np.diff(np.unique(axis)) for axis in coords.T])
    return int(steps.min()) if len(steps) else 1
