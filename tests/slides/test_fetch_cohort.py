"""Cohort tables filled from the GDC and cBioPortal: a server of ours with answers of their form."""

import http.server
import json
import re
import threading
from urllib.parse import parse_qs, urlsplit

import plans
import pytest
import yaml
from conftest import ROOT

import fetch_cohort
from pairscape.acquire import downloads, portals
from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv
from pairscape.plan.reading import read_plan
from pairscape.slides import cohorts

STUDY = "coadread_tcga_pan_can_atlas_2018"
PATIENTS = ["TCGA-3L-AA1B", "TCGA-4N-A93T", "TCGA-AA-3488", "TCGA-AA-3516", "TCGA-AA-9999"]
UUIDS = [f"{i}{i}{i}{i}AAAA" for i in range(5)]
NAMES = [f"{p}-01Z-00-DX1.{u}.svs" for p, u in zip(PATIENTS, UUIDS, strict=True)]
MSI = ["0.4", "10", "31.5", "NA", None]  # None: cBioPortal has nothing of this patient
FETCH = {
    "projects": ["TCGA-COAD", "TCGA-READ"],
    "study": STUDY,
    "labels": {
        "MSI": {"attribute": "MSI_SENSOR_SCORE", "least": 10},
        "BRAF": {"gene": "BRAF"},
        "KRAS": {"gene": "KRAS"},
    },
}
HEAD = "slide\tpatient\tsite\tfile\tum_per_px\tnotes\tMSI\tBRAF\tKRAS\n# a remark\twith a tab\n"


def gdc_hit(i: int) -> dict:
    """A file as the GDC's endpoint `files` lists it with the fields that are asked for."""
    return {
        "id": f"id-{i}",
        "file_id": f"id-{i}",
        "file_name": NAMES[i],
        "file_size": 1000 + i,
        "md5sum": f"{i}" * 32,
        "state": "released",
        "cases": [{"submitter_id": PATIENTS[i]}],
    }


def mutation(patient: str, entrez: int, kind="Missense_Mutation", status="") -> dict:
    """A mutation as cBioPortal's fetch endpoint gives it in the projection SUMMARY."""
    return {
        "uniqueSampleKey": "key",
        "molecularProfileId": f"{STUDY}_mutations",
        "sampleId": f"{patient}-01",
        "patientId": patient,
        "entrezGeneId": entrez,
        "studyId": STUDY,
        "mutationStatus": status,
        "mutationType": kind,
        "proteinChange": "V600E",
    }


