"""The figure of slide-level prediction: each model's mean, folds and interval over its chance."""

from collections.abc import Mapping, Sequence

from pairscape.report import mutation_table, style
from pairscape.report.rows import split_by
from pairscape.report.style import BLACK, BLUE, ORANGE, VERMILION
from pairscape.slides.mutation_scores import RANKED
from pairscape.slides.predictions import EXTERNAL, TEST

_CHANCE = "#D9D9D9"
_BETWEEN = 0.28  # rows of a model: the test folds, and below them each external cohort


def plot_mutation(table: Sequence[Mapping], scores: Sequence[Mapping], title: str):
    """Draw AUROC, AUPRC and balanced accuracy of one entry: the rows of
    ``mutation_table.tabulate_mutation``, and for the folds the scores that they were made from.

    A matplotlib figure: a row of panels per target, a panel per metric, models from the top down.
    """
    from matplotlib.patches import Patch

    targets = split_by(table, "target")
    models = {target: list(split_by(rows, "model")) for target, rows in targets.items()}
    outside = list(dict.fromkeys(row["role"] for row in table if row["role"] != TEST))
    pitch = 0.75 + _BETWEEN * len(outside)
    heights = [0.25 + 0.62 * pitch * len(models[target]) for target in targets]
    figure = style.new_figure(9.5, sum(heights) + 0.75 * len(targets) + 1.0)
    panels = style.panel_grid(figure, len(targets), len(RANKED), heights)
    folds: dict[tuple, list[float]] = {}
    for row in scores:
        if row["group"].startswith("fold ") and not row["compared_model"]:
            key = (row["target"], row["model"], row["role"], row["metric"])
            folds.setdefault(key, []).append(row["value"])
    for line, (target, rows) in zip(panels, targets.items(), strict=True):
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
            style.plain_rows(panel)
            panel.set_ylim((len(models[target]) - 1) * pitch + pitch - 0.35, -0.4)
    marks = {"linestyle": "", "markeredgecolor": "white"}
    hollow = {"color": "white", "markeredgecolor": "#555555", "linestyle": "", "markersize": 4}
    handles = [
        style.handle("mean of test folds", color=BLUE, marker="o", markersize=6, **marks),
        style.handle("fold", marker="o", **hollow),
        style.handle("95 % interval over patients", color=BLACK, linewidth=1.2),
        Patch(color=_CHANCE, label="95 % of chance"),
        style.handle("chance", color=VERMILION, linewidth=2),
    ]
    for role in outside:
        label = f"external: {role.removeprefix(EXTERNAL)}"
        handles.append(style.handle(label, color=ORANGE, marker="D", **marks))
    style.legend_above(figure, handles, title)
    return figure


def _draw_row(panel, y: float, row: Mapping, metric: str, dots: Sequence[float]) -> None:
    from matplotlib.patheffects import withStroke

    value = row[metric]
    if value is None:
        x = panel.get_yaxis_transform()
        panel.text(0.02, y, "not run", transform=x, va="center", **style.NOT_RUN)
        return
    tested = row["role"] == TEST
    chance, low, high = (row[metric + part] for part in ("_chance", "_chance_low", "_chance_high"))
    half = 0.15 if tested else 0.09
    if low is not None:
        panel.barh(y, high - low, 2 * half, left=low, color=_CHANCE, zorder=1)
        panel.plot([chance] * 2, [y - half, y + half], color=VERMILION, linewidth=2, zorder=2)
    if tested:
        looks = {"color": "white", "edgecolor": "#555555", "linewidth": 0.7}
        panel.scatter(dots, [y] * len(dots), s=14, zorder=3, **looks)
    low, high = row[metric + "_ci_low"], row[metric + "_ci_high"]
    if low is not None:
        panel.plot([low, high], [y, y], color=BLACK, linewidth=1.2, zorder=4)
    looks = {"color": BLUE, "marker": "o", "s": 46}
    if not tested:
        looks = {"color": ORANGE, "marker": "D", "s": 30}
    panel.scatter([value], [y], edgecolor="white", linewidth=0.7, zorder=5, **looks)
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
