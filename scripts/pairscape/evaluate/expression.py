"""Prediction of a spot's expression from frozen image embeddings, by recipes side by side.

``published`` is the HEST benchmark's (Jaume et al. 2024; its bench/benchmark.py and
bench/trainer.py): genes chosen on all samples, test included; log1p of raw counts; StandardScaler,
PCA and a ridge without intercept, whose penalty is a formula. ``corrected`` chooses genes, scale, axes
and penalty without the test split: the penalty is the one that leaves least error within donors that
the fit hasn't seen. ``within_test``, on request, is the first one cross-validated within the test
split.

Memory. Embeddings and counts are memory-mapped and read in blocks. Held at once: the targets (4 bytes
per spot, gene and recipe), the predictions of the test split, and, for ``corrected``, second moments
(8 bytes per feature squared, per left-out donor). ``published`` holds about four float32 copies of the
train split's features up to ``ridge.DENSE_NUMBERS`` numbers; beyond, its PCA and ridge come from
moments, too, which is the same model without the error of lsqr and of a randomised PCA.
"""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import numpy as np

from pairscape.core.splits import SPLITS
from pairscape.core.tsv import Table, numbers, text
from pairscape.evaluate.ridge import (
    fit_corrected,
    fit_published,
    predict,
    predict_within_test,
)
from pairscape.evaluate.targets import ExpressionOptions, Source, Split, Target
from pairscape.pretrain import runs

METRICS = ("pearson", "spearman", "r2", "r2_train_mean")
AS_IT_CAME, AFTER = "as it came", "after pretraining"
ENCODER, SHARED, TRUNK = "encoder", "shared space", "trunk"
ALL, MEAN = "all", "mean"
SCORES = Table(
    "expression.tsv",
    "score_expression",
    (
        *text(experiment="the experiment", dataset="the dataset"),
        *text(image_encoder="whose embeddings predict", features_of="what its features start from"),
        *text(control="what makes it a control; empty where it is none"),
        *text(stage="as it came, or after pretraining"),
        *text(representation="encoder, shared space or trunk"),
        *text(gene_encoder="that it was pretrained with", seed="of that pretraining"),
        *text(recipe="published, within_test or corrected", target="what is predicted"),
        *text(group="all test spots, or those of a donor"),
        *text(metric="pearson, spearman, r2 or r2_train_mean", gene="the gene, or mean over genes"),
        *numbers(value="of the metric; empty where it isn't defined"),
        *numbers(genes="genes where it is defined", undefined="genes where it isn't"),
        *numbers(spots="test spots of the group", train_spots="spots that the fit saw"),
        *numbers(components="principal components of the features", penalty="alpha of the ridge"),
        *text(penalty_from="how the penalty was chosen", fitted_by="what fitted it"),
        *text(note="why there is no score"),
        *text(donors_shared="how the dataset admits test donors elsewhere, in words"),
        *text(options_sha256="of the options"),
    ),
)
_FLAT = 1e-8  # relative spread below which a prediction is constant but for rounding


def score_predictions(truth, predicted, train_mean) -> dict[str, np.ndarray]:
    """``METRICS`` of each gene (T,) over one group of spots; NaN where one isn't defined.

    ``truth`` and ``predicted`` are (n, T), ``train_mean`` (T,) or (n, T) the mean of each gene in what
    the fit saw: the prediction behind ``r2_train_mean``. A correlation isn't defined where the gene or
    its prediction is constant, R² where the gene is.
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


def score_source(
    source: Source,
    targets: Mapping[str, Target],
    splits: Mapping[str, Split],
    options: ExpressionOptions,
) -> list[dict]:
    """Fit and score each recipe on one source of embeddings.

    Rows with the columns from ``recipe`` to ``note``: for all test spots and each test donor, each
    metric of each gene, and its mean over the genes where it is defined.
    """
    rows = []
    test = splits["test"]
    groups = {ALL: np.ones(len(test.rows), bool)}
    groups |= {donor: test.donor == donor for donor in dict.fromkeys(test.donor)}
    for recipe, target in targets.items():
        words, seen = "", len(splits["train"].rows)
        if recipe == "within_test":
            predicted, fits, means, seen = predict_within_test(source, target, test, options)
            fit, words = fits[0], f"; {len(fits)} folds of the test split's spots"
        else:
            if recipe == "published":
                fit = fit_published(source, target, splits["train"], options.components)
            else:
                fit = fit_corrected(source, target, splits, options)
            predicted = predict(fit, source, "test")
            means = np.broadcast_to(fit.y_mean, predicted.shape)
        truth = target.values[test.rows]
        facts = {
            "recipe": recipe,
            "target": target.words,
            "train_spots": seen,
            "components": fit.components,
            "penalty": fit.penalty,
            "penalty_from": fit.penalty_from + words,
            "fitted_by": fit.fitted_by,
            "note": "",
        }
        for group, chosen in groups.items():
            scored = score_predictions(truth[chosen], predicted[chosen], means[chosen])
            for metric, values in scored.items():
                head = {**facts, "group": group, "metric": metric, "spots": int(chosen.sum())}
                rows += [head | row for row in _gene_rows(target.genes, values)]
    return rows


def _gene_rows(genes: Sequence[str], values: np.ndarray) -> list[dict]:
    """The mean over the genes whose value is defined, and the value of each gene."""
    defined = ~np.isnan(values)
    mean = float(values[defined].mean()) if defined.any() else None
    rows = [(MEAN, mean, int(defined.sum()), int((~defined).sum()))]
    for gene, value, known in zip(genes, values, defined, strict=True):
        rows.append((gene, float(value), 1, 0) if known else (gene, None, 0, 1))
    return [dict(zip(("gene", "value", "genes", "undefined"), row, strict=True)) for row in rows]


def not_scored(targets: Mapping[str, Target], why: str) -> list[dict]:
    """The rows of a source that can't be scored: no value, and why."""
    head = {"group": ALL, "metric": "pearson", "gene": MEAN, "note": why}
    return [{"recipe": name, "target": target.words} | head for name, target in targets.items()]


def split_spots(of_split: Mapping[str, np.ndarray], donor_of_row: np.ndarray) -> dict[str, Split]:
    """``expression_counts.split_rows`` with each spot's donor."""
    return {name: Split(of_split[name], donor_of_row[of_split[name]]) for name in SPLITS}


read_scores, write_scores = SCORES.read, partial(SCORES.write, digits=8)


def read_experiment_scores(paths: Iterable, experiment: str) -> list[dict]:
    """Read several files of scores, all of one experiment, without the rows of single genes."""
    scores = []
    for path in paths:
        rows = read_scores(path)
        runs.check_experiment(path, rows, experiment)
        scores += [row for row in rows if row["gene"] == MEAN]
    return scores
