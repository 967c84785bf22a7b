import json

import numpy as np
import pytest
import tiny_bundle
from bundle_layouts import write_bundle_with_cells

import check_bundle
from pairscape.acquire import findings
from pairscape.acquire.transcript_checks import _Ids
from pairscape.core.errors import InputError
from pairscape.simulation.layouts import LAYOUTS, change_layout


@pytest.fixture
def inputs(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    he, matrix = tiny_bundle.write_he(tmp_path)
    panel = tmp_path / "panel.tsv"
    lines = ["gene_symbol\tensembl_id"]
    lines += [f"{gene}\tENSG{i:011d}" for i, gene in enumerate(tiny_bundle.GENES)]
    panel.write_text("\n".join(lines) + "\n")
    return {"bundle": bundle, "he_image": he, "he_alignment": matrix, "panel": panel}


def check(inputs, report, **sample):
    flags = [f"--{name.replace('_', '-')}={path}" for name, path in inputs.items() if path]
    options = json.dumps({"sample": {"sample": "S1", **sample}})
    check_bundle.main([*flags, f"--report={report}", f"--options={options}"])
    return json.loads(report.read_text())


def test_a_sound_bundle_passes_without_a_finding(inputs, tmp_path):
    report = check(inputs, tmp_path / "check.json", he_um_per_px="0.5")
    assert (report["sample"], report["verdict"], report["findings"]) == ("S1", "ok", [])
    truth, facts = tiny_bundle.make_transcripts(), report["facts"]
    good = truth["is_gene"] & (truth["qv"] >= 20)
    assert facts["transcripts"] == len(truth)
    assert facts["gene_transcripts"] == truth["is_gene"].sum()
    assert facts["gene_transcripts_q20"] == good.sum()
    assert facts["genes_detected"] == len(tiny_bundle.GENES)
    assert facts["x_um"] == [truth["x_location"].min(), truth["x_location"].max()]
    assert facts["morphology_size_px"] == [2000, 2000]
    assert facts["he_size_px"] == [930, 930]
    assert facts["alignment"]["um_per_px"] == pytest.approx(0.5)
    assert facts["alignment"]["rotation_degrees"] == pytest.approx(90)
    assert facts["transcripts_outside_he"] == 0
    assert facts["cells"] == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_sound_bundle_passes_in_every_layout(inputs, tmp_path, layout):
    bundle = change_layout(write_bundle_with_cells(tmp_path / "cells"), layout)
    report = check({**inputs, "bundle": bundle}, tmp_path / "check.json")
    assert report["verdict"] == "ok"
    assert {finding["level"] for finding in report["findings"]} <= {"note"}
    version = [int(part) for part in layout.split("-")[0].split(".")]
    facts = report["facts"]
    assert facts["format_version"] == version
    assert facts["transcripts"] == 20_000
    assert facts["transcripts_from"].endswith("csv.gz" if "csv" in layout else "parquet")
    assert 5 < facts["transcript_to_cell_um"] < 20
    assert len(facts["morphology_files"]) == LAYOUTS[layout].get("stains", 1)


def test_a_panel_without_a_list_is_noted(inputs, tmp_path):
    del inputs["panel"]
    report = check(inputs, tmp_path / "check.json", panel="tinny")
    (finding,) = report["findings"]
    assert (finding["level"], finding["field"]) == ("note", "panel of sample S1")


def test_repeated_ids_are_found_in_bounded_memory(monkeypatch):
    import pyarrow as pa

    monkeypatch.setattr("pairscape.acquire.transcript_checks.IDS_KEPT", 1000)
    ids = _Ids()
    for start in range(0, 100_000, 1000):
        ids.add(pa.array(np.arange(start, start + 1000, dtype=np.uint64)))
        assert ids.size <= 1000
    assert ids.repeated() == (0, 0)
    for start in range(0, 100_000, 1000):
        ids.add(pa.array(np.arange(start, start + 1000, dtype=np.uint64)))
    assert ids.repeated()[1] == 0.5


def test_a_bundle_without_he_gets_a_note(inputs, tmp_path):
    bare = {"bundle": inputs["bundle"]}
    report = check(bare, tmp_path / "check.json", he_image="none")
    assert report["verdict"] == "ok"
    (finding,) = report["findings"]
    assert finding["level"] == "note"
    assert "make pairs" in finding["remedy"]


@pytest.mark.parametrize("section", ["C2", "C3", "C4", "C5"])
def test_real_sections_pass(shared, tmp_path, section):
    folder = shared / "data" / "her2st-xenium" / section
    inputs = {
        "bundle": folder / "outs",
        "he_image": folder / f"{section}_he_image.ome.tif",
        "he_alignment": folder / f"{section}_he_imagealignment.csv",
        "panel": shared / "facts" / "panels" / "human-breast-panel.tsv",
    }
    report = check(inputs, tmp_path / "check.json")
    assert report["findings"] == []
    assert report["facts"]["panel_genes_shared"] == 280


def test_a_real_bundle_of_poor_quality_passes_with_a_warning(shared, tmp_path):
    inputs = {"bundle": shared / "data" / "xenium-mouse-ileum-tiny"}
    report = check(inputs, tmp_path / "check.json", he_image="none")
    assert report["verdict"] == "warning"
    assert [finding["level"] for finding in report["findings"]] == ["warning", "note"]
    assert report["facts"]["gene_transcripts_q20"] == 531
    assert report["facts"]["transcripts"] == 1985
    assert report["facts"]["panel_genes"] == 5006


def test_a_real_bundle_of_another_panel_is_refused(shared, tmp_path):
    inputs = {
        "bundle": shared / "data" / "xenium-mouse-ileum-tiny",
        "panel": shared / "facts" / "panels" / "human-breast-panel.tsv",
    }
    with pytest.raises(InputError, match=r"genes: found 0 of 280 \(Xenium Mouse 5K"):
        check(inputs, tmp_path / "check.json")


def cut(path, size=200):
    path.write_bytes(path.read_bytes()[:-size])


def transcripts(change):
    def spoil(inputs):
        table = tiny_bundle.make_transcripts()
        tiny_bundle.write_transcripts(inputs["bundle"], change(table))

    return spoil


def set_rows(column, value, rows=slice(5, 6)):
    def change(table):
        table.loc[table.index[rows], column] = value
        return table

    return transcripts(change)


def change_experiment(inputs, **values):
    path = inputs["bundle"] / "experiment.xenium"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def lose_a_gene_of_the_matrix(inputs):
    import h5py

    with h5py.File(inputs["bundle"] / "cell_feature_matrix.h5", "a") as file:
        file["matrix/features/name"][0] = b"OTHER"


def state_totals(inputs):
    path = inputs["bundle"] / "metrics_summary.csv"
    path.write_text("total_high_quality_decoded_transcripts\n40000\n")


def move_he(inputs):
    matrix = np.loadtxt(inputs["he_alignment"], delimiter=",")
    matrix[0, 2] += 5000
    np.savetxt(inputs["he_alignment"], matrix, delimiter=",")


def spoil_he_tiles(inputs):
    content = bytearray(inputs["he_image"].read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = b"\x55" * third
    inputs["he_image"].write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda i: (i["bundle"] / "transcripts.parquet").unlink(), "transcripts.parquet: file"),
        (lambda i: cut(i["bundle"] / "transcripts.parquet"), "transcripts.parquet: footer"),
        (lambda i: (i["bundle"] / "experiment.xenium").unlink(), "experiment.xenium: file"),
        (
            lambda i: [
                (i["bundle"] / name).unlink()
                for name in ("gene_panel.json", "cell_feature_matrix.h5")
            ],
            "gene_panel.json: file",
        ),
        (lambda i: cut(i["bundle"] / "cells.parquet"), "cells.parquet: file"),
        (lambda i: cut(i["bundle"] / "cells.zarr.zip", 20), "cells.zarr.zip: file"),
        (lambda i: cut(i["bundle"] / "cell_feature_matrix.h5"), "cell_feature_matrix.h5: file"),
        (
            lambda i: cut(i["bundle"] / "morphology_focus" / "morphology_focus_0000.ome.tif", 2000),
            "morphology_focus_0000.ome.tif: image",
        ),
        (transcripts(lambda t: t[~t["is_gene"]]), "gene transcripts: found none"),
        (set_rows("qv", 5, slice(None)), "gene transcripts: found none of quality 20"),
        (set_rows("x_location", np.nan), "x_location, y_location: found 1 rows without"),
        (set_rows("y_location", np.inf), "x_location, y_location: found 1 rows without"),
        (set_rows("qv", 41), "qv: found 1 rows outside"),
        (set_rows("qv", -1), "qv: found 1 rows outside"),
        (set_rows("qv", np.nan), "qv: found 1 rows outside"),
        (set_rows("x_location", 500, slice(0, 300)), "300 rows outside of the morphology image"),
        (lambda i: tiny_bundle.write_panel(i["bundle"], tiny_bundle.GENES[:4]), "(EPSILON)"),
        (lambda i: i.update(he_alignment=None), "he_alignment: found '' and no file"),
        (lambda i: i["he_alignment"].write_text("1,0\n0,1\n"), "he.csv: matrix: found 2 + 2"),
        (lambda i: i["he_alignment"].write_text("1,1,0\n1,1,0\n0,0,1\n"), "a singular matrix"),
        (lambda i: i["he_image"].unlink(), "he.ome.tif: file: found nothing"),
        (lambda i: i["he_image"].write_bytes(b"GIF89a" * 50), "he.ome.tif: TIFF header"),
        (spoil_he_tiles, "bytes that don't decode"),
        (move_he, "100% of the gene transcripts outside of the image"),
    ],
)
def test_a_broken_input_is_refused_and_leaves_no_report(inputs, tmp_path, spoil, message):
    spoil(inputs)
    report = tmp_path / "check.json"
    with pytest.raises(InputError) as refusal:
        check(inputs, report)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not report.exists()
    failed = json.loads((tmp_path / "check.failed.json").read_text())
    assert failed["verdict"] == "error"
    assert failed["findings"][0]["level"] == "error"
    assert not list(tmp_path.glob(".part-*"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (set_rows("x_location", 500), "1 rows outside of the morphology image"),
        (lambda i: (i["bundle"] / "cells.parquet").unlink(), "cells.parquet: file: found nothing"),
        (lambda i: tiny_bundle.write_he(i["bundle"].parent, stated=0.52), "SizeX: found 0.52 um"),
        (
            lambda i: tiny_bundle.write_he(i["bundle"].parent, stated=1.0),
            "he.ome.tif: PhysicalSizeX: found 1 um, expected H&E pixels of 0.5 um as its matrix says",
        ),
        (
            lambda i: change_experiment(i, analysis_sw_version="R&D"),
            "experiment.xenium: analysis_sw_version: found 'R&D'",
        ),
        (
            lambda i: change_experiment(i, analysis_sw_version=None),
            "experiment.xenium: analysis_sw_version: found ''",
        ),
        (
            lambda i: change_experiment(i, analysis_sw_version="xenium-5.0.0.1"),
            "software version: found xenium-5.0.0.1, expected up to 4.x",
        ),
        (
            lambda i: change_experiment(i, num_cells=5),
            "cells.parquet: rows: found 4, expected 5",
        ),
        (lose_a_gene_of_the_matrix, "cell_feature_matrix.h5: matrix/features: found 5 genes"),
        (state_totals, "expected 40000 as metrics_summary.csv says"),
        (
            transcripts(lambda t: t.assign(is_gene=t["is_gene"] & (t["feature_name"] != "BETA"))),
            "1 genes of the panel only in rows of no gene (BETA)",
        ),
        (set_rows("transcript_id", 0, slice(0, 3)), "transcript_id: found 0.01% of the rows"),
        (
            lambda i: tiny_bundle.write_he(i["bundle"].parent, margin=-10),
            "% of the gene transcripts",
        ),
        (
            lambda i: i["panel"].write_text(
                "gene_symbol\tensembl_id\nALPHA\tENSG1\nBETA\t\nPSI\t\n"
            ),
            "found all but 1 (PSI)",
        ),
    ],
)
def test_a_doubtful_input_passes_with_a_warning(inputs, tmp_path, spoil, message):
    spoil(inputs)
    report = check(inputs, tmp_path / "check.json")
    assert report["verdict"] == "warning"
    assert any(message in findings.describe(f) for f in report["findings"])


