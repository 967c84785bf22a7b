"""Prediction of a spot's expression from frozen image embeddings, by two recipes side by side.

``published`` is the HEST benchmark's (Jaume et al. 2024; its bench/benchmark.py and
bench/trainer.py): genes chosen on all samples, test included; log1p of raw counts; StandardScaler,
PCA and a ridge without intercept, whose penalty is a formula. ``corrected`` chooses genes, scale, axes
and penalty without the test split: the penalty is the one that leaves least error within donors that
the fit hasn't seen.

Memory. Embeddings and counts are memory-mapped and read in blocks. Held at once: the targets (4 bytes
per spot, gene and recipe), the predictions of the test split, and, for ``corrected``, second moments
(8 bytes per feature squared, per left-out donor). ``published`` holds about four float32 copies of the
train split's features up to ``DENSE_NUMBERS`` numbers; beyond, its PCA and ridge come from moments,
too, which is the same model without the error of lsqr and of a randomised PCA.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset.leakage import SPLITS
from pairscape.pretrain import runs

RECIPES = ("published", "corrected")
METRICS = ("pearson", "spearman", "r2", "r2_train_mean")
NORMALISATIONS = ("library_size", "raw")
AS_IT_CAME, AFTER = "as it came", "after pretraining"
ENCODER, SHARED, TRUNK = "encoder", "shared space", "trunk"
ALL, MEAN = "all", "mean"
COLUMNS = (
    "experiment",
    "dataset",
    "image_encoder",
    "features_of",
    "control",
    "stage",
    "representation",
    "gene_encoder",
    "seed",
    "recipe",
    "target",
    "group",
    "metric",
    "gene",
    "value",
    "genes",
    "undefined",
    "spots",
    "train_spots",
    "components",
    "penalty",
    "penalty_from",
    "fitted_by",
    "note",
    "donors_shared",
    "options_sha256",
)
NUMBERS = ("value", "genes", "undefined", "spots", "train_spots", "components", "penalty")
OPTIONS = {
    "genes": 50,
    "min_detected": 0.1,
    "components": 256,
    "normalise": "library_size",
    "penalties": [1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0],
}
DENSE_NUMBERS = 1 << 28  # features of the train split that a recipe may copy (1 GB)
_BLOCK_NUMBERS = 1 << 22  # numbers read at once
_SEED = 1  # of the published recipe's PCA
_DISPERSION_BINS = 20
_FLAT = 1e-8  # relative spread below which a prediction is constant but for rounding


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


# ------------------------------------------------------------------------------------------ targets


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

    Raises
    ------
    InputError
        No gene is detected in enough spots.
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


# ------------------------------------------------------------------------------------------- models


class Moments(NamedTuple):
    """Sums over spots of features less ``shift`` (x) and of targets (y); they add up over donors."""

    rows: int
    shift: np.ndarray
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: np.ndarray

    def without(self, other: "Moments") -> "Moments":
        """The moments of the spots that aren't among ``other``'s."""
        rest = {name: getattr(self, name) - getattr(other, name) for name in self._fields}
        return Moments(**{**rest, "shift": self.shift})


class Axes(NamedTuple):
    """Standardised features on their principal axes, and what a ridge on them needs.

    ``mean``, ``scale`` (D,); ``axes`` (D, k); ``squares`` (k,) sums of squares along the axes;
    ``cross`` (k, T) sums of products with the centred targets; ``y_mean``, ``y_variance`` (T,).
    """

    mean: np.ndarray
    scale: np.ndarray
    axes: np.ndarray
    squares: np.ndarray
    cross: np.ndarray
    y_mean: np.ndarray
    y_variance: np.ndarray


class Fit(NamedTuple):
    """A linear prediction, features (n, D) @ ``weights`` + ``intercept``, and how it was made."""

    weights: np.ndarray
    intercept: np.ndarray
    components: int
    penalty: float
    penalty_from: str
    fitted_by: str
    y_mean: np.ndarray


def gather(source: Source, target: np.ndarray, split: Split, chosen=None, shift=None) -> Moments:
    """Sum the moments of a split's (chosen) spots, in one pass and in float64.

    ``shift`` (by default the mean of the first block) keeps features with a large mean and a small
    spread from cancelling.
    """
    width, genes = source.arrays["train"].shape[1], target.shape[1]
    rows, x, y = 0, np.zeros(width), np.zeros(genes)
    xx, xy, yy = np.zeros((width, width)), np.zeros((width, genes)), np.zeros(genes)
    for places, block in source.read("train", chosen):
        block = block.astype(np.float64)
        if shift is None:
            shift = block.mean(0)
        block -= shift
        of = target[split.rows[places]].astype(np.float64)
        rows += len(block)
        x, y, yy = x + block.sum(0), y + of.sum(0), yy + np.einsum("ij,ij->j", of, of)
        xx += block.T @ block
        xy += block.T @ of
    return Moments(rows, np.zeros(width) if shift is None else shift, x, y, xx, xy, yy)


def find_axes(moments: Moments, components: int) -> Axes:
    """StandardScaler and PCA from moments, and the targets' products with the axes.

    Equal to scikit-learn's (with its exact solver), but for the signs of axes.
    """
    import scipy.linalg

    rows = moments.rows
    mean, y_mean = moments.x / rows, moments.y / rows
    covariance = moments.xx / rows - np.outer(mean, mean)
    variance = np.diag(covariance).copy()
    # What spreads less than float32 resolves is constant: as in StandardScaler it isn't scaled.
    constant = variance <= (1e-6 * np.abs(moments.shift + mean)) ** 2
    scale = np.sqrt(np.where(constant, 1.0, variance))
    covariance /= np.outer(scale, scale)
    covariance[constant] = covariance[:, constant] = 0.0
    width = len(mean)
    kept = min(components, width, rows)
    values, axes = scipy.linalg.eigh(covariance, subset_by_index=[width - kept, width - 1])
    there = values > 1e-10 * max(values[-1], 1e-300)
    axes = axes[:, there]
    cross = moments.xy - np.outer(moments.x, y_mean)
    y_variance = np.maximum(moments.yy / rows - y_mean**2, 0.0)
    return Axes(
        moments.shift + mean,
        scale,
        axes,
        rows * values[there],
        axes.T @ (cross / scale[:, None]),
        y_mean,
        y_variance,
    )


def ridge(axes: Axes, alpha: float) -> np.ndarray:
    """(k, T) coefficients on the axes; these are orthogonal, so each shrinks on its own."""
    return axes.cross / (axes.squares + alpha)[:, None]


def alpha_of(axes: Axes, penalty: float) -> float:
    """scikit-learn's alpha for a penalty relative to the mean sum of squares along the axes."""
    return penalty * float(axes.squares.mean()) if len(axes.squares) else penalty


