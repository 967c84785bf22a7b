"""What of a dataset a training reads: counts by row, rows by split, facts of the train split."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pairscape.core.errors import InputError, one_of
from pairscape.core.splits import SPLITS
from pairscape.dataset import pair_shards
from pairscape.dataset.shards import Shards
from pairscape.dataset.stored_features import INDEX_COLUMNS

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
            stated = metadata["genes"]
            if list(stated) != list(genes):
                differing = sorted(set(stated) ^ set(genes))
                others = f"{len(stated)} genes that aren't those of genes.tsv"
                others += f" (such as {differing[0]})" if differing else ", in another order"
                raise InputError(path, "genes", others, "delete the shard and export it again")
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
        counts = np.empty((len(rows), self.shape[1]), np.int32)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part):
            here = part == number
            counts[here] = self._parts[number][rows[here] - self._starts[number]]
        return counts

    def blocks(self, rows: np.ndarray, size: int = _BLOCK_ROWS):
        """Yield the counts of rows, at most ``size`` at a time."""
        for at in range(0, len(rows), size):
            yield self[rows[at : at + size]]


@dataclass(frozen=True)
class TrainFacts:
    """What a gene encoder may know of a dataset: facts of the spots with counts in its train split."""

    library_size: float  # median sum of counts
    mean_per_10k: np.ndarray  # (genes,) mean of the counts after each spot is scaled to 10,000


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
        pairs = f"{len(rows['train'])} pairs"
        raise refuse("split train", pairs, "put a sample with pairs into train")
    return rows


def leading_genes(held: np.ndarray, share: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The genes that a spot holds most of beyond what is expected: their places, and that.

    ``held`` (genes,) are its counts, ``share`` (genes,) those of its section's counts. In standard
    deviations of a count; a 1 keeps single transcripts of rare genes from leading.
    """
    expected = share * held.sum()
    leading = np.argsort(-(held - expected) / np.sqrt(expected + 1), kind="stable")[:count]
    return leading, expected[leading]


def run_index(shards: Sequence, splits: Sequence[Mapping], rows: np.ndarray) -> list[dict]:
    """The index of embedded pairs (``stored_features.INDEX_COLUMNS``) for rows of the dataset."""
    facts = {row["sample"]: row for row in splits}
    names = [name for name in INDEX_COLUMNS if name not in ("row", "organ", "disease_state")]
    index = []
    at = 0
    for path in shards:
        table = pair_shards.read_index(path).select(names)
        here = rows[(rows >= at) & (rows < at + table.num_rows)]
        for row, values in zip(here, table.take(here - at).to_pylist(), strict=True):
            fact = facts.get(values["sample"], {})
            labels = {key: fact.get(key, "") for key in ("organ", "disease_state")}
            index.append({"row": int(row), **values, **labels})
        at += table.num_rows
    return index
