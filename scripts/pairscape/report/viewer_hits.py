"""What the viewer tells of a sample's spots beside their counts: splits, and what is retrieved."""

from collections.abc import Iterable, Sequence

import numpy as np

from pairscape.dataset import pair_shards
from pairscape.dataset.splits import read_splits

IMAGE_TO_GENES = "i2g"


def splits_of(names: Sequence[str], splits, shards: Iterable) -> list[str]:
    """The split of each spot by name; empty for those that no pair was made of."""
    if splits is None:
        return [""] * len(names)
    by_sample = {row["sample"]: row["split"] for row in read_splits(splits)}
    of_spot = {}
    for path in shards:
        split = by_sample.get(pair_shards.shard_metadata(path)["sample"], "")
        of_spot |= dict.fromkeys(pair_shards.read_index(path)["spot"].to_pylist(), split)
    return [of_spot.get(name, "") for name in names]


def best_run(hits: Iterable, names: Sequence[str], parts: Sequence[str]) -> dict:
    """Ranks and partners of a sample's spots, by the run of the lowest median rank; nothing of none.

    ``parts`` are the names that the sample has in the dataset: its own, and those of its blocks.
    """
    import pandas as pd

    nothing = {"ranks": np.zeros(len(names), int), "partners": {}, "run": ""}
    keys = ["experiment", "image_encoder", "gene_encoder", "seed"]
    columns = [*keys, "sample", "spot", "rank", "hit_samples", "hit_spots"]
    chosen = ("direction", "==", IMAGE_TO_GENES), ("sample", "in", list(parts))
    read = [pd.read_parquet(path, columns=columns, filters=[*chosen]) for path in hits]
    read = [rows for rows in read if len(rows)]
    if not read:
        return nothing
    rows = pd.concat(read)
    medians = rows.groupby(keys)["rank"].median()
    best = medians.idxmin()
    rows = rows[(rows[keys] == list(best)).all(axis=1)]
    number = {name: i for i, name in enumerate(names)}
    ranks, partners = nothing["ranks"], {}
    for spot, rank, samples, spots in zip(
        rows["spot"], rows["rank"], rows["hit_samples"], rows["hit_spots"], strict=True
    ):
        if spot not in number:
            continue
        ranks[number[spot]] = int(np.ceil(rank))
        partners[number[spot]] = [
            (other, number.get(other, -1)) if sample in parts else (f"{other} of {sample}", -1)
            for sample, other in zip(samples, spots, strict=True)
        ]
    _, image, gene, seed = best
    return {"ranks": ranks, "partners": partners, "run": f"{image} with {gene}, seed {seed}"}
