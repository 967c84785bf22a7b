"""Cohort tables filled from the public portals: new rows below those that the user has written."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pairscape.acquire import portals
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.tsv import read_tsv
from pairscape.slides import cohorts

PICTURES = (".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".dcm", cohorts.FEATURE_SUFFIX)
UNKNOWN = ("", "NA", "N/A", "nan", "Not Available", "Unknown", "Indeterminate")


def fetch_labels(
    portal: portals.Asked, study: str, wanted: Mapping[str, Mapping]
) -> dict[str, dict[str, int]]:
    """The label of each patient by target, where the study in cBioPortal tells it.

    ``wanted`` says of each target what it is (``fetch.labels`` of the configuration).
    """
    labels = {}
    for target, rule in wanted.items():
        if "gene" in rule:
            found = portals.mutated_patients(portal, study, rule["gene"])
            labels[target] = {patient: int(changed) for patient, changed in found.items()}
            continue
        values = portals.attribute_values(portal, study, rule["attribute"])
        known = {patient: _label(rule, told) for patient, told in values.items()}
        labels[target] = {patient: label for patient, label in known.items() if label is not None}
        unread = sorted({v for told in values.values() for v in told if _one(rule, v) is None})
        unread = [value for value in unread if value not in UNKNOWN]
        if unread:
            words = "%s of %s: no label from the values %s: add them to positive or negative"
            log.warning(words, rule["attribute"], study, ", ".join(unread[:8]))
    return labels


def _label(rule: Mapping, values: Sequence[str]) -> int | None:
    """1 where any of a patient's samples is positive."""
    known = [label for value in values if (label := _one(rule, value)) is not None]
    return max(known, default=None)


def _one(rule: Mapping, value: str) -> int | None:
    if "least" not in rule:
        return 1 if value in rule["positive"] else 0 if value in rule["negative"] else None
    try:
        number = float(value)
    except ValueError:
        return None
    return None if number != number else int(number >= rule["least"])


def rows_of_gdc(cohort: str, slides: Sequence[portals.GdcSlide], root) -> list[dict]:
    """A row for each slide, its file where gdc-client puts it, or where it lies already."""
    rows = []
    for slide in slides:
        places = [f"{cohort}/{slide.file_id}/{slide.name}", f"{cohort}/{slide.name}", slide.name]
        file = next((place for place in places if Path(root, place).is_file()), places[0])
        rows.append(
            {"slide": PurePosixPath(slide.name).stem, "patient": slide.patient, "file": file}
        )
    return rows


def rows_of_folder(cohort: str, patients: Sequence[str], root) -> list[dict]:
    """A row for each slide in the cohort's folder whose name begins with a patient of the study."""
    folder = Path(root, cohort)
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    rows = []
    for path in found:
        begins = [
            one for one in patients if re.match(rf"{re.escape(one)}(?![A-Za-z0-9])", path.name)
        ]
        if begins:
            file = path.relative_to(root).as_posix()
            rows.append({"slide": path.stem, "patient": max(begins, key=len), "file": file})
    if not rows:
        held = f"{len(found)} slides, none of them named after one of {len(patients)} patients"
        remedy = (
            "put the slides there, each named after its patient as in the study (docs/slides.md)"
        )
        raise InputError(folder, "slides", held, remedy)
    return rows


def add_rows(
    path, rows: Sequence[Mapping], labels: Mapping[str, Mapping[str, int]]
) -> tuple[int, int]:
    """Add the rows that a cohort's table doesn't have yet; gives how many it had, and has got.

    What stands in the table stays byte for byte, remarks too. Where it tells the label or the site
    of a patient, new rows of that patient follow it.
    """
    kept = cohorts.read_cohort(path, may_be_empty=True)
    text = Path(path).read_bytes().decode("utf-8-sig")
    ending = "\r\n" if "\r\n" in text else "\n"
    names = _header(path, labels)
    of_patient = {"site", *cohorts.targets_of([dict.fromkeys(names)])}
    told = {
        (row["patient"], name): row[name]
        for row in kept
        for name in of_patient & {*row}
        if row[name] not in (None, "")
    }
    new = []
    for row in rows:
        if any(_is_same(row, one) for one in kept):
            continue
        patient = row["patient"]
        filled = {**dict.fromkeys(names, ""), **row}
        filled |= {t: of[patient] for t, of in labels.items() if patient in of}
        filled |= {name: told[patient, name] for name in names if (patient, name) in told}
        new.append("\t".join(str(filled[name]) for name in names))
    if new:
        lines = text if text.endswith("\n") else text + ending
        with files.atomic_path(path) as temporary:
            temporary.write_bytes((lines + ending.join([*new, ""])).encode())
            cohorts.read_cohort(temporary)
    return len(kept), len(new)


def _header(path, labels: Mapping) -> list[str]:
    lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    header = next((line for line in lines if line and not line.startswith("#")), "")
    names = [name.strip() for name in header.split("\t")]
    read_tsv(path, [*cohorts.COLUMNS[:2], "file", *labels], remark="#")  # tells what lacks
    return names


def _is_same(row: Mapping, one: Mapping) -> bool:
    """Whether a row of the table is the slide of a new row, under its barcode or its file's name."""
    slide, name = row["slide"], PurePosixPath(one["file"]).name
    return (
        slide == one["slide"]
        or slide.startswith(f"{one['slide']}.")
        or name
        in (
            PurePosixPath(row["file"]).name,
            f"{slide}{cohorts.FEATURE_SUFFIX}",
        )
    )
