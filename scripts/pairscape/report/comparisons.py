"""Comparisons between encoders: the effect on each donor, its sign, and a p-value where one can be.

Donors are what results must carry over to, so they are the units. Seeds are repeats of the same
training on the same donors: a donor's value is the mean over seeds first, and what seeds alone do to
the effect is shown beside it, never counted as further data.
"""

from collections.abc import Mapping, Sequence

from pairscape.core import tsv
from pairscape.evaluate.intervals import DONORS_NEEDED
from pairscape.report import layout, words
from pairscape.report.columns import columns
from pairscape.report.rows import split_by

TABLE = tsv.Table(
    "retrieval-comparisons_<experiment>.tsv",
    "show_retrieval",
    (
        *columns("dataset", "gallery", "direction"),
        *tsv.text(
            metric="the recall that is compared",
            shared="the encoder that both pairs have",
            first="the one encoder",
            second="the other",
        ),
        *tsv.numbers(
            effect="first less second, mean over donors",
            donors="donors of both",
            donors_above="donors above 0",
            donors_below="donors below 0",
            donor_low="least of the donors",
            donor_high="greatest of the donors",
        ),
        *tsv.text(donor_effects="the effect on each donor"),
        *tsv.numbers(p_value="two-sided", p_holm="corrected after Holm"),
        *columns("p_test"),
        *tsv.numbers(
            seeds="seeds of both", seed_low="least of single seeds", seed_high="greatest of them"
        ),
        *tsv.text(seeds_left_out="seeds of one alone"),
        *columns("control"),
    ),
)


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay comparisons out for a reader."""
    header = ["Dataset", "Direction", "First", "Second", "Both with", "Effect"]
    header += ["Range over donors", "Donors above, below 0", "Range over seeds", "p", "p (Holm)"]
    laid_out = []
    for gallery, inside in split_by(rows, "gallery").items():
        metric = words.metric_words(inside[0]["metric"])
        title = f"{metric}, gallery: {words.gallery_words(gallery)}"
        laid_out.append(
            layout.section(title, header, [_line(row) for row in inside], _notes(inside))
        )
    return laid_out


def _line(row: Mapping) -> list[str]:
    one_seed = row["seeds"] < 2
    tested = row["p_value"] is not None
    return [
        row["dataset"],
        words.DIRECTIONS[row["direction"]],
        row["first"],
        row["second"],
        row["shared"],
        f"{row['effect']:+.3f}",
        f"{row['donor_low']:+.3f} to {row['donor_high']:+.3f}",
        f"{row['donors_above']:.0f}, {row['donors_below']:.0f} of {row['donors']:.0f}",
        "one seed" if one_seed else f"{row['seed_low']:+.3f} to {row['seed_high']:+.3f}",
        f"{row['p_value']:.2g}" if tested else row["p_test"],
        f"{row['p_holm']:.2g}" if tested else layout.NOT_RUN,
    ]


def _notes(rows: Sequence[Mapping]) -> list[str]:
    notes = [
        "Effect: first minus second, each donor weighing the same, of means over the seeds that both "
        "have. Seeds repeat the training on the same donors: their range stands beside the donors' "
        "and enters no p-value.",
        f"p: two-sided, by flipping the signs of the donors' effects, from {DONORS_NEEDED} donors on; "
        "a donor that no source names counts as one. Holm: corrected for the comparisons of one "
        "dataset and direction.",
    ]
    tests = dict.fromkeys(row["p_test"] for row in rows if row["p_value"] is not None)
    notes += [f"Tested over {test}." for test in tests]
    controls = dict.fromkeys(part for row in rows for part in row["control"].split("; ") if part)
    notes += [f"{text}." for text in controls]
    left_out = dict.fromkeys(
        f"{row['first']} and {row['second']} with {row['shared']} on {row['dataset']}: without seed "
        f"{row['seeds_left_out'].replace(' ', ', ')}, which one of them lacks."
        for row in rows
        if row["seeds_left_out"]
    )
    return notes + list(left_out)
