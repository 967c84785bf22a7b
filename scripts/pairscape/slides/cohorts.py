"""Cohort tables: which slides there are, whose, from which site, and the labels of their patients.

A table is tab-separated, one row per slide, lines that begin with ``#`` being remarks:
slide, patient, site, file, um_per_px, notes, and then one column per target (1, 0 or empty).
Light on imports: the workflow reads the tables while Snakemake parses.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.names import refuse_alike
from pairscape.core.tsv import read_tsv, write_tsv

COLUMNS = ("slide", "patient", "site", "file", "um_per_px", "notes")
FEATURE_SUFFIX = ".h5"  # a `file` that ends so holds features already, not a picture
UM_PER_PX = (0.05, 10.0)  # what a slide scanner or its overview can have

_NAME = r"[A-Za-z0-9_-]+"
_SLIDE = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
# TCGA-<tissue source site>-<participant>, then the sample and the slide (NCI's barcode page).
_TCGA = r"TCGA-([A-Z0-9]{2})-[A-Z0-9]{4}"


def tissue_source_site(patient: str) -> str:
    """The tissue source site of a TCGA barcode (its characters 6 and 7), or nothing."""
    barcode = re.match(rf"{_TCGA}(?![A-Z0-9])", patient)
    return barcode[1] if barcode else ""


def read_cohort(path, may_be_empty=False) -> list[dict]:
    """Read and check a cohort table; one without slides, still to be filled, may be let through.

    One dictionary per slide, in the order of the table: ``slide``, ``patient``, ``site`` (from the
    barcode where the table leaves it empty; empty where neither tells), ``file``, ``um_per_px``
    (float or None), ``notes``, and each target as 1, 0 or None.
    """
    rows = read_tsv(path, ["slide", "patient", "file"], remark="#")
    if not rows:
        if may_be_empty:
            return []
        remedy = "give each slide a row; docs/slides.md says where to take them"
        raise InputError(path, "table", "no slide", remedy)
    for target in (column for column in rows[0] if column not in COLUMNS):
        if not re.fullmatch(_NAME, target):
            remedy = f"name a target by letters, digits, _ and -, or use {', '.join(COLUMNS)}"
            raise InputError(path, "header", f"the column {target!r}", remedy)
    cohort, slides, files, patients = [], set(), {}, {}
    for row in rows:
        checked = _check_row(path, row)
        slide, patient = checked["slide"], checked["patient"]
        if slide in slides:
            fault = "a second row of that name"
            raise InputError(path, f"slide {slide}", fault, "give each slide one name")
        slides.add(slide)
        other = files.setdefault(os.path.normpath(checked["file"]), slide)
        if other != slide:
            fault = f"{checked['file']}, the file of {other}"
            remedy = "give each slide a file of its own, or drop one row"
            raise InputError(path, f"slide {slide}, column file", fault, remedy)
        _check_patient(path, checked, patients.setdefault(patient, {}))
        cohort.append(checked)
    for column in ("slide", "patient", "site"):
        refuse_alike({row[column]: None for row in cohort}, path, f"column {column}")
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

    ``cohort`` is what ``read_cohort`` returned of the table ``path``. Each patient needs a site
    where folds are split by ``sites``.
    """
    if target not in targets_of(cohort):
        fault = f"only the targets {', '.join(targets_of(cohort)) or '(none)'}"
        raise InputError(path, f"column {target}", fault, "add the column or correct the target")
    known = labels(cohort, target)
    if len(set(known.values())) < 2:
        fault = f"only the label {set(known.values()).pop()}" if known else "no label"
        raise InputError(path, f"column {target}", fault, "label patients with 1 and others with 0")
    by_name = {}
    for row in (row for row in cohort if row["patient"] in known):
        patient = row["patient"]
        if sites and not row["site"]:
            fault = f"nothing, and {patient} is no TCGA barcode that tells it"
            remedy = "name the hospital or laboratory that the slide comes from"
            raise InputError(path, f"slide {row['slide']}, column site", fault, remedy)
        first = {"patient": patient, "site": row["site"], "label": known[patient], "slides": []}
        by_name.setdefault(patient, first)["slides"].append(row["slide"])
    return list(by_name.values())


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
    slide, patient = row["slide"], row["patient"]

    def refuse(column, fault, remedy):
        return InputError(path, f"slide {slide}, column {column}", fault, remedy)

    if not re.fullmatch(_SLIDE, slide):
        remedy = "use letters, digits, dots, _ and -: its features are stored under it"
        raise InputError(path, f"slide {slide or '(empty)'}", f"the name {slide!r}", remedy)
    if not patient:
        raise refuse("patient", "nothing", "name the patient")
    if tissue_source_site(patient) and len(patient) > 12:
        fault = f"{patient}, the barcode of a sample or slide"
        whole = "so that all slides of a patient stay together"
        raise refuse("patient", fault, f"write the patient's, {patient[:12]}, {whole}")
    if tissue_source_site(slide) and tissue_source_site(patient) and slide[:12] != patient:
        fault = f"{patient}, though the slide's barcode says {slide[:12]}"
        raise refuse("patient", fault, "correct one of them")
    if not row["file"]:
        raise refuse("file", "nothing", "name the slide's image or .h5 file")
    known = {
        "slide": slide,
        "patient": patient,
        "site": row.get("site") or tissue_source_site(patient),
        "file": row["file"],
        "um_per_px": _um_per_px(row.get("um_per_px", ""), refuse),
        "notes": row.get("notes", ""),
    }
    for target in (column for column in row if column not in COLUMNS):
        if row[target] not in ("0", "1", ""):
            remedy = "write 1 (mutated, or unstable), 0 (not), or nothing where it isn't known"
            raise refuse(target, repr(row[target]), remedy)
        known[target] = int(row[target]) if row[target] else None
    return known


