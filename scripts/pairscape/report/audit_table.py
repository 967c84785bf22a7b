"""The table of an audit, as ``flag_effects.score`` makes its rows, for readers."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.audit import flag_effects
from pairscape.audit.flag_effects import BOTH, NOT_TRIED, SCORED, STARTS
from pairscape.core import tsv
from pairscape.report import layout, words
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.rows import split_by
from pairscape.report.words import pair_words

TABLE = tsv.Table(
    "audit_<name>.tsv",
    "show_audit",
    tuple(column for column in flag_effects.TABLE.columns if column.name not in tsv.ORIGIN),
)
COLUMNS = TABLE.names
CHANGES = {"corrected": "switched on", "published": "repaired"}
_NAMES = {
    "adam": "Adam",
    "conch": "CONCH",
    "ctranspath": "CTransPath",
    "drvi": "DRVI",
    "he": "H&E",
    "nicheformer": "Nicheformer",
    "scfoundation": "scFoundation",
}
_SIGNED = "+z.3f"
_BASES = {"corrected": "none", "published": "all"}
_TITLES = {
    "corrected": "From the corrected protocol, one flag switched on",
    "published": "From the published protocol, one flag repaired",
}


def without_origin(rows: Iterable[Mapping]) -> list[dict]:
    """The rows of an audit, without the origin of their scores."""
    return [{name: row.get(name) for name in COLUMNS} for row in rows]


# ----------------------------------------------------------------------------------- for the reader


def flag_words(flag: str) -> str:
    """A flag's name in words."""
    return " ".join(_NAMES.get(word, word) for word in flag.split("_"))


def missing(rows: Iterable[Mapping]) -> list[str]:
    """What an audit lacks though it could have it: settings and pairs with runs missing or failed."""
    return list(
        dict.fromkeys(
            f"from {row['start']}, {flag_words(row['flag']) or 'the base'}, {pair_words(row)}: "
            f"{row['status'].removeprefix(f'{SCORED}; ')}"
            for row in rows
            if row["status"] not in (SCORED, NOT_TRIED)
        )
    )


