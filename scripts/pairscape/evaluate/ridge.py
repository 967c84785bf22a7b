"""Ridge regression from streamed moments."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pairscape.evaluate.targets import DENSE_NUMBERS, SEED, Source, Split, Target


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
