"""Comparisons between encoders: the effect on each donor, its sign, and a p-value where one can be.

Donors are what results must carry over to, so they are the units. Seeds are repeats of the same
training on the same donors: a donor's value is the mean over seeds first, and what seeds alone do to
the effect is shown beside it, never counted as further data.
"""

from collections.abc import Mapping, Sequence

from pairscape.evaluate.intervals import DONORS_NEEDED
from pairscape.report import layout, words

COLUMNS = (
    "dataset",
    "gallery",
    "direction",
    "metric",
    "shared",
    "first",
    "second",
    "effect",
    "donors",
    "donors_above",
    "donors_below",
    "donor_low",
    "donor_high",
    "donor_effects",
    "p_value",
    "p_holm",
    "p_test",
    "seeds",
    "seed_low",
    "seed_high",
    "seeds_left_out",
    "control",
)


# ----------------------------------------------------------------------------------- for the reader


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay comparisons out for a reader, as ``tables.retrieval_sections`` does."""
    found = []
    for gallery in dict.fromkeys(row["gallery"] for row in rows):
        of_gallery = [row for row in rows if row["gallery"] == gallery]
        found.append(
            {
                "title": f"{words.metric_words(of_gallery[0]['metric'])}, gallery: "
                f"{words.gallery_words(gallery)}",
                "header": [
                    *("Dataset", "Direction", "First", "Second", "Both with", "Effect"),
                    *("Range over donors", "Donors above, below 0", "Range over seeds"),
                    *("p", "p (Holm)"),
                ],
                "rows": [_line(row) for row in of_gallery],
                "chance": [],
                "notes": _notes(of_gallery),
            }
        )
    return found


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
