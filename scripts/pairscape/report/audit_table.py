"""The table of an audit, as ``audit.score`` makes its rows: format and layout for readers."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.audit import flag_effects
from pairscape.audit.flag_effects import BOTH, NOT_TRIED, SCORED, STARTS
from pairscape.core import tsv
from pairscape.report import layout, words

COLUMNS = tuple(name for name in flag_effects.COLUMNS if name not in tsv.ORIGIN)
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
_BASES = {"corrected": "none", "published": "all"}
_TITLES = {
    "corrected": "From the corrected protocol, one flag switched on",
    "published": "From the published protocol, one flag repaired",
}


def write_table(path, rows: Iterable[Mapping]) -> None:
    """Write the rows of an audit, without the origin of their scores."""
    wanted = ({name: row.get(name) for name in COLUMNS} for row in rows)
    tsv.write_numbers(path, wanted, COLUMNS)


def is_audit_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return set(COLUMNS) <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    return tsv.read_numbers(path, COLUMNS, "delete it and tabulate again", flag_effects.NUMBERS)


# ----------------------------------------------------------------------------------- for the reader


def flag_words(flag: str) -> str:
    """A flag's name in words."""
    return " ".join(_NAMES.get(word, word) for word in flag.split("_"))


def pair_words(row: Mapping) -> str:
    """An encoder pair in words."""
    return f"{row['image_encoder']} with {row['gene_encoder']}"


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
    tried = {
        (row["start"], row["flag"]) for row in rows if row["flag"] and row["difference"] is not None
    }
    idle = {(row["start"], row["flag"]) for row in rows if row["status"] == NOT_TRIED}
    told = f"{len(flags)} changes, {len(tried)} scored, {len(idle)} that can't be tried here"
    return told + f", {len(missing(rows))} of settings and pairs with runs missing or failed"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader, as ``tables.retrieval_sections`` does.

    First what each flag means, then for each k, gallery and start the differences.
    """
    parts = [_meanings(rows)]
    scored = [row for row in rows if row["gallery"]]
    for k in dict.fromkeys(row["recall_at"] for row in scored):
        for gallery in dict.fromkeys(row["gallery"] for row in scored):
            for start in STARTS:
                of = [
                    row
                    for row in scored
                    if (row["recall_at"], row["gallery"], row["start"]) == (k, gallery, start)
                ]
                if of:
                    parts.append(_differences(of, k, gallery, start))
    parts[-1]["notes"] = _notes(rows)
    return parts


def _meanings(rows: Sequence[Mapping]) -> dict:
    flags: dict[str, dict] = {}
    for row in rows:
        if row["flag"]:
            flags.setdefault(row["flag"], {}).setdefault(row["start"], []).append(row)
    body = []
    for flag, starts in flags.items():
        one = next(iter(starts.values()))[0]
        body.append([flag_words(flag), one["findings"], one["meaning"]])
        body[-1] += [_tried(starts.get(start, []), start) for start in STARTS]
    return {
        "title": "What each flag means",
        "header": [
            *("Flag", "Finding", "What the published code does"),
            *("From corrected", "From published"),
        ],
        "rows": body,
        "chance": [],
        "notes": [],
    }


def _tried(rows: Sequence[Mapping], start: str) -> str:
    if not rows:
        return layout.NOT_RUN
    if rows[0]["status"] == NOT_TRIED:
        return f"{NOT_TRIED}: {rows[0]['why_not']}"
    values = any(row["value"] is not None for row in rows)
    return CHANGES[start] if values else rows[0]["status"]


def _differences(rows: Sequence[Mapping], k: float, gallery: str, start: str) -> dict:
    cells: dict[tuple, dict] = {}
    for row in rows:
        key = (row["flag"], row["image_encoder"], row["gene_encoder"])
        cells.setdefault(key, {})[row["direction"]] = row
    body, bases = [], []
    for (flag, image, gene), by_direction in cells.items():
        row = by_direction[BOTH]
        if not flag:
            bases.append(len(body))
        body.append([flag_words(flag) or _BASES[start], image, gene, _value(row)])
        body[-1] += [layout.NOT_RUN if row["chance"] is None else f"{row['chance']:.3f}"]
        body[-1] += [_difference(row), _over_seeds(row)]
        body[-1] += [_signed(by_direction[name]["difference"]) for name in words.DIRECTIONS]
        body[-1] += [row["paired"] or layout.NOT_RUN, _seeds(row)]
    return {
        "title": f"{_TITLES[start]}: Recall@{k:g}, gallery: {words.gallery_words(gallery)}",
        "header": [
            *("Flag", "Image encoder", "Gene encoder", f"Recall@{k:g}", "Chance", "Difference"),
            *("Over seeds", *words.DIRECTIONS.values(), "Same spots", "Seeds"),
        ],
        "rows": body,
        "chance": bases,  # a rule above them, and in the report another colour
        "notes": [],
    }


def _value(row: Mapping) -> str:
    if row["value"] is None:
        return layout.NOT_RUN
    text = f"{row['value']:.3f}"
    if row["ci_low"] is not None:
        text += f" [{row['ci_low']:.3f}{layout.MINUS_TO}{row['ci_high']:.3f}]"
    return text


def _difference(row: Mapping) -> str:
    text = _signed(row["difference"])
    if row["difference_low"] is not None:
        text += f" [{_signed(row['difference_low'])} to {_signed(row['difference_high'])}]"
    return text


def _over_seeds(row: Mapping) -> str:
    low, high = row["difference_seed_low"], row["difference_seed_high"]
    if low is None:
        return layout.NOT_RUN
    return f"{_signed(low)} to {_signed(high)}" if row["seeds"] > 1 else "one seed"


def _signed(value: float | None) -> str:
    return layout.NOT_RUN if value is None else f"{value:+z.3f}"


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
