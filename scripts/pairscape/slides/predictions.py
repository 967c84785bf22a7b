"""Predictions of patients by the models of the folds: the table that fit_mutation writes."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, numbers, text

TEST, EXTERNAL = "test", "external:"
PREDICTIONS = Table(
    "predictions.tsv",
    "fit_mutation",
    (
        *text(patient="the patient", site="where the slides come from"),
        *numbers(label="1 or 0", fold="whose model predicts"),
        *text(role="test, or external:<cohort>"),
        *numbers(
            logit="of the model", probability="of label 1, with the weight of the labels undone"
        ),
    ),
)


def read_predictions(path) -> dict[str, dict[str, np.ndarray]]:
    """Read a predictions.tsv.

    Returns
    -------
    Per role the columns ``patient``, ``site``, ``label``, ``fold``, ``logit`` and ``probability``
    as arrays, ordered by fold, label and patient.
    """
    by_role: dict[str, list] = {}
    for number, row in enumerate(PREDICTIONS.read(path), start=2):
        by_role.setdefault(row["role"], []).append(_check_row(path, number, row))
    if TEST not in by_role:
        raise InputError(path, "column role", f"no {TEST}", "delete the file and fit again")
    tables = {}
    for role, rows in by_role.items():
        rows.sort(key=lambda row: (row["fold"], row["label"], row["patient"]))
        tables[role] = {n: np.array([row[n] for row in rows]) for n in rows[0] if n != "role"}
        _check_role(path, role, tables[role])
    return tables


def _check_row(path, number: int, row: Mapping) -> dict:
    label, fold, logit, probability = (row[name] for name in PREDICTIONS.names_of(float))
    if (
        label not in (0, 1)
        or fold is None
        or fold % 1
        or logit is None
        or not np.isfinite(logit)
        or probability is None
        or not 0 <= probability <= 1
    ):
        shown = {
            name: "" if row[name] is None else f"{row[name]:g}"
            for name in PREDICTIONS.names_of(float)
        }
        found = ", ".join(f"{name} {value!r}" for name, value in shown.items())
        raise InputError(path, f"line {number}", found, "delete the file and fit again")
    if row["role"] != TEST and not row["role"].startswith(EXTERNAL):
        remedy = f"allowed: {TEST}, {EXTERNAL}<cohort>"
        raise InputError(path, f"line {number}, role", repr(row["role"]), remedy)
    return {**row, "label": int(label), "fold": int(fold)}


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
            raise InputError(
                path,
                f"role {role}, fold {fold}",
                f"{len(labels)} patient(s), all with label {labels[0]}",
                "neither label can be told from the other: ask for fewer folds in the"
                " configuration, or give an external cohort both labels",
            )
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
