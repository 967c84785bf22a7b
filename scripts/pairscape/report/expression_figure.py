"""The figure of expression prediction: each encoder before and after pretraining, donors as dots."""

import statistics
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pairscape.evaluate.expression import AFTER, ALL, AS_IT_CAME
from pairscape.evaluate.targets import RECIPES
from pairscape.report import style
from pairscape.report.rows import mean_sd
from pairscape.report.style import BLACK, BLUE, ORANGE
from pairscape.report.words import encoder_title

_KEY = ("image_encoder", "gene_encoder", "representation")


def plot_scores(
    scores: Sequence[Mapping],
    title: str,
    titles: Mapping = MappingProxyType({}),
    metric: str = "pearson",
):
    """Draw the mean over genes before (orange) and after pretraining (blue).

    ``scores``: rows of ``expression.read_experiment_scores``. A row of panels per dataset, a panel per
    recipe; in each a line per encoder as it came and per pair, by their ``titles`` (see
    ``words.encoder_title``). Large marks: all test spots, the mean over seeds, with the seeds' standard
    deviation; small ones: test donors, over their range. A grey line joins before and after.
    """
    scores = [row for row in scores if row["metric"] == metric and not row["note"]]
    datasets = list(dict.fromkeys(row["dataset"] for row in scores))
    recipes = [name for name in RECIPES if any(row["recipe"] == name for row in scores)]
    lines = {name: _lines([r for r in scores if r["dataset"] == name], titles) for name in datasets}
    heights = [max(1.1, 0.34 * len(lines[name]) + 0.3) for name in datasets]
    figure = style.new_figure(9.5, sum(heights) + 0.8 * len(heights) + 0.9)
    panels = style.panel_grid(figure, len(datasets), len(recipes), heights)
    for axes, dataset in zip(panels, datasets, strict=True):
        for axis, recipe in zip(axes, recipes, strict=True):
            drawn = [r for r in scores if (r["dataset"], r["recipe"]) == (dataset, recipe)]
            for place, (_, key) in enumerate(lines[dataset]):
                _draw(axis, place, drawn, key)
            axis.set_yticks(range(len(lines[dataset])), [name for name, _ in lines[dataset]])
            axis.set_ylim(len(lines[dataset]) - 0.5, -0.5)
            axis.margins(x=0.08)
            if axis.get_xlim()[0] < 0 < axis.get_xlim()[1]:
                axis.axvline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
            axis.grid(axis="x", color="#EEEEEE", zorder=0)
            axis.set_title(f"{dataset}: {recipe} recipe", loc="left")
            axis.set_xlabel(f"mean {metric.capitalize()} over genes")
    mark = {"linestyle": "", "marker": "o", "markersize": 7, "markeredgecolor": BLACK}
    donor = {"linestyle": "-", "linewidth": 0.8, "marker": "o", "markersize": 3, "color": "#888888"}
    handles = [
        style.handle(AS_IT_CAME, color=ORANGE, **mark),
        style.handle(f"{AFTER}, mean of seeds", color=BLUE, **mark),
        style.handle("donors, and their range", **donor),
    ]
    if any(_deviation(cell) for cell in _cells(scores)):
        handles.insert(2, style.handle("± standard deviation over seeds", color=BLACK))
    style.legend_above(figure, handles, title)
    return figure


def _cells(scores: Sequence[Mapping]) -> list[Mapping]:
    """All test spots by seed, of each pair, dataset and recipe."""
    cells: dict[tuple, dict] = {}
    for row in scores:
        if row["group"] == ALL:
            key = tuple(row[name] for name in ("dataset", "recipe", *_KEY))
            cells.setdefault(key, {})[row["seed"]] = row
    return list(cells.values())


def _lines(rows: Sequence[Mapping], titles: Mapping) -> list[tuple[str, tuple]]:
    """The label and key of each line: encoders as they came, each with its pairs below it."""
    lines: dict[str, dict] = {}
    for row in rows:
        key = tuple(row[name] for name in _KEY)
        label = image = encoder_title(titles, "image", row["image_encoder"])
        if row["gene_encoder"]:
            label = f"with {encoder_title(titles, 'gene', row['gene_encoder'])}"
        if row["gene_encoder"] and row["image_encoder"] != row["features_of"]:
            label = f"{image}\n{label}"
        if row["gene_encoder"] and row["representation"] != "shared space":
            label += f", {row['representation']}"
        if row["control"] and not row["gene_encoder"]:
            label += f"\n({row['control']})"
        lines.setdefault(row["features_of"], {})[key] = label
    return [
        (label, key)
        for labels in lines.values()
        for key, label in sorted(labels.items(), key=lambda item: item[0][1])
    ]


def _draw(axis, place: int, rows: Sequence[Mapping], key: tuple) -> None:
    shown = [row for row in rows if tuple(row[name] for name in _KEY) == key]
    if not shown:
        return
    base = [
        row
        for row in rows
        if row["stage"] == AS_IT_CAME and row["image_encoder"] == shown[0]["features_of"]
    ]
    if shown[0]["stage"] == AS_IT_CAME:
        _marks(axis, place, shown, ORANGE)
        return
    before, after = _groups(base), _groups(shown)
    _marks(axis, place, shown, BLUE)
    start, end = (_mean(groups.get(ALL, {})) for groups in (before, after))
    if start is not None and end is not None:
        axis.plot([start, end], [place, place], color="#888888", linewidth=1, zorder=2)
        axis.plot(start, place, "|", color=ORANGE, markersize=11, markeredgewidth=2.2, zorder=3)


def _marks(axis, place: int, rows: Sequence[Mapping], colour: str) -> None:
    groups = _groups(rows)
    values = {group: _mean(seeds) for group, seeds in groups.items()}
    donors = [value for group, value in values.items() if group != ALL and value is not None]
    looks = {"color": colour, "markersize": 3, "alpha": 0.8, "zorder": 4}
    axis.plot(sorted(donors), [place + 0.25] * len(donors), "o-", linewidth=0.8, **looks)
    if values.get(ALL) is not None:
        if spread := _deviation(groups[ALL]):
            ends = [values[ALL] - spread, values[ALL] + spread]
            axis.plot(ends, [place] * 2, "|-", color=BLACK, linewidth=1.2, markersize=6, zorder=4)
        axis.plot(
            values[ALL], place, "o", color=colour, markersize=7, markeredgecolor=BLACK, zorder=5
        )


def _groups(rows: Sequence[Mapping]) -> dict:
    groups: dict[str, dict] = {}
    for row in rows:
        groups.setdefault(row["group"], {})[row["seed"]] = row
    return groups


def _deviation(seeds: Mapping) -> float | None:
    return mean_sd([row["value"] for row in seeds.values() if row["value"] is not None])[1]


def _mean(seeds: Mapping) -> float | None:
    values = [row["value"] for row in seeds.values() if row["value"] is not None]
    return statistics.fmean(values) if values else None
