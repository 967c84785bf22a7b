"""Cohort tables: what is read from them, and the faults that are told in one line."""

import pytest
from conftest import ROOT

from pairscape.core.errors import InputError
from pairscape.slides import cohorts

HEAD = "slide\tpatient\tsite\tfile\tum_per_px\tnotes\tMSI\tKRAS"


def table(tmp_path, *lines, head=HEAD):
    path = tmp_path / "cohort.tsv"
    path.write_text("\n".join([head, *lines]) + "\n")
    return path


def test_a_table_is_read_with_numbers_and_unknown_labels(tmp_path):
    path = table(
        tmp_path,
        "# a remark\twith tabs",
        "a-1\tp1\tA\tx/a.svs\t0.25\tlarge\t1\t",
        "",
        "b.2\tp2\tB\t/abs/b.h5\t\t\t0\t1",
    )
    rows = cohorts.read_cohort(path)
    assert rows == [
        {"slide": "a-1", "patient": "p1", "site": "A", "file": "x/a.svs", "um_per_px": 0.25}
        | {"notes": "large", "MSI": 1, "KRAS": None},
        {"slide": "b.2", "patient": "p2", "site": "B", "file": "/abs/b.h5", "um_per_px": None}
        | {"notes": "", "MSI": 0, "KRAS": 1},
    ]
    assert cohorts.targets_of(rows) == ["MSI", "KRAS"]
    assert cohorts.labels(rows, "MSI") == {"p1": 1, "p2": 0}
    assert cohorts.labels(rows, "KRAS") == {"p2": 1}
    assert [str(cohorts.slide_file("slides", row)) for row in rows] == [
        "slides/x/a.svs",
        "/abs/b.h5",
    ]
    assert [cohorts.is_features(row) for row in rows] == [False, True]


def test_the_site_is_read_from_the_tcga_barcode_where_the_table_leaves_it_open(tmp_path):
    slides = ["TCGA-3L-AA1B-01Z-00-DX1.8923A151", "TCGA-AA-3516-01Z-00-DX1", "TCGA-D5-6540-DX1"]
    path = table(
        tmp_path,
        f"{slides[0]}\tTCGA-3L-AA1B\t\ta.svs\t\t\t1\t1",
        f"{slides[1]}\tTCGA-AA-3516\tKiel\tb.svs\t\t\t0\t1",
        f"{slides[2]}\tTCGA-D5-6540\t\tc.svs\t\t\t0\t0",
    )
    assert [row["site"] for row in cohorts.read_cohort(path)] == ["3L", "Kiel", "D5"]


@pytest.mark.parametrize(
    ("barcode", "site"),
    [
        ("TCGA-3L-AA1B", "3L"),
        ("TCGA-3L-AA1B-01Z", "3L"),
        ("TCGA-3L-AA1BC", ""),
        ("tcga-3l-aa1b", ""),
        ("C3L-00016", ""),
    ],
)
def test_only_a_tcga_barcode_tells_a_site(barcode, site):
    assert cohorts.tissue_source_site(barcode) == site


def test_all_slides_of_a_patient_count_and_one_of_them_may_tell_site_and_label(tmp_path):
    path = table(
        tmp_path,
        "a1\tp1\t\ta1.svs\t\t\t\t",
        "b1\tp2\tB\tb1.svs\t\t\t0\t",
        "a2\tp1\tA\ta2.svs\t\t\t1\t",
    )
    rows = cohorts.read_cohort(path)
    assert [row["site"] for row in rows] == ["A", "B", "A"]
    assert cohorts.labelled_patients(rows, "MSI", path) == [
        {"patient": "p1", "site": "A", "label": 1, "slides": ["a1", "a2"]},
        {"patient": "p2", "site": "B", "label": 0, "slides": ["b1"]},
    ]