class Portal(http.server.BaseHTTPRequestHandler):
    """Both portals, by the beginning of the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.requests.append((self.path, body))
        if self.server.faults:
            return self.answer(self.server.faults.pop(0), b"{}")
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        found = (
            self.server.gdc(body) if path == "/gdc/files" else self.cbioportal(path, query, body)
        )
        if found is None:
            return self.answer(404, b'{"message":"not found"}')
        text = found if isinstance(found, bytes) else json.dumps(found).encode()
        return self.answer(200, text)

    do_POST = do_GET

    def cbioportal(self, path, query, body):
        answers = self.server.answers
        if path.endswith("/clinical-data"):
            kind, attribute = query["clinicalDataType"][0], query["attributeId"][0]
            return [
                row
                for row in answers["clinical"]
                if (row["kind"], row["name"]) == (kind, attribute)
            ]
        if path.endswith("/mutations/fetch"):
            assert body["sampleListId"] == f"{STUDY}_sequenced"
            return [m for m in answers["mutations"] if m["entrezGeneId"] in body["entrezGeneIds"]]
        return answers.get(path.removeprefix("/cbio/"))

    def answer(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def pages(body):
    """The GDC's answer to a search: hits from `from` on, at most two at a time."""
    hits = [gdc_hit(i) for i in range(5)][body["from"] : body["from"] + min(body["size"], 2)]
    found = {"count": len(hits), "total": 5, "size": body["size"], "from": body["from"]}
    return {"data": {"hits": hits, "pagination": found}, "warnings": {}}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.0)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Portal) as server:
        server.requests, server.faults, server.gdc = [], [], pages
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        samples = [{"sampleId": f"{p}-01", "patientId": p, "studyId": STUDY} for p in PATIENTS[:4]]
        of_study = f"studies/{STUDY}"
        server.answers = {
            f"{of_study}/samples": samples,
            f"{of_study}/clinical-attributes/MSI_SENSOR_SCORE": {
                "clinicalAttributeId": "MSI_SENSOR_SCORE",
                "datatype": "NUMBER",
                "patientAttribute": False,
            },
            "clinical": [
                {"kind": "SAMPLE", "name": "MSI_SENSOR_SCORE", "patientId": p, "value": value}
                for p, value in zip(PATIENTS, MSI, strict=True)
                if value
            ],
            f"sample-lists/{STUDY}_sequenced/sample-ids": [f"{p}-01" for p in PATIENTS[:3]],
            "genes/BRAF": {"entrezGeneId": 673, "hugoGeneSymbol": "BRAF", "type": "protein-coding"},
            "genes/KRAS": {
                "entrezGeneId": 3845,
                "hugoGeneSymbol": "KRAS",
                "type": "protein-coding",
            },
            "mutations": [
                mutation(PATIENTS[1], 673),
                mutation(PATIENTS[0], 673, "Silent"),
                mutation(PATIENTS[2], 673, status="GERMLINE"),
                mutation(PATIENTS[2], 3845, "Frame_Shift_Del"),
            ],
        }
        threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()
        yield server
        server.shutdown()


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "cohort.tsv"
    path.write_text(HEAD)
    return path


def fill(server, table, cohort="tcga_crc", **changes) -> dict:
    folder = table.parent
    addresses = {"gdc": f"{server.url}/gdc/", "cbioportal": f"{server.url}/cbio/"}
    options = {"cohort": cohort, "fetch": FETCH | changes, "portals": addresses}
    options["root"] = str(folder / "slides")
    flags = [f"--table={table}", f"--receipt={folder / 'r.json'}", f"--manifest={folder / 'm.tsv'}"]
    fetch_cohort.main([*flags, "--options", json.dumps(options)])
    return json.loads((folder / "r.json").read_text())


def labels(table) -> dict:
    return {
        row["patient"]: (row["MSI"], row["BRAF"], row["KRAS"]) for row in cohorts.read_cohort(table)
    }


def test_an_empty_table_gets_a_row_for_each_slide_with_its_labels(server, table):
    receipt = fill(server, table)
    assert table.read_text().startswith(HEAD)
    rows = cohorts.read_cohort(table)
    assert [row["slide"] for row in rows] == [name.removesuffix(".svs") for name in NAMES]
    assert [row["site"] for row in rows] == ["3L", "4N", "AA", "AA", "AA"]
    assert rows[0]["file"] == f"tcga_crc/id-0/{NAMES[0]}"
    assert labels(table) == {
        PATIENTS[0]: (0, 0, 0),  # a silent mutation is none
        PATIENTS[1]: (1, 1, 0),  # from 10 on
        PATIENTS[2]: (1, 0, 1),  # nor is one of the germline
        PATIENTS[3]: (None, None, None),  # not sequenced, its score not known
        PATIENTS[4]: (None, None, None),  # not in the study
    }
    assert receipt["labels"]["MSI"] == {"0": 1, "1": 2, "unknown": 2}
    assert (receipt["rows_kept"], receipt["rows_added"]) == (0, 5)
    manifest = read_tsv(table.parent / "m.tsv")
    assert list(manifest[0]) == ["id", "filename", "md5", "size", "state"]
    assert manifest[3] == {"id": "id-3", "filename": NAMES[3], "md5": "3" * 32} | {
        "size": "1003",
        "state": "released",
    }
    asked = [body for path, body in server.requests if path == "/gdc/files"]
    assert [body["from"] for body in asked] == [0, 2, 4]
    fields = {
        part["content"]["field"]: part["content"]["value"]
        for part in asked[0]["filters"]["content"]
    }
    assert fields["cases.project.project_id"] == ["TCGA-COAD", "TCGA-READ"]
    assert fields["experimental_strategy"] == ["Diagnostic Slide"]


