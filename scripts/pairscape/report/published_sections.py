"""The comparison with the paper, to be read."""

import statistics
from collections.abc import Mapping, Sequence

from pairscape.report import layout, published_scores
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.published_gap import (
    ABSENT,
    NOT_COMPARED,
    TABLE,
    filled,
    groups,
    missing,
    pair,
    untrained,
)
from pairscape.report.published_ranks import LEAST_ITEMS, agreement
from pairscape.report.words import DIRECTIONS


def in_short(rows: Sequence[Mapping]) -> str:
    """The comparison in one line."""
    cells = [row for row in rows if row["source"]]
    gaps = [row for row in cells if row["difference"] is not None]
    inside = [row for row in gaps if row["inside"] == "yes"]
    words = f"{len(cells)} published cells, {len(gaps)} compared"
    words += f" ({len(inside)} inside the seeds' spread), " if gaps else ", "
    words += f"{len(filled(cells))} filled that the paper couldn't train, "
    return words + f"{sum(row['ours_mean'] is None for row in cells)} without a number of ours"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader."""
    compared = [row for row in rows if row["source"]]
    parts = []
    if any(row["difference"] is not None for row in compared):
        parts += [_summary(compared), _order(compared)]
    parts += [
        _details(members, f"{source}: Recall@{k:g}")
        for (source, k), members in groups(rows, "source", "recall_at").items()
    ]
    alone = [row for row in rows if row["published_status"] == ABSENT]
    if alone:
        parts.append(_details(alone, "Only ours: the paper has no such cell"))
    if not parts:
        parts.append(layout.section("Nothing to compare", ["Panel"], []))
    # What numbers are whose, and what is missing, comes before pages of cells.
    parts[0]["notes"] = [*_notes(rows, compared), *parts[0]["notes"]]
    return parts


def _summary(rows: Sequence[Mapping]) -> dict:
    body = []
    cells = groups(rows, "source", "recall_at", "panel", "direction")
    for (source, k, panel, direction), members in cells.items():
        gaps = [row for row in members if row["difference"] is not None]
        body.append([source, f"{k:g}", panel, DIRECTIONS[direction]])
        body[-1] += [f"{len(gaps)} of {len(members)}"]
        if not gaps:
            body[-1] += [layout.NOT_RUN] * 4
        else:
            differences = [row["difference"] for row in gaps]
            widest = max(gaps, key=lambda row: abs(row["difference"]))
            judged = [row for row in gaps if row["inside"]]
            inside = sum(row["inside"] == "yes" for row in judged)
            body[-1] += [
                f"{inside} of {len(judged)}" if judged else layout.NOT_RUN,
                f"{statistics.fmean(differences):+.3f}",
                f"{statistics.fmean(map(abs, differences)):.3f}",
                f"{widest['difference']:+.3f} ({pair(widest)})",
            ]
        body[-1] += [f"{len(filled(members))} of {sum(map(untrained, members))}"]
    header = ["Published in", "k", "Panel", "Direction", "Cells compared", "Inside the spread"]
    header += ["Mean difference", "Mean size", "Largest", "Filled"]
    note = (
        "Difference: our mean less the published mean; mean size: of its absolute value. Filled: "
        "cells that the paper couldn't train, and we have."
    )
    return layout.section("Ours less published, by panel", header, body, [note])


def _order(rows: Sequence[Mapping]) -> dict:
    body = []
    for row in agreement(rows):
        if not row["items"]:
            continue
        value = layout.number(row["spearman"], "+.2f")
        p = row["test"] if row["p"] is None else f"{row['p']:.2g} ({row['test']})"
        names = [row["source"], f"{row['recall_at']:g}", row["panel"]]
        names += [DIRECTIONS[row["direction"]], row["of"], str(row["items"])]
        body.append([*names, value, p])
    header = ["Published in", "k", "Panel", "Direction", "Order of", "Items", "Spearman"]
    header.append("p, one-sided")
    note = (
        "Rank correlation of published and our means. Encoders and levels: means over the cells "
        "that all of them have on both sides; cells: each encoder pair (and level) on its own. p: "
        "probability of so much agreement or more if the order were random; too few: fewer than "
        f"{LEAST_ITEMS} items. Cells that share an encoder aren't independent, so their p is too "
        "small."
    )
    return layout.section("Do the encoders stand in the published order?", header, body, [note])


def _details(rows: Sequence[Mapping], title: str) -> dict:
    with_dataset = [row for row in rows if row["dataset"]]
    places = {(row["panel"], row["dataset"]) for row in with_dataset}
    columns = {  # those that are shown only where they tell rows apart
        "dataset": len(places) > len({row["panel"] for row in with_dataset}),
        "level": any(row["level"] for row in rows),
    }
    named = [name for name, is_shown in columns.items() if is_shown]
    has_ks = len({row["recall_at"] for row in rows}) > 1
    body = [
        [row["panel"], *(row[name] for name in named)]
        + [row["image_encoder"], row["gene_encoder"], DIRECTIONS[row["direction"]]]
        + ([f"{row['recall_at']:g}"] if has_ks else [])
        + [
            _with_sd(row["published_mean"], row["published_sd"], row["published_status"]),
            _with_sd(row["ours_mean"], row["ours_sd"], row["ours_status"]),
            f"{row['ours_seeds'] or 0:.0f}"
            + (f", without {row['seeds_missing']}" if row["seeds_missing"] else ""),
            layout.number(row["difference"], "+.3f"),
            layout.number(row["spread"]),
            row["inside"] or layout.NOT_RUN,
        ]
        for row in rows
    ]
    header = ["Panel", *(name.capitalize() for name in named)]
    header += ["Image encoder", "Gene encoder", "Direction", *(["k"] if has_ks else [])]
    header += ["Published", "Ours", "Our seeds", "Ours less published", "Spread (+/-)", "Inside"]
    return layout.section(title, header, body)


def _notes(rows: Sequence[Mapping], compared: Sequence[Mapping]) -> list[str]:
    notes = [
        "Published: the paper's own numbers, mean (standard deviation over seeds where it gives "
        "one). Ours: mean (standard deviation) over our seeds, in batches of 64 of each of four "
        "processes, the gallery that the paper reports.",
        "Spread: how far two means over so many seeds of one method lie apart at most, 19 times of "
        "20 (Welch's t from the paper's standard deviation and seeds and ours; where one side has "
        "none, the other's stands for it; and half a unit of the last published digit). With so few "
        "seeds it is wide: inside doesn't mean equal.",
    ]
    if any(row["published_seeds"] == published_scores.ABLATION_SEEDS for row in compared):
        notes.append("Published ablations are of one seed.")
    notes += dict.fromkeys(
        f"{row['source']}, {row['panel']}, {pair(row)}, "
        f"{DIRECTIONS[row['direction']]}: {row['published_note']}."
        for row in compared
        if row["published_note"]
    )
    settings = {row["setting"]: row["experiment"] for row in rows if row["setting"]}
    notes += [f"Ours, {name}: {words}." for words, name in settings.items()]
    won = dict.fromkeys(f"{row['panel']}: {pair(row)}" for row in filled(compared))
    if won:
        notes.append(f"The paper couldn't train them, and we have them: {'; '.join(won)}.")
    lacking = missing(compared)
    if lacking:
        notes.append(f"Missing of ours: {'; '.join(lacking)}.")
    notes += [
        f"{row['dataset']} (panel {row['panel']}): {row['ours_status']}."
        for row in rows
        if row["ours_status"].startswith(NOT_COMPARED)
    ]
    return notes if compared else notes[2:]


def _with_sd(mean: float | None, deviation: float | None, status: str) -> str:
    if mean is None:
        return f"{layout.NOT_RUN} {status}"
    text = layout.number(mean) + layout.deviation(deviation)
    return text + (f"; {status.partition('; ')[2]}" if "; " in status else "")


_DECLARED = (TABLE, sections, missing)
GAP = Shown("published-gap", "Gap to the published numbers", *_DECLARED)
CHAPTER = Chapter(
    name="published-gap",
    heading="Gap to the published numbers",
    about="The paper's numbers with ours beside them, cell by cell.",
    tables=(
        GAP,
        Shown("published-gap-so-far", "Gap to the published numbers so far", *_DECLARED),
    ),
)
