"""The figure of expression prediction: each encoder before and after pretraining, donors as dots."""

import statistics
from collections.abc import Mapping, Sequence

from pairscape.evaluate.expression import AFTER, ALL, AS_IT_CAME
from pairscape.evaluate.targets import RECIPES
from pairscape.report.style import BLACK, BLUE, ORANGE

_DPI = 150


def plot_scores(scores: Sequence[Mapping], title: str, metric: str = "pearson"):
    """Draw the mean over genes before (orange) and after pretraining (blue).

    Parameters
    ----------
    scores
        Rows of ``expression.read_experiment_scores``.
    title
        Title of the figure.

    Returns
    -------
    A matplotlib figure: a row of panels per dataset, a panel per recipe; in each a line per encoder
    as it came and per pair. Large marks: all test spots, the mean over seeds; small ones: test donors.
    A line joins before and after.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    scores = [row for row in scores if row["metric"] == metric and not row["note"]]
    datasets = list(dict.fromkeys(row["dataset"] for row in scores))
    recipes = [name for name in RECIPES if any(row["recipe"] == name for row in scores)]
    lines = {name: _lines([r for r in scores if r["dataset"] == name]) for name in datasets}
    heights = [max(1.1, 0.34 * len(lines[name]) + 0.3) for name in datasets]
    figure = Figure((9.5, sum(heights) + 0.8 * len(heights) + 0.9), dpi=_DPI, layout="constrained")
    panels = figure.subplots(
        len(datasets),
        len(recipes),
        squeeze=False,
        sharey="row",
        gridspec_kw={"height_ratios": heights},
    )
    for axes, dataset in zip(panels, datasets, strict=True):
        for axis, recipe in zip(axes, recipes, strict=True):
            of = [r for r in scores if (r["dataset"], r["recipe"]) == (dataset, recipe)]
            for place, (_, key) in enumerate(lines[dataset]):
                _draw(axis, place, of, key)
            axis.set_yticks(range(len(lines[dataset])), [name for name, _ in lines[dataset]])
            axis.set_ylim(len(lines[dataset]) - 0.5, -0.5)
            axis.axvline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
            axis.grid(axis="x", color="#EEEEEE", zorder=0)
            axis.set_title(f"{dataset}: {recipe} recipe", loc="left")
            axis.set_xlabel(f"mean {metric.capitalize()} over genes")
    mark = {"linestyle": "", "markeredgecolor": BLACK}
    figure.legend(
        handles=[
            Line2D([], [], color=ORANGE, marker="o", markersize=7, label=AS_IT_CAME, **mark),
            Line2D(
                [],
                [],
                color=BLUE,
                marker="o",
                markersize=7,
                label=f"{AFTER}, mean of seeds",
                **mark,
            ),
            Line2D(
                [], [], color="#888888", marker="o", markersize=3, linestyle="", label="a donor"
            ),
        ],
        loc="outside lower left",
        ncols=3,
        frameon=False,
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def _lines(rows: Sequence[Mapping]) -> list[tuple[str, tuple]]:
    """The label and key of each line: encoders as they came, each with its pairs below it."""
    found: dict[str, dict] = {}
    for row in rows:
        key = (row["image_encoder"], row["gene_encoder"], row["representation"])
        label = row["image_encoder"] if not row["gene_encoder"] else f"  with {row['gene_encoder']}"
        if row["gene_encoder"] and row["image_encoder"] != row["features_of"]:
            label = f"  {row['image_encoder']} with {row['gene_encoder']}"
        if row["gene_encoder"] and row["representation"] != "shared space":
            label += f", {row['representation']}"
        if row["control"] and not row["gene_encoder"]:
            label += f"\n({row['control']})"
        found.setdefault(row["features_of"], {})[key] = label
    return [
        (label, key)
        for of in found.values()
        for key, label in sorted(of.items(), key=lambda item: item[0][1])
    ]


def _draw(axis, place: int, rows: Sequence[Mapping], key: tuple) -> None:
    names = ("image_encoder", "gene_encoder", "representation")
    own = [row for row in rows if tuple(row[name] for name in names) == key]
    if not own:
        return
    base = [
        row
        for row in rows
        if row["stage"] == AS_IT_CAME and row["image_encoder"] == own[0]["features_of"]
    ]
    if own[0]["stage"] == AS_IT_CAME:
        _marks(axis, place, own, ORANGE)
        return
    before, after = _groups(base), _groups(own)
    _marks(axis, place, own, BLUE)
    start, end = (_mean(of.get(ALL, {})) for of in (before, after))
    if start is not None and end is not None:
        axis.plot([start, end], [place, place], color="#888888", linewidth=1, zorder=2)
        axis.plot(start, place, "|", color=ORANGE, markersize=11, markeredgewidth=2.2, zorder=3)


def _marks(axis, place: int, rows: Sequence[Mapping], colour: str) -> None:
    groups = _groups(rows)
    values = {group: _mean(seeds) for group, seeds in groups.items()}
    donors = [value for group, value in values.items() if group != ALL and value is not None]
    axis.plot(
        donors, [place + 0.22] * len(donors), "o", color=colour, markersize=3, alpha=0.8, zorder=4
    )
    if values.get(ALL) is not None:
        axis.plot(
            values[ALL], place, "o", color=colour, markersize=7, markeredgecolor=BLACK, zorder=5
        )


def _groups(rows: Sequence[Mapping]) -> dict:
    groups: dict[str, dict] = {}
    for row in rows:
        groups.setdefault(row["group"], {})[row["seed"]] = row
    return groups


def _mean(seeds: Mapping) -> float | None:
    values = [row["value"] for row in seeds.values() if row["value"] is not None]
    return statistics.fmean(values) if values else None
