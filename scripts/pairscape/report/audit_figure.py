"""The figure of an audit: what each flag does to recall, from both starts."""

import textwrap
from collections.abc import Mapping, Sequence

from pairscape.audit.flag_effects import BOTH, NOT_TRIED, STARTS
from pairscape.report.audit_table import CHANGES, flag_words, pair_words
from pairscape.report.style import BLUE, VERMILION
from pairscape.report.words import gallery_words

_DPI = 150
_GREY = "#777777"
_WIDTH_IN, _LINE_IN, _CAPTION_CHARACTERS = 9.5, 0.33, 150
_IDLE_LINE = 0.6  # of a line's height, where there is only to say why nothing is drawn
_COLOURS = dict(zip(STARTS, (BLUE, VERMILION), strict=True))
_MARKERS = dict(zip(STARTS, ("o", "s"), strict=True))
_OFFSETS = dict(zip(STARTS, (-0.19, 0.19), strict=True))
_BATCH_FIRST = {"split": 1}


def plot_differences(rows: Sequence[Mapping]):
    """Draw the difference of recall that each flag makes.

    Parameters
    ----------
    rows
        Of ``audit.read_scores``.

    Returns
    -------
    A matplotlib figure: a row of panels per encoder pair, first the gallery of batches, then the whole
    split; a line per flag, the two starts one below the other. Marks: mean over directions and
    seeds, hollow where run and base test on different spots; lines: 95 % intervals; ticks: least and
    greatest of single seeds. What has no number says why, in grey.
    """
    from matplotlib.figure import Figure

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
    figure = Figure(
        figsize=(_WIDTH_IN, height * max(len(pairs), 1) + 0.17 * caption.count("\n") + 1.0),
        dpi=_DPI,
        layout="constrained",
    )
    panels = figure.subplots(max(len(pairs), 1), max(len(galleries), 1), squeeze=False, sharey=True)
    for line, pair in zip(panels, pairs, strict=False):
        for panel, gallery in zip(line, galleries, strict=True):
            own = {
                (row["start"], row["flag"]): row
                for row in scored
                if (pair_words(row), row["gallery"]) == (pair, gallery)
            }
            _draw_panel(panel, places, own, idle)
            panel.set_ylim(bottom, 0)
            panel.tick_params(axis="y", length=0, labelsize=8.5)
            named = f"{pair}\n" * (len(pairs) > 1)
            panel.set_title(named + _title(own, gallery), loc="left", fontsize=9)
            panel.set_xlabel(f"difference of Recall@{k:g}")
            panel.locator_params(axis="x", nbins=6)
        _name_flags(line[0], places, rows)
    head = f"Audit {rows[0]['audit']}: what each quirk of the published code does to Recall@{k:g}"
    if len(pairs) == 1:
        head += f", {pairs[0]}"
    figure.legend(
        handles=_legend(scored),
        loc="outside upper left",
        title=head,
        title_fontsize=11,
        alignment="left",
        ncols=4,
        frameon=False,
        fontsize=8.5,
        handlelength=1.6,
        columnspacing=1.4,
    )
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


def _draw_panel(panel, places: Mapping, own: Mapping, idle: Mapping) -> None:
    panel.axvline(0, color="#444444", linewidth=0.9, zorder=2)
    panel.grid(axis="x", color="#E4E4E4", zorder=0)
    for number, (flag, (place, height)) in enumerate(places.items()):
        if number % 2:
            panel.axhspan(place - height / 2, place + height / 2, color="#F6F6F6", zorder=-1)
        why = {start: _why(own.get((start, flag)), idle.get((start, flag))) for start in STARTS}
        if height < 1 or (len(set(why.values())) == 1 and why[STARTS[0]]):
            _say(panel, place, ", ".join(dict.fromkeys(why.values())))  # of both starts at once
            continue
        for start in STARTS:
            y = place + _OFFSETS[start]
            if why[start]:
                _say(panel, y, f"{start}: {why[start]}")
            else:
                _mark(panel, y, own[start, flag])
    # Around zero even where all differences are on one side, or none is drawn.
    low, high = panel.get_xlim()
    low, high = min(low, -0.005), max(high, 0.005)
    margin = 0.04 * (high - low)
    panel.set_xlim(low - margin, high + margin)


def _mark(panel, y: float, row: Mapping) -> None:
    colour = _COLOURS[row["start"]]
    if row["difference_low"] is not None:
        panel.plot(
            [row["difference_low"], row["difference_high"]],
            [y, y],
            color=colour,
            linewidth=1.6,
            solid_capstyle="butt",
            zorder=3,
        )
    if row["seeds"] > 1:
        panel.plot(
            [row["difference_seed_low"], row["difference_seed_high"]],
            [y, y],
            linestyle="",
            marker="|",
            markersize=7,
            color="#333333",
            zorder=4,
        )
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


def _title(own: Mapping, gallery: str) -> str:
    """Gallery, and the recall of the bases that the differences are taken from."""
    words = "Whole test split" if gallery == "split" else gallery_words(gallery)
    bases = [
        f"{start} {row['value']:.3f}"
        for start in STARTS
        if (row := own.get((start, ""))) and row["value"] is not None
    ]
    chance = {
        f"{row['chance']:.3f}"
        for (_, flag), row in own.items()
        if not flag and row["chance"] is not None
    }
    told = f"base: {', '.join(bases) or 'not run'}"
    told += f"\nchance: {' or '.join(sorted(chance))}" if chance else ""
    return words[0].upper() + words[1:] + f"\n{told}"


def _name_flags(panel, places: Mapping, rows: Sequence[Mapping]) -> None:
    labels, drawn = [], set()
    for row in rows:
        if row["difference"] is not None:
            drawn.add(row["flag"])
    for flag in places:
        findings = next(row["findings"] for row in rows if row["flag"] == flag)
        labels.append(flag_words(flag) + (f" ({findings})" if findings else ""))
    panel.set_yticks([place for place, _ in places.values()], labels)
    for flag, label in zip(places, panel.get_yticklabels(), strict=True):
        if flag not in drawn:
            label.set_color(_GREY)


def _legend(scored: Sequence[Mapping]) -> list:
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=_COLOURS[start],
            marker=_MARKERS[start],
            markersize=5.5,
            linewidth=1.6,
            label=f"from {start}, the flag {CHANGES[start]}",
        )
        for start in STARTS
        if any(row["start"] == start for row in scored)
    ]
    drawn = [row for row in scored if row["difference"] is not None]
    if any(row["paired"] == "no" for row in drawn):
        style = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "#333333"}
        handles.append(
            Line2D([], [], linestyle="", markersize=5.5, label="other test spots", **style)
        )
    if any(row["seeds"] > 1 for row in drawn):
        style = {"marker": "|", "markersize": 7, "color": "#333333"}
        handles.append(Line2D([], [], linestyle="", label="least, greatest seed", **style))
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
        of = reasons.setdefault(why, [])
        if words not in of:
            of.append(words)
    if reasons:
        told = "; ".join(f"{', '.join(of)}: {why}" for why, of in reasons.items())
        parts.append(f"Not tried: {told}.")
    return "\n".join(line for part in parts for line in textwrap.wrap(part, _CAPTION_CHARACTERS))
