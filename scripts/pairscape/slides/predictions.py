"""Predictions of patients by the models of the folds: the table that fit_mutation writes."""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, counts, numbers, text

TEST, EXTERNAL = "test", "external:"
PREDICTIONS = Table(
    "predictions.tsv",
    "fit_mutation",
    (
        *text(patient="the patient", site="where the slides come from"),
        *counts(label="1 or 0", fold="whose model predicts"),
        *text(role="test, or external:<cohort>"),
        *numbers(
            logit="of the model", probability="of label 1, with the weight of the labels undone"
        ),
    ),
)


def read_predictions(path) -> dict[str, dict[str, np.ndarray]]:
    """Read a predictions.tsv: per role its columns as arrays, ordered by fold, label and patient."""
    by_role: dict[str, list] = {}
    for number, row in enumerate(PREDICTIONS.read(path), start=2):
        _check_row(path, number, row)
        by_role.setdefault(row["role"], []).append(row)
    if TEST not in by_role:
        raise InputError(path, "column role", f"no {TEST}", "delete the file and fit again")
    tables = {}
    for role, rows in by_role.items():
        rows.sort(key=lambda row: (row["fold"], row["label"], row["patient"]))
        tables[role] = {n: np.array([row[n] for row in rows]) for n in rows[0] if n != "role"}
        _check_role(path, role, tables[role])
    return tables


def _check_row(path, number: int, row: Mapping) -> None:
    logit, probability = row["logit"], row["probability"]
    holds = {
        "label": row["label"] in (0, 1),
        "fold": row["fold"] is not None,
        "logit": logit is not None and math.isfinite(logit),
        "probability": probability is not None and 0 <= probability <= 1,
    }
    for name in (name for name, right in holds.items() if not right):
        fault = f"{name} '{row[name]}'"
        raise InputError(path, f"line {number}", fault, "delete the file and fit again")
    if row["role"] != TEST and not row["role"].startswith(EXTERNAL):
        remedy = f"allowed: {TEST}, {EXTERNAL}<cohort>"
        raise InputError(path, f"line {number}, role", repr(row["role"]), remedy)


def _check_role(path, role: str, table: Mapping[str, np.ndarray]) -> None:
    """Refuse predictions of one role that aren't one per patient, and fold for external cohorts."""
    refuse = partial(InputError, path, f"role {role}", remedy="delete the file and fit again")
    patients, folds = table["patient"].tolist(), table["fold"].tolist()
    keys = patients if role == TEST else list(zip(patients, folds, strict=True))
    if len(set(keys)) < len(keys):
        raise refuse(f"{next(key for key in keys if keys.count(key) > 1)} twice")
    if len(set(zip(patients, table["label"].tolist(), strict=True))) > len(set(patients)):
        raise refuse("a patient with both labels")
    for fold in np.unique(folds):
        labels = table["label"][table["fold"] == fold]
        if labels.min() == labels.max():
            fault = f"{len(labels)} patient(s), all with label {labels[0]}"
            remedy = (
                "neither label can be told from the other: ask for fewer folds in the"
                " configuration, or give an external cohort both labels"
            )
            raise InputError(path, f"role {role}, fold {fold}", fault, remedy)
    if role != TEST and len(keys) != len(set(folds)) * len(set(patients)):
        raise refuse("patients that lack a fold's score")


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