def test_rows_of_the_user_stay_byte_for_byte_and_what_they_say_holds(server, table):
    mine = HEAD.replace("\n", "\r\n") + "\r\n".join(
        (
            f"{PATIENTS[0]}-01Z-00-DX1\t{PATIENTS[0]}\tKiel\tmine/a.svs\t0.25\tlarge\t1\t\t",
            f"other\t{PATIENTS[1]}\t\tfeatures/{NAMES[1].removesuffix('.svs')}.h5\t\t\t0\t\t1",
            f"second\t{PATIENTS[2]}\tKiel\tb.svs\t\t\t0\t\t",
        )
    )
    table.write_bytes(mine.encode())  # without an end of its last line
    receipt = fill(server, table)
    text = table.read_bytes().decode()
    assert text.startswith(mine + "\r\n")
    assert text.count("\n") == text.count("\r\n")
    assert (receipt["rows_kept"], receipt["rows_added"]) == (3, 3)
    rows = {row["slide"]: row for row in cohorts.read_cohort(table)}
    assert not [
        name for name in rows if name.startswith((f"{PATIENTS[0]}-01Z-00-DX1.", PATIENTS[1]))
    ]
    third = rows[NAMES[2].removesuffix(".svs")]
    assert (third["site"], third["MSI"], third["KRAS"]) == (
        "Kiel",
        0,
        1,
    )  # the user's MSI, our KRAS
    assert fill(server, table)["rows_added"] == 0
    assert table.read_bytes().decode() == text


def test_a_slide_that_lies_there_is_named_where_it_lies(server, table):
    (table.parent / "slides" / "tcga_crc").mkdir(parents=True)
    (table.parent / "slides" / "tcga_crc" / NAMES[1]).write_bytes(b"")
    (table.parent / "slides" / NAMES[2]).write_bytes(b"")
    fill(server, table)
    found = [row["file"] for row in cohorts.read_cohort(table)]
    assert found[1:3] == [f"tcga_crc/{NAMES[1]}", NAMES[2]]


CPTAC = {"projects": [], "labels": {"MSI": {"attribute": "MSI_STATUS"}}}
CPTAC["labels"]["MSI"] |= {"positive": ["MSI-H"], "negative": ["MSS", "MSI-L"]}


def test_slides_that_the_user_has_get_rows_by_their_patients_names(server, table, capsys):
    server.answers[f"studies/{STUDY}/samples"] = [
        {"sampleId": name, "patientId": name} for name in ("01CO001", "01CO0010", "05CO002")
    ]
    attribute = {"clinicalAttributeId": "MSI_STATUS", "patientAttribute": True}
    server.answers[f"studies/{STUDY}/clinical-attributes/MSI_STATUS"] = attribute
    server.answers["clinical"] = [
        {"kind": "PATIENT", "name": "MSI_STATUS", "patientId": patient, "value": value}
        for patient, value in (("01CO001", "MSI-H"), ("01CO0010", "MSS"), ("05CO002", "odd"))
    ]
    folder = table.parent / "slides" / "cptac_crc"
    folder.mkdir(parents=True)
    names = ["01CO001-aa11.svs", "01CO0010-21.svs", "05CO002.h5", "99CO9-1.svs", "05CO002.txt"]
    for name in names:
        (folder / name).write_bytes(b"")
    fill(server, table, "cptac_crc", **CPTAC)
    rows = cohorts.read_cohort(table)
    assert [(row["patient"], row["file"], row["MSI"]) for row in rows] == [
        ("01CO001", "cptac_crc/01CO001-aa11.svs", 1),
        ("01CO0010", "cptac_crc/01CO0010-21.svs", 0),
        ("05CO002", "cptac_crc/05CO002.h5", None),
    ]
    assert (
        "no label from the values odd: add them to positive or negative" in capsys.readouterr().err
    )
    assert read_tsv(table.parent / "m.tsv") == []


