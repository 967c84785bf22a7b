"""Scores of slide-level predictions: per fold and as their mean, with intervals and chance.

Scores of different folds come from different models, so that they are never pooled but by their
rank within the fold. All counts are of patients.
"""

import math
from collections.abc import Mapping

import numpy as np

from pairscape.core.tsv import Table, numbers, text
from pairscape.slides import mutation_metrics as metrics
from pairscape.slides.mutation_metrics import ALPHA, by_fold, interval
from pairscape.slides.predictions import ensemble

SCORES = Table(
    "mutation/<mutation>.tsv",
    "score_mutation",
    (
        *text(mutation="the entry of the configuration", leaking="true where folds share sites"),
        *text(cohort="whose patients are scored", target="what is predicted"),
        *text(model="whose embeddings predict", role="test, or external:<cohort>"),
        *text(
            group="a fold, mean over folds, ranks within folds, or ensemble of the folds' models"
        ),
        *text(metric="auroc, auprc, balanced_accuracy, brier or of calibration"),
        *numbers(value="of the metric; a difference where compared_model is named"),
        *numbers(sd="over the folds"),
        *numbers(ci_low="lower end of the 95 % interval", ci_high="its upper end"),
        *text(ci_over="what is drawn for the interval"),
        *numbers(chance="mean of labels dealt anew"),
        *numbers(chance_low="lower end of their 95 % range", chance_high="its upper end"),
        *numbers(p_value="that the score is no higher, or that the difference is none"),
        *text(p_test="how the p-value was made"),
        *numbers(site_chance="mean of labels dealt anew within sites"),
        *numbers(site_p_value="that the score is no higher than that"),
        *numbers(patients="patients that are scored", positives="of these with label 1"),
        *text(compared_mutation="the entry that this one is compared with"),
        *text(compared_model="the model that this one is compared with"),
        *text(predictions_sha256="of predictions.tsv"),
    ),
)
RANKED = ("auroc", "auprc", "balanced_accuracy")


def score_test(table: Mapping, bootstrap: int, permutations: int, seed: int) -> list[dict]:
    """Score the test folds of a model.

    Groups: ``fold <f>``; ``mean`` of the folds (``sd`` over them); ``ranks``, all patients by their
    rank within the fold. Intervals: bootstrap over patients, by fold and label (percentiles;
    reflected for the AUPRC, whose draws are biased upwards); they hold for these models and these
    sites. Chance: what labels give that are dealt anew within folds, its mean and 95 % range, and
    ``p_value`` for a score above it. ``site_chance``: the same with labels dealt anew within folds
    *and sites*, which is what knowing the site alone gives with these predictions;
    ``site_p_value`` is for a score above that. Rows with the columns from ``group`` on that apply.
    """
    rng = np.random.default_rng([seed, 1])
    weights = metrics.bootstrap_weights(table, bootstrap, rng)
    labels = metrics.permuted_labels(table, permutations, rng)
    of_site = metrics.permuted_labels(table, permutations, rng, within_sites=True)
    folds, is_one = np.unique(table["fold"]), table["label"] == 1
    # The patients of label 1 and of label 0: as they are, drawn, dealt anew, and within sites.
    weighted = (
        (is_one[None], ~is_one[None]),
        (weights * is_one, weights * ~is_one),
        (labels == 1, labels == 0),
        (of_site == 1, of_site == 0),
    )
    sizes, whole = [_size(table["label"][table["fold"] == f]) for f in folds], _size(table["label"])
    over = f"patients by fold and label ({bootstrap} draws), for these models and sites"
    rows = []

    def add(metric, group, draws, size, **more):
        (value,), boot, chance, site = draws
        row = _plain(group, metric, value, size) | more
        if bootstrap:
            low, high = interval(boot)
            if metric == "auprc":  # its draws repeat patients, which raises it: reflected
                low, high = max(0.0, 2 * value - high), min(1.0, 2 * value - low)
            row |= {"ci_low": float(low), "ci_high": float(high), "ci_over": over}
        rows.append(row | _against(value, chance, site))

    for metric in RANKED:
        scored = [by_fold(metric, table, *pair) for pair in weighted]
        for number, fold in enumerate(folds):
            add(metric, f"fold {fold}", [draws[:, number] for draws in scored], sizes[number])
        sd = _sd(scored[0][0])
        add(metric, "mean", [draws.mean(1) for draws in scored], whole, sd=sd)
    ranks = metrics.rank_within_folds(table)
    for metric in RANKED[:2]:
        add(metric, "ranks", [metrics.score(metric, ranks, *pair) for pair in weighted], whole)
    return rows + _score_calibration(table, [f"fold {fold}" for fold in folds], sizes, whole)


def score_external(table: Mapping, bootstrap: int, permutations: int, seed: int) -> list[dict]:
    """Score an external cohort: by each fold's model, their mean, and the models' mean score.

    The interval of the AUROC of group ``ensemble`` is DeLong's; the others are as in ``score_test``.
    The mean over models has no interval: its patients are the same in each.
    """
    merged = ensemble(table)
    rows = [
        row | {"group": "ensemble", "sd": None}
        for row in score_test(merged, bootstrap, permutations, seed)
        if row["group"] == "mean"
    ]
    for row in rows:
        if row["metric"] == "auroc":
            low, high = metrics.delong_interval(merged) or (None, None)
            over = None if low is None else "patients (DeLong)"
            row |= {"ci_low": low, "ci_high": high, "ci_over": over}
        elif "ci_over" in row:
            row["ci_over"] = f"patients by label ({bootstrap} draws), for these models"
    is_one, folds = table["label"] == 1, np.unique(table["fold"])
    whole = _size(merged["label"])
    ranked = {name: by_fold(name, table, is_one[None], ~is_one[None])[0] for name in RANKED}
    for metric, values in (ranked | metrics.calibration(table)).items():
        for fold, value in zip(folds, values, strict=True):
            rows.append(_plain(f"fold {fold}", metric, value, whole))
        rows.append(_plain("mean", metric, values.mean(), whole) | {"sd": _sd(values)})
    return rows