def in_short(rows: Sequence[Mapping]) -> str:
    """The audit in one line."""
    flags = {(row["start"], row["flag"]) for row in rows if row["flag"]}
    tried = {(row["start"], row["flag"]) for row in rows if row["difference"] is not None} & flags
    idle = {(row["start"], row["flag"]) for row in rows if row["status"] == NOT_TRIED}
    words = f"{len(flags)} changes, {len(tried)} scored, {len(idle)} that can't be tried here"
    return words + f", {len(missing(rows))} of settings and pairs with runs missing or failed"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader.

    First what each flag means, then for each k, gallery and start the differences.
    """
    parts = [_meanings(rows)]
    scored = [row for row in rows if row["gallery"]]
    for k, of_k in split_by(scored, "recall_at").items():
        for gallery in dict.fromkeys(row["gallery"] for row in scored):
            starts = split_by((row for row in of_k if row["gallery"] == gallery), "start")
            for start in filter(starts.get, STARTS):
                parts.append(_differences(starts[start], k, gallery, start))
    parts[-1]["notes"] = _notes(rows)
    return parts


def _meanings(rows: Sequence[Mapping]) -> dict:
    body = []
    for flag, changes in split_by((row for row in rows if row["flag"]), "flag").items():
        starts = split_by(changes, "start")
        tried = [_tried(starts.get(start, []), start) for start in STARTS]
        body.append([flag_words(flag), changes[0]["findings"], changes[0]["meaning"], *tried])
    header = ["Flag", "Finding", "What the published code does"]
    header += ["From corrected", "From published"]
    return layout.section("What each flag means", header, body)


def _tried(rows: Sequence[Mapping], start: str) -> str:
    if not rows:
        return layout.NOT_RUN
    if rows[0]["status"] == NOT_TRIED:
        return f"{NOT_TRIED}: {rows[0]['why_not']}"
    values = any(row["value"] is not None for row in rows)
    return CHANGES[start] if values else rows[0]["status"]


def _differences(rows: Sequence[Mapping], k: float, gallery: str, start: str) -> dict:
    body, bases = [], []
    cells = split_by(rows, "flag", "image_encoder", "gene_encoder")
    for (flag, image, gene), directions in cells.items():
        by_direction = {row["direction"]: row for row in directions}
        row = by_direction[BOTH]
        if not flag:
            bases.append(len(body))
        body.append([flag_words(flag) or _BASES[start], image, gene, _value(row)])
        body[-1] += [layout.number(row["chance"]), _difference(row), _over_seeds(row)]
        body[-1] += [_signed(by_direction[name]["difference"]) for name in words.DIRECTIONS]
        body[-1] += [row["paired"] or layout.NOT_RUN, _seeds(row)]
    title = f"{_TITLES[start]}: Recall@{k:g}, gallery: {words.gallery_words(gallery)}"
    header = ["Flag", "Image encoder", "Gene encoder", f"Recall@{k:g}", "Chance", "Difference"]
    header += ["Over seeds", *words.DIRECTIONS.values(), "Same spots", "Seeds"]
    return layout.section(title, header, body, chance=bases)


def _value(row: Mapping) -> str:
    return layout.number(row["value"]) + layout.interval(row["ci_low"], row["ci_high"])


def _difference(row: Mapping) -> str:
    low, high = row["difference_low"], row["difference_high"]
    return _signed(row["difference"]) + layout.interval(low, high, _SIGNED, " to ")


def _over_seeds(row: Mapping) -> str:
    low, high = row["difference_seed_low"], row["difference_seed_high"]
    if low is None:
        return layout.NOT_RUN
    return f"{_signed(low)} to {_signed(high)}" if row["seeds"] > 1 else "one seed"


def _signed(value: float | None) -> str:
    return layout.number(value, _SIGNED)


def _seeds(row: Mapping) -> str:
    return "; ".join(
        filter(None, [f"{row['seeds'] or 0:.0f}", row["status"].removeprefix(SCORED).strip("; ")])
    )


def _notes(rows: Sequence[Mapping]) -> list[str]:
    notes = [
        "Recall: mean of both directions, images that look for genes (I2G) and genes that look for "
        "images (G2I). Difference: less the base of the same start, encoder pair and seeds, which is "
        "the first row (none or all of the flags); below I2G and G2I that of each direction. Over "
        "seeds: its least and greatest of single seeds.",
        "In brackets the 95 % interval over test spots, of the mean over seeds. Where both runs test "
        "on the same spots, the differences of single spots are resampled; elsewhere the two runs are "
        "drawn apart, and a difference of chance is part of the difference. How much a training "
        "differs from its repetition isn't in the interval: hold a difference against its range over "
        "seeds.",
    ]
    over = list(dict.fromkeys(row["ci_over"] for row in rows if row["ci_over"]))
    if over:
        notes.append(f"Intervals: {'; '.join(over)}.")
    apart = dict.fromkeys(
        f"{flag_words(row['flag'])} from {row['start']}" for row in rows if row["paired"] == "no"
    )
    if apart:
        notes.append(f"Tested on other spots than the base: {', '.join(apart)}.")
    lacking = missing(rows)
    if lacking:
        notes.append(f"Missing: {'; '.join(lacking)}.")
    return notes


def says(rows: Sequence[Mapping]) -> str:
    """The flag that changes recall in the whole split most, from each start."""
    parts = []
    for start in _TITLES:
        changes = [
            row
            for row in rows
            if (row["start"], row["gallery"], row["direction"]) == (start, "split", "both")
            and row["flag"]
            and row["difference"] is not None
        ]
        if changes:
            most = max(changes, key=lambda row: abs(row["difference"]))
            parts.append(
                f"From {start}, {flag_words(most['flag'])} changes Recall@{most['recall_at']:.0f} of "
                f"the whole split most, by {most['difference']:{_SIGNED}}."
            )
    return " ".join(parts)


CHAPTER = Chapter(
    name="audit",
    heading="Audit",
    about="What each quirk of the published code and splits does to Recall@5: from the corrected "
    "protocol, one quirk put in at a time; from the published one, one repaired at a time.",
    tables=(Shown("audit", "Audit", TABLE, sections, missing, says, " "),),
    caption="{name}: by how much Recall@5 changes when one flag of the published protocol is changed "
    "by itself: switched on where all else is corrected, and repaired where all else is as published. "
    "Marks: difference from the run with no other change, mean over seeds and both directions, "
    "hollow where the two test on different spots; lines: 95 % intervals over test spots; ticks: "
    "least and greatest of single seeds. One panel has the published gallery, batches of 64 dealt "
    "out to four processes; the other the full one, the whole test split. Grey: flags that can't "
    "make a difference here, and why.",
)
