"""The figure of a training: its loss over the steps, or the scores that a penalty was chosen by."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

from pairscape.core import files

LOOKS = {
    "train": {"color": "#56B4E9", "label": "training", "lw": 1.2},
    "val": {"color": "#D55E00", "label": "validation", "lw": 1.8, "marker": "o", "ms": 3.5},
}
SMALL = {"fontsize": 8, "color": "0.25"}


def plot_curve(path, metrics: Sequence[Mapping], selected_step: int, loss: str, title: str) -> None:
    """Draw the loss over the steps, training and validation, with the loss of chance (CLIP)."""
    with _axes(path) as axes:
        for split, look in LOOKS.items():
            rows = [row for row in metrics if row["split"] == split]
            if not rows:
                continue
            axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], **look)
            if loss == "clip":
                chance = math.log(rows[-1]["batch"])
                axes.axhline(chance, color=look["color"], ls="--", lw=1)
                axes.annotate(
                    f"chance, {look['label']} (ln {rows[-1]['batch']})",
                    (0.99, chance),
                    xycoords=("axes fraction", "data"),
                    xytext=(0, 3 if split == "train" else -3),
                    textcoords="offset points",
                    ha="right",
                    va="bottom" if split == "train" else "top",
                    **SMALL,
                )
        axes.axvline(selected_step, color="0.5", lw=1, ls=":")
        axes.annotate(
            "selected",
            (selected_step, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            **SMALL,
        )
        axes.set(xlabel="optimiser step", ylabel=f"contrastive loss ({loss})", title=title)


def plot_penalties(path, about: Mapping, title: str) -> None:
    """Draw what the penalty of a linear alignment was chosen by (``linear_alignment.Alignment``)."""
    if about["penalty"] is None:
        plot_words(path, f"nothing is trained: {about['method']}", title)
        return
    with _axes(path) as axes:
        if about["scores"]:
            axes.plot(about["penalties"], about["scores"], color="#D55E00", marker="o", ms=4)
        axes.axvline(about["penalty"], color="0.5", lw=1, ls=":", label="selected")
        axes.set(
            xscale="log",
            xlabel=f"penalty of {about['method']} (of the mean variance)",
            ylabel="mean reciprocal rank",
            title=f"{title}\nchosen on {about['chosen_on']}",
        )


def plot_words(path, why: str, title: str) -> None:
    """Say in the place of a curve why there is none."""
    with _axes(path) as axes:
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[], title=title)


@contextlib.contextmanager
def _axes(path) -> Iterator:
    """Axes to draw on, which are written to ``path`` at the end of the block."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    yield axes
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