def fit_published(source: Source, target: Target, split: Split, components: int) -> Fit:
    """HEST's recipe: StandardScaler, PCA of 256 (seed 1), Ridge by lsqr without an intercept.

    ``alpha`` is 100 / (features × targets), features being those after the PCA. Where there are fewer
    features or spots than components, it takes as many as there are.
    """
    import sklearn

    array, genes = source.arrays["train"], len(target.genes)
    y_mean = target.values[split.rows].mean(0, dtype=np.float64)
    rule = "100 / (components × genes)"
    if len(split.rows) * array.shape[1] > DENSE_NUMBERS:
        axes = find_axes(gather(source, target.values, split), components)
        alpha = 100 / (max(len(axes.squares), 1) * genes)
        weights = axes.axes @ ridge(axes, alpha) / axes.scale[:, None]
        by = "second moments in float64"
        return Fit(weights, -axes.mean @ weights, len(axes.squares), alpha, rule, by, y_mean)

    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([block for _, block in source.read("train")])
    scaler = StandardScaler()
    features = scaler.fit_transform(features)
    pca = PCA(min(components, *features.shape), random_state=_SEED)
    features = pca.fit_transform(features)
    alpha = 100 / (features.shape[1] * genes)
    model = Ridge(alpha=alpha, fit_intercept=False, max_iter=1000, solver="lsqr", random_state=0)
    model.fit(features, target.values[split.rows])
    weights = pca.components_.T.astype(np.float64) @ np.atleast_2d(model.coef_).T
    weights /= np.asarray(scaler.scale_, np.float64)[:, None]
    centre = scaler.mean_ + scaler.scale_ * pca.mean_
    by = f"scikit-learn {sklearn.__version__}"
    return Fit(weights, -centre @ weights, features.shape[1], alpha, rule, by, y_mean)


