"""What expression prediction predicts: genes chosen and normalised by a recipe."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError

RECIPES = ("published", "corrected")


NORMALISATIONS = ("library_size", "raw")


DENSE_NUMBERS = 1 << 28  # features of the train split that a recipe may copy (1 GB)


_BLOCK_NUMBERS = 1 << 22  # numbers read at once


SEED = 1  # of the published recipe's PCA


_DISPERSION_BINS = 20


class Split(NamedTuple):
    """A split's spots: ``rows`` of the dataset, and the ``donor`` of each."""

    rows: np.ndarray
    donor: np.ndarray


class Source(NamedTuple):
    """Embeddings of a dataset's spots: for each split an array and the places of its spots there."""

    arrays: Mapping[str, np.ndarray]
    places: Mapping[str, np.ndarray]

    def read(self, split: str, chosen: np.ndarray | None = None):
        """Yield blocks (positions in the split, embeddings (n, D) float32)."""
        array, places = self.arrays[split], self.places[split]
        at = np.arange(len(places)) if chosen is None else np.flatnonzero(chosen)
        size = max(256, _BLOCK_NUMBERS // array.shape[1])
        for start in range(0, len(at), size):
            block = at[start : start + size]
            yield block, np.asarray(array[places[block]], np.float32)


class Target(NamedTuple):
    """What is predicted: ``genes`` by symbol, ``values`` (dataset rows, genes) float32, in words."""

    genes: list[str]
    values: np.ndarray
    words: str


def library_sizes(counts) -> np.ndarray:
    """(N,) int64: the sum of each spot's counts."""
    rows = np.arange(len(counts))
    sums = [block.sum(1, dtype=np.int64) for block in counts.blocks(rows, _rows(counts))]
    return np.concatenate(sums) if sums else np.zeros(0, np.int64)


def scales(sizes: np.ndarray, train_rows: np.ndarray, normalise: str) -> tuple[np.ndarray, str]:
    """What each spot's counts are multiplied by (N,), and the target in words.

    ``library_size`` brings every spot to the median sum of the train split's spots with counts. A
    spot without counts keeps its zeros.
    """
    if normalise == "raw":
        return np.ones(len(sizes)), "log1p of raw counts"
    train = sizes[train_rows]
    median = float(np.median(train[train > 0])) if (train > 0).any() else 1.0
    words = f"log1p of counts scaled to a sum of {median:g}"
    return np.where(sizes > 0, median / np.maximum(sizes, 1), 0.0), words


def choose_genes(counts, samples: Mapping[str, np.ndarray], scale, number: int, share: float):
    """Places of the most variable genes, among those detected in enough spots of every sample.

    As in HEST's ``get_k_genes``: a gene must be in at least ``share`` of the spots of every sample;
    of those, the ``number`` with the highest normalised dispersion over all spots.

    Parameters
    ----------
    counts
        ``pair_data.Counts``.
    samples
        The rows of each sample that may be looked at.
    scale
        (N,) multiplies each spot's counts before the dispersion is taken.

    Returns
    -------
    Places among the genes, in their order.
    """
    genes = counts.shape[1]
    common = np.ones(genes, bool)
    total, squares, spots = np.zeros(genes), np.zeros(genes), 0
    for rows in samples.values():
        detected = np.zeros(genes, np.int64)
        for start in range(0, len(rows), size := _rows(counts)):
            block_rows = rows[start : start + size]
            block = counts[block_rows]
            detected += np.count_nonzero(block, axis=0)
            scaled = block * scale[block_rows, None]
            total += scaled.sum(0)
            squares += np.einsum("ij,ij->j", scaled, scaled)
        common &= detected >= np.ceil(share * len(rows))
        spots += len(rows)
    candidates = np.flatnonzero(common)
    mean = total[candidates] / max(spots, 1)
    variance = (squares[candidates] - spots * mean**2) / max(spots - 1, 1)
    return candidates[_most_variable(mean, np.maximum(variance, 0.0), number)]


def _most_variable(mean: np.ndarray, variance: np.ndarray, number: int) -> np.ndarray:
    """scanpy's ``highly_variable_genes`` (flavor seurat) from means and variances of counts.

    Satija et al. 2015: log of variance over mean, as z-scores within 20 bins of the mean. scanpy
    takes the whole matrix; this takes what can be summed in one pass.
    """
    import pandas as pd

    if not len(mean):
        return np.zeros(0, np.int64)
    with np.errstate(divide="ignore"):
        dispersion = np.log(np.where(variance > 0, variance / np.maximum(mean, 1e-12), np.nan))
    table = pd.DataFrame({"of": dispersion, "bin": pd.cut(np.log1p(mean), _DISPERSION_BINS)})
    groups = table.groupby("bin", observed=True)["of"]
    middle, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()  # one gene in its bin: a dispersion of 1, as in Seurat
    scores = ((table["of"] - middle.where(~alone, 0.0)) / spread.where(~alone, middle)).to_numpy()
    known = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(known):
        return np.zeros(0, np.int64)
    cutoff = known[min(number, len(known)) - 1]
    return np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) >= cutoff)[:number]


def make_target(counts, genes: Sequence[str], chosen: np.ndarray, scale, words: str) -> Target:
    """log1p of the chosen genes' scaled counts, for every row of the dataset."""
    values = np.empty((len(counts), len(chosen)), np.float32)
    size = _rows(counts)
    for start in range(0, len(counts), size):
        rows = np.arange(start, min(start + size, len(counts)))
        values[rows] = np.log1p(counts[rows][:, chosen] * scale[rows, None])
    return Target([genes[place] for place in chosen], values, words)


def make_targets(counts, genes: Sequence[str], splits: Mapping[str, Split], samples, options):
    """The target of each recipe.

    Parameters
    ----------
    counts, genes
        ``pair_data.Counts`` and the symbols.
    splits
        The dataset's splits.
    samples
        (N,) sample of each row.
    """
    sizes = library_sizes(counts)
    every = np.unique(np.concatenate([split.rows for split in splits.values()]))
    train = np.unique(splits["train"].rows)
    found = {}
    for recipe, rows, normalise in (
        ("published", every, "raw"),
        ("corrected", train, options["normalise"]),
    ):
        scale, words = scales(sizes, train, normalise)
        of_sample = {name: rows[samples[rows] == name] for name in dict.fromkeys(samples[rows])}
        chosen = choose_genes(counts, of_sample, scale, options["genes"], options["min_detected"])
        if not len(chosen):
            raise InputError(
                counts.shards[0],
                "gexp",
                f"no gene that varies and is in {options['min_detected']:.0%} of the spots of every "
                + ("sample" if recipe == "published" else "train sample"),
                "lower expression.min_detected",
            )
        found[recipe] = make_target(counts, genes, chosen, scale, words)
    return found


def _rows(counts) -> int:
    return max(256, _BLOCK_NUMBERS // counts.shape[1])
