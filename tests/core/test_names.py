"""Names in tables: blanks, case, Unicode forms, byte order marks, separators, what Excel writes."""

import pytest

from pairscape.acquire.samples import read_samples
from pairscape.core.errors import InputError
from pairscape.core.names import bare_gene_id, check_gene_symbols, read_panel_list, refuse_alike
from pairscape.core.tsv import read_tsv
from pairscape.slides.cohorts import read_cohort

HEADER = "sample\tpanel\tdonor\tsource\n"


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "table.tsv"
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("P1", "p1"),
        ("P 1", "P1"),
        ("caf\u00e9", "cafe\u0301"),
        ("P1", "\uff301"),
        ("P\u00a01", "P 1"),
    ],
)
@pytest.mark.parametrize("column", ["donor", "panel", "sample", "patient", "site"])
def test_names_that_differ_only_in_spelling_are_refused(tmp_path, column, one, other):
    if column in ("patient", "site"):
        rows = [
            {"patient": f"p{i}", "site": f"s{i}"} | {column: v} for i, v in enumerate((one, other))
        ]
        text = "slide\tpatient\tsite\tfile\n"
        text += "".join(
            f"S{i}\t{r['patient']}\t{r['site']}\tf{i}.svs\n" for i, r in enumerate(rows)
        )
        with pytest.raises(
            InputError, match=f"column {column}: found .* which differ only in case"
        ):
            read_cohort(write(tmp_path, text))
        return
    if column == "sample" and (one, other) != ("P1", "p1"):
        pytest.skip("the schema allows no such name")
    rows = [{"sample": f"S{i}", "panel": "a", "donor": f"D{i}"} for i in range(2)]
    rows = [row | {column: value} for row, value in zip(rows, (one, other), strict=True)]
    text = HEADER + "".join(f"{r['sample']}\t{r['panel']}\t{r['donor']}\tlocal\n" for r in rows)
    with pytest.raises(InputError, match=f"column {column}: found .* which differ only in case"):
        read_samples(write(tmp_path, text))


def test_blanks_around_are_no_part_of_a_name(tmp_path):
    path = write(
        tmp_path, "sample \tpanel\tdonor\tsource\n S1\ta\tP1 \tlocal\nS2\ta\tP1\u00a0\tlocal\n"
    )
    assert [row["donor"] for row in read_samples(path).values()] == ["P1", "P1"]
    refuse_alike(["P1", "P2", "P1"], "f", "donor")


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = write(tmp_path, HEADER + "S1\ta\tP1\tlocal\n", "utf-8-sig")
    assert list(read_samples(path)) == ["S1"]
    path = write(tmp_path, "gene_symbol\tensembl_id\nA\tENSG00000000001.5\n", "utf-8-sig")
    assert read_panel_list(path) == {"A": "ENSG00000000001"}
    path = write(tmp_path, "slide\tpatient\tsite\tfile\nS\tp\ts\tf.svs\n", "utf-8-sig")
    assert read_cohort(path)[0]["slide"] == "S"


@pytest.mark.parametrize(
    ("separator", "words"),
    [(",", "commas"), (";", "semicolons"), ("|", "vertical"), ("  ", "blanks")],
)
def test_another_separator_is_told(tmp_path, separator, words):
    path = write(tmp_path, separator.join(["gene_symbol", "ensembl_id"]) + "\n")
    with pytest.raises(InputError, match=f"table: found fields separated by {words}"):
        read_tsv(path, ["gene_symbol", "ensembl_id"])


@pytest.mark.parametrize(
    "symbol",
    ["1-Mar", "2-Sept", "Sep-02", "2024-03-01", "01.03.2024", "3/1/2024", "2.31E+13", "45352"],
)
def test_what_excel_makes_of_genes_is_named(tmp_path, symbol):
    path = write(tmp_path, f"gene_symbol\tensembl_id\nA\t\n{symbol}\t\n")
    with pytest.raises(InputError, match="as Excel writes gene names"):
        read_panel_list(path)


def test_genes_of_every_real_shape_pass():
    names = [
        "MARCHF1",
        "HLA-A",
        "NKX2-1",
        "4930402F06Rik",
        "C1orf112",
        "7SK",
        "RP11-34P13.7",
        "DEC1",
    ]
    check_gene_symbols([*names, "β-cat", "Sept2", "SEC-1"], "f")
    with pytest.raises(InputError, match="an empty name, of gene 2"):
        check_gene_symbols(["A", ""], "f")
    with pytest.raises(InputError, match="A twice"):
        check_gene_symbols(["A", "A"], "f")


def test_a_gene_id_has_no_version():
    assert bare_gene_id("ENSG00000139618.18") == "ENSG00000139618"
    assert bare_gene_id("ENSMUSG00000024610.14 ") == "ENSMUSG00000024610"
    assert bare_gene_id("RP11-34P13.7") == "RP11-34P13.7"


def test_one_file_under_two_paths_is_one_file(tmp_path):
    text = "slide\tpatient\tsite\tfile\nS1\tp\ts\ta.svs\nS2\tq\ts\t./x/../a.svs\n"
    with pytest.raises(InputError, match=r"slide S2, column file: found .* the file of S1"):
        read_cohort(write(tmp_path, text))
