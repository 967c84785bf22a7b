"""The picture of a slide's patches: tissue outline and grid over the thumbnail."""

import numpy as np

from pairscape.images.tissue import TissueMask

PATCH, OUTLINE, INK = "#0072B2", "#D55E00", "#333333"  # Okabe and Ito's
_STYLE = {"font.family": "DejaVu Sans", "font.size": 9}


def draw_patches(
    path,
    *,
    title: str,
    picture: np.ndarray,
    mask: TissueMask,
    coords: np.ndarray,
    side_px: float,
    um_per_px: float,
) -> None:
    """Draw the figure as PNG: the slide, and beside it the same with tissue and patches marked.

    Parameters
    ----------
    picture
        uint8 (h, w, 3), the thumbnail that ``mask`` was made of.
    coords, side_px
        (N, 2) top-left corners and the side of a patch, level-0 px.
    um_per_px
        Of level 0.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mm = um_per_px / 1000
    height, width = (size * mask.scale * mm for size in picture.shape[:2])
    tall = float(np.clip(4.4 * height / width, 1.6, 10))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.6, tall + 1.2), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(
            f"{title}: {len(coords):,} patches of {side_px * um_per_px:.4g} µm", color=INK
        )
        plain, marked = figure.subplots(1, 2, sharex=True, sharey=True)
        for panel in (plain, marked):
            panel.imshow(picture, extent=(0, width, height, 0), aspect="equal")
            panel.set(xlim=(0, width), ylim=(height, 0), xlabel="mm")
            panel.tick_params(labelsize=8, colors=INK)
        plain.set_ylabel("mm")
        x, y = coords.T * mm
        side = side_px * mm
        corners = np.stack(
            [
                np.stack([x + a * side, y + b * side], 1)
                for a, b in ((0, 0), (1, 0), (1, 1), (0, 1))
            ],
            axis=1,
        )
        # Lines of many small patches would hide the tissue.
        thin = float(np.clip(side / width * 12, 0.15, 1.0))
        marked.add_collection(
            PolyCollection(corners, facecolors=PATCH + "1c", edgecolors=PATCH, linewidths=thin)
        )
        if mask.mask.any() and not mask.mask.all():
            columns = (np.arange(mask.mask.shape[1]) + 0.5) * mask.scale * mm
            rows = (np.arange(mask.mask.shape[0]) + 0.5) * mask.scale * mm
            marked.contour(columns, rows, mask.mask, [0.5], colors=OUTLINE, linewidths=0.6)
        figure.legend(
            handles=[
                Patch(facecolor=PATCH + "1c", edgecolor=PATCH, label="patches"),
                Line2D([], [], color=OUTLINE, label="edge of the tissue"),
            ],
            loc="outside lower center",
            ncols=2,
            frameon=False,
        )
        figure.savefig(path, format="png", metadata={"Software": None})
