"""The table of the calibration, as ``calibration.follow`` makes it: format and layout for readers."""

from collections.abc import Mapping, Sequence

from pairscape.calibrate.calibration import BRAS, KNOBS, PEARSON, RECALL, SILHOUETTE
from pairscape.core import tsv
from pairscape.report import layout, words
from pairscape.report.chapter import Chapter, Shown

_WORDS = {
    RECALL: "Recall@5",
    PEARSON: "Expression, mean Pearson",
    SILHOUETTE: "Silhouette-batch",
    BRAS: "BRAS",
}
_KNOB_WORDS = {"morphology_signal": "morphology signal", "batch_effect": "batch effect"}
TABLE = tsv.Table(
    "calibration.tsv",
    "show_calibration",
    (
        *tsv.text(
            score="score",
            of="of which recipe or labels",
            gallery="gallery of recall",
            donors="apart, shared, or either",
        ),
        *tsv.numbers(datasets="datasets scored", undefined="of them without a score"),
        *tsv.numbers(
            **{
                f"{knob}_{end}": f"mean score at the {end} {words}"
                for knob, words in _KNOB_WORDS.items()
                for end in ("least", "greatest")
            }
        ),
        *tsv.numbers(
            **{
                f"{knob}_spearman{end}": f"of score and {words}{which}"
                for knob, words in _KNOB_WORDS.items()
                for end, which in (("", ""), ("_low", ", least seed"), ("_high", ", greatest seed"))
            }
        ),
        *tsv.numbers(skipped="mean share of spots in labels of one batch"),
    ),
)


def score_words(row: Mapping) -> str:
    """What a score is, in words."""
    if row["score"] == RECALL:
        return f"{_WORDS[RECALL]}, {words.gallery_words(row['gallery'])}"
    return f"{_WORDS[row['score']]}, {row['of']}"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader."""
    order = list(_WORDS)
    rows = sorted(rows, key=lambda row: (order.index(row["score"]), row["of"], row["donors"]))
    body = [
        [score_words(row), row["donors"], f"{row['datasets']:.0f}"]
        + [
            text
            for knob in KNOBS
            for text in (
                " to ".join(layout.number(row[f"{knob}_{end}"]) for end in ("least", "greatest")),
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
    notes += [
        f"{score_words(row)}, donors {row['donors']}: not defined on {row['undefined']:.0f} of "
        f"{row['datasets']:.0f} datasets, which are left out."
        for row in rows
        if row["undefined"]
    ]
    header = ["Score", "Donors", "Datasets"]
    for knob in KNOBS:
        header += [f"From least to greatest {_KNOB_WORDS[knob]}", f"Spearman, {_KNOB_WORDS[knob]}"]
    header.append("In skipped labels")
    return [layout.section("How scores follow what is known", header, body, notes)]


def _spearman_words(row: Mapping, knob: str) -> str:
    value, low, high = (row[f"{knob}_spearman{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return layout.NOT_RUN
    return f"{value:+.2f}" + ("" if low is None else f" ({low:+.2f} to {high:+.2f})")


def says(rows: Sequence[Mapping]) -> str:
    """How recall follows what is known of the tissue."""
    return " ".join(
        f"{score_words(row)}, donors {row['donors']}: Spearman with the morphology signal "
        f"{row['morphology_signal_spearman']:.2f}."
        for row in rows
        if row["score"] == RECALL and row["morphology_signal_spearman"] is not None
    )


CHAPTER = Chapter(
    name="calibration",
    heading="Calibration",
    about="What the scores say of small simulated datasets, whose signal, batch effect and leaked "
    "donors are known: whether a score moves with what it is meant to measure.",
    tables=(Shown("calibration", "Calibration", TABLE, sections, says=says),),
    caption="{name}: scores on small simulated datasets. Above: recall of a trained pair and "
    "expression predicted from the frozen image encoder, over the share of the image that shows the "
    "tissue of the transcripts. Below: silhouette-batch over the donors' shift of stain and "
    "expression. Left, donors of the test split stand in no other; right, in the train split too. "
    "Lines: means over seeds; dots: datasets; dashed: chance.",
)
