"""The audit: what it finds of planted leaks, at which level, and of the published splits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_pairs import LABELS, sample_row, tissue_image
from test_describe_dataset import describe

import audit_splits
from pairscape.core import splits
from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv
from pairscape.dataset import cutting, leakage, pair_shards, patch_hashes
from pairscape.images import encoding

ROOT = Path(__file__).parents[2]
PANELS = ("5k", "breast", "colon", "immuno-oncology", "lung-healthy", "multi-tissue", "skin")


def row(sample, split, donor=None, known="True", spots=10, words=""):
    return {
        "sample": sample,
        "donor": donor or f"D_{sample}",
        "donor_known": known,
        "split": split,
        "spots": spots,
        "shared_donors": words,
    }


def found(*args, **options):
    return [
        (leak["finding"], leak["level"], leak["sample"], leak["other_sample"])
        for leak in leakage.find_leaks(*args, **options)
    ]


def test_a_sample_and_a_donor_in_two_splits_are_errors_until_acknowledged():
    rows = [row("A", "train", "D"), row("B", "val", "D"), row("A", "test", "D")]
    assert found(rows) == [
        ("same_donor", "error", "A", "B"),
        ("same_sample", "error", "A", "A"),
        ("same_donor", "error", "B", "A"),
    ]
    rows = [{**of, "shared_donors": "one tumour"} for of in rows]
    assert {level for _, level, *_ in found(rows)} == {"acknowledged"}


def test_the_splits_of_one_title_are_a_warning_only_where_a_donor_is_not_known():
    facts = {name: {"title": "one study"} for name in "AB"}
    for known, expected in (("False", ["same_title"]), ("True", []), ("", [])):
        rows = [row("A", "train", known=known), row("B", "test")]
        assert [finding for finding, *_ in found(rows, facts)] == expected
    assert not found([row("A", "train", known="False"), row("B", "test")], {"A": {"title": ""}})


def test_two_names_for_one_bundle_are_an_error():
    rows = [row("A", "train"), row("B", "test")]
    for column in ("bundle", "bundle_url", "bundle_checksum"):
        facts = {name: {column: "the same"} for name in "AB"}
        assert found(rows, facts) == [("same_bundle", "error", "B", "A")]
    with pytest.raises(InputError, match=r"one bundle \(A in train, B in test\)"):
        leakage.refuse_leaks(leakage.find_leaks(rows, facts), "split", "config.yaml")


def test_one_slide_in_two_splits_is_a_warning():
    rows = [row("A", "train"), row("B", "test"), row("C", "test")]
    slides = {"A": "0003400", "B": "0003400", "C": "0003401"}
    assert found(rows, None, slides) == [("same_slide", "warning", "B", "A")]
    shared_image = {name: {"he_image": "one.tif"} for name in "AC"}
    assert found(rows, shared_image) == [("same_slide", "warning", "C", "A")]
    assert not found(rows, {name: {"he_image": "none"} for name in "ABC"})


@pytest.mark.parametrize(
    ("bundle_name", "experiment", "slide"),
    [
        ("output-XETG00048__0003400__THD0011__20230313__191400", None, "0003400"),
        ("Xenium_V1_FFPE", {"slide_id": "0011223"}, "0011223"),
        ("", {"slide_id": "simulation"}, ""),
        ("Xenium_V1_FFPE", None, ""),
    ],
)
def test_the_slide_is_read_from_the_bundle_or_its_name(bundle_name, experiment, slide):
    assert leakage.slide_of({"bundle_name": bundle_name}, experiment) == slide


def test_an_encoder_fitted_on_held_out_samples_is_an_error_whatever_is_said_of_donors():
    rows = [row("A", "train", words="yes"), row("B", "test", words="yes")]
    fits = [{"encoder": "drvi", "sample": name, "evidence": "H11"} for name in "AB"]
    (leak,) = leakage.find_leaks(rows, fitted_on=fits)
    assert (leak["encoder"], leak["sample"], leak["level"]) == ("drvi", "B", "error")
    with pytest.raises(InputError, match=r"encoder drvi, .* \(B in test\)"):
        leakage.refuse_leaks([leak], "split", "config.yaml")


def test_the_summary_counts_each_touched_sample_once():
    rows = [row("A", "train", "D"), row("B", "train", "D"), row("C", "test", "D", spots=30)]
    rows.append(row("E", "test", spots=70))
    (summary,) = leakage.summarise_leaks("x", rows, leakage.find_leaks(rows), "pooled")
    assert (summary["samples"], summary["samples_of_split"], summary["spots"]) == (1, 2, 30)
    assert (summary["share_of_samples"], summary["share_of_spots"]) == ("0.5000", "0.3000")
    assert leakage.summary_text(summary) == (
        "1 of 2 test sample(s) (30% of its spots, pooled) share a donor with train"
    )


def test_leaks_are_written_and_read(tmp_path):
    rows = [row("A", "train", "D"), row("B", "test", "D", spots=None)]
    leaks = leakage.find_leaks(rows)
    leakage.LEAKAGE.write(tmp_path / "leakage.tsv", leaks)
    assert leakage.read_leaks(tmp_path / "leakage.tsv") == leaks
    text = (tmp_path / "leakage.tsv").read_text().replace("same_donor", "some_donor")
    (tmp_path / "leakage.tsv").write_text(text)
    with pytest.raises(InputError, match="finding: found 'some_donor'; did you mean same_donor"):
        leakage.read_leaks(tmp_path / "leakage.tsv")


def test_the_audit_imports_nothing_heavy():
    program = (
        "import sys, pairscape.dataset.leakage; "
        "sys.exit(any(m in sys.modules for m in ('numpy', 'pandas', 'pyarrow', 'datasets')))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT / "scripts")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The audit of all published panels, from the tables of the repository alone."""
    folder = tmp_path_factory.mktemp("audit")
    rows = read_tsv(ROOT / "config/published/splits.tsv")
    datasets = []
    for panel in PANELS:
        of = [r for r in rows if r["panel"] == f"human-{panel}-panel"]
        kept = [r for r in of if r["split"] in splits.SPLITS]
        for name, chosen in ((panel, kept), *((("addon", of),) if len(kept) < len(of) else ())):
            datasets.append(
                {
                    "name": name,
                    "panel": f"human-{panel}-panel",
                    "split": {"method": "published", "shared_donors": None},
                    "samples": sorted({r["sample"] for r in chosen}),
                    "rows": chosen,
                }
            )
    options = {
        "datasets": datasets,
        "panels": [f"human-{panel}-panel" for panel in PANELS],
        "seed": 1,
        "fractions": {"train": 0.7, "val": 0.15, "test": 0.15},
    }
    audit_splits.main(
        [
            "--samples",
            str(ROOT / "config/samples.tsv"),
            "--fitted-on",
            str(ROOT / "config/published/fitted_on.tsv"),
            "--leakage",
            *(str(folder / dataset["name"] / "leakage.tsv") for dataset in datasets),
            "--summary",
            str(folder / "leakage_summary.tsv"),
            "--donor-splits",
            str(folder / "donor_splits.tsv"),
            "--options",
            json.dumps(options),
        ]
    )
    return folder


