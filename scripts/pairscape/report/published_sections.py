"""The comparison with the paper, to be read."""

import statistics
from collections.abc import Mapping, Sequence

from pairscape.report import layout, published_scores
from pairscape.report.published_gap import (
    ABSENT,
    LEAST_ITEMS,
    NOT_COMPARED,
    agreement,
    filled,
    groups,
    missing,
    pair,
    untrained,
)
from pairscape.report.words import DIRECTIONS


def in_short(rows: Sequence[Mapping]) -> str:
    """The comparison in one line."""
    cells = [row for row in rows if row["source"]]
    gaps = [row for row in cells if row["difference"] is not None]
    inside = [row for row in gaps if row["inside"] == "yes"]
    told = f"{len(cells)} published cells, {len(gaps)} compared"
    told += f" ({len(inside)} inside the seeds' spread), " if gaps else ", "
    told += f"{len(filled(cells))} filled that the paper couldn't train, "
    return told + f"{sum(row['ours_mean'] is None for row in cells)} without a number of ours"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader, as ``tables.retrieval_sections`` does."""
    compared = [row for row in rows if row["source"]]
    parts = []
    if any(row["difference"] is not None for row in compared):
        parts += [_summary(compared), _order(compared)]
    parts += [
        _details(members, f"{source}: Recall@{k:g}")
        for (source, k), members in groups(rows, ("source", "recall_at")).items()
    ]
    alone = [row for row in rows if row["published_status"] == ABSENT]
    if alone:
        parts.append(_details(alone, "Only ours: the paper has no such cell"))
    if not parts:
        nothing = {"title": "Nothing to compare", "header": ["Panel"], "rows": [], "chance": []}
        parts.append(nothing)
    # What numbers are whose, and what is missing, comes before pages of cells.
    parts[0]["notes"] = [*_notes(rows, compared), *parts[0].get("notes", [])]
    return parts


def _summary(rows: Sequence[Mapping]) -> dict:
    body = []
    for (source, k, panel, direction), members in groups(
        rows, ("source", "recall_at", "panel", "direction")
    ).items():
        gaps = [row for row in members if row["difference"] is not None]
        body.append([source, f"{k:g}", panel, DIRECTIONS[direction]])
        body[-1] += [f"{len(gaps)} of {len(members)}"]
        if not gaps:
            body[-1] += [layout.NOT_RUN] * 4
        else:
            differences = [row["difference"] for row in gaps]
            widest = max(gaps, key=lambda row: abs(row["difference"]))
            told = [row for row in gaps if row["inside"]]
            inside = sum(row["inside"] == "yes" for row in told)
            body[-1] += [
                f"{inside} of {len(told)}" if told else layout.NOT_RUN,
                f"{statistics.fmean(differences):+.3f}",
                f"{statistics.fmean(map(abs, differences)):.3f}",
                f"{widest['difference']:+.3f} ({pair(widest)})",
            ]
        body[-1] += [f"{len(filled(members))} of {sum(map(untrained, members))}"]
    return {
        "title": "Ours less published, by panel",
        "header": [
            *("Published in", "k", "Panel", "Direction", "Cells compared", "Inside the spread"),
            *("Mean difference", "Mean size", "Largest", "Filled"),
        ],
        "rows": body,
        "chance": [],
        "notes": [
            "Difference: our mean less the published mean; mean size: of its absolute value. Filled: "
            "cells that the paper couldn't train, and we have."
        ],
    }


def _order(rows: Sequence[Mapping]) -> dict:
    body = []
    for row in agreement(rows):
        if not row["items"]:
            continue
        value = layout.NOT_RUN if row["spearman"] is None else f"{row['spearman']:+.2f}"
        told = row["test"] if row["p"] is None else f"{row['p']:.2g} ({row['test']})"
        names = [row["source"], f"{row['recall_at']:g}", row["panel"]]
        names += [DIRECTIONS[row["direction"]], row["of"], str(row["items"])]
        body.append([*names, value, told])
    return {
        "title": "Do the encoders stand in the published order?",
        "header": [
            *("Published in", "k", "Panel", "Direction", "Order of", "Items", "Spearman"),
            "p, one-sided",
        ],
        "rows": body,
        "chance": [],
        "notes": [
            "Rank correlation of published and our means. Encoders and levels: means over the cells "
            "that all of them have on both sides; cells: each encoder pair (and level) on its own. p: "
            "probability of so much agreement or more if the order were random; too few: fewer than "
            f"{LEAST_ITEMS} items. Cells that share an encoder aren't independent, so their p is too "
            "small."
        ],
    }


def _details(rows: Sequence[Mapping], title: str) -> dict:
    levels = any(row["level"] for row in rows)
    several = len({(row["panel"], row["dataset"]) for row in rows if row["dataset"]}) > len(
        {row["panel"] for row in rows if row["dataset"]}
    )
    ks = len({row["recall_at"] for row in rows}) > 1
    body = [
        [row["panel"]]
        + [row["dataset"]] * several
        + [row["level"]] * levels
        + [row["image_encoder"], row["gene_encoder"], DIRECTIONS[row["direction"]]]
        + [f"{row['recall_at']:g}"] * ks
        + [
            _with_sd(row["published_mean"], row["published_sd"], row["published_status"]),
            _with_sd(row["ours_mean"], row["ours_sd"], row["ours_status"]),
            f"{row['ours_seeds'] or 0:.0f}"
            + (f", without {row['seeds_missing']}" if row["seeds_missing"] else ""),
            layout.NOT_RUN if row["difference"] is None else f"{row['difference']:+.3f}",
            layout.NOT_RUN if row["spread"] is None else f"{row['spread']:.3f}",
            row["inside"] or layout.NOT_RUN,
        ]
        for row in rows
    ]
    header = ["Panel", *["Dataset"] * several, *["Level"] * levels]
    header += ["Image encoder", "Gene encoder", "Direction", *["k"] * ks]
    header += ["Published", "Ours", "Our seeds", "Ours less published", "Spread (+/-)", "Inside"]
    return {"title": title, "header": header, "rows": body, "chance": [], "notes": []}


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
    text = f"{mean:.3f}" + ("" if deviation is None else f" ({deviation:.3f})")
    return text + (f"; {status.partition('; ')[2]}" if "; " in status else "")
