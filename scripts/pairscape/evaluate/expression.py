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
from collections.abc import Iterable, Mapping

import numpy as np

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.core.splits import SPLITS
from pairscape.evaluate.ridge import fit_corrected, fit_published, predict
from pairscape.evaluate.targets import NORMALISATIONS, Source, Split, Target
from pairscape.pretrain import runs

METRICS = ("pearson", "spearman", "r2", "r2_train_mean")
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
_FLAT = 1e-8  # relative spread below which a prediction is constant but for rounding


# ------------------------------------------------------------------------------------------ targets


# ------------------------------------------------------------------------------------------- models


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
    tsv.write_numbers(path, rows, COLUMNS, digits=8)


def read_scores(path) -> list[dict]:
    """Read what ``write_scores`` wrote; numbers as float, empty ones as None."""
    tsv.require_end(path, "delete it and score again")
    return tsv.read_numbers(path, COLUMNS, "delete it and score again", NUMBERS)


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment, without the rows of single genes."""
    scores = []
    for path in paths:
        rows = read_scores(path)
        runs.check_experiment(path, rows, experiment)
        scores += [row for row in rows if row["gene"] == MEAN]
    return scores
