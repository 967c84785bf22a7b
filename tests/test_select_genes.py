"""Genes of a dataset: what all its samples measured."""

import json

import pytest
from small_pairs import write_small_spots

import select_genes
from pairscape.errors import InputError
from pairscape.files import read_tsv


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
