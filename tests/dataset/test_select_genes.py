"""Genes of a dataset: what all its samples measured."""

import json

import pytest
from conftest import ROOT
from small_pairs import write_small_spots

import select_genes
from pairscape.core.errors import InputError
from pairscape.core.names import read_panel_list
from pairscape.core.tsv import read_tsv
from pairscape.dataset.gene_lists import select_genes as choose

SIZES = {
    "5k": 5001,
    "breast": 280,
    "colon": 322,
    "immuno-oncology": 380,
    "lung-healthy": 343,
    "multi-tissue": 377,
    "skin": 260,
}


def panel_list(panel):
    return read_panel_list(ROOT / "config" / "published" / "panels" / f"human-{panel}-panel.tsv")


def run(tmp_path, **genes_of):
    for sample, genes in genes_of.items():
        write_small_spots(tmp_path / sample, [[1, 2], [3, 4]], genes=genes, sample=sample)
    options = {"dataset": "tiny", "panel": "p", "samples": list(genes_of)}
    select_genes.main(
        [
            "--spots",
            *(str(tmp_path / sample) for sample in genes_of),
            "--genes",
            str(tmp_path / "genes.tsv"),
            "--options",
            json.dumps(options),
        ]
    )
    return read_tsv(tmp_path / "genes.tsv")


def test_genes_are_those_all_samples_measured_sorted_by_symbol(tmp_path):
    genes = run(tmp_path, S1=["KRT8", "CD3E", "ADD1", "ACTA2"], S2=["ACTA2", "KRT8", "CD3E"])
    assert genes == [
        {"gene_symbol": "ACTA2", "gene_id": "ENSGACTA2"},
        {"gene_symbol": "CD3E", "gene_id": "ENSGCD3E"},
        {"gene_symbol": "KRT8", "gene_id": "ENSGKRT8"},
    ]


def test_a_sample_of_another_panel_stops_with_the_line_that_drops_it(tmp_path):
    genes = ["A", "B", "C", "D"]
    with pytest.raises(InputError) as refusal:
        run(tmp_path, S1=genes, S2=["A", "W", "X", "Y", "Z"], S3=genes)
    assert "S2, whose panel of 5 genes shares only 25%" in str(refusal.value)
    assert "`datasets.tiny.samples: [S1, S3]`" in str(refusal.value)
    assert not (tmp_path / "genes.tsv").exists()


def test_a_larger_panel_with_the_same_genes_fits(tmp_path):
    assert len(run(tmp_path, S1=["A", "B"], S2=["A", "B", *"CDEFGHIJ"])) == 2


def test_two_samples_of_different_panels_stop(tmp_path):
    with pytest.raises(InputError, match="S2, whose panel of 2 genes shares only 0%"):
        run(tmp_path, S1=["A", "B"], S2=["C", "D"])


def test_a_damaged_spots_folder_is_refused(tmp_path):
    (tmp_path / "S1").mkdir()
    options = {"dataset": "tiny", "panel": "p", "samples": ["S1"]}
    with pytest.raises(InputError, match="tables/counts"):
        select_genes.main(
            [
                "--spots",
                str(tmp_path / "S1"),
                "--genes",
                str(tmp_path / "genes.tsv"),
                "--options",
                json.dumps(options),
            ]
        )


@pytest.mark.parametrize("panel", SIZES)
def test_each_published_panel_keeps_its_published_size(panel):
    """Of samples with the panel alone, with genes added to it, and with controls."""
    genes = panel_list(panel)
    measured = {
        "plain": genes,
        "added": genes | {f"ADDED{i}": "" for i in range(100)},
        "controls": genes | {"NegControlProbe_00042": "", "BLANK_0007": "", "antisense_A": ""},
    }
    chosen = choose(measured, genes, place="datasets.x.samples")
    assert len(chosen) == SIZES[panel]
    assert [symbol for symbol, _ in chosen] == sorted(genes)


def test_the_breast_panels_of_280_288_313_and_380_genes_share_280():
    genes = panel_list("breast")
    antisense = {f"antisense_{name}": "" for name in list(genes)[:8]}
    measured = {
        "TENX94": genes,
        "NCBI785": genes | {f"OTHER{i}": "" for i in range(33)},
        "NCBI783": genes | antisense,
        "TENX97": genes | {f"CUSTOM{i}": "" for i in range(100)},
    }
    assert [len(of) for of in measured.values()] == [280, 313, 288, 380]
    for panel in (genes, None):  # with the list, and by what the samples share alone
        assert len(choose(measured, panel, place="p")) == 280


def test_genes_that_all_samples_had_added_are_out_by_the_list():
    genes = panel_list("colon")
    both = genes | {"ADDED1": ""}
    assert len(choose({"A": both, "B": both}, genes, place="p")) == 322
    assert len(choose({"A": both, "B": both}, place="p")) == 323


def test_a_sample_that_lacks_genes_of_the_list_stops_with_the_line_that_drops_it():
    genes = panel_list("breast")
    other = dict(list(genes.items())[:200])
    with pytest.raises(InputError) as refusal:
        choose({"A": genes, "B": other, "C": genes}, genes, place="datasets.x.samples")
    assert "B, whose panel of 200 genes holds 200 of the panel's 280, below 90%" in str(
        refusal.value
    )
    assert "`datasets.x.samples: [A, C]`" in str(refusal.value)
    assert len(choose({"A": genes, "B": other}, genes, 0.7, place="p")) == 200


def test_without_spots_the_genes_are_the_panels(tmp_path):
    panel = tmp_path / "panel.tsv"
    panel.write_text("gene_symbol\tensembl_id\nB\tE2\nA\tE1\n")
    options = json.dumps({"dataset": "x", "panel": "p", "samples": ["S1"]})
    genes = ["--genes", str(tmp_path / "genes.tsv"), "--options", options]
    select_genes.main(["--panel", str(panel), *genes])
    rows = read_tsv(tmp_path / "genes.tsv")
    assert [tuple(row.values()) for row in rows] == [("A", "E1"), ("B", "E2")]
    with pytest.raises(InputError, match="--spots: files: found none, and no --panel"):
        select_genes.main(genes)
    panel.write_text("gene_symbol\tensembl_id\nA\t\nA\t\n")
    with pytest.raises(InputError, match="gene_symbol: found A twice"):
        select_genes.main(["--panel", str(panel), *genes])
