"""Scores of slide-level predictions: per fold and as their mean, with intervals and chance.

Scores of different folds come from different models, so that they are never pooled but by their
rank within the fold. All counts are of patients.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.tsv import read_numbers, read_tsv, require_end, write_numbers

PREDICTIONS = ("patient", "site", "label", "fold", "role", "logit", "probability")
# A row is a metric of a model, or where `compared_model` is named its difference to that one.
COLUMNS = (
    "mutation",
    "leaking",
    "cohort",
    "target",
    "model",
    "role",
    "group",
    "metric",
    "value",
    "sd",
    "ci_low",
    "ci_high",
    "ci_over",
    "chance",
    "chance_low",
    "chance_high",
    "p_value",
    "p_test",
    "site_chance",
    "site_p_value",
    "patients",
    "positives",
    "compared_mutation",
    "compared_model",
    "predictions_sha256",
)
NUMBERS = (
    *("value", "sd", "ci_low", "ci_high", "chance", "chance_low", "chance_high", "p_value"),
    *("site_chance", "site_p_value", "patients", "positives"),
)
RANKED = ("auroc", "auprc", "balanced_accuracy")
CALIBRATION = ("brier", "calibration_in_the_large", "calibration_slope")
METRICS = (*RANKED, *CALIBRATION)
TEST, EXTERNAL = "test", "external:"
ALPHA = 0.05


# ------------------------------------------------------------------------------------- predictions


def read_predictions(path) -> dict[str, dict[str, np.ndarray]]:
    """Read a predictions.tsv.

    Returns
    -------
    Per role the columns ``patient``, ``site``, ``label``, ``fold``, ``logit`` and ``probability``
    as arrays, ordered by fold, label and patient.
    """
    rows = read_tsv(path, PREDICTIONS)
    by_role: dict[str, list] = {}
    for number, row in enumerate(rows, start=2):
        by_role.setdefault(row["role"], []).append(_check_row(path, number, row))
    again = "delete the file and fit again"
    if TEST not in by_role:
        raise InputError(path, "column role", f"no {TEST}", again)
    found = {}
    for role, rows in by_role.items():
        rows.sort(key=lambda row: (row["fold"], row["label"], row["patient"]))
        table = {name: np.array([row[name] for row in rows]) for name in rows[0] if name != "role"}
        keys = list(
            table["patient"] if role == TEST else zip(table["patient"], table["fold"], strict=True)
        )
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(path, f"role {role}", f"{twice} twice", again)
        labelled = set(zip(table["patient"], table["label"], strict=True))
        if len(labelled) > len(set(table["patient"])):
            raise InputError(path, f"role {role}", "a patient with both labels", again)
        folds = np.unique(table["fold"])
        for fold in folds:
            labels = table["label"][table["fold"] == fold]
            if labels.min() == labels.max():
                raise InputError(
                    path,
                    f"role {role}, fold {fold}",
                    f"{len(labels)} patient(s), all with label {labels[0]}",
                    "neither label can be told from the other: ask for fewer folds in the"
                    " configuration, or give an external cohort both labels",
                )
        if role != TEST and len(keys) != len(folds) * len(set(table["patient"])):
            raise InputError(path, f"role {role}", "patients that lack a fold's score", again)
        found[role] = table
    return found


def _check_row(path, number: int, row: Mapping) -> dict:
    checked = {name: row[name] for name in ("patient", "site", "role")}
    try:
        if row["label"] not in ("0", "1"):
            raise ValueError
        checked |= {"label": int(row["label"]), "fold": int(row["fold"])}
        checked |= {name: float(row[name]) for name in ("logit", "probability")}
        if not math.isfinite(checked["logit"]) or not 0 <= checked["probability"] <= 1:
            raise ValueError
    except ValueError:
        told = ", ".join(f"{name} {row[name]!r}" for name in PREDICTIONS[2:])
        raise InputError(path, f"line {number}", told, "delete the file and fit again") from None
    if checked["role"] != TEST and not checked["role"].startswith(EXTERNAL):
        raise InputError(
            path, f"line {number}, role", repr(row["role"]), f"allowed: {TEST}, {EXTERNAL}<cohort>"
        )
    return checked


def ensemble(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One score per external patient: the mean over the folds' models of logit and probability.

    The same function scores all patients, so that they may be pooled, unlike those of test folds.
    """
    patients, first = np.unique(table["patient"], return_index=True)
    place = np.searchsorted(patients, table["patient"])
    mean = {
        name: np.bincount(place, table[name]) / np.bincount(place)
        for name in ("logit", "probability")
    }
    merged = {name: table[name][first] for name in ("patient", "site", "label")} | mean
    order = np.lexsort((merged["patient"], merged["label"]))
    merged = {name: values[order] for name, values in merged.items()}
    return merged | {"fold": np.zeros(len(order), int)}