def fit_corrected(source: Source, target: Target, splits: Mapping[str, Split], options) -> Fit:
    """Scaler, PCA and ridge with intercept on the train split, the penalty chosen by donors.

    The penalties stand relative to the mean sum of squares along the axes, so that one grid serves
    every encoder and every number of spots. Each is scored by the variance of the residuals within
    each donor that the fit hasn't seen, relative to the gene's variance in the train split, averaged
    over genes, then over donors. Such donors are those of the validation split that are in no other
    split; without any, each train donor in turn. With one train donor the middle of the grid is taken.
    """
    train, values = splits["train"], target.values
    held_out = unseen_donors(splits)
    donors = list(dict.fromkeys(train.donor))
    by_donor = not held_out and len(donors) > 1
    if by_donor:
        parts, shift = {}, None
        for donor in donors:
            parts[donor] = gather(source, values, train, train.donor == donor, shift)
            shift = parts[donor].shift
        first = parts[donors[0]]
        moments = Moments(
            *(
                first.shift if name == "shift" else sum(getattr(p, name) for p in parts.values())
                for name in Moments._fields
            )
        )
    else:
        moments = gather(source, values, train)
    axes = find_axes(moments, options["components"])
    penalties = sorted(options["penalties"])
    if held_out:
        folds = [(axes, "val", splits["val"].donor == donor) for donor in held_out]
        words = f"{len(held_out)} validation donors"
    elif by_donor:
        folds = (
            (
                find_axes(moments.without(part), options["components"]),
                "train",
                train.donor == donor,
            )
            for donor, part in parts.items()
        )
        words = f"{len(donors)} train donors left out in turn"
    if held_out or by_donor:
        errors = [
            _errors(fold, source, values, splits[split], split, chosen, penalties, axes.y_variance)
            for fold, split, chosen in folds
        ]
        best = int(np.argmin(np.mean(errors, axis=0)))
        if best in (0, len(penalties) - 1) and len(penalties) > 1:
            words += f"; the {'least' if best == 0 else 'largest'} of the grid"
    else:
        best, words = len(penalties) // 2, "not validated: one train donor and no other to validate"
    alpha = alpha_of(axes, penalties[best])
    weights = axes.axes @ ridge(axes, alpha) / axes.scale[:, None]
    return Fit(
        weights,
        axes.y_mean - axes.mean @ weights,
        len(axes.squares),
        alpha,
        words,
        "second moments in float64",
        axes.y_mean,
    )


def unseen_donors(splits: Mapping[str, Split]) -> list[str]:
    """Donors of the validation split that are in no other split."""
    others = {*splits["train"].donor, *splits["test"].donor}
    return [donor for donor in dict.fromkeys(splits["val"].donor) if donor not in others]


def _errors(axes, source, values, split, name, chosen, penalties, y_variance) -> np.ndarray:
    """For each penalty the variance of the residuals over the chosen spots, relative, over genes."""
    coefficients = np.stack([ridge(axes, alpha_of(axes, penalty)) for penalty in penalties])
    total = np.zeros((len(penalties), values.shape[1]))
    squares, rows = total.copy(), 0
    for places, block in source.read(name, chosen):
        on_axes = (block - axes.mean) / axes.scale @ axes.axes
        # Without the intercept: the variance doesn't ask for it.
        residuals = values[split.rows[places]] - axes.y_mean - on_axes @ coefficients
        total += residuals.sum(1)
        squares += np.einsum("pij,pij->pj", residuals, residuals)
        rows += len(places)
    variance = squares / rows - (total / rows) ** 2
    varies = y_variance > 0
    return (variance[:, varies] / y_variance[varies]).mean(1)


def predict(fit: Fit, source: Source, split: str) -> np.ndarray:
    """(n, T) float64 predictions for a split, in its order."""
    parts = [block @ fit.weights + fit.intercept for _, block in source.read(split)]
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------- scores


