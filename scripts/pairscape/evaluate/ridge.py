"""Ridge regression from streamed moments."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pairscape.core.moments import Moments
from pairscape.evaluate.targets import ExpressionOptions, Source, Split, Target

DENSE_NUMBERS = 1 << 28  # features of the train split that a recipe may copy (1 GB)
SEED = 1  # of the published recipe's PCA
_SUMMED = "second moments in float64"


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
    """Sum the moments of a split's (chosen) features and targets, in one pass and in float64.

    ``shift`` of the features is by default the mean of the first block. Of the targets' products
    with each other only the squares are summed.
    """
    width, genes = source.arrays["train"].shape[1], target.shape[1]
    shapes = width, genes, (width, width), (width, genes), genes
    rows, sums = 0, [np.zeros(shape) for shape in shapes]
    for places, block in source.read("train", chosen):
        x = block.astype(np.float64)
        if shift is None:
            shift = x.mean(0)
        x -= shift
        y = target[split.rows[places]].astype(np.float64)
        rows += len(x)
        parts = x.sum(0), y.sum(0), x.T @ x, x.T @ y, np.einsum("ij,ij->j", y, y)
        for total, part in zip(sums, parts, strict=True):
            total += part
    return Moments((np.zeros(width) if shift is None else shift, 0.0), rows, tuple(sums))


def find_axes(moments: Moments, components: int) -> Axes:
    """StandardScaler and PCA from moments, and the targets' products with the axes.

    Equal to scikit-learn's (with its exact solver), but for the signs of axes.
    """
    import scipy.linalg

    rows, shift = moments.rows, moments.shifts[0]
    x, y, xx, xy, yy = moments.sums
    mean, y_mean = x / rows, y / rows
    covariance = xx / rows - np.outer(mean, mean)
    variance = np.diag(covariance).copy()
    # What spreads less than float32 resolves is constant: as in StandardScaler it isn't scaled.
    constant = variance <= (1e-6 * np.abs(shift + mean)) ** 2
    scale = np.sqrt(np.where(constant, 1.0, variance))
    covariance /= np.outer(scale, scale)
    covariance[constant] = covariance[:, constant] = 0.0
    width = len(mean)
    kept = min(components, width, rows)
    values, axes = scipy.linalg.eigh(covariance, subset_by_index=[width - kept, width - 1])
    there = values > 1e-10 * max(values[-1], 1e-300)
    axes = axes[:, there]
    cross = axes.T @ ((xy - np.outer(x, y_mean)) / scale[:, None])
    y_variance = np.maximum(yy / rows - y_mean**2, 0.0)
    return Axes(shift + mean, scale, axes, rows * values[there], cross, y_mean, y_variance)


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
        intercept = -axes.mean @ weights
        return Fit(weights, intercept, len(axes.squares), alpha, rule, _SUMMED, y_mean)

    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features = np.concatenate([block for _, block in source.read("train")])
    scaler = StandardScaler()
    features = scaler.fit_transform(features)
    pca = PCA(min(components, *features.shape), random_state=SEED)
    features = pca.fit_transform(features)
    alpha = 100 / (features.shape[1] * genes)
    model = Ridge(alpha=alpha, fit_intercept=False, max_iter=1000, solver="lsqr", random_state=0)
    model.fit(features, target.values[split.rows])
    weights = pca.components_.T.astype(np.float64) @ np.atleast_2d(model.coef_).T
    weights /= np.asarray(scaler.scale_, np.float64)[:, None]
    centre = scaler.mean_ + scaler.scale_ * pca.mean_
    by = f"scikit-learn {sklearn.__version__}"
    return Fit(weights, -centre @ weights, features.shape[1], alpha, rule, by, y_mean)


def predict_within_test(
    source: Source, target: Target, test: Split, options: ExpressionOptions
) -> tuple[np.ndarray, list[Fit], np.ndarray, int]:
    """The published recipe cross-validated within the test split, by folds of its spots.

    Spots are dealt at random (scikit-learn's KFold, shuffled by the seed), whatever their section or
    donor; each is predicted by the fit to the other folds.

    Returns
    -------
    Predictions (n, T), the fits, for each spot the mean of each gene in what its fit saw (n, T), and
    the least number of spots that a fit saw.
    """
    from sklearn.model_selection import KFold

    predicted = np.empty((len(test.rows), len(target.genes)))
    means, fits, seen = predicted.copy(), [], []
    folds = KFold(min(options.within_test, len(test.rows)), shuffle=True, random_state=SEED)
    for others, fold in folds.split(test.rows):
        places = {"train": source.places["test"][others], "test": source.places["test"][fold]}
        part = Source(dict.fromkeys(places, source.arrays["test"]), places)
        fit = fit_published(part, target, Split(*(one[others] for one in test)), options.components)
        predicted[fold], means[fold] = predict(fit, part, "test"), fit.y_mean
        fits.append(fit)
        seen.append(len(others))
    return predicted, fits, means, min(seen)


def fit_corrected(
    source: Source, target: Target, splits: Mapping[str, Split], options: ExpressionOptions
) -> Fit:
    """Scaler, PCA and ridge with intercept on the train split, the penalty chosen by donors.

    The penalties stand relative to the mean sum of squares along the axes, so that one grid serves
    every encoder and every number of spots. Each is scored by the variance of the residuals within
    each donor that the fit hasn't seen, relative to the gene's variance in the train split, averaged
    over genes, then over donors. Such donors are those of the validation split that are in no other
    split; without any, each train donor in turn. With one train donor the middle of the grid is taken.
    """
    train, values = splits["train"], target.values
    held_out, donors = unseen_donors(splits), list(dict.fromkeys(train.donor))
    penalties = sorted(options.penalties)
    best, folds = len(penalties) // 2, []
    words = "not validated: one train donor and no other to validate"
    if held_out or len(donors) < 2:
        axes = find_axes(gather(source, values, train), options.components)
        if held_out:
            folds = [(axes, "val", splits["val"].donor == donor) for donor in held_out]
            words = f"{len(held_out)} validation donors"
    else:
        parts, shift = {}, None
        for donor in donors:
            parts[donor] = gather(source, values, train, train.donor == donor, shift)
            shift = parts[donor].shifts[0]
        first, *others = parts.values()
        whole = sum(others, first)
        axes = find_axes(whole, options.components)
        folds = (  # one at a time in memory
            (find_axes(whole - part, options.components), "train", train.donor == donor)
            for donor, part in parts.items()
        )
        words = f"{len(donors)} train donors left out in turn"
    if folds:
        errors = [
            _errors(fold, source, target, (name, splits[name]), chosen, penalties, axes.y_variance)
            for fold, name, chosen in folds
        ]
        best = int(np.argmin(np.mean(errors, axis=0)))
        if best in (0, len(penalties) - 1) and len(penalties) > 1:
            words += f"; the {'least' if best == 0 else 'largest'} of the grid"
    alpha = alpha_of(axes, penalties[best])
    weights = axes.axes @ ridge(axes, alpha) / axes.scale[:, None]
    intercept = axes.y_mean - axes.mean @ weights
    return Fit(weights, intercept, len(axes.squares), alpha, words, _SUMMED, axes.y_mean)


def unseen_donors(splits: Mapping[str, Split]) -> list[str]:
    """Donors of the validation split that are in no other split."""
    others = {*splits["train"].donor, *splits["test"].donor}
    return [donor for donor in dict.fromkeys(splits["val"].donor) if donor not in others]


def _errors(axes: Axes, source, target: Target, named_split, chosen, penalties, y_variance):
    """For each penalty the variance of the residuals over the chosen spots, relative, over genes."""
    (name, split), values = named_split, target.values
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
