"""The figure of silhouette-batch against recall, a point per panel."""

from collections.abc import Mapping, Sequence

from pairscape.report import layout, style, words
from pairscape.report.batch_effect_table import CONFOUNDING, EVERY_PAIR
from pairscape.report.rows import split_by
from pairscape.report.style import BLACK, BLUE

_SHORT = dict(zip(CONFOUNDING, ("organ", "disease"), strict=True))


def plot_points(rows: Sequence[Mapping], title: str):
    """Draw the points of one encoder pair, batch and resolution, as ``choose`` chose them.

    A matplotlib figure, a panel per gallery. Beside each point stand its dataset, Cramér's V of the
    split with organ and disease state, and the share of spots in skipped clusters.
    """
    galleries = split_by(rows, "gallery")
    figure = style.new_figure(7.4 * len(galleries), 5.4)
    axes = figure.subplots(1, len(galleries), squeeze=False)[0]
    for axis, (gallery, drawn) in zip(axes, galleries.items(), strict=True):
        _draw(axis, [row for row in drawn if row["silhouette_batch"] is not None])
        missing = [row["dataset"] for row in drawn if row["silhouette_batch"] is None]
        axis.set_title(words.gallery_words(gallery).capitalize(), loc="left")
        first = drawn[0]
        axis.set_xlabel(
            f"silhouette-batch, {first['batch']} as batch, Leiden {first['resolution']:g}\n"
            "apart  \N{LEFTWARDS ARROW}        \N{RIGHTWARDS ARROW}  mixed"
        )
        axis.set_ylabel(f"mean Recall@{first['recall_at']} of I2G and G2I")
        note = correlation_words(first)
        if missing:
            note += f"\nnot defined: {', '.join(missing)}"
        axis.annotate(
            note, (0.02, 0.98), xycoords="axes fraction", va="top", fontsize=8, color="#333333"
        )
    pair = rows[0]
    whose = words.pair_words(pair)
    if pair["image_encoder"] == EVERY_PAIR:
        whose = f"mean over {pair['pairs']} encoder pairs"
    figure.suptitle(f"{title}: {whose}", x=0.01, ha="left", fontsize=11)
    figure.supxlabel(
        "A point is a panel. Panels differ in much at once: V is Cramér's V of the split with organ "
        "and with disease state (1: one tells the other).\nThe coefficient describes these panels "
        "only. Dashed: chance.",
        fontsize=7.5,
        color="#555555",
        x=0.01,
        ha="left",
    )
    return figure


def choose(
    rows: Sequence[Mapping], resolution: float, pair: Sequence[str] | None, batch: str = "split"
) -> list[Mapping]:
    """The rows that are drawn: of the named pair, else of the mean over pairs, else of the first."""
    rows = [row for row in rows if (row["batch"], row["resolution"]) == (batch, resolution)]
    pairs = split_by(rows, "image_encoder", "gene_encoder")
    mean = (EVERY_PAIR, EVERY_PAIR)
    wanted = tuple(pair) if pair else mean if mean in pairs else next(iter(pairs), None)
    return pairs.get(wanted, [])


def _draw(axis, rows: Sequence[Mapping]) -> None:
    axis.grid(color="#EEEEEE", zorder=0)
    rows = sorted(rows, key=lambda row: -row["recall"])
    scores, recalls = ([row[name] for row in rows] for name in ("silhouette_batch", "recall"))
    chances = [row["chance"] for row in rows if row["chance"] is not None]
    if chances:
        # A short last batch makes it differ a little between panels.
        axis.axhline(sum(chances) / len(chances), color="#888888", linestyle="--", linewidth=1)
    axis.set_xlim(max(0.0, min(scores, default=0.0) - 0.08), max(scores, default=1.0) + 0.04)
    axis.set_ylim(0, min(1.02, 1.25 * max([*recalls, *chances, 0.05])))
    axis.scatter(scores, recalls, s=34, color=BLUE, edgecolor="white", linewidth=0.8, zorder=4)
    # Points may lie close together, so their labels stand in a column of their own.
    top = axis.get_ylim()[1]
    places = _spread([recall / top for recall in recalls])
    for row, place in zip(rows, places, strict=True):
        axis.annotate(
            f"{row['dataset']}\n{_facts(row)}",
            (row["silhouette_batch"], row["recall"]),
            xytext=(1.04, place),
            textcoords="axes fraction",
            va="center",
            fontsize=7,
            color=BLACK,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "#BBBBBB",
                "linewidth": 0.7,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def _spread(heights: Sequence[float]) -> list[float]:
    """Heights (descending, of 0 to 1) moved as little as keeps labels of two lines apart."""
    gap = min(0.09, 1 / max(1, len(heights)))
    places: list[float] = []
    for height in heights:
        places.append(min(height, places[-1] - gap) if places else height)
    if places and places[-1] < 0:  # pushed out at the bottom: push up from there
        floor = 0.0
        for number in reversed(range(len(places))):
            places[number] = max(places[number], floor)
            floor = places[number] + gap
    return places


def _facts(row: Mapping) -> str:
    parts = [f"V {short} {layout.number(row[name], '.2f')}" for name, short in _SHORT.items()]
    return ", ".join([*parts, f"skipped {row['spots_skipped']:.0%}"])


def correlation_words(row: Mapping, form: str = ".2f") -> str:
    """Spearman's coefficient with its p-value, or why there is none."""
    if row["spearman"] is None:
        return row["p_test"]
    return f"Spearman {row['spearman']:{form}}, p = {row['p_value']:.3g} ({row['p_test']})"