def score_predictions(truth, predicted, train_mean) -> dict[str, np.ndarray]:
    """``METRICS`` of each gene over one group of spots; NaN where one isn't defined.

    Parameters
    ----------
    truth, predicted
        (n, T).
    train_mean
        (T,) the mean of each gene in the train split: the prediction behind ``r2_train_mean``.

    Returns
    -------
    (T,) each. A correlation isn't defined where the gene or its prediction is constant, R² where the
    gene is.
    """
    from scipy import stats

    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    genes = truth.shape[1]
    missing = np.full(genes, np.nan)
    if len(truth) < 2:
        return dict.fromkeys(METRICS, missing)
    flat = np.ptp(predicted, axis=0) <= _FLAT * np.maximum(1.0, np.abs(predicted).max(0))
    predicted = np.where(flat, predicted[0], predicted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        pearson = stats.pearsonr(truth, predicted, axis=0).statistic
        ranks = stats.rankdata(truth, axis=0), stats.rankdata(predicted, axis=0)
        spearman = stats.pearsonr(*ranks, axis=0).statistic
    spread = np.sum((truth - truth.mean(0)) ** 2, axis=0)
    spread = np.where(np.ptp(truth, axis=0) > 0, spread, np.nan)
    return {
        "pearson": np.asarray(pearson),
        "spearman": np.asarray(spearman),
        "r2": 1 - np.sum((truth - predicted) ** 2, axis=0) / spread,
        "r2_train_mean": 1 - np.sum((truth - train_mean) ** 2, axis=0) / spread,
    }


def score_source(source: Source, targets: Mapping[str, Target], splits, options) -> list[dict]:
    """Fit and score both recipes on one source of embeddings.

    Returns
    -------
    Rows with the columns from ``recipe`` to ``note`` of ``COLUMNS``: for all test spots and each test
    donor, each metric of each gene, and its mean over the genes where it is defined.
    """
    rows = []
    test = splits["test"]
    groups = {ALL: np.ones(len(test.rows), bool)}
    groups |= {donor: test.donor == donor for donor in dict.fromkeys(test.donor)}
    for recipe, target in targets.items():
        if recipe == "published":
            fit = fit_published(source, target, splits["train"], options["components"])
        else:
            fit = fit_corrected(source, target, splits, options)
        truth, predicted = target.values[test.rows], predict(fit, source, "test")
        facts = {
            "recipe": recipe,
            "target": target.words,
            "train_spots": len(splits["train"].rows),
            "components": fit.components,
            "penalty": fit.penalty,
            "penalty_from": fit.penalty_from,
            "fitted_by": fit.fitted_by,
            "note": "",
        }
        for group, chosen in groups.items():
            scored = score_predictions(truth[chosen], predicted[chosen], fit.y_mean)
            spots = int(chosen.sum())
            for metric, values in scored.items():
                defined = ~np.isnan(values)
                head = {**facts, "group": group, "metric": metric, "spots": spots}
                counted = {"genes": int(defined.sum()), "undefined": int((~defined).sum())}
                mean = float(values[defined].mean()) if defined.any() else None
                rows.append({**head, **counted, "gene": MEAN, "value": mean})
                for gene, value, known in zip(target.genes, values, defined, strict=True):
                    one = {"genes": int(known), "undefined": int(not known)}
                    rows.append(
                        {**head, **one, "gene": gene, "value": float(value) if known else None}
                    )
    return rows


def not_scored(targets: Mapping[str, Target], why: str) -> list[dict]:
    """The rows of a source that can't be scored: no value, and why."""
    empty = dict.fromkeys(("train_spots", "components", "penalty", "genes", "undefined", "spots"))
    return [
        {
            **empty,
            **{"recipe": recipe, "target": target.words, "group": ALL, "metric": "pearson"},
            **{"gene": MEAN, "value": None, "penalty_from": "", "fitted_by": "", "note": why},
        }
        for recipe, target in targets.items()
    ]


# ------------------------------------------------------------------------------- options and files


def check_options(options: Mapping) -> dict:
    """The options of the configuration's part ``expression``, defaults filled in, checked."""
    for name in options:
        if name not in OPTIONS:
            raise InputError("--options", name, "no such option", f"allowed: {', '.join(OPTIONS)}")
    options = {**OPTIONS, **options}
    checks = {
        "genes": lambda value: isinstance(value, int) and value >= 1,
        "components": lambda value: isinstance(value, int) and value >= 1,
        "min_detected": lambda value: 0 <= value <= 1,
        "normalise": lambda value: value in NORMALISATIONS,
        "penalties": lambda value: len(value) > 0 and min(value) > 0,
    }
    allowed = {
        "genes": "a number from 1 on",
        "components": "a number from 1 on",
        "min_detected": "a share from 0 to 1",
        "normalise": " or ".join(NORMALISATIONS),
        "penalties": "numbers above 0",
    }
    for name, check in checks.items():
        try:
            fine = check(options[name])
        except TypeError:
            fine = False
        if not fine:
            raise InputError("--options", name, repr(options[name]), f"give {allowed[name]}")
    return options


def split_spots(of_split: Mapping[str, np.ndarray], donor_of_row: np.ndarray) -> dict[str, Split]:
    """``pair_data.split_rows`` with each spot's donor."""
    return {name: Split(of_split[name], donor_of_row[of_split[name]]) for name in SPLITS}


def write_scores(path, rows: Iterable[Mapping]) -> None:
    """Write scores as TSV, numbers with 8 significant digits, ``None`` as an empty field."""
    files.write_numbers(path, rows, COLUMNS, digits=8)


def read_scores(path) -> list[dict]:
    """Read what ``write_scores`` wrote; numbers as float, empty ones as None.

    Raises
    ------
    InputError
        A column is missing, or a field that must be a number isn't one.
    """
    files.require_end(path, "delete it and score again")
    return files.read_numbers(path, COLUMNS, "delete it and score again", NUMBERS)


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment, without the rows of single genes.

    Raises
    ------
    InputError
        One of them is damaged or holds scores of another experiment.
    """
    scores = []
    for path in paths:
        rows = read_scores(path)
        runs.check_experiment(path, rows, experiment)
        scores += [row for row in rows if row["gene"] == MEAN]
    return scores