# ----------------------------------------------------------------------------------------- metrics


def score(metric: str, values: np.ndarray, positive: np.ndarray, negative: np.ndarray):
    """A metric for many weightings of the same patients at once.

    Parameters
    ----------
    metric
        ``auroc`` (ties count half), ``auprc`` (average precision, ties taken together) or
        ``balanced_accuracy`` (positive where ``values`` > 0: the class weight of the loss makes 0
        of the logit the threshold between labels that are as frequent).
    values
        Scores of the patients (n,).
    positive, negative
        Weight of each patient as one with label 1, and as one with label 0, (draws, n).

    Returns
    -------
    The metric of each draw (draws,); NaN where a label has no weight.
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
    gaps = [
        (
            x[(place == f) & (labels == 1)].min() - x[(place == f) & (labels == 0)].max(),
            x[(place == f) & (labels == 0)].min() - x[(place == f) & (labels == 1)].max(),
        )
        for f in range(len(folds))
    ]
    if all(up >= 0 for up, _ in gaps) or all(down >= 0 for _, down in gaps):
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
    one function: an external cohort, never test folds taken together.

    Returns
    -------
    AUROC (k,) and covariance (k, k), for k scores.
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


# ---------------------------------------------------------------------------------- draws of patients


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


def _interval(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.nanquantile(draws, (ALPHA / 2, 1 - ALPHA / 2), axis=0))


# ------------------------------------------------------------------------------------ a whole model


def score_test(table: Mapping, bootstrap: int, permutations: int, seed: int) -> list[dict]:
    """Score the test folds of a model.

    Groups: ``fold <f>``; ``mean`` of the folds (``sd`` over them); ``ranks``, all patients by their
    rank within the fold. Intervals: bootstrap over patients, by fold and label (percentiles;
    reflected for the AUPRC, whose draws are biased upwards); they hold for these models and these
    sites. Chance: what labels give that are dealt anew within folds, its mean and 95 % range, and
    ``p_value`` for a score above it. ``site_chance``: the same with labels dealt anew within folds
    *and sites*, which is what knowing the site alone gives with these predictions;
    ``site_p_value`` is for a score above that.

    Returns
    -------
    Rows with the columns from ``group`` on that apply.
    """
    rng = np.random.default_rng([seed, 1])
    weights = bootstrap_weights(table, bootstrap, rng)
    labels = permuted_labels(table, permutations, rng)
    of_site = permuted_labels(table, permutations, rng, within_sites=True)
    folds, is_one = np.unique(table["fold"]), table["label"] == 1
    counts = [(table["fold"] == fold) for fold in folds]
    sizes = [(int(held.sum()), int(is_one[held].sum())) for held in counts]
    whole = (len(is_one), int(is_one.sum()))
    over = f"patients by fold and label ({bootstrap} draws), for these models and sites"
    rows = []

    def add(metric, group, value, boot, chance, site, size, **more):
        row = {"group": group, "metric": metric, "value": float(value), **more}
        row |= {"patients": size[0], "positives": size[1]}
        if bootstrap:
            low, high = _interval(boot)
            if metric == "auprc":  # its draws repeat patients, which raises it: reflected
                low, high = max(0.0, 2 * value - high), min(1.0, 2 * value - low)
            row |= {"ci_low": float(low), "ci_high": float(high), "ci_over": over}
        rows.append(row | _against(value, chance, site))

    for metric in RANKED:
        true = by_fold(metric, table, is_one[None], ~is_one[None])[0]
        boot = by_fold(metric, table, weights * is_one, weights * ~is_one)
        chance = by_fold(metric, table, labels == 1, labels == 0)
        site = by_fold(metric, table, of_site == 1, of_site == 0)
        for number, fold in enumerate(folds):
            columns = (true[number], boot[:, number], chance[:, number], site[:, number])
            add(metric, f"fold {fold}", *columns, sizes[number])
        mean = (true.mean(), boot.mean(1), chance.mean(1), site.mean(1))
        add(metric, "mean", *mean, whole, sd=_sd(true))
    ranks = rank_within_folds(table)
    for metric in RANKED[:2]:
        pooled = [
            score(metric, ranks, one, zero)
            for one, zero in (
                (is_one[None], ~is_one[None]),
                (weights * is_one, weights * ~is_one),
                (labels == 1, labels == 0),
                (of_site == 1, of_site == 0),
            )
        ]
        add(metric, "ranks", pooled[0][0], *pooled[1:], whole)
    return rows + _score_calibration(table, [f"fold {fold}" for fold in folds], sizes, whole)


def score_external(table: Mapping, bootstrap: int, permutations: int, seed: int) -> list[dict]:
    """Score an external cohort: by each fold's model, their mean, and the models' mean score.

    The interval of the AUROC of group ``ensemble`` is DeLong's; the others are as in ``score_test``.
    The mean over models has no interval: its patients are the same in each.
    """
    merged = ensemble(table)
    rows = [
        row | {"group": "ensemble"}
        for row in score_test(merged, bootstrap, permutations, seed)
        if row["group"] == "mean"
    ]
    for row in rows:
        row["sd"] = None
        if row["metric"] != "auroc":
            if "ci_over" in row:
                row["ci_over"] = f"patients by label ({bootstrap} draws), for these models"
            continue
        row |= {"ci_low": None, "ci_high": None, "ci_over": None}
        interval = delong_interval(merged)
        if interval:
            row |= {"ci_low": interval[0], "ci_high": interval[1], "ci_over": "patients (DeLong)"}
    is_one, folds = table["label"] == 1, np.unique(table["fold"])
    whole = (len(merged["label"]), int(merged["label"].sum()))
    values = {
        metric: by_fold(metric, table, is_one[None], ~is_one[None])[0] for metric in RANKED
    } | calibration(table)
    for metric, of_folds in values.items():
        groups = [(f"fold {fold}", value) for fold, value in zip(folds, of_folds, strict=True)]
        for group, value in [*groups, ("mean", of_folds.mean())]:
            row = {"group": group, "metric": metric, "value": float(value)}
            row |= {"patients": whole[0], "positives": whole[1]}
            rows.append(row | ({"sd": _sd(of_folds)} if group == "mean" else {}))
    return rows


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


def _score_calibration(table: Mapping, groups, sizes, whole) -> list[dict]:
    """Calibration per fold and on average; chance of the Brier score is the share as a constant."""
    rows = []
    for metric, values in calibration(table).items():
        chances = [p / n * (1 - p / n) if metric == "brier" else None for n, p in sizes]
        for group, value, chance, size in zip(groups, values, chances, sizes, strict=True):
            rows.append(_plain(group, metric, value, size) | {"chance": chance})
        chance = float(np.mean(chances)) if metric == "brier" else None
        mean = _plain("mean", metric, values.mean(), whole)
        rows.append(mean | {"chance": chance, "sd": _sd(values)})
    slope = calibration_slope(table)
    if slope is not None:
        rows.append(_plain("mean", "calibration_slope", slope, whole))
    return rows


def _plain(group: str, metric: str, value: float, size: tuple[int, int]) -> dict:
    row = {"group": group, "metric": metric, "value": float(value)}
    return row | {"patients": size[0], "positives": size[1]}


def _against(value: float, chance: np.ndarray, site: np.ndarray) -> dict:
    if not len(chance):
        return {}
    low, high = _interval(chance)
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
    two has are left out, which ``patients`` tells.

    Returns
    -------
    Rows of group ``mean``; ``value`` is the difference, ``p_value`` two-sided for none.
    """
    shared, first, second = np.intersect1d(one["patient"], other["patient"], return_indices=True)
    if not len(shared):
        return []
    one = {name: values[first] for name, values in one.items()}
    other = {name: values[second] for name, values in other.items()}
    if (one["label"] != other["label"]).any():
        return []
    rng = np.random.default_rng([seed, 2])
    weights, is_one = bootstrap_weights(one, bootstrap, rng), one["label"] == 1
    rows = []
    for metric in RANKED:
        value, draws = (
            by_fold(metric, one, w * is_one, w * ~is_one).mean(1)
            - by_fold(metric, other, w * is_one, w * ~is_one).mean(1)
            for w in (np.ones((1, len(is_one)), int), weights)
        )
        if np.isnan(value[0]):
            continue
        row = _plain("mean", metric, value[0], (len(is_one), int(is_one.sum())))
        rows.append(row | _difference(draws, "by fold and label"))
    return rows