def test_the_pixel_size_of_the_sample_table_is_compared_too(inputs, tmp_path):
    report = check(inputs, tmp_path / "check.json", he_um_per_px="1")
    (finding,) = report["findings"]
    assert (finding["level"], finding["field"]) == ("warning", "sample S1, he_um_per_px")
    # Whatever the header says: the matrix and the user agree.
    tiny_bundle.write_he(inputs["bundle"].parent, stated=0.2125**2 / 0.5)
    report = check(inputs, tmp_path / "check.json", he_um_per_px="0.5")
    (finding,) = report["findings"]
    assert (finding["level"], finding["field"]) == ("warning", "PhysicalSizeX")


def test_all_findings_are_told_not_only_the_first(inputs, tmp_path, capsys):
    set_rows("qv", 41)(inputs)
    cut(inputs["bundle"] / "cells.zarr.zip", 20)
    with pytest.raises(InputError, match=r"cells\.zarr\.zip"):
        check(inputs, tmp_path / "check.json")
    assert "qv: found 1 rows outside, expected 0 to 40" in capsys.readouterr().err
    failed = json.loads((tmp_path / "check.failed.json").read_text())
    assert len(failed["findings"]) == 2


def test_a_mended_bundle_loses_its_failed_report(inputs, tmp_path):
    set_rows("qv", 41)(inputs)
    with pytest.raises(InputError):
        check(inputs, tmp_path / "check.json")
    tiny_bundle.write_transcripts(inputs["bundle"], tiny_bundle.make_transcripts())
    assert check(inputs, tmp_path / "check.json")["verdict"] == "ok"
    assert not (tmp_path / "check.failed.json").exists()
