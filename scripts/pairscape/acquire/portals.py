"""Asking the GDC and cBioPortal over their REST interfaces: slides, and what is known of patients."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from urllib.parse import quote

from pairscape.acquire import downloads
from pairscape.core.errors import InputError
from pairscape.core.logs import log

PAGE = 1000  # files that the GDC is asked for at a time
# Words of a mutation's type that leave the protein as it is.
SILENT = frozenset(
    ("Silent", "Intron", "IGR", "RNA", "3'UTR", "5'UTR", "3'Flank", "5'Flank", "lincRNA")
)
_FIELDS = "file_id,file_name,file_size,md5sum,state,cases.submitter_id"


@dataclass(frozen=True)
class GdcSlide:
    """A diagnostic slide in the GDC; ``patient`` is its case's submitter_id."""

    patient: str
    name: str
    file_id: str
    md5: str
    size: int
    state: str


@dataclass(frozen=True)
class Asked:
    """How a portal is asked: its address, and how to wait before it is asked again."""

    address: str
    sleep: Callable[[float], None] = field(default=time.sleep, compare=False)

    def json(self, path: str, body=None):
        """The answer to a path as JSON; POST with ``body``. A busy portal is asked again."""
        url = f"{self.address.rstrip('/')}/{path}"
        shown = downloads.without_query(url)
        downloads.check_address(url)
        data = None if body is None else json.dumps(body).encode()
        headers = {"Accept": "application/json"}
        headers |= {"Content-Type": "application/json"} if data else {}
        for failures in range(downloads.TRIES):
            try:
                with downloads.ask(url, headers, {}, body=data) as response:
                    return json.loads(response.read())
            except (downloads.TryAgainError, downloads.RefusedError) as error:
                said, final = str(error), isinstance(error, downloads.RefusedError)
            except (OSError, HTTPException) as error:
                said, final = downloads.what_failed(error), False
            except ValueError:
                said, final = "an answer that is no JSON", True
            if final or failures + 1 == downloads.TRIES:
                remedy = (
                    "run it where there is a network, such as a login node, or correct portals "
                    "or the cohort's fetch in the configuration"
                )
                raise InputError(shown, "answer", said, remedy) from None
            wait_s = downloads.FIRST_WAIT_S * 2**failures
            log.warning("%s: %s; trying again in %g s", shown, said, wait_s)
            self.sleep(wait_s)
        raise AssertionError("unreachable")

    def field(self, path: str, answer, *keys):
        """A field of an answer, however deep; one of another shape is refused."""
        for key in keys:
            try:
                answer = answer[key]
            except (KeyError, IndexError, TypeError):
                shown = downloads.without_query(f"{self.address.rstrip('/')}/{path}")
                remedy = (
                    "this version doesn't know that form: fill the table by hand (docs/slides.md)"
                )
                where = ".".join(map(str, keys))
                raise InputError(shown, where, "nothing", remedy) from None
        return answer


def diagnostic_slides(gdc: Asked, projects: Sequence[str]) -> list[GdcSlide]:
    """The open diagnostic slides of projects in the GDC, by their names."""
    wanted = {
        "cases.project.project_id": list(projects),
        "data_type": ["Slide Image"],
        "experimental_strategy": ["Diagnostic Slide"],
        "access": ["open"],
    }
    filters = {
        "op": "and",
        "content": [
            {"op": "in", "content": {"field": name, "value": value}}
            for name, value in wanted.items()
        ],
    }
    slides, total = [], 1
    while len(slides) < total:
        body = {"filters": filters, "fields": _FIELDS, "format": "JSON"}
        body |= {"size": PAGE, "from": len(slides), "sort": "file_name:asc"}
        answer = gdc.json("files", body)
        total = gdc.field("files", answer, "data", "pagination", "total")
        hits = gdc.field("files", answer, "data", "hits")
        for hit in hits:
            patient = gdc.field("files", hit, "cases", 0, "submitter_id")
            name, file_id = (gdc.field("files", hit, key) for key in ("file_name", "file_id"))
            others = hit.get("md5sum", ""), hit.get("file_size", 0), hit.get("state", "")
            slides.append(GdcSlide(patient, name, file_id, *others))
        if not hits:
            break
    return sorted(slides, key=lambda slide: slide.name)


def patients_of_samples(portal: Asked, study: str) -> dict[str, str]:
    """The patient of each sample of a study in cBioPortal."""
    path = f"studies/{quote(study)}/samples"
    rows = portal.json(f"{path}?projection=SUMMARY")
    return {
        portal.field(path, row, "sampleId"): portal.field(path, row, "patientId") for row in rows
    }


def attribute_values(portal: Asked, study: str, attribute: str) -> dict[str, list[str]]:
    """The values of a clinical attribute by patient: of the patient, or of their samples."""
    path = f"studies/{quote(study)}/clinical-attributes/{quote(attribute)}"
    of_patient = portal.field(path, portal.json(path), "patientAttribute")
    kind = "PATIENT" if of_patient else "SAMPLE"
    path = f"studies/{quote(study)}/clinical-data"
    query = f"?clinicalDataType={kind}&attributeId={quote(attribute)}&projection=SUMMARY"
    values: dict[str, list[str]] = {}
    for row in portal.json(path + query):
        patient = portal.field(path, row, "patientId")
        values.setdefault(patient, []).append(str(portal.field(path, row, "value")))
    return values


def mutated_patients(portal: Asked, study: str, gene: str) -> dict[str, bool]:
    """Of each patient with a sequenced sample, whether a somatic mutation changes the protein."""
    path = f"genes/{quote(gene)}"
    entrez = portal.field(path, portal.json(path), "entrezGeneId")
    patients = patients_of_samples(portal, study)
    listed = f"{study}_sequenced"
    sequenced = portal.json(f"sample-lists/{quote(listed)}/sample-ids")
    path = f"molecular-profiles/{quote(study)}_mutations/mutations/fetch"
    body = {"entrezGeneIds": [entrez], "sampleListId": listed}
    found = portal.json(f"{path}?projection=SUMMARY", body)
    changed = {
        portal.field(path, row, "patientId")
        for row in found
        if row.get("mutationType") not in SILENT
        and str(row.get("mutationStatus", "")).lower() != "germline"
    }
    return {
        patients[sample]: patients[sample] in changed for sample in sequenced if sample in patients
    }
