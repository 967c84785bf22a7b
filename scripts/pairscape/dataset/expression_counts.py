"""What of a dataset a training reads: counts by row, rows by split, facts of the train split."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairscape.core.errors import InputError, one_of
from pairscape.core.splits import SPLITS
from pairscape.dataset import pair_shards, stored_features
from pairscape.dataset.shards import Shards

_BLOCK_ROWS = 1 << 14


class Counts:
    """The counts of a dataset, mapped from its shards: ``counts[rows]`` is (len(rows), genes) int32.

    Rows are numbered through all shards. Only paths are pickled, so workers may be spawned.

    Parameters
    ----------
    genes
        The symbols of genes.tsv.
    """

    def __init__(self, shards: Shards, genes: Sequence[str]):
        self.shards, self.row_counts = shards.paths, shards.row_counts
        for path, metadata in zip(shards.paths, shards.metadata, strict=True):
            found = metadata["genes"]
            if list(found) != list(genes):
                differing = sorted(set(found) ^ set(genes))
                raise InputError(
                    path,
                    "genes",
                    f"{len(found)} genes that aren't those of genes.tsv"
                    + (f" (such as {differing[0]})" if differing else ", in another order"),
                    "delete the shard and export it again",
                )
        self.shape = (sum(self.row_counts), len(genes))
        self._parts = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_parts": None}

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self._parts is None:
            blocks = [block for path in self.shards for block in pair_shards.map_expression(path)]
            self._parts = [block for block in blocks if len(block)]
            self._starts = np.cumsum([0, *map(len, self._parts)])
        rows = np.asarray(rows)
        found = np.empty((len(rows), self.shape[1]), np.int32)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part):
            mine = part == number
            found[mine] = self._parts[number][rows[mine] - self._starts[number]]
        return found

    def blocks(self, rows: np.ndarray, size: int = _BLOCK_ROWS):
        """Yield the counts of rows, at most ``size`` at a time."""
        for at in range(0, len(rows), size):
            yield self[rows[at : at + size]]


@dataclass(frozen=True)
class TrainFacts:
    """What a gene encoder may know of a dataset: facts of its train split alone.

    Attributes
    ----------
    library_size
        Median sum of counts over the spots that have any.
    mean_per_10k
        (genes,) float64: mean over those spots of the counts after each spot is scaled to a sum of
        10,000.
    """

    library_size: float
    mean_per_10k: np.ndarray


def train_facts(counts: Counts, train_rows: np.ndarray, path) -> TrainFacts:
    """Facts of the train split, in one pass of bounded memory; ``path`` is splits.tsv, for messages."""
    sums, total = [], np.zeros(counts.shape[1])
    for block in counts.blocks(train_rows):
        size = block.sum(1, dtype=np.int64)
        block, size = block[size > 0], size[size > 0]
        total += (block * (1e4 / size)[:, None]).sum(0)
        sums.append(size)
    sums = np.concatenate(sums) if sums else np.zeros(0)
    if not len(sums):
        raise InputError(path, "split train", "spots without any counts", "look at the audit.json")
    return TrainFacts(float(np.median(sums)), total / len(sums))


def split_rows(shards: Shards, splits: Sequence[Mapping], path) -> dict[str, np.ndarray]:
    """The row numbers of each split, in the order of the shards.

    ``splits`` are the rows of splits.tsv (``path``, for messages); a sample may stand in two.
    """
    refuse = functools.partial(InputError, path)
    for number, row in enumerate(splits, start=2):
        one_of(row["split"], SPLITS, path, f"line {number}, split")
        one_of(row["sample"], shards.samples, path, f"line {number}, sample")
    listed = {row["sample"] for row in splits}
    if unlisted := [sample for sample in shards.samples if sample not in listed]:
        raise refuse(f"sample {unlisted[0]}", "no split", "run split_donors again")
    rows = {}
    for split in SPLITS:
        chosen = {row["sample"] for row in splits if row["split"] == split}
        rows[split] = np.flatnonzero(np.isin(shards.samples, list(chosen))[shards.owner])
    if len(rows["train"]) < 2:
        found = f"{len(rows['train'])} pairs"
        raise refuse("split train", found, "put a sample with pairs into train")
    return rows


def run_index(shards: Sequence, splits: Sequence[Mapping], rows: np.ndarray) -> list[dict]:
    """The index of embedded pairs (``embeddings.INDEX_COLUMNS``) for rows of the dataset."""
    facts = {row["sample"]: row for row in splits}
    names = [
        name
        for name in stored_features.INDEX_COLUMNS
        if name not in ("row", "organ", "disease_state")
    ]
    found = []
    at = 0
    for path in shards:
        table = pair_shards.read_index(path).select(names)
        mine = rows[(rows >= at) & (rows < at + table.num_rows)]
        for row, values in zip(mine, table.take(mine - at).to_pylist(), strict=True):
            fact = facts.get(values["sample"], {})
            found.append(
                {
                    "row": int(row),
                    **values,
                    "organ": fact.get("organ", ""),
                    "disease_state": fact.get("disease_state", ""),
                }
            )
        at += table.num_rows
    return found
