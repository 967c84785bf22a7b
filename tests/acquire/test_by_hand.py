"""Files that the user has downloaded: as GEO gives them, from the folder to pooled spots."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest
import tiny_bundle
import yaml
from bundle_layouts import lay_out_as_geo, write_bundle_with_cells
from conftest import ROOT

import check_bundle
import fetch_bundle
import pool_spots
from pairscape.acquire import by_hand
from pairscape.core.errors import InputError
from pairscape.plan import samples
from pairscape.plan.reading import read_plan
from pairscape.simulation.layouts import change_layout
from pairscape.spots.spots_zarr import read_spots

BUNDLE = "output-XETG00048__0003400__VUILD78MF__20230313__191400"
START = f"GSM7990554_{BUNDLE}"
HE = "GSM7990554_VUILD78MA_registered_HE.tif.gz"  # GEO renamed the samples, not the tables
SAMPLE = {
    "sample": "S9",
    "bundle_name": BUNDLE,
    "geo_accession": "GSM7990554",
    "landing_page": "https://example.org/GSE1",
    "he_image": "",
    "he_alignment": "microns",
    "he_um_per_px": "0.5",
    "bundle_url": "",
}


@pytest.fixture
def mine(tmp_path):
    """A folder of downloads with the lung sample as GEO gives it."""
    bundle = change_layout(write_bundle_with_cells(tmp_path / "whole"), "1.0-csv")
    folder = lay_out_as_geo(bundle, tmp_path / "mine", START)
    he, _ = tiny_bundle.write_he(tmp_path, margin=0)
    (folder / HE).write_bytes(gzip.compress(he.read_bytes()))
    return folder


def fetch(mine, target, **columns):
    options = json.dumps({"sample": SAMPLE | columns})
    fetch_bundle.main([f"--bundle={target}", f"--downloads={mine}", "--options", options])
    return target


def test_a_sample_as_geo_gives_it_is_fetched_checked_and_pooled(mine, tmp_path):
    bundle = fetch(mine, tmp_path / "S9")
    flags = [f"--bundle={bundle}", f"--he-image={bundle / 'S9_he_image.ome.tif'}"]
    options = ["--options", json.dumps({"sample": SAMPLE})]
    check_bundle.main([*flags, f"--report={tmp_path / 'check.json'}", *options])
    report = json.loads((tmp_path / "check.json").read_text())
    assert {finding["level"] for finding in report["findings"]} == {"warning", "note"}
    warned = [each for each in report["findings"] if each["level"] == "warning"]
    assert [each["field"] for each in warned] == ["analysis_sw_version"]
    (absent,) = [each for each in report["findings"] if each["field"] == "image"]
    assert absent["remedy"].startswith("nothing to do: GEO publishes none")
    assert report["facts"]["cells"] == 4
    assert report["facts"]["panel_from"] == "cell_feature_matrix.h5"
    names = {"spots": "spots.zarr", "audit": "audit.json", "table": "qc.tsv"}
    out = [f"--{name}={tmp_path / file}" for name, file in names.items()]
    values = {"sample": SAMPLE, "spots_name": "test", "spots": {}}
    pool_spots.main([*flags, *out, "--options", json.dumps(values)])
    audit = json.loads((tmp_path / "audit.json").read_text())
    truth = tiny_bundle.make_transcripts()
    good = truth["is_gene"] & (truth["qv"] >= 20)
    assert (audit["rows_read"], audit["pooled"]) == (len(truth), int(good.sum()))
    facts = read_spots(tmp_path / "spots.zarr").uns["pairscape"]
    um_per_px = facts["he_matrix"][0][0] * facts["pixel_size_um"]
    assert um_per_px == pytest.approx(0.5)  # whatever the pixel size that was written


def test_single_files_are_linked_and_the_receipt_says_whence(mine, tmp_path):
    bundle = fetch(mine, tmp_path / "S9")
    for name in ("transcripts.csv.gz", "cell_feature_matrix.h5", "cells.csv.gz"):
        assert (bundle / name).samefile(mine / f"{START}_{name}")
    receipt = json.loads((bundle / "fetched.json").read_text())
    assert receipt["on_disk"]["bundle"]["cells.csv.gz"] == str(mine / f"{START}_cells.csv.gz")
    assert receipt["on_disk"]["he_image"] == str(mine / HE)
    assert "came without this one" in (bundle / "experiment.xenium").read_text()
    fetch(mine, tmp_path / "S9")  # again, over what it made


def test_an_experiment_and_a_packed_panel_of_the_users_are_taken(mine, tmp_path):
    (mine / f"{START}_experiment.xenium").write_text('{"pixel_size": 0.3}')
    (mine / "GSM7990554_gene_panel.json.gz").write_bytes(gzip.compress(b'{"payload": {}}'))
    bundle = fetch(mine, tmp_path / "S9", he_alignment="identity")
    assert json.loads((bundle / "experiment.xenium").read_text()) == {"pixel_size": 0.3}
    assert json.loads((bundle / "gene_panel.json").read_text()) == {"payload": {}}


def drop(name):
    return lambda mine: (mine / f"{START}_{name}").unlink()


def copy(name, other):
    return lambda mine: (mine / other).write_bytes((mine / name).read_bytes())


@pytest.mark.parametrize(
    ("change", "columns", "message"),
    [
        (
            drop("transcripts.csv.gz"),
            {},
            "sample S9, transcripts.csv.gz: found GSM7990554_output-XETG00048__0003400__VUILD78MF__"
            "20230313__191400_cell_feature_matrix.h5 without transcripts.parquet or transcripts.csv.gz;"
            " download it from https://example.org/GSE1 or GSM7990554 and put it there as "
            "GSM7990554_transcripts.csv.gz",
        ),
        (drop("cells.csv.gz"), {}, "without cells.parquet or cells.csv.gz; download it"),
        (drop("cell_feature_matrix.h5"), {}, "cell_feature_matrix.h5 or gene_panel.json; download"),
        (lambda mine: None, {"he_alignment": ""}, "without experiment.xenium; download it from"),
        (
            copy(f"{START}_cells.csv.gz", "GSM7990554_again_cells.csv.gz"),
            {},
            "sample S9, cells.csv.gz: found 2 (GSM7990554_again_cells.csv.gz, GSM7990554_output-XETG"
            "00048__0003400__VUILD78MF__20230313__191400_cells.csv.gz); keep one of them there",
        ),
        (
            copy(HE, "GSM7990554_other_HE.tif.gz"),
            {},
            "sample S9, he_image: found 2 (GSM7990554_VUILD78MA_registered_HE.tif.gz, GSM7990554_other",
        ),
        (
            lambda mine: (mine / f"{BUNDLE}_outs.zip").write_bytes(b""),
            {},
            f"sample S9, bundle: found {BUNDLE}_outs.zip and single files ({START}_cell_feature",
        ),
    ],
)
def test_what_is_ambiguous_or_lacks_is_refused_in_one_line(
    mine, tmp_path, change, columns, message
):
    change(mine)
    with pytest.raises(InputError) as refusal:
        fetch(mine, tmp_path / "S9", **columns)
    assert str(refusal.value).startswith(f"{mine}: ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "S9").exists()


def test_the_file_of_another_sample_is_nobody_elses(mine):
    for other in (
        {"geo_accession": "GSM7990555", "bundle_name": "output"},
        {"bundle_name": "191400"},
    ):
        sample = SAMPLE | {"geo_accession": ""} | other
        assert by_hand.find(mine, sample) == by_hand.Downloads()
    assert by_hand.find(mine / "nowhere", SAMPLE) == by_hand.Downloads()


def test_where_the_bundle_has_an_address_single_files_that_lack_one_are_left(mine):
    sample = SAMPLE | {"bundle_url": "https://example.org/x_outs.zip"}
    assert by_hand.transcripts(mine, sample) == "transcripts.csv.gz"
    drop("cells.csv.gz")(mine)
    assert by_hand.transcripts(mine, sample) == "transcripts.parquet"
    found = by_hand.check(by_hand.find(mine, sample), sample, mine, "")
    assert (found.loose, len(found.he_image)) == ({}, 1)


@pytest.mark.parametrize("form", ["single files", "folder", "zip", "nothing"])
def test_the_plan_takes_the_form_of_transcripts_that_lies_there(mine, tmp_path, monkeypatch, form):
    monkeypatch.chdir(ROOT)
    if form != "single files":
        for name in ("transcripts.csv.gz", "cell_feature_matrix.h5", "cells.csv.gz"):
            (mine / f"{START}_{name}").unlink()
    if form in ("folder", "zip"):
        (mine / BUNDLE).mkdir()
        for name in ("experiment.xenium", "transcripts.csv.gz"):
            (mine / BUNDLE / name).write_bytes(b"")
    if form == "zip":
        shutil.make_archive(str(mine / f"{BUNDLE}_outs"), "zip", mine, BUNDLE)
        shutil.rmtree(mine / BUNDLE)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config |= {"downloads": str(mine), "bundles": str(tmp_path / "bundles")}
    plan = read_plan(config, "config/config.yaml")
    (sample,) = (name for name, row in plan.samples.items() if row["bundle_name"] == BUNDLE)
    as_text = [] if form == "nothing" else [sample]
    assert samples.fetched_with(plan, "he_image", parquet=False) == as_text
    assert (sample in samples.fetched_with(plan, "he_image", parquet=True)) == (not as_text)
    ending = "transcripts.csv.gz" if as_text else "transcripts.parquet"
    assert samples.bundle_files(plan, sample)["transcripts"].endswith(ending)


@pytest.mark.parametrize("kept", [0, 10, -30])
def test_a_damaged_zip_doesnt_stop_the_plan_and_is_told_when_it_is_unpacked(mine, tmp_path, kept):
    for path in mine.glob(f"{START}_*"):
        path.unlink()
    packed = shutil.make_archive(str(mine / f"{BUNDLE}_outs"), "zip", tmp_path / "whole")
    Path(packed).write_bytes(Path(packed).read_bytes()[:kept])
    assert by_hand.transcripts(mine, SAMPLE) == "transcripts.parquet"
    with pytest.raises(InputError, match=r"_outs\.zip: zip: found"):
        fetch(mine, tmp_path / "S9")


def test_the_table_of_the_docs_names_what_is_looked_for(tmp_path):
    rows = re.findall(r"^\| (.*?) \| (.*?) \|", (ROOT / "docs/downloads.md").read_text(), re.M)
    names = {what: re.findall(r"`(<[^`]*>[^`]*)`", where) for what, where in rows}
    single = [name for what, where in names.items() if "single" in what for name in where]
    assert len(single) == 8
    for name in [*single, *names["H&E"], *names["alignment"], *names["a bundle as zip"]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        file = name.replace("<bundle_name>", BUNDLE).replace("<geo_accession>", "GSM7990554")
        (folder / file.replace("*", "x")).write_bytes(b"")
        assert by_hand.find(folder, SAMPLE) != by_hand.Downloads(), name