def compare_external(one: Mapping, other: Mapping, bootstrap: int, seed: int) -> list[dict]:
    """The same for the ensembles on an external cohort; the AUROC by DeLong's paired test."""
    from scipy.stats import norm

    one, other = ensemble(one), ensemble(other)
    rows = compare_test(one, other, bootstrap, seed)
    for row in rows:
        row["group"] = "ensemble"
        if row["metric"] != "auroc":
            continue
        _, first, second = np.intersect1d(one["patient"], other["patient"], return_indices=True)
        labels = one["label"][first]
        for name in ("ci_low", "ci_high", "ci_over", "p_value", "p_test"):
            row[name] = None
        if min(np.bincount(labels, minlength=2)) < 2:
            continue
        values, covariance = delong([one["logit"][first], other["logit"][second]], labels)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        if variance <= 1e-15:
            continue
        off, spread = values[0] - values[1], math.sqrt(variance)
        reach = norm.ppf(1 - ALPHA / 2) * spread
        row |= {"ci_low": float(off - reach), "ci_high": float(off + reach)}
        row |= {"ci_over": "patients (DeLong, paired)", "p_test": "DeLong's paired test"}
        row["p_value"] = float(2 * norm.sf(abs(off) / spread))
    return rows


def _difference(draws: np.ndarray, strata: str) -> dict:
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return {}
    low, high = _interval(draws)
    above, below = _share(draws <= 0), _share(draws >= 0)
    return {
        "ci_low": float(low),
        "ci_high": float(high),
        "ci_over": f"patients {strata}, paired ({len(draws)} draws), for these models and sites",
        "p_value": min(1.0, 2 * min(above, below)),
        "p_test": f"paired patient bootstrap {strata} ({len(draws)} draws)",
    }


# ------------------------------------------------------------------------------------------- files


def write_scores(path, rows: Iterable[Mapping]) -> None:
    """Write tidy scores, numbers with 6 significant digits."""
    write_numbers(path, rows, COLUMNS)


def read_scores(path) -> list[dict]:
    """Read tidy scores; numbers as float, empty ones as None."""
    require_end(path, "delete it and score again")
    return read_numbers(path, COLUMNS, "delete it and score again", NUMBERS)
