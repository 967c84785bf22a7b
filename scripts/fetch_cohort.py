"""Fill a cohort's table from the public portals: slides from the GDC, labels from cBioPortal.

IN   the cohort's table, which may be empty but for its header, and the folder of the slides
OUT  rows in that table below those it has, which stay as they are; the receipt: what was asked, and how
     many labels of each kind came; the manifest: the slides of the GDC, for gdc-client

Options: cohort (its name), fetch (its part of the configuration), portals (addresses), root (the folder
of the slides). Without projects of the GDC the slides are those in <root>/<cohort> that are named after
a patient of the study.
"""

import dataclasses
from collections import Counter

from pairscape.acquire import portals
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.tsv import write_tsv
from pairscape.jobs import program
from pairscape.slides import fetched_cohorts

RESULT_VERSION = 1
MANIFEST = {"id": "file_id", "filename": "name", "md5": "md5", "size": "size", "state": "state"}


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        table="the cohort's table, which gets rows",
        receipt=program.Output("JSON to write"),
        manifest=program.Output("manifest.tsv to write, as gdc-client takes it"),
    )
    cohort, fetch, root = (args.options[key] for key in ("cohort", "fetch", "root"))
    gdc, cbioportal = (portals.Asked(args.options["portals"][key]) for key in ("gdc", "cbioportal"))
    labels = fetched_cohorts.fetch_labels(cbioportal, fetch["study"], fetch["labels"])
    slides = portals.diagnostic_slides(gdc, fetch["projects"]) if fetch["projects"] else []
    if fetch["projects"] and not slides:
        remedy = f"correct projects in fetch of the cohort {cohort}"
        told = f"no diagnostic slide of {', '.join(fetch['projects'])}"
        raise InputError(gdc.address, "files", told, remedy)
    if slides:
        rows = fetched_cohorts.rows_of_gdc(cohort, slides, root)
    else:
        patients = set(portals.patients_of_samples(cbioportal, fetch["study"]).values())
        rows = fetched_cohorts.rows_of_folder(cohort, sorted(patients), root)
    kept, added = fetched_cohorts.add_rows(args.table, rows, labels)
    listed = [dataclasses.asdict(slide) for slide in slides]
    entries = [{column: slide[key] for column, key in MANIFEST.items()} for slide in listed]
    write_tsv(args.manifest, entries, list(MANIFEST))
    patients = {row["patient"] for row in rows}
    counts = {
        target: Counter(str(of.get(patient, "unknown")) for patient in patients)
        for target, of in labels.items()
    }
    asked = {"gdc": gdc.address, "cbioportal": cbioportal.address}
    receipt = {"cohort": cohort, "portals": asked, "fetch": fetch, "rows_kept": kept}
    receipt |= {"rows_added": added, "slides": len(rows), "patients": len(patients)}
    files.write_json(args.receipt, receipt | {"labels": {k: dict(v) for k, v in counts.items()}})
    said = "; ".join(
        f"{target}: {of['1']} of {of['0'] + of['1']} positive, {of['unknown']} unknown"
        for target, of in counts.items()
    )
    words = "%s: %d rows kept, %d added, of %d slides of %d patients; %s"
    log.info(words, args.table, kept, added, len(rows), len(patients), said)


if __name__ == "__main__":
    program.run(main)