def _score_calibration(table: Mapping, groups, sizes, whole) -> list[dict]:
    """Calibration per fold and on average; chance of the Brier score is the share as a constant."""
    rows = []
    for metric, values in metrics.calibration(table).items():
        chances = [p / n * (1 - p / n) if metric == "brier" else None for n, p in sizes]
        for group, value, chance, size in zip(groups, values, chances, sizes, strict=True):
            rows.append(_plain(group, metric, value, size) | {"chance": chance})
        chance = float(np.mean(chances)) if metric == "brier" else None
        mean = _plain("mean", metric, values.mean(), whole)
        rows.append(mean | {"chance": chance, "sd": _sd(values)})
    slope = metrics.calibration_slope(table)
    if slope is not None:
        rows.append(_plain("mean", "calibration_slope", slope, whole))
    return rows


def _size(labels: np.ndarray) -> tuple[int, int]:
    """How many patients, and how many of them have label 1."""
    return len(labels), int(labels.sum())


def _plain(group: str, metric: str, value: float, size: tuple[int, int]) -> dict:
    row = {"group": group, "metric": metric, "value": float(value)}
    return row | {"patients": size[0], "positives": size[1]}


def _against(value: float, chance: np.ndarray, site: np.ndarray) -> dict:
    if not len(chance):
        return {}
    low, high = interval(chance)
    return {
        "chance": float(chance.mean()),
        "chance_low": float(low),
        "chance_high": float(high),
        "p_value": _share(chance >= value - 1e-12),
        "p_test": f"labels dealt anew within folds ({len(chance)} times)",
        "site_chance": float(site.mean()),
        "site_p_value": _share(site >= value - 1e-12),
    }


def _share(hits: np.ndarray) -> float:
    return float((1 + hits.sum()) / (1 + len(hits)))


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


# ------------------------------------------------------------------------------------- comparisons


def compare_test(one: Mapping, other: Mapping, bootstrap: int, seed: int) -> list[dict]:
    """How much higher the mean over folds is in ``one`` than in ``other``, on the same patients.

    A paired bootstrap: each draw takes patients with replacement within the folds and labels of
    ``one`` and gives both the same. The folds of ``other`` may be others (leaked against preserved
    sites); a draw in which one of them lacks a label is left out. Patients that only one of the
    two has are left out, which ``patients`` tells. Rows of group ``mean``; ``value`` is the
    difference, ``p_value`` two-sided for none.
    """
    one, other = _in_both(one, other)
    if not len(one["label"]) or (one["label"] != other["label"]).any():
        return []
    rng = np.random.default_rng([seed, 2])
    weights, is_one = metrics.bootstrap_weights(one, bootstrap, rng), one["label"] == 1
    rows = []
    for metric in RANKED:
        value, draws = (
            by_fold(metric, one, w * is_one, w * ~is_one).mean(1)
            - by_fold(metric, other, w * is_one, w * ~is_one).mean(1)
            for w in (np.ones((1, len(is_one)), int), weights)
        )
        if not np.isnan(value[0]):
            row = _plain("mean", metric, value[0], _size(one["label"]))
            rows.append(row | _difference(draws))
    return rows


def _in_both(one: Mapping, other: Mapping) -> tuple[dict, dict]:
    """The two tables, but for patients that only one has, in one order."""
    _, first, second = np.intersect1d(one["patient"], other["patient"], return_indices=True)
    return (
        {name: values[first] for name, values in one.items()},
        {name: values[second] for name, values in other.items()},
    )


def compare_external(one: Mapping, other: Mapping, bootstrap: int, seed: int) -> list[dict]:
    """The same for the ensembles on an external cohort; the AUROC by DeLong's paired test."""
    from scipy.stats import norm

    one, other = ensemble(one), ensemble(other)
    rows = [row | {"group": "ensemble"} for row in compare_test(one, other, bootstrap, seed)]
    one, other = _in_both(one, other)
    for row in (row for row in rows if row["metric"] == "auroc"):
        row |= dict.fromkeys(("ci_low", "ci_high", "ci_over", "p_value", "p_test"))
        if min(np.bincount(one["label"], minlength=2)) < 2:
            continue
        values, covariance = metrics.delong([one["logit"], other["logit"]], one["label"])
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if variance <= 1e-15:
            continue
        off, spread = values[0] - values[1], math.sqrt(variance)
        reach = norm.ppf(1 - ALPHA / 2) * spread
        row |= {"ci_low": float(off - reach), "ci_high": float(off + reach)}
        row |= {"ci_over": "patients (DeLong, paired)", "p_test": "DeLong's paired test"}
        row["p_value"] = float(2 * norm.sf(abs(off) / spread))
    return rows


def _difference(draws: np.ndarray) -> dict:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return {}
    low, high = interval(draws)
    drawn = f"{len(draws)} draws"
    return {
        "ci_low": float(low),
        "ci_high": float(high),
        "ci_over": f"patients by fold and label, paired ({drawn}), for these models and sites",
        "p_value": min(1.0, 2 * min(_share(draws <= 0), _share(draws >= 0))),
        "p_test": f"paired patient bootstrap by fold and label ({drawn})",
    }


read_scores, write_scores = SCORES.read, SCORES.write
