"""The figure of slide-level prediction: each model's mean, folds and interval over its chance."""

from collections.abc import Mapping, Sequence

from pairscape.report import mutation_table
from pairscape.report.style import BLACK, BLUE, ORANGE, VERMILION
from pairscape.slides.mutation_scores import RANKED
from pairscape.slides.predictions import EXTERNAL, TEST

_DPI = 150
_CHANCE = "#D9D9D9"
_BETWEEN = 0.28  # rows of a model: the test folds, and below them each external cohort


def plot_mutation(table: Sequence[Mapping], scores: Sequence[Mapping], title: str):
    """Draw AUROC, AUPRC and balanced accuracy of one entry.

    Parameters
    ----------
    table
        Rows of ``mutation_tables.tabulate_mutation``.
    scores
        The tidy scores it was made from, for the folds.
    title
        Title of the figure.

    Returns
    -------
    A matplotlib figure: a row of panels per target, a panel per metric, models from the top down.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    targets = list(dict.fromkeys(row["target"] for row in table))
    models = {
        target: list(dict.fromkeys(row["model"] for row in table if row["target"] == target))
        for target in targets
    }
    outside = list(dict.fromkeys(row["role"] for row in table if row["role"] != TEST))
    pitch = 0.75 + _BETWEEN * len(outside)
    heights = [0.25 + 0.62 * pitch * len(models[target]) for target in targets]
    figure = Figure(figsize=(9.5, sum(heights) + 0.75 * len(targets) + 1.0), dpi=_DPI)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(
        *(len(targets), len(RANKED)),
        squeeze=False,
        sharey="row",
        gridspec_kw={"height_ratios": heights},
    )
    folds: dict[tuple, list[float]] = {}
    for row in scores:
        if row["group"].startswith("fold ") and not row["compared_model"]:
            key = (row["target"], row["model"], row["role"], row["metric"])
            folds.setdefault(key, []).append(row["value"])
    for line, target in zip(panels, targets, strict=True):
        rows = [row for row in table if row["target"] == target]
        for panel, metric in zip(line, RANKED, strict=True):
            for row in rows:
                y = models[target].index(row["model"]) * pitch
                y += _BETWEEN * (1 + outside.index(row["role"]) if row["role"] != TEST else 0)
                dots = folds.get((target, row["model"], row["role"], metric), [])
                _draw_row(panel, y, row, metric, dots)
            panel.set_title(f"{target}: {mutation_table.METRIC_WORDS[metric]}", loc="left")
            panel.set_xlim(*_limits(rows, metric, folds, target))
            panel.set_yticks(
                [number * pitch for number in range(len(models[target]))],
                [mutation_table.short_model(model) for model in models[target]],
            )
            panel.tick_params(axis="y", length=0, labelsize=8)
            panel.set_ylim((len(models[target]) - 1) * pitch + pitch - 0.35, -0.4)
            panel.grid(axis="x", color="#EEEEEE", zorder=0)
    marks = {"linestyle": "", "markeredgecolor": "white"}
    handles = [
        Line2D([], [], color=BLUE, marker="o", markersize=6, label="mean of test folds", **marks),
        Line2D(
            *([], []),
            color="white",
            marker="o",
            markersize=4,
            markeredgecolor="#555555",
            linestyle="",
            label="fold",
        ),
        Line2D([], [], color=BLACK, linewidth=1.2, label="95 % interval over patients"),
        Patch(color=_CHANCE, label="95 % of chance"),
        Line2D([], [], color=VERMILION, linewidth=2, label="chance"),
    ]
    for role in outside:
        label = f"external: {role.removeprefix(EXTERNAL)}"
        handles.append(Line2D([], [], color=ORANGE, marker="D", label=label, **marks))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        title=title,
        title_fontsize=12,
        alignment="left",
        ncols=4,
        frameon=False,
        fontsize=8.5,
    )
    return figure


def _draw_row(panel, y: float, row: Mapping, metric: str, dots: Sequence[float]) -> None:
    from matplotlib.patheffects import withStroke

    value = row[metric]
    if value is None:
        x = panel.get_yaxis_transform()
        panel.text(
            *(0.02, y, "not run"),
            transform=x,
            va="center",
            fontsize=7.5,
            color="#666666",
            style="italic",
        )
        return
    tested = row["role"] == TEST
    chance, low, high = (row[metric + part] for part in ("_chance", "_chance_low", "_chance_high"))
    half = 0.15 if tested else 0.09
    if low is not None:
        panel.barh(y, high - low, 2 * half, left=low, color=_CHANCE, zorder=1)
        panel.plot([chance] * 2, [y - half, y + half], color=VERMILION, linewidth=2, zorder=2)
    if tested:
        panel.scatter(
            dots,
            [y] * len(dots),
            s=14,
            color="white",
            edgecolor="#555555",
            linewidth=0.7,
            zorder=3,
        )
    low, high = row[metric + "_ci_low"], row[metric + "_ci_high"]
    if low is not None:
        panel.plot([low, high], [y, y], color=BLACK, linewidth=1.2, zorder=4)
    colour, marker = (BLUE, "o") if tested else (ORANGE, "D")
    size = 46 if tested else 30
    panel.scatter(
        *([value], [y]),
        s=size,
        color=colour,
        marker=marker,
        edgecolor="white",
        linewidth=0.7,
        zorder=5,
    )
    if tested:
        panel.annotate(
            *(f"{value:.3f}", (value, y)),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=7.5,
            color="#333333",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            zorder=6,
        )


def _limits(rows: Sequence[Mapping], metric: str, folds: Mapping, target: str) -> tuple:
    ends = ("", "_ci_low", "_ci_high", "_chance_low", "_chance_high")
    values = [row[metric + end] for row in rows for end in ends if row[metric + end] is not None]
    for row in (row for row in rows if row["role"] == TEST):
        values += folds.get((target, row["model"], TEST, metric), [])
    if not values:
        return 0.0, 1.0
    return max(-0.03, min(values) - 0.05), min(1.03, max(values) + 0.05)
