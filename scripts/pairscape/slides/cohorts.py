"""Cohort tables: which slides there are, whose, from which site, and the labels of their patients.

A table is tab-separated, one row per slide, lines that begin with ``#`` being remarks:
slide, patient, site, file, um_per_px, notes, and then one column per target (1, 0 or empty).
Light on imports: the workflow reads the tables while Snakemake parses.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv, write_tsv
from pairscape.slides import cohorts

COLUMNS = ("slide", "patient", "site", "file", "um_per_px", "notes")
FEATURE_SUFFIX = ".h5"  # a `file` that ends so holds features already, not a picture
UM_PER_PX = (0.05, 10.0)  # what a slide scanner or its overview can have

_NAME = r"[A-Za-z0-9_-]+"
_SLIDE = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
# TCGA-<tissue source site>-<participant>, then the sample and the slide (NCI's barcode page).
_TCGA = r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}"


def tissue_source_site(patient: str) -> str:
    """The tissue source site of a TCGA barcode (its characters 6 and 7), or nothing."""
    found = re.match(rf"{_TCGA}(?![A-Z0-9])", patient)
    return found[1] if found else ""


def read_cohort(path, may_be_empty=False) -> list[dict]:
    """Read and check a cohort table.

    Parameters
    ----------
    path
        The table.
    may_be_empty
        Whether a table without slides is let through, as one that is still to be filled.

    Returns
    -------
    One dictionary per slide, in the order of the table: ``slide``, ``patient``, ``site`` (from the
    barcode where the table leaves it empty; empty where neither tells), ``file``, ``um_per_px``
    (float or None), ``notes``, and each target as 1, 0 or None.
    """
    rows = read_tsv(path, ["slide", "patient", "file"], remark="#")
    if not rows and may_be_empty:
        return []
    if not rows:
        raise InputError(
            path, "table", "no slide", "give each slide a row; README.md says where to take them"
        )
    for target in (column for column in rows[0] if column not in COLUMNS):
        if not re.fullmatch(_NAME, target):
            raise InputError(
                path,
                "header",
                f"the column {target!r}",
                f"name a target by letters, digits, _ and -, or use {', '.join(COLUMNS)}",
            )
    cohort, slides, files, patients = [], set(), {}, {}
    for row in rows:
        checked = _check_row(path, row)
        slide, patient = checked["slide"], checked["patient"]
        if slide in slides:
            raise InputError(
                path, f"slide {slide}", "a second row of that name", "give each slide one name"
            )
        slides.add(slide)
        other = files.setdefault(checked["file"], slide)
        if other != slide:
            raise InputError(
                path,
                f"slide {slide}, column file",
                f"{checked['file']}, the file of {other}",
                "give each slide a file of its own, or drop one row",
            )
        _check_patient(path, checked, patients.setdefault(patient, {}))
        cohort.append(checked)
    for row in cohort:  # what one row of a patient leaves open another may tell
        row["site"] = row["site"] or patients[row["patient"]].get("site", "")
    return cohort


def targets_of(cohort: Sequence[Mapping]) -> list[str]:
    """The targets of a cohort: the columns of its table beyond ``COLUMNS``, in their order."""
    return [column for column in cohort[0] if column not in COLUMNS]


def labels(cohort: Sequence[Mapping], target: str) -> dict[str, int]:
    """The label of each patient whose label is known, in the order of the table.

    ``cohort`` is what ``read_cohort`` returned, which has seen to it that a patient's slides agree.
    """
    return {row["patient"]: row[target] for row in cohort if row[target] is not None}


def labelled_patients(cohort: Sequence[Mapping], target: str, path, *, sites=True) -> list[dict]:
    """The patients with a label: ``patient``, ``site``, ``label`` and ``slides`` (their names).

    Parameters
    ----------
    cohort
        What ``read_cohort`` returned.
    target
        One of its targets.
    path
        Its table, for messages.
    sites
        Whether each patient needs a site: not so where folds aren't split by it.
    """
    if target not in targets_of(cohort):
        raise InputError(
            path,
            f"column {target}",
            f"only the targets {', '.join(targets_of(cohort)) or '(none)'}",
            "add the column or correct the target",
        )
    known = labels(cohort, target)
    if len(set(known.values())) < 2:
        found = f"only the label {set(known.values()).pop()}" if known else "no label"
        raise InputError(path, f"column {target}", found, "label patients with 1 and others with 0")
    found = {}
    for row in cohort:
        patient = row["patient"]
        if patient not in known:
            continue
        if sites and not row["site"]:
            raise InputError(
                path,
                f"slide {row['slide']}, column site",
                f"nothing, and {patient} is no TCGA barcode that tells it",
                "name the hospital or laboratory that the slide comes from",
            )
        first = {"patient": patient, "site": row["site"], "label": known[patient], "slides": []}
        found.setdefault(patient, first)["slides"].append(row["slide"])
    return list(found.values())


def is_features(row: Mapping) -> bool:
    """Whether a row's file holds features (.h5) in place of a picture."""
    return row["file"].lower().endswith(FEATURE_SUFFIX)


