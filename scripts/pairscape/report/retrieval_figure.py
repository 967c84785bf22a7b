"""The figure of retrieval: recall of every encoder pair, with chance, intervals and seeds."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from pairscape.report import retrieval_table, style
from pairscape.report.rows import split_by
from pairscape.report.style import BLACK, DIRECTION_COLOURS, DIRECTION_WORDS, VERMILION
from pairscape.report.words import DIRECTIONS, encoder_title, gallery_words, metric_words

_BAR = 0.38
_LINES = {True: 0.46, False: 0.32}  # inches per encoder pair: in the whole split, in batches


def plot_recall(
    table: Sequence[Mapping],
    scores: Sequence[Mapping],
    title: str,
    titles: Mapping = MappingProxyType({}),
):
    """Draw the rows of ``retrieval_table.tabulate_retrieval``; the scores are for the seeds.

    A matplotlib figure: a row of panels per dataset in the whole split, then in batches as published;
    a panel per k; in each the encoder pairs, by their ``titles`` (see ``words.encoder_title``). The
    panels of a k and gallery have one scale.
    """
    from matplotlib.patches import Patch

    seeds: dict[tuple, list[float]] = {}
    for row in scores:
        if row["group_by"] == "all":
            key = (*(row[name] for name in retrieval_table.HEAD), row["metric"])
            seeds.setdefault(key, []).append(row["value"])
    shown = _shown(table)
    recall = [name for name in retrieval_table.metric_names(shown[0]) if name.startswith("recall@")]
    lines = sorted(
        split_by(shown, "gallery", "dataset").items(), key=lambda one: _is_batch(one[0][0])
    )
    pairs = [split_by(rows, "image_encoder", "gene_encoder") for _, rows in lines]
    heights = [
        0.3 + _LINES[not _is_batch(gallery)] * len(of_line)
        for ((gallery, _), _), of_line in zip(lines, pairs, strict=True)
    ]
    figure = style.new_figure(9.5, sum(heights) + 0.75 * len(heights) + 0.9)
    panels = style.panel_grid(figure, len(lines), len(recall) or 1, heights)
    for axes, ((gallery, dataset), rows), of_line in zip(panels, lines, pairs, strict=True):
        for panel, metric in zip(axes, recall, strict=False):
            _draw_panel(panel, of_line, metric, seeds, titles)
            panel.set_xlabel(metric_words(metric))
        axes[0].set_title(_heading(dataset, gallery, rows), loc="left", fontweight="bold")
    for gallery in dict.fromkeys(gallery for (gallery, _), _ in lines):
        of_gallery = [
            axes for axes, line in zip(panels, lines, strict=True) if line[0][0] == gallery
        ]
        for column in zip(*of_gallery, strict=True):
            top = max(panel.get_xlim()[1] for panel in column)
            for panel in column:
                panel.set_xlim(0, top)
    handles = [
        *(Patch(color=DIRECTION_COLOURS[d], label=DIRECTION_WORDS[d]) for d in DIRECTIONS),
        style.handle("chance", color=VERMILION, linewidth=2),
        style.handle(f"95 % interval, {_over(shown)}", color=BLACK, linewidth=1.2),
    ]
    if any(len(values) > 1 for values in seeds.values()):
        hollow = {"color": "white", "markeredgecolor": BLACK, "linestyle": "", "markersize": 4}
        handles.append(style.handle("seed", marker="o", **hollow))
    style.legend_above(figure, handles, title, columns=len(handles))
    return figure


def _is_batch(gallery: str) -> bool:
    return gallery.startswith("in_batch")


def _heading(dataset: str, gallery: str, rows: Sequence[Mapping]) -> str:
    sizes = {row["gallery_size"] for row in rows if row["gallery_size"]}
    among = f" ({min(sizes):,.0f} pairs)" if sizes and not _is_batch(gallery) else ""
    return f"{dataset}, {gallery_words(gallery)}{among}"


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


def _draw_panel(panel, pairs: Mapping, metric: str, seeds: Mapping, titles: Mapping) -> None:
    for y, rows in enumerate(pairs.values()):
        of_pair = {row["direction"]: row for row in rows}
        for number, direction in enumerate(DIRECTIONS):
            if direction in of_pair:
                place = y + (number - 0.5) * _BAR
                _draw_bar(panel, place, direction, of_pair[direction], metric, seeds)
    names = [
        f"{encoder_title(titles, 'image', image)}\nwith {encoder_title(titles, 'gene', gene)}"
        for image, gene in pairs
    ]
    panel.set_yticks(range(len(pairs)), names)
    style.plain_rows(panel)
    panel.set_ylim(len(pairs) - 0.5, -0.5)
    panel.set_xlim(0, panel.get_xlim()[1] * 1.2)  # the last number stands behind its bar
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
        panel.plot([low, high], [y, y], "|-", color=BLACK, linewidth=1.2, markersize=4, zorder=4)
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
