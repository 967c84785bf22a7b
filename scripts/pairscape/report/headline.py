"""What was found, in a sentence for each dataset: the best pair against chance, and its controls."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.report.layout import interval

K = 5  # partners that a query may look through


def sentences(rows: Sequence[Mapping]) -> list[dict]:
    """Of the rows of a retrieval table: for each dataset ``best`` and ``controls``, in words.

    The full gallery counts, the mean of both directions chooses, and controls aren't chosen. A
    dataset without Recall@5 is left out.
    """
    score = f"recall@{K}"
    scored = [row for row in rows if row["gallery"] == "split" and row.get(score) is not None]
    told = []
    for dataset in dict.fromkeys(row["dataset"] for row in scored):
        pairs: dict[tuple, dict[str, Mapping]] = {}
        for row in scored:
            if row["dataset"] == dataset:
                pair = row["image_encoder"], row["gene_encoder"], row["control"]
                pairs.setdefault(pair, {})[row["direction"]] = row
        ranked = sorted(pairs, key=lambda pair: -_mean(pairs[pair].values(), score))
        best = next((pair for pair in ranked if not pair[2]), None)
        if best is None:
            continue
        others = [pair for pair in ranked if pair[2]]
        told.append(
            {
                "best": _best(dataset, best, pairs[best], score),
                "controls": [_control(pair, pairs, best, score) for pair in others],
            }
        )
    return told


def says(rows: Sequence[Mapping]) -> str:
    """The best pair of each dataset, as one text."""
    return " ".join(one["best"] for one in sentences(rows))


def _mean(rows: Iterable[Mapping], score: str) -> float:
    values = [row[score] for row in rows]
    return sum(values) / len(values)


def _best(dataset: str, pair: tuple, rows: Mapping[str, Mapping], score: str) -> str:
    one = next(iter(rows.values()))
    words = {"i2g": "from image to genes", "g2i": "from genes to image"}
    parts = [
        f"{row[score]:.3f}{interval(row[f'{score}_ci_low'], row[f'{score}_ci_high'])} {words[side]}"
        for side, row in rows.items()
    ]
    return (
        f"{dataset}: of the pairs, {pair[0]} with {pair[1]} finds the partner of a test spot best. It "
        f"is among its first {K} of {one['gallery_size']:.0f} with Recall@{K} {' and '.join(parts)}; "
        f"chance is {one[f'{score}_chance']:.3f}."
    )


def _control(pair: tuple, pairs: Mapping, best: tuple, score: str) -> str:
    """A control beside it, and whether the best pair is above it."""
    value, of_best = (_mean(pairs[one].values(), score) for one in (pair, best))
    against = "above" if value > of_best else "level with" if value == of_best else "below"
    told = f"{pair[2]}: {value:.3f}, {against} the best pair's {of_best:.3f}"
    return f"{told} (means of both directions)."