def slide_file(root, row: Mapping) -> Path:
    """The file of a row: from the folder ``root``, unless it is absolute."""
    return Path(root, row["file"])


def write_cohort(path, cohort: Sequence[Mapping], targets: Sequence[str]) -> None:
    """Write a cohort table, atomically; ``None`` becomes an empty field."""
    write_tsv(path, cohort, [*COLUMNS, *targets])


def _check_row(path, row: Mapping[str, str]) -> dict:
    row = {column: value.strip() for column, value in row.items()}
    slide, patient = row["slide"], row["patient"]
    if not re.fullmatch(_SLIDE, slide):
        raise InputError(
            path,
            f"slide {slide or '(empty)'}",
            f"the name {slide!r}",
            "use letters, digits, dots, _ and -: its features are stored under it",
        )
    if not patient:
        raise InputError(path, f"slide {slide}, column patient", "nothing", "name the patient")
    if tissue_source_site(patient) and len(patient) > 12:
        raise InputError(
            path,
            f"slide {slide}, column patient",
            f"{patient}, the barcode of a sample or slide",
            f"write the patient's, {patient[:12]}, so that all slides of a patient stay together",
        )
    if tissue_source_site(slide) and tissue_source_site(patient) and slide[:12] != patient:
        raise InputError(
            path,
            f"slide {slide}, column patient",
            f"{patient}, though the slide's barcode says {slide[:12]}",
            "correct one of them",
        )
    if not row["file"]:
        raise InputError(
            path, f"slide {slide}, column file", "nothing", "name the slide's image or .h5 file"
        )
    known = {
        "slide": slide,
        "patient": patient,
        "site": row.get("site") or tissue_source_site(patient),
        "file": row["file"],
        "um_per_px": _um_per_px(path, slide, row.get("um_per_px", "")),
        "notes": row.get("notes", ""),
    }
    for target, value in row.items():
        if target not in COLUMNS:
            if value not in ("0", "1", ""):
                raise InputError(
                    path,
                    f"slide {slide}, column {target}",
                    repr(value),
                    "write 1 (mutated, or unstable), 0 (not), or nothing where it isn't known",
                )
            known[target] = int(value) if value else None
    return known


def _um_per_px(path, slide: str, text: str) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not UM_PER_PX[0] <= value <= UM_PER_PX[1]:
        raise InputError(
            path,
            f"slide {slide}, column um_per_px",
            repr(text),
            f"give µm per pixel of the full resolution, {UM_PER_PX[0]:g} to {UM_PER_PX[1]:g}, or"
            " nothing where the file tells it",
        )
    return value


def _check_patient(path, row: Mapping, known: dict) -> None:
    """Hold a slide against what the patient's earlier slides told; add to it what is new."""
    for column, value in row.items():
        if (column != "site" and column in COLUMNS) or value in (None, ""):
            continue
        if known.setdefault(column, value) != value:
            raise InputError(
                path,
                f"slide {row['slide']}, column {column}",
                f"{value}, where another slide of patient {row['patient']} has {known[column]}",
                f"give all slides of a patient one {'site' if column == 'site' else 'label'}",
            )


def read_cohorts(config: Mapping) -> dict[str, list[dict]]:
    """The rows of each cohort that is given by a table; none for a table that is still empty."""
    return {
        name: cohorts.read_cohort(cohort["table"], may_be_empty=True)
        for name, cohort in config["cohorts"].items()
        if cohort["table"]
    }


def check_slide_simulation(place: str, knobs: Mapping, source) -> None:
    """Check what a schema can't in the knobs of a simulated cohort, at ``place`` of ``source``."""
    if knobs["sites"] > knobs["patients"]:
        raise InputError(
            source,
            f"{place}.sites",
            f"{knobs['sites']} for {knobs['patients']} patients",
            "give each site a patient at least",
        )
    for name, target in knobs["targets"].items():
        if name in cohorts.COLUMNS:
            raise InputError(
                source,
                f"{place}.targets",
                f"the name {name}",
                f"choose another: {', '.join(cohorts.COLUMNS)} are columns of the table",
            )
        low, high = (target["prevalence"] + sign * target["site_spread"] for sign in (-1, 1))
        if not 0 <= low <= high <= 1:
            raise InputError(
                source,
                f"{place}.targets.{name}.site_spread",
                f"{target['site_spread']:g} around a prevalence of {target['prevalence']:g}",
                "choose it so that no site leaves the range from 0 to 1",
            )
