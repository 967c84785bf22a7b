"""The table of the calibration, as ``calibration.follow`` makes it: format and layout for readers."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.calibrate.calibration import BRAS, KNOBS, PEARSON, RECALL, SILHOUETTE
from pairscape.core import tsv
from pairscape.report import layout, words

TEXTS = ("score", "of", "gallery", "donors")
_WORDS = {
    RECALL: "Recall@5",
    PEARSON: "Expression, mean Pearson",
    SILHOUETTE: "Silhouette-batch",
    BRAS: "BRAS",
}
_KNOB_WORDS = {"morphology_signal": "morphology signal", "batch_effect": "batch effect"}
_ENDS = [f"{knob}_{end}" for knob in KNOBS for end in ("least", "greatest")]
_SPEARMANS = [f"{knob}_spearman{end}" for knob in KNOBS for end in ("", "_low", "_high")]
COLUMNS = (*TEXTS, "datasets", "undefined", *_ENDS, *_SPEARMANS, "skipped")


def write_table(path, rows: Iterable[Mapping]) -> None:
    """Write the rows of ``calibration.follow``."""
    tsv.write_numbers(path, rows, COLUMNS)


def is_calibration_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return set(COLUMNS) <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    return tsv.read_numbers(path, COLUMNS, "delete it and tabulate again", texts=TEXTS)


def score_words(row: Mapping) -> str:
    """What a score is, in words."""
    if row["score"] == RECALL:
        return f"{_WORDS[RECALL]}, {words.gallery_words(row['gallery'])}"
    return f"{_WORDS[row['score']]}, {row['of']}"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader, as ``tables.retrieval_sections`` does."""
    order = list(_WORDS)
    rows = sorted(rows, key=lambda row: (order.index(row["score"]), row["of"], row["donors"]))
    body = [
        [score_words(row), row["donors"], f"{row['datasets']:.0f}"]
        + [
            text
            for knob in KNOBS
            for text in (
                _from_to(row[f"{knob}_least"], row[f"{knob}_greatest"]),
                _spearman_words(row, knob),
            )
        ]
        + ["" if row["skipped"] is None else f"{row['skipped']:.0%}"]
        for row in rows
    ]
    notes = [
        "Small simulated datasets. Donors apart: those of the test split stand in no other; shared: "
        "each test section has another of its donor in the train split; either: the score doesn't know "
        "of the split.",
        "From ... to: mean score of the datasets at the knob's least and at its greatest value. "
        "Spearman: between score and knob over all datasets, whatever the other knob and the seed; in "
        "brackets the least and greatest of single seeds.",
        "The counts are the same for every morphology signal, so scores of counts alone can't follow "
        "it.",
        "In skipped labels: mean share of spots whose label holds one batch only; they count for "
        "nothing in silhouette-batch and BRAS.",
    ]
    undefined = [row for row in rows if row["undefined"]]
    notes += [
        f"{score_words(row)}, donors {row['donors']}: not defined on {row['undefined']:.0f} of "
        f"{row['datasets']:.0f} datasets, which are left out."
        for row in undefined
    ]
    header = ["Score", "Donors", "Datasets"]
    for knob in KNOBS:
        header += [f"From least to greatest {_KNOB_WORDS[knob]}", f"Spearman, {_KNOB_WORDS[knob]}"]
    return [
        {
            "title": "How scores follow what is known",
            "header": [*header, "In skipped labels"],
            "rows": body,
            "chance": [],
            "notes": notes,
        }
    ]


def _from_to(least: float | None, greatest: float | None) -> str:
    return " to ".join(layout.NOT_RUN if v is None else f"{v:.3f}" for v in (least, greatest))


def _spearman_words(row: Mapping, knob: str) -> str:
    value, low, high = (row[f"{knob}_spearman{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return layout.NOT_RUN
    return f"{value:+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")