def _um_per_px(text: str, refuse) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not UM_PER_PX[0] <= value <= UM_PER_PX[1]:
        remedy = f"give µm per pixel of the full resolution, {UM_PER_PX[0]:g} to {UM_PER_PX[1]:g}"
        raise refuse("um_per_px", repr(text), f"{remedy}, or nothing where the file tells it")
    return value


def _check_patient(path, row: Mapping, known: dict) -> None:
    """Hold a slide against what the patient's earlier slides told; add to it what is new."""
    for column, value in row.items():
        if (column != "site" and column in COLUMNS) or value in (None, ""):
            continue
        if known.setdefault(column, value) != value:
            fault = f"{value}, where another slide of patient {row['patient']} has {known[column]}"
            remedy = f"give all slides of a patient one {'site' if column == 'site' else 'label'}"
            raise InputError(path, f"slide {row['slide']}, column {column}", fault, remedy)


def read_cohorts(config: Mapping) -> dict[str, list[dict]]:
    """The rows of each cohort that is given by a table; none for a table that is still empty."""
    return {
        name: read_cohort(cohort["table"], may_be_empty=True)
        for name, cohort in config["cohorts"].items()
        if cohort["table"]
    }


def check_slide_simulation(place: str, knobs: Mapping, source) -> None:
    """Check what a schema can't in the knobs of a simulated cohort, at ``place`` of ``source``."""
    if knobs["sites"] > knobs["patients"]:
        fault = f"{knobs['sites']} for {knobs['patients']} patients"
        raise InputError(source, f"{place}.sites", fault, "give each site a patient at least")
    for name, target in knobs["targets"].items():
        if name in COLUMNS:
            remedy = f"choose another: {', '.join(COLUMNS)} are columns of the table"
            raise InputError(source, f"{place}.targets", f"the name {name}", remedy)
        low, high = (target["prevalence"] + sign * target["site_spread"] for sign in (-1, 1))
        if not 0 <= low <= high <= 1:
            raise InputError(
                source,
                f"{place}.targets.{name}.site_spread",
                f"{target['site_spread']:g} around a prevalence of {target['prevalence']:g}",
                "choose it so that no site leaves the range from 0 to 1",
            )
