"""The figure of an audit: what each flag does to recall, from both starts."""

import textwrap
from collections.abc import Mapping, Sequence

from pairscape.audit.flag_effects import BOTH, NOT_TRIED, STARTS
from pairscape.report import style
from pairscape.report.audit_table import CHANGES, flag_words
from pairscape.report.style import BLUE, VERMILION
from pairscape.report.words import gallery_words, pair_words

_GREY = "#777777"
_WIDTH_IN, _LINE_IN, _CAPTION_CHARACTERS = 9.5, 0.33, 150
_IDLE_LINE = 0.6  # of a line's height, where there is only to say why nothing is drawn
_COLOURS = dict(zip(STARTS, (BLUE, VERMILION), strict=True))
_MARKERS = dict(zip(STARTS, ("o", "s"), strict=True))
_OFFSETS = dict(zip(STARTS, (-0.19, 0.19), strict=True))
_BATCH_FIRST = {"split": 1}
_TICKS = {"marker": "|", "markersize": 7, "color": "#333333"}


def plot_differences(rows: Sequence[Mapping]):
    """Draw the difference of recall that each flag makes.

    ``rows``: of ``flag_effects.read_scores``. A row of panels per encoder pair, first the gallery of
    batches, then the whole split; a line per flag, the two starts one below the other. Marks: mean over
    directions and seeds, hollow where run and base test on different spots; lines: 95 % intervals;
    ticks: least and greatest of single seeds. What has no number says why, in grey.
    """
    flags = list(dict.fromkeys(row["flag"] for row in rows if row["flag"]))
    scored = [row for row in rows if row["gallery"] and row["direction"] == BOTH]
    ks = {row["recall_at"] for row in scored}
    k = 5 if 5 in ks or not ks else min(ks)
    scored = [row for row in scored if row["recall_at"] == k]
    galleries = sorted(
        dict.fromkeys(row["gallery"] for row in scored), key=lambda name: _BATCH_FIRST.get(name, 0)
    )
    pairs = list(dict.fromkeys(pair_words(row) for row in scored))
    idle = {
        (row["start"], row["flag"]): row["why_not"] for row in rows if row["status"] == NOT_TRIED
    }
    caption = _caption(rows, scored, k, idle)
    places, bottom = _places(flags, scored)
    height = _LINE_IN * max(bottom, 2) + 1.15
    height = height * max(len(pairs), 1) + 0.17 * caption.count("\n") + 1.0
    figure = style.new_figure(_WIDTH_IN, height)
    panels = figure.subplots(max(len(pairs), 1), max(len(galleries), 1), squeeze=False, sharey=True)
    for line, pair in zip(panels, pairs, strict=False):
        for panel, gallery in zip(line, galleries, strict=True):
            shown = {
                (row["start"], row["flag"]): row
                for row in scored
                if (pair_words(row), row["gallery"]) == (pair, gallery)
            }
            _draw_panel(panel, places, shown, idle)
            panel.set_ylim(bottom, 0)
            panel.tick_params(axis="y", length=0, labelsize=8.5)
            named = f"{pair}\n" if len(pairs) > 1 else ""
            panel.set_title(named + _title(shown, gallery), loc="left", fontsize=9)
            panel.set_xlabel(f"difference of Recall@{k:g}")
            panel.locator_params(axis="x", nbins=6)
        _name_flags(line[0], places, rows)
    head = f"Audit {rows[0]['audit']}: what each quirk of the published code does to Recall@{k:g}"
    if len(pairs) == 1:
        head += f", {pairs[0]}"
    style.legend_above(figure, _legend(scored), head, size=11, handlelength=1.6, columnspacing=1.4)
    figure.supxlabel(caption, x=0.008, ha="left", fontsize=8, color="#333333")
    return figure


def _places(flags: Sequence[str], scored: Sequence[Mapping]) -> tuple[dict, float]:
    """By flag the middle and height of its line, from the top down, in lines; and their sum."""
    drawn = {row["flag"] for row in scored if row["difference"] is not None}
    places, at = {}, 0.0
    for flag in flags:
        height = 1.0 if flag in drawn else _IDLE_LINE
        places[flag] = (at + height / 2, height)
        at += height
    return places, at or 1.0


def _draw_panel(panel, places: Mapping, shown: Mapping, idle: Mapping) -> None:
    panel.axvline(0, color="#444444", linewidth=0.9, zorder=2)
    panel.grid(axis="x", color="#E4E4E4", zorder=0)
    for number, (flag, (place, height)) in enumerate(places.items()):
        if number % 2:
            panel.axhspan(place - height / 2, place + height / 2, color="#F6F6F6", zorder=-1)
        why = {start: _why(shown.get((start, flag)), idle.get((start, flag))) for start in STARTS}
        if height < 1 or (len(set(why.values())) == 1 and why[STARTS[0]]):
            _say(panel, place, ", ".join(dict.fromkeys(why.values())))  # of both starts at once
            continue
        for start in STARTS:
            y = place + _OFFSETS[start]
            if why[start]:
                _say(panel, y, f"{start}: {why[start]}")
            else:
                _mark(panel, y, shown[start, flag])
    # Around zero even where all differences are on one side, or none is drawn.
    low, high = panel.get_xlim()
    low, high = min(low, -0.005), max(high, 0.005)
    margin = 0.04 * (high - low)
    panel.set_xlim(low - margin, high + margin)


