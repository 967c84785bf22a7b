"""What expression prediction predicts: genes chosen and normalised by a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part

RECIPES = ("published", "within_test", "corrected")
_BLOCK_NUMBERS = 1 << 22  # numbers read at once
_DISPERSION_BINS = 20


@dataclass(frozen=True)
class ExpressionOptions:
    """The configuration's part ``expression``, which says what each means."""

    score: bool
    also: Sequence[str]
    genes: int
    min_detected: float
    components: int
    normalise: str
    within_test: int | None
    penalties: Sequence[float]

    @classmethod
    def of(cls, options: Mapping) -> "ExpressionOptions":
        """The options, checked, with the schema's defaults."""
        return cls(**resolve_part("expression", options))

    @property
    def deciding(self) -> dict:
        """Those that decide about scores; a recipe that isn't made decides nothing."""
        others = {"score", "also"} if self.within_test else {"score", "also", "within_test"}
        return {name: value for name, value in vars(self).items() if name not in others}


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
    of those, the ``number`` with the highest normalised dispersion over all spots. ``counts`` are
    ``expression_counts.Counts``, ``samples`` the rows of each sample that may be looked at, and
    ``scale`` (N,) multiplies each spot's counts before the dispersion is taken.
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
    bins = pd.cut(np.log1p(mean), _DISPERSION_BINS)
    table = pd.DataFrame({"dispersion": dispersion, "bin": bins})
    groups = table.groupby("bin", observed=True)["dispersion"]
    middle, spread = groups.transform("mean"), groups.transform("std")
    alone = spread.isna()  # one gene in its bin: a dispersion of 1, as in Seurat
    scores = table["dispersion"] - middle.where(~alone, 0.0)
    scores = (scores / spread.where(~alone, middle)).to_numpy()
    known = np.sort(scores[~np.isnan(scores)])[::-1]
    if not len(known):
        return np.zeros(0, np.int64)
    cutoff = known[min(number, len(known)) - 1]
    return np.flatnonzero(np.nan_to_num(scores, nan=-np.inf) >= cutoff)[:number]


def make_target(counts, genes: Sequence[str], chosen: np.ndarray, scale, words: str) -> Target:
    """log1p of the chosen genes' scaled counts, for every row of the dataset."""
    values = np.empty((len(counts), len(chosen)), np.float32)
    for start in range(0, len(counts), size := _rows(counts)):
        rows = np.arange(start, min(start + size, len(counts)))
        values[rows] = np.log1p(counts[rows][:, chosen] * scale[rows, None])
    return Target([genes[place] for place in chosen], values, words)


def make_targets(
    counts,
    genes: Sequence[str],
    splits: Mapping[str, Split],
    samples: np.ndarray,
    options: ExpressionOptions,
) -> dict[str, Target]:
    """The target of each recipe, from counts and symbols of genes; ``samples`` (N,) of the rows."""
    sizes = library_sizes(counts)
    every = np.unique(np.concatenate([split.rows for split in splits.values()]))
    train = np.unique(splits["train"].rows)
    targets = {}
    for recipe, rows, normalise in (
        ("published", every, "raw"),
        ("corrected", train, options.normalise),
    ):
        scale, words = scales(sizes, train, normalise)
        by_sample = {name: rows[samples[rows] == name] for name in dict.fromkeys(samples[rows])}
        chosen = choose_genes(counts, by_sample, scale, options.genes, options.min_detected)
        if not len(chosen):
            sample = "sample" if recipe == "published" else "train sample"
            fault = (
                f"no gene that varies and is in {options.min_detected:.0%} of the spots of every"
            )
            remedy = "lower expression.min_detected"
            raise InputError(counts.shards[0], "gexp", f"{fault} {sample}", remedy)
        targets[recipe] = make_target(counts, genes, chosen, scale, words)
    if options.within_test:
        targets["within_test"] = targets["published"]
    return targets


def _rows(counts) -> int:
    return max(256, _BLOCK_NUMBERS // counts.shape[1])