def summary_of(folder, dataset, finding):
    return {
        (r["split"], r["other_split"]): r
        for r in read_tsv(folder / "leakage_summary.tsv")
        if (r["dataset"], r["finding"]) == (dataset, finding)
    }


def test_the_audit_finds_the_four_lung_donors_and_what_they_touch(published):
    leaks = leakage.read_leaks(published / "lung-healthy" / "leakage.tsv")
    donors = {
        (leak["donor"], leak["split"], leak["other_split"])
        for leak in leaks
        if leak["finding"] == "same_donor"
    }
    assert donors == {
        ("VUILD78", "test", "train"),
        ("VUILD96", "test", "train"),
        ("TILD117", "test", "val"),
        ("VUILD91", "val", "train"),
    }
    summary = summary_of(published, "lung-healthy", "same_donor")
    for other, samples, share in (("train", "0.5000", 0.52), ("val", "0.2500", 0.25)):
        of = summary["test", other]
        assert of["share_of_samples"] == samples
        assert float(of["share_of_spots"]) == pytest.approx(share, abs=0.005)
        assert of["spots_are"] == "counted by HEST"


def test_the_audit_finds_that_the_lung_slides_are_shared(published):
    summary = summary_of(published, "lung-healthy", "same_slide")
    assert {of["share_of_samples"] for of in summary.values()} == {"1.0000"}


