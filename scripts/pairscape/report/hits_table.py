"""What is retrieved: for each encoder pair a good, a median and a bad query with their hits.

The rule. The queries of a pair's first seed and a direction are put in the order of the rank of their
right partner, those of one rank by sample and spot. *Best* is the first, *median* the one in the
middle, *bad* the one behind which the last tenth begins.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core import tsv
from pairscape.evaluate.hits import RUN
from pairscape.report import layout, words
from pairscape.report.chapter import Shown
from pairscape.report.columns import columns
from pairscape.report.rows import split_by

SHARES = {"best": 0.0, "median": 0.5, "bad": 0.9}  # where in the order
TABLE = tsv.Table(
    "hits_<experiment>.tsv",
    "show_hits",
    (
        *columns("dataset", "image_encoder", "gene_encoder"),
        *tsv.text(seed="the first one of the pair"),
        *columns("direction"),
        *tsv.text(
            query="best, median or bad",
            sample="sample of the query",
            spot="spot of the query",
        ),
        *tsv.numbers(
            rank="of the right partner",
            gallery_size="entries of the gallery",
            hits="nearest partners that are told",
            same_sample="of them in the query's sample",
            nearest_um="least distance of those from the right partner",
        ),
        *tsv.text(retrieved="the hits in order: sample, spot, similarity, distance"),
    ),
)


def first_runs(tables: Iterable) -> dict[tuple, object]:
    """By dataset, image and gene encoder and direction the table of the first seed, of tables as
    ``hits.read_hits`` yields them.
    """
    firsts: dict[tuple, object] = {}
    for table in tables:
        first = table.iloc[0]
        key = (first["dataset"], first["image_encoder"], first["gene_encoder"], first["direction"])
        if key not in firsts or first["seed"] < firsts[key].iloc[0]["seed"]:
            firsts[key] = table
    return firsts


def examples(table) -> list[tuple[str, Mapping]]:
    """The queries of a table that are shown, by their names of ``SHARES``."""
    ordered = table.sort_values(["rank", "sample", "spot"], kind="stable")
    last = len(ordered) - 1
    return [
        (name, ordered.iloc[min(int(share * len(ordered)), last)]) for name, share in SHARES.items()
    ]


def tabulate(firsts: Mapping[tuple, object]) -> list[dict]:
    """The example queries of each pair and direction, of ``first_runs``."""
    rows = []
    for table in firsts.values():
        for name, query in examples(table):
            away = np.asarray(query["distances_um"], float)
            near = away[np.isfinite(away)]
            row = {key: str(query[key]) for key in (*RUN[1:], "direction", "sample", "spot")}
            row |= {"query": name, "rank": float(query["rank"])}
            row |= {"gallery_size": float(query["gallery_size"]), "hits": len(away)}
            row |= {
                "same_sample": len(near),
                "nearest_um": float(near.min()) if len(near) else None,
            }
            hits = zip(
                query["hit_samples"], query["hit_spots"], query["similarities"], away, strict=True
            )
            rows.append(row | {"retrieved": "; ".join(_hit(*hit) for hit in hits)})
    return rows


def _hit(sample: str, spot: str, similarity: float, away_um: float) -> str:
    place = f", {away_um:.0f} µm" if np.isfinite(away_um) else ""
    return f"{sample} {spot} ({similarity:.3f}{place})"


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader: a section per dataset."""
    header = ["Image encoder", "Gene encoder", "Direction", "Query", "Spot", "Rank of its partner"]
    header += ["Hits in its sample", "Nearest of those"]
    note = (
        "Queries of each pair's first seed in the whole test split, in the order of the rank of their "
        "right partner: best is the first, median the one in the middle, bad the one behind which the "
        "last tenth begins. Nearest: of the hits in the query's sample, how far it lies from the right "
        "partner. The .tsv names each hit."
    )
    laid_out = []
    for dataset, of_dataset in split_by(rows, "dataset").items():
        body = [
            [
                *(row["image_encoder"], row["gene_encoder"], words.DIRECTIONS[row["direction"]]),
                *(row["query"], f"{row['sample']} {row['spot']}"),
                f"{row['rank']:g} of {row['gallery_size']:.0f}",
                f"{row['same_sample']:.0f} of {row['hits']:.0f}",
                layout.NOT_RUN if row["nearest_um"] is None else f"{row['nearest_um']:.0f} µm",
            ]
            for row in of_dataset
        ]
        laid_out.append(layout.section(dataset, header, body, [note]))
    return laid_out


def says(rows: Sequence[Mapping]) -> str:
    """How far down the median queries have their partner."""
    parts = []
    for dataset, of_dataset in split_by(rows, "dataset").items():
        ranks = [row["rank"] for row in of_dataset if row["query"] == "median"]
        low, high = min(ranks), max(ranks)
        where = f"rank {low:g}" if low == high else f"ranks {low:g} to {high:g}"
        parts.append(
            f"{dataset}: the median queries have their partner at {where} of "
            f"{of_dataset[0]['gallery_size']:.0f}."
        )
    return " ".join(parts)


HITS = Shown(
    "hits",
    "What is retrieved",
    TABLE,
    sections,
    says=says,
    caption="{name}: queries of the test split and the ten that each finds most similar, of the "
    "encoder pair with the highest Recall@5 (mean of both directions, first seed, no control). The "
    "queries are chosen by rule: put in the order of the rank of their right partner, best is the "
    "first, median the one in the middle, bad the one behind which the last tenth begins. Below "
    "each patch stand its three leading genes: those whose log counts exceed their mean over the "
    "test samples most. Green: the right partner. Above a hit of the query's own sample: how far off "
    "it lies; of another one: that sample.",
)
