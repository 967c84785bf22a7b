"""The figure of retrieval: recall of every encoder pair, with chance, intervals and seeds."""

from collections.abc import Mapping, Sequence

from pairscape.report import retrieval_table, style
from pairscape.report.rows import split_by
from pairscape.report.style import BLACK, DIRECTION_COLOURS, DIRECTION_WORDS, VERMILION
from pairscape.report.words import DIRECTIONS, gallery_words

_BAR = 0.38


def plot_recall(table: Sequence[Mapping], scores: Sequence[Mapping], title: str):
    """Draw the rows of ``retrieval_table.tabulate_retrieval``; the scores are for the seeds.

    A matplotlib figure: a row of panels per dataset, a panel per k; in each the encoder pairs,
    first in the whole split, then in batches as published.
    """
    from matplotlib.patches import Patch

    seeds: dict[tuple, list[float]] = {}
    for row in scores:
        if row["group_by"] == "all":
            key = (*(row[name] for name in retrieval_table.HEAD), row["metric"])
            seeds.setdefault(key, []).append(row["value"])
    shown = _shown(table)
    recall = [name for name in retrieval_table.metric_names(shown[0]) if name.startswith("recall@")]
    layouts = {name: _lay_out(rows) for name, rows in split_by(shown, "dataset").items()}
    heights = [max(1.2, 0.42 * layout["height"]) for layout in layouts.values()]
    figure = style.new_figure(9.5, sum(heights) + 0.75 * len(heights) + 0.9)
    panels = style.panel_grid(figure, len(layouts), len(recall) or 1, heights)
    for line, (dataset, layout) in zip(panels, layouts.items(), strict=True):
        for panel, metric in zip(line, recall, strict=False):
            _draw_panel(panel, layout, metric, seeds)
            panel.set_title(f"{dataset}: Recall@{metric.removeprefix('recall@')}", loc="left")
            panel.set_xlabel("recall")
    hollow = {"color": "white", "markeredgecolor": BLACK, "linestyle": "", "markersize": 4}
    handles = [
        *(Patch(color=DIRECTION_COLOURS[d], label=DIRECTION_WORDS[d]) for d in DIRECTIONS),
        style.handle("chance", color=VERMILION, linewidth=2),
        style.handle(f"95 % interval, {_over(shown)}", color=BLACK, linewidth=1.2),
        style.handle("seed", marker="o", **hollow),
    ]
    style.legend_above(figure, handles, title, columns=5)
    return figure


def _shown(table: Sequence[Mapping]) -> list[Mapping]:
    """The whole split, and of the galleries of batches the published one, or the first there is."""
    batches = {row["gallery"] for row in table if row["gallery"].startswith("in_batch")}
    published = sorted(batches, key=lambda name: (not name.endswith("_ranks_4"), name))[:1]
    return [row for row in table if row["gallery"] in ("split", *published)]


def _over(rows: Sequence[Mapping]) -> str:
    """What the intervals are over."""
    texts = [row["ci_over"] or "" for row in rows]
    kinds = {
        "over donors": any("bootstrap over" in text for text in texts),
        "blocks within these donors": any("spatial blocks" in text for text in texts),
    }
    return " or ".join(words for words, used in kinds.items() if used) or "none"


def _lay_out(rows: Sequence[Mapping]) -> dict:
    """Where each bar of a dataset lies: from the top down, galleries, and in them encoder pairs."""
    bars, labels, headings, y = [], [], [], 0.0
    galleries = split_by(rows, "gallery")
    for gallery in sorted(galleries, key=lambda name: name != "split"):
        of_gallery = galleries[gallery]
        sizes = {row["gallery_size"] for row in of_gallery if row["gallery_size"]}
        among = f" ({min(sizes):.4g} pairs)" if sizes and gallery == "split" else ""
        headings.append((y, gallery_words(gallery).capitalize() + among))
        y += 0.9
        pairs = split_by(of_gallery, "image_encoder", "gene_encoder")
        for pair, directions in pairs.items():
            of_pair = {row["direction"]: row for row in directions}
            for number, direction in enumerate(DIRECTIONS):
                if direction in of_pair:
                    bars.append((y + (number - 0.5) * _BAR, direction, of_pair[direction]))
            labels.append((y, f"{pair[0]}\nwith {pair[1]}"))
            y += 1.05
        y += 0.15
    return {"bars": bars, "labels": labels, "headings": headings, "height": y}


def _draw_panel(panel, layout: Mapping, metric: str, seeds: Mapping) -> None:
    for y, direction, row in layout["bars"]:
        _draw_bar(panel, y, direction, row, metric, seeds)
    for y, text in layout["headings"]:
        if y:
            panel.axhline(y - 0.45, color="#DDDDDD", linewidth=0.8, zorder=0)
        if panel.get_subplotspec().is_first_col():
            panel.annotate(
                text,
                (0, y + 0.15),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                fontweight="bold",
                color="#333333",
                annotation_clip=False,
            ).set_in_layout(False)  # a long one runs on above the next panel, where nothing is
    panel.set_yticks(*zip(*layout["labels"], strict=True))
    style.plain_rows(panel)
    panel.set_ylim(layout["height"] - 0.4, -0.3)
    panel.set_xlim(0, panel.get_xlim()[1] * 1.12)
    panel.locator_params(axis="x", nbins=5)


def _draw_bar(panel, y: float, direction: str, row: Mapping, metric: str, seeds: Mapping) -> None:
    value = row[metric]
    if value is None:
        why = row["seeds_failed"].partition(":")[0] or "not run"
        panel.text(0, y, f" {why}", va="center", **style.NOT_RUN)
        return
    panel.barh(y, value, _BAR, color=DIRECTION_COLOURS[direction], zorder=2)
    low, high = row[metric + "_ci_low"], row[metric + "_ci_high"]
    if low is not None:
        # A white edge keeps it in sight on dark bars.
        for colour, width in (("white", 3), (BLACK, 1.2)):
            panel.plot([low, high], [y, y], color=colour, linewidth=width, zorder=4)
        for bound in (low, high):
            panel.plot([bound] * 2, [y - 0.07, y + 0.07], color=BLACK, linewidth=1.2, zorder=4)
    chance, ends = row[metric + "_chance"], [y - _BAR / 2, y + _BAR / 2]
    for colour, width in (("white", 4), (VERMILION, 2)):
        looks = {"color": colour, "linewidth": width, "solid_capstyle": "butt"}
        panel.plot([chance] * 2, ends, zorder=5, **looks)
    dots = seeds.get((*(row[name] for name in retrieval_table.HEAD), metric), [])
    if len(dots) > 1:
        looks = {"color": "white", "edgecolor": BLACK, "linewidth": 0.7}
        panel.scatter(dots, [y + 0.1] * len(dots), s=10, zorder=6, **looks)
    panel.annotate(
        f"{value:.3f}",
        (max(value, high or 0, chance, *dots), y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=7.5,
        color="#333333",
        zorder=6,
    )
