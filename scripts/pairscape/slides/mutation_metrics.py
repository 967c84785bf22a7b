"""Metrics of slide-level predictions for many weightings of the patients at once, and their draws."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

ALPHA = 0.05


def score(metric: str, values: np.ndarray, positive: np.ndarray, negative: np.ndarray):
    """A metric for many weightings of the same patients at once.

    ``metric`` is ``auroc`` (ties count half), ``auprc`` (average precision, ties taken together) or
    ``balanced_accuracy`` (positive where ``values`` > 0: the class weight of the loss makes 0 of the
    logit the threshold between labels that are as frequent). ``values`` (n,) are the patients'
    scores; ``positive`` and ``negative`` (draws, n) weigh each as one with label 1, and with label 0.
    The metric of each draw (draws,) is NaN where a label has no weight.
    """
    p, n = positive.sum(1, dtype=float), negative.sum(1, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "balanced_accuracy":
            called = values > 0
            return (positive[:, called].sum(1) / p + negative[:, ~called].sum(1) / n) / 2
        order = np.argsort(-values, kind="stable")
        ties = np.flatnonzero(np.diff(values[order], prepend=np.inf))
        hits = np.add.reduceat(positive[:, order], ties, axis=1).astype(float)
        misses = np.add.reduceat(negative[:, order], ties, axis=1).astype(float)
        above = np.cumsum(hits, 1)
        if metric == "auroc":
            return ((above - hits / 2) * misses).sum(1) / (p * n)
        called = above + np.cumsum(misses, 1)
        precision = np.divide(above, called, out=np.zeros_like(above), where=called > 0)
        return (hits * precision).sum(1) / np.where((p > 0) & (n > 0), p, np.nan)


def by_fold(metric: str, table: Mapping, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """``score`` of each fold, (draws, folds)."""
    folds = np.unique(table["fold"])
    columns = [np.flatnonzero(table["fold"] == fold) for fold in folds]
    return np.stack(
        [score(metric, table["logit"][c], positive[:, c], negative[:, c]) for c in columns], 1
    )


def rank_within_folds(table: Mapping) -> np.ndarray:
    """The mid-rank of each logit within its fold, as a share of the fold's patients (0 to 1)."""
    from scipy.stats import rankdata

    ranks = np.empty(len(table["logit"]))
    for fold in np.unique(table["fold"]):
        held = table["fold"] == fold
        ranks[held] = (rankdata(table["logit"][held]) - 0.5) / held.sum()
    return ranks


def calibration(table: Mapping) -> dict[str, np.ndarray]:
    """Brier score and calibration in the large (mean probability - share of positives) per fold."""
    held = [table["fold"] == fold for fold in np.unique(table["fold"])]
    off = table["probability"] - table["label"]
    return {
        "brier": np.array([np.mean(off[h] ** 2) for h in held]),
        "calibration_in_the_large": np.array([off[h].mean() for h in held]),
    }


def calibration_slope(table: Mapping) -> float | None:
    """Slope of the label on the calibrated logit, with an intercept for each fold.

    1 where probabilities are as extreme as they should be, below 1 where they are too extreme, 0
    where they tell nothing. None where the folds are separated, so that it has no finite value.
    """
    from scipy.optimize import minimize

    bounded = np.clip(table["probability"], 1e-9, 1 - 1e-9)
    x = np.log(bounded / (1 - bounded))
    labels, (folds, place) = table["label"], np.unique(table["fold"], return_inverse=True)
    ones, zeros = ([x[(place == f) & (labels == n)] for f in range(len(folds))] for n in (1, 0))
    for above, below in ((ones, zeros), (zeros, ones)):
        if all(a.min() >= b.max() for a, b in zip(above, below, strict=True)):
            return None
    scale = x.std()
    x = (x - (np.bincount(place, x) / np.bincount(place))[place]) / scale

    def loss(parameters):
        z = parameters[0] * x + parameters[1:][place]
        chance = 1 / (1 + np.exp(-z))
        off = chance - labels
        slope = np.concatenate([[off @ x], np.bincount(place, off)])
        return np.sum(np.logaddexp(0, z) - labels * z), slope

    fitted = minimize(loss, np.zeros(1 + len(folds)), jac=True, method="BFGS")
    return float(fitted.x[0] / scale)


def delong(scores: Sequence[np.ndarray], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of scores of the same patients, and its covariance (DeLong et al., Biometrics 1988).

    By mid-ranks (Sun and Xu, IEEE Signal Process Lett 2014). Only for patients that were scored by
    one function: an external cohort, never test folds taken together. AUROC (k,) and covariance
    (k, k), for k scores.
    """
    from scipy.stats import rankdata

    labels = np.asarray(labels, bool)
    m, n = labels.sum(), (~labels).sum()
    if min(m, n) < 2:
        raise ValueError("DeLong's covariance needs two patients of either label")
    share_above, share_below = [], []
    for values in scores:
        values = np.asarray(values, float)
        ranks = rankdata(values)
        share_above.append((ranks[labels] - rankdata(values[labels])) / n)
        share_below.append(1 - (ranks[~labels] - rankdata(values[~labels])) / m)
    share_above, share_below = np.array(share_above), np.array(share_below)
    covariance = np.atleast_2d(np.cov(share_above)) / m + np.atleast_2d(np.cov(share_below)) / n
    return share_above.mean(1), covariance


def bootstrap_weights(table: Mapping, draws: int, rng) -> np.ndarray:
    """How often each draw holds each patient, (draws, n): with replacement, by fold and label.

    Each fold keeps its number of patients of either label, so that no draw lacks one.
    """
    weights = np.zeros((draws, len(table["label"])), np.int16)
    for held in _strata(table["fold"], table["label"]):
        weights[:, held] = rng.multinomial(len(held), np.full(len(held), 1 / len(held)), draws)
    return weights


def permuted_labels(table: Mapping, draws: int, rng, *, within_sites: bool = False) -> np.ndarray:
    """Labels dealt anew among the patients of each fold (and site), (draws, n)."""
    keys = (table["fold"], table["site"]) if within_sites else (table["fold"],)
    labels = np.empty((draws, len(table["label"])), np.int8)
    for held in _strata(*keys):
        labels[:, held] = rng.permuted(np.tile(table["label"][held], (draws, 1)), axis=1)
    return labels


def _strata(*keys) -> list[np.ndarray]:
    places: dict[tuple, list] = {}
    for place, key in enumerate(zip(*(key.tolist() for key in keys), strict=True)):
        places.setdefault(key, []).append(place)
    return [np.array(places[key]) for key in sorted(places)]


def interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends between which 95 % of the draws lie."""
    return tuple(np.nanquantile(draws, (ALPHA / 2, 1 - ALPHA / 2), axis=0))


def delong_interval(table: Mapping) -> tuple[float, float] | None:
    """DeLong's 95 % interval of an AUROC, cut to [0, 1]; None where its variance is none."""
    from scipy.stats import norm

    if min(np.bincount(table["label"], minlength=2)) < 2:
        return None
    (value,), ((variance,),) = delong([table["logit"]], table["label"])
    if variance <= 0:
        return None
    reach = norm.ppf(1 - ALPHA / 2) * math.sqrt(variance)
    return max(0.0, value - reach), min(1.0, value + reach)