def _mark(panel, y: float, row: Mapping) -> None:
    colour = _COLOURS[row["start"]]
    if row["difference_low"] is not None:
        looks = {"color": colour, "linewidth": 1.6, "solid_capstyle": "butt"}
        panel.plot([row["difference_low"], row["difference_high"]], [y, y], zorder=3, **looks)
    if row["seeds"] > 1:
        ends = [row["difference_seed_low"], row["difference_seed_high"]]
        panel.plot(ends, [y, y], linestyle="", zorder=4, **_TICKS)
    panel.plot(
        row["difference"],
        y,
        marker=_MARKERS[row["start"]],
        markersize=5.5,
        markerfacecolor="white" if row["paired"] == "no" else colour,
        markeredgecolor=colour,
        markeredgewidth=1.3,
        linestyle="",
        zorder=5,
    )


def _why(row: Mapping | None, why_not: str | None) -> str:
    """Why nothing is drawn, in a few words; empty where something is."""
    if why_not is not None:
        return NOT_TRIED
    if row is None:
        return "not of this encoder pair"
    if row["difference"] is not None:
        return ""
    return row["status"].partition(":")[0] if row["value"] is None else "no base to compare with"


def _say(panel, y: float, words: str) -> None:
    panel.annotate(
        words,
        (0.015, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=7.5,
        style="italic",
        color=_GREY,
        zorder=6,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.8},
    )


def _title(shown: Mapping, gallery: str) -> str:
    """Gallery, and the recall of the bases that the differences are taken from."""
    words = "Whole test split" if gallery == "split" else gallery_words(gallery)
    bases = [
        f"{start} {row['value']:.3f}"
        for start in STARTS
        if (row := shown.get((start, ""))) and row["value"] is not None
    ]
    chance = {
        f"{row['chance']:.3f}"
        for (_, flag), row in shown.items()
        if not flag and row["chance"] is not None
    }
    words += f"\nbase: {', '.join(bases) or 'not run'}"
    words += f"\nchance: {' or '.join(sorted(chance))}" if chance else ""
    return words[0].upper() + words[1:]


def _name_flags(panel, places: Mapping, rows: Sequence[Mapping]) -> None:
    labels, drawn = [], {row["flag"] for row in rows if row["difference"] is not None}
    for flag in places:
        findings = next(row["findings"] for row in rows if row["flag"] == flag)
        labels.append(flag_words(flag) + (f" ({findings})" if findings else ""))
    panel.set_yticks([place for place, _ in places.values()], labels)
    for flag, label in zip(places, panel.get_yticklabels(), strict=True):
        if flag not in drawn:
            label.set_color(_GREY)


def _legend(scored: Sequence[Mapping]) -> list:
    handles = [
        style.handle(
            f"from {start}, the flag {CHANGES[start]}",
            **{"color": _COLOURS[start], "marker": _MARKERS[start]},
            **{"markersize": 5.5, "linewidth": 1.6},
        )
        for start in STARTS
        if any(row["start"] == start for row in scored)
    ]
    drawn = [row for row in scored if row["difference"] is not None]
    if any(row["paired"] == "no" for row in drawn):
        looks = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#333333"}
        handles.append(style.handle("other test spots", linestyle="", markersize=5.5, **looks))
    if any(row["seeds"] > 1 for row in drawn):
        handles.append(style.handle("least, greatest seed", linestyle="", **_TICKS))
    return handles


def _caption(rows: Sequence[Mapping], scored: Sequence[Mapping], k: float, idle: Mapping) -> str:
    seeds = {f"{row['seeds']:.0f}" for row in scored if row["seeds"]}
    queries = {f"{row['queries']:.0f}" for row in scored if row["queries"] and not row["flag"]}
    over = list(
        dict.fromkeys(row["ci_over"] for row in scored if row["ci_over"] and not row["flag"])
    )
    text = (
        f"Marks: Recall@{k:g} with one flag changed, less that of the start's own protocol (base); "
        "mean of both directions"
    )
    text += f" and of {' or '.join(sorted(seeds))} seed{'s' * (seeds != {'1'})}" if seeds else ""
    text += f"; {' or '.join(sorted(queries))} queries. " if queries else ". "
    text += "Coloured lines: 95 % intervals over test spots, without the spread between trainings; "
    text += f"drawn: {'; '.join(over)}. " if over else "none drawn. "
    if any(row["paired"] == "no" for row in scored):
        text += "Hollow: run and base test on different spots. "
    parts = [text.strip()]
    reasons: dict[str, list[str]] = {}
    for (start, flag), why in idle.items():
        both = all((other, flag) in idle for other in STARTS)
        words = flag_words(flag) + ("" if both else f" from {start}")
        if words not in reasons.setdefault(why, []):
            reasons[why].append(words)
    if reasons:
        idle_words = "; ".join(f"{', '.join(names)}: {why}" for why, names in reasons.items())
        parts.append(f"Not tried: {idle_words}.")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _CAPTION_CHARACTERS))