def test_the_audit_finds_the_skin_sample_in_validation_and_test(published):
    (leak,) = leakage.read_leaks(published / "skin" / "leakage.tsv")
    assert (leak["finding"], leak["sample"]) == ("same_sample", "TENX117")
    assert (leak["split"], leak["other_split"], leak["level"]) == ("test", "val", "error")
    assert leak["share_of_split"] == "1.0000"


def test_the_audit_finds_that_the_breast_add_on_set_repeats_the_train_set(published):
    leaks = leakage.read_leaks(published / "addon" / "leakage.tsv")
    told = {(leak["finding"], leak["sample"]) for leak in leaks if leak["finding"] != "same_slide"}
    assert told >= {("same_sample", "TENX94"), ("same_sample", "TENX95")}
    assert told >= {("same_donor", "TENX96"), ("same_donor", "TENX97")}
    assert {leak["other_split"] for leak in leaks} == {"train"}


@pytest.mark.parametrize("panel", ["5k", "breast", "immuno-oncology"])
def test_the_audit_finds_nothing_where_nothing_is_known(published, panel):
    assert leakage.read_leaks(published / panel / "leakage.tsv") == []


def test_the_audit_finds_same_titles_and_what_drvi_was_fitted_on(published):
    assert set(summary_of(published, "colon", "same_title")) == {("test", "val")}
    titles = leakage.read_leaks(published / "multi-tissue" / "leakage.tsv")
    titles = {(t["sample"], t["other_sample"]) for t in titles if t["finding"] == "same_title"}
    assert titles == {("TENX124", "TENX125"), ("TENX120", "TENX121"), ("TENX106", "TENX105")}
    fits = summary_of(published, "multi-tissue", "encoder_fitted_on")["test", ""]
    assert (fits["encoder"], fits["share_of_samples"]) == ("drvi", "1.0000")


def test_every_panel_has_a_donor_split_or_a_word_why_not(published):
    table = {r["panel"]: r for r in read_tsv(published / "donor_splits.tsv")}
    possible = {panel: table[f"human-{panel}-panel"]["possible"] for panel in PANELS}
    assert possible == {panel: "no" if panel == "skin" else "yes" for panel in PANELS}
    assert "2 donor(s)" in table["human-skin-panel"]["word"]
    assert table["human-lung-healthy-panel"]["word"] == "every donor is named by a source"
    assert "donor of 7 of 7 samples" in table["human-5k-panel"]["word"]
    lung = table["human-lung-healthy-panel"]
    donors = [lung[f"{split}_donors"].split(", ") for split in splits.SPLITS]
    assert sum(map(len, donors)) == len({donor for of in donors for donor in of}) == 15


# Patches


def write_pictures(
    path, sample, pictures, encode=lambda patch: encoding.encode_patch(patch, "png")
):
    constant = cutting.sample_columns(sample_row(sample))
    rows = (
        {
            **constant,
            "image": encode(patch),
            "gexp": np.zeros(2, np.int32),
            "cell_coords": (0, 0),
            "spot": str(i),
            **dict.fromkeys(("array_row", "array_col"), i),
            **dict.fromkeys(("x_um", "y_um", "um_per_px", "tissue_fraction"), 0.5),
        }
        for i, patch in enumerate(pictures)
    )
    metadata = dict.fromkeys(pair_shards.METADATA_KEYS, "") | {"sample": sample}
    pair_shards.write_shard(path, rows, cutting.pair_features(2, LABELS), metadata)
    return str(path)


def pictures(seed, count=60):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(40, 230, (count, 8, 8, 3)).astype(np.uint8)
    return list(coarse.repeat(12, 1).repeat(12, 2))


def changed(patch):
    from PIL import Image, ImageEnhance

    image = ImageEnhance.Brightness(Image.fromarray(patch).resize((80, 80))).enhance(0.9)
    return encoding.encode_patch(np.asarray(image), "jpeg", 60)