def refusal(server, table, *args, **changes) -> str:
    before = table.read_bytes()
    with pytest.raises(InputError) as error:
        fill(server, table, *args, **changes)
    assert "\n" not in str(error.value)
    assert table.read_bytes() == before
    assert not (table.parent / "r.json").exists()
    return str(error.value)


def test_what_a_portal_or_a_table_lacks_is_one_line_and_changes_nothing(server, table):
    said = refusal(server, table, study="none")
    assert (
        "/cbio/studies/none/clinical-attributes/MSI_SENSOR_SCORE: answer: found status 404" in said
    )
    assert "or correct portals or the cohort's fetch" in said
    said = refusal(server, table, "cptac_crc", projects=[])
    assert (
        "slides: found 0 slides, none of them named after one of 4 patients; put the slides" in said
    )
    server.gdc = lambda body: {"data": {"hits": [], "pagination": {"total": 0}}}
    assert "no diagnostic slide of TCGA-COAD, TCGA-READ; correct projects" in refusal(server, table)
    server.gdc = lambda body: {"data": {"hits": [{"file_name": "a"}], "pagination": {"total": 1}}}
    assert "/gdc/files: cases.0.submitter_id: found nothing" in refusal(server, table)
    server.gdc = lambda body: b"<html>"
    assert "/gdc/files: answer: found an answer that is no JSON" in refusal(server, table)
    server.gdc = pages
    table.write_text("slide\tpatient\tsite\tfile\tum_per_px\tnotes\tMSI\tBRAF\n")
    assert "column KRAS: found only slide" in refusal(server, table)


def test_a_busy_portal_is_asked_again_and_a_broken_one_given_up(server, table):
    server.faults = [503, 429, 500]
    assert fill(server, table)["rows_added"] == 5
    (table.parent / "r.json").unlink()
    server.faults = [503] * 99
    assert "answer: found status 503" in refusal(server, table)
    assert len(server.faults) == 99 - downloads.TRIES


def test_the_shipped_cohorts_are_fetched_into_the_columns_that_their_tables_have(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    plan = read_plan(config, "config/config.yaml")
    assert plan.config["portals"]["gdc"] == "https://api.gdc.cancer.gov/"
    for cohort in plan.cohorts.values():
        header = (ROOT / cohort.table).read_text().splitlines()[0].split("\t")
        assert list(cohort.fetch["labels"]) == header[len(cohorts.COLUMNS) :]
    config["cohorts"]["tcga_crc"]["fetch"]["labels"]["MSI"] = {"attribute": "MSI", "most": 3}
    with pytest.raises(InputError, match=r"cohorts\.tcga_crc\.fetch\.labels\.MSI"):
        read_plan(config, "config/config.yaml")


def test_the_tables_are_filled_when_asked_for_and_by_nothing_else(checkout, full_plan):
    counts, said = plans.plan(checkout, "fetch_cohorts", "--printshellcmds")
    assert counts == {"fetch_cohort": 2, "fetch_cohorts": 1, "total": 3}
    assert "--table config/cohorts/tcga_crc.tsv" in said.replace("'", "")
    assert "fetch_cohort" not in full_plan[0]


def test_every_word_of_the_docs_table_is_the_shipped_definition():
    docs = (ROOT / "docs/downloads.md").read_text().partition("## Cohorts")[2]
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    for cohort in config["cohorts"].values():
        assert f"`{cohort['fetch']['study']}`" in docs
        for target, rule in cohort["fetch"]["labels"].items():
            assert re.search(rf"^\| (\w+, )?{target}\b", docs, re.M)
            for word in (
                rule.get("positive", []) + rule.get("negative", []) + [rule.get("attribute")]
            ):
                assert word is None or f"`{word}`" in docs
    for word in portals.SILENT:
        assert f"`{word}`" in docs
