"""The figure of the calibration: scores over the knobs of the simulation."""

import statistics
from collections.abc import Mapping, Sequence

from pairscape.calibrate.calibration import DONORS, PEARSON, RECALL, SILHOUETTE
from pairscape.report import style
from pairscape.report.style import BLUE, ORANGE, VERMILION

_COLOURS = (BLUE, ORANGE, VERMILION, "#009E73", "#CC79A7")
_MARKERS = ("o", "s", "^", "D", "v")
_TRUE, _LEIDEN = (f"{label}, split as batch" for label in ("true cell types", "Leiden clusters"))
# A panel: its title, the score, its kind and gallery, and the knob on its axis.
_PANELS = (
    ("Recall@5, whole test split", RECALL, None, "split", "morphology_signal"),
    ("Recall@5, within each section", RECALL, None, "sample", "morphology_signal"),
    ("Expression, corrected recipe", PEARSON, "corrected recipe", "", "morphology_signal"),
    ("Silhouette-batch, true cell types", SILHOUETTE, _TRUE, "", "batch_effect"),
    ("Silhouette-batch, Leiden clusters", SILHOUETTE, _LEIDEN, "", "batch_effect"),
)
_AXIS_WORDS = {
    "morphology_signal": "morphology signal of the simulation",
    "batch_effect": "batch effect of the simulation",
}
_Y_WORDS = {RECALL: "Recall@5", PEARSON: "mean Pearson over genes", SILHOUETTE: "silhouette-batch"}


def plot_grid(rows: Sequence[Mapping]):
    """Draw recall and expression over the morphology signal, silhouettes over the batch effect.

    ``rows``: of ``calibration.read_scores``. A column of panels per arrangement of the donors. Lines:
    means over the seeds at each value of the other knob; dots: datasets. Dashed: chance. On Leiden
    clusters each mean has beside it the share of spots in skipped labels.
    """
    figure = style.new_figure(9.5, 3 * len(_PANELS))
    panels = style.panel_grid(figure, len(_PANELS), len(DONORS))
    for line, (title, score, kind, gallery, knob) in zip(panels, _PANELS, strict=True):
        for axis, donors in zip(line, DONORS, strict=True):
            drawn = [
                row
                for row in rows
                if (row["donors"], row["score"], row["gallery"]) == (donors, score, gallery)
                and kind in (None, row["of"])
                and row["value"] is not None
            ]
            _draw(axis, drawn, knob, shows_skipped="Leiden" in title)
            axis.set_title(f"{title}, donors {donors}", loc="left")
            axis.set_xlabel(_AXIS_WORDS[knob])
            axis.set_ylabel(_Y_WORDS[score])
    for place in (0, -1):
        panels[place][0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        "Calibration: scores on simulated data whose signal is known", x=0.01, ha="left"
    )
    return figure


def _draw(axis, rows: Sequence[Mapping], knob: str, shows_skipped: bool) -> None:
    other = "batch_effect" if knob == "morphology_signal" else "morphology_signal"
    axis.grid(color="#EEEEEE", zorder=0)
    if knob == "batch_effect":  # the counts, and so the score, are the same for every signal
        rows = list({(row[knob], row["seed"]): {**row, other: None} for row in rows}.values())
    chances = [row["chance"] for row in rows if row["chance"] is not None]
    if chances:
        axis.axhline(statistics.fmean(chances), color="#888888", linestyle="--", linewidth=1)
    levels = sorted({row[other] for row in rows}, key=lambda level: (level is not None, level))
    for number, level in enumerate(levels):
        colour, marker = _COLOURS[number % 5], _MARKERS[number % 5]
        drawn = [row for row in rows if row[other] == level]
        places = sorted({row[knob] for row in drawn})
        means = [statistics.fmean(r["value"] for r in drawn if r[knob] == x) for x in places]
        label = "mean of seeds" if level is None else f"{other.replace('_', ' ')} {level:g}"
        axis.plot(places, means, marker=marker, color=colour, label=label, zorder=3)
        dots = {"linestyle": "", "marker": marker, "markersize": 2.5, "alpha": 0.6}
        values = [row["value"] for row in drawn]
        axis.plot([row[knob] for row in drawn], values, color=colour, zorder=4, **dots)
        if shows_skipped:
            for x, mean in zip(places, means, strict=True):
                share = statistics.fmean(r["skipped"] for r in drawn if r[knob] == x)
                axis.annotate(
                    f"skipped {share:.0%}",
                    (x, mean),
                    xytext=(0, -12),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