@pytest.fixture
def shards(tmp_path):
    """S3 in test holds two patches of S1 and blank ones of S2, re-encoded; the rest is its own."""
    glass = [np.full((96, 96, 3), 238, np.uint8)] * 8
    own = pictures(3)
    own[7], own[30] = pictures(1)[41], pictures(1)[2]
    return {
        "S1": write_pictures(tmp_path / "S1.arrow", "S1", pictures(1) + glass),
        "S2": write_pictures(tmp_path / "S2.arrow", "S2", pictures(2) + glass),
        "S3": write_pictures(tmp_path / "S3.arrow", "S3", own + glass, changed),
    }


SPLITS = [row("S1", "train"), row("S2", "val"), row("S3", "test")]


def test_copied_patches_are_found_and_blank_ones_are_not(shards):
    leaks, counts = patch_hashes.patch_leaks(shards, SPLITS)
    (leak,) = leaks
    assert (leak["finding"], leak["level"]) == ("near_identical_patches", "warning")
    assert (leak["sample"], leak["other_sample"], leak["spots"]) == ("S3", "S1", 2)
    assert leak["detail"].endswith("row 7 and row 41")
    assert counts == {"patches": 204, "blank": 24}
    assert leak["share_of_split"] == f"{2 / 60:.4f}"


def test_one_tissue_under_two_names_is_an_error_until_acknowledged(shards, tmp_path):
    copy = pictures(1)[:20] + pictures(9)[:40]
    shards["S3"] = write_pictures(tmp_path / "S3.arrow", "S3", copy, changed)
    (leak,) = patch_hashes.patch_leaks(shards, SPLITS)[0]
    assert (leak["finding"], leak["level"]) == ("near_identical_sample", "error")
    with pytest.raises(InputError, match=r"one tissue under two names \(S1 in train, S3 in test"):
        leakage.refuse_leaks([leak], "datasets.x.split", "--options")
    (leak,) = patch_hashes.patch_leaks(shards, SPLITS, "known")[0]
    assert leak["level"] == "acknowledged"


def test_of_a_sample_in_two_splits_all_patches_are_told(shards):
    (leak,), _ = patch_hashes.patch_leaks(
        {"S1": shards["S1"]}, [row("S1", "train"), row("S1", "test")]
    )
    assert (leak["finding"], leak["level"]) == ("near_identical_patches", "warning")
    assert (leak["spots"], leak["other_split"]) == (60, "train")


def test_a_common_hash_word_does_not_make_the_search_quadratic():
    hashes = np.random.default_rng(0).integers(0, 2**32, (5000, 8), np.uint32)
    hashes[:, 0] = 7  # one word that all share
    assert list(patch_hashes.find_near_identical([hashes[:2500]], [hashes[2500:]])) == []


def test_the_card_refuses_two_names_for_one_tissue(tmp_path):
    from small_pairs import export_sample

    folder = tmp_path / "datasets" / "tiny"
    for sample in ("S1", "S2", "S3"):
        export_sample(folder, sample, image=None if sample != "S3" else tissue_image())
    with pytest.raises(InputError, match=r"two names \(S1 in train, S3 in test\)"):
        describe(folder)
    assert not (folder / "README.md").exists()


def test_one_bundle_is_known_by_its_real_path_and_by_its_own_experiment(tmp_path):
    (tmp_path / "bundles/demo1").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "bundles/demo1")
    rows = [row("S1", "train"), row("S2", "test")]
    real, run = str(tmp_path / "bundles/demo1"), {"run_name": "r", "region_name": "R"}
    experiment = leakage.experiment_of(run | {"num_cells": 4})
    for one, other in (
        ({"bundle": real}, {"bundle": f"{tmp_path}/x/../bundles/demo1"}),
        ({"bundle": real}, {"bundle": str(tmp_path / "link")}),
        ({"bundle": "a", "experiment": experiment}, {"bundle": "b", "experiment": experiment}),
    ):
        (leak,) = leakage.find_leaks(rows, {"S1": one, "S2": other})
        assert (leak["finding"], leak["level"]) == ("same_bundle", "error")
    other = {"experiment": leakage.experiment_of(run | {"num_cells": 5})}
    assert leakage.find_leaks(rows, {"S1": {"experiment": experiment}, "S2": other}) == []
    assert leakage.experiment_of({"run_name": ""}) == leakage.experiment_of(None) == ""