GOOD = "a\tp1\tA\ta.svs\t\t\t1\t0"
LONG = "TCGA-3L-AA1B-01Z-00-DX1"


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "table: found no slide"),
        (["# only remarks"], "table: found no slide"),
        (["a b\tp\tA\ta.svs\t\t\t1\t0"], "slide a b: found the name 'a b'"),
        (["../a\tp\tA\ta.svs\t\t\t1\t0"], "slide ../a: found the name"),
        ([".a\tp\tA\ta.svs\t\t\t1\t0"], "slide .a: found the name"),
        (["a\t\tA\ta.svs\t\t\t1\t0"], "slide a, column patient: found nothing"),
        (["a\tp\tA\t\t\t\t1\t0"], "slide a, column file: found nothing"),
        ([GOOD, "a\tp2\tA\tb.svs\t\t\t1\t0"], "slide a: found a second row"),
        ([GOOD, "b\tp2\tA\ta.svs\t\t\t1\t0"], "slide b, column file: found a.svs, the file of a"),
        (["a\tp\tA\ta.svs\t-1\t\t1\t0"], "column um_per_px: found '-1'"),
        (["a\tp\tA\ta.svs\t250\t\t1\t0"], "column um_per_px: found '250'"),
        (["a\tp\tA\ta.svs\tnan\t\t1\t0"], "column um_per_px: found 'nan'"),
        (["a\tp\tA\ta.svs\t\t\tMSI-H\t0"], "column MSI: found 'MSI-H'; write 1 (mutated"),
        (
            [GOOD, "b\tp1\tA\tb.svs\t\t\t0\t0"],
            "column MSI: found 0, where another slide of patient",
        ),
        ([GOOD, "b\tp1\tB\tb.svs\t\t\t1\t0"], "column site: found B, where another slide of pa"),
        ([f"{LONG}\t{LONG}\t\ta.svs\t\t\t1\t0"], "write the patient's, TCGA-3L-AA1B, so that"),
        ([f"{LONG}\tTCGA-3L-AA1C\t\ta.svs\t\t\t1\t0"], "the slide's barcode says TCGA-3L-AA1B"),
        ([GOOD, "# remark", "b\tp2"], "line 4: found a number of fields"),
    ],
)
def test_a_fault_is_told_in_one_line(tmp_path, lines, told):
    path = table(tmp_path, *lines)
    with pytest.raises(InputError) as caught:
        cohorts.read_cohort(path)
    assert told in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        (HEAD.replace("patient", "case"), "column patient: found only slide, case"),
        (HEAD.replace("MSI", "MSI status"), "header: found the column 'MSI status'"),
        (HEAD.replace("KRAS", "MSI"), "header: found a repeated column"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path, head, told):
    with pytest.raises(InputError, match=told):
        cohorts.read_cohort(table(tmp_path, GOOD, head=head))


def test_a_target_needs_both_labels_and_a_site_for_each_patient(tmp_path):
    path = table(tmp_path, GOOD, "b\tp2\t\tb.svs\t\t\t0\t0")
    rows = cohorts.read_cohort(path)
    with pytest.raises(InputError, match="column KRAS: found only the label 0"):
        cohorts.labelled_patients(rows, "KRAS", path)
    with pytest.raises(InputError, match="column BRAF: found only the targets MSI, KRAS"):
        cohorts.labelled_patients(rows, "BRAF", path)
    with pytest.raises(InputError, match="slide b, column site: found nothing, and p2 is no TCGA"):
        cohorts.labelled_patients(rows, "MSI", path)
    assert len(cohorts.labelled_patients(rows, "MSI", path, sites=False)) == 2


@pytest.mark.parametrize("name", ["tcga_crc", "cptac_crc"])
def test_the_prepared_tables_await_their_rows(name):
    path = ROOT / f"config/cohorts/{name}.tsv"
    assert cohorts.read_cohort(path, may_be_empty=True) == []
    assert path.read_text().splitlines()[0] == f"{HEAD.replace('KRAS', 'BRAF')}\tKRAS"
    with pytest.raises(InputError, match=r"no slide; give each slide a row; docs/slides\.md"):
        cohorts.read_cohort(path)


def test_a_written_table_reads_back(tmp_path):
    path = table(tmp_path, GOOD, "b\tp2\tB\tb.svs\t0.5\t\t0\t")
    rows = cohorts.read_cohort(path)
    cohorts.write_cohort(tmp_path / "again.tsv", rows, ["MSI", "KRAS"])
    assert cohorts.read_cohort(tmp_path / "again.tsv") == rows
