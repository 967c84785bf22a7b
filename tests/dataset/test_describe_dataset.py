"""The Hugging Face data set: what load_dataset returns is what the shards hold now."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest
import small_pairs
import yaml
from PIL import Image
from small_pairs import GENES, PATCHES, export_sample, sample_row, tissue_image

import describe_dataset
import index_datasets
from pairscape.core.errors import InputError
from pairscape.dataset import card as hf_card
from pairscape.dataset import pair_shards, preview
from pairscape.dataset.leakage import LEAKAGE, find_leaks
from pairscape.dataset.splits import SPLITS_TABLE, make_splits

PLACES = {"S1": "train", "S2": "val", "S3": "test"}


def describe(
    folder, name="tiny", split=None, donors=None, samples=tuple(PLACES), home=None, **more
):
    """Write splits, leaks and both cards for the shards in ``folder``; return the folder above.

    ``home`` is the folder of the dataset whose shards this one uses.
    """
    home = home or folder
    rows = [
        sample_row(sample, donor=(donors or {}).get(sample, f"D_{sample}")) for sample in samples
    ]
    split = split or {of: [s for s in samples if PLACES[s] == of] for of in PLACES.values()}
    spots = {sample: 10 for sample in samples}
    made = make_splits(rows, {"method": "listed", **split}, spots=spots)
    SPLITS_TABLE.write(folder / "splits.tsv", made)
    LEAKAGE.write(folder / "leakage.tsv", find_leaks(made))
    options = {"dataset": name, "config_name": name, "samples": rows, **more}
    options["shared_donors"] = split.get("shared_donors")
    describe_dataset.main(
        [
            "--shards",
            *(str(home / "shards" / f"{sample}.arrow") for sample in samples),
            "--genes",
            str(home / "genes.tsv"),
            "--splits",
            str(folder / "splits.tsv"),
            "--leakage",
            str(folder / "leakage.tsv"),
            "--patch-leakage",
            str(folder / "patch_leakage.tsv"),
            "--layout",
            *(
                str(folder / "data" / f"{name}-published-layout" / f"{split}.csv")
                for split in ("train", "val", "test")
            ),
            "--preview",
            str(folder / "preview.jpg"),
            "--card",
            str(folder / "README.md"),
            "--options",
            json.dumps(options),
        ]
    )
    return index(folder.parent, **more)


def index(folder, **more):
    cards = [str(card) for card in sorted(folder.glob("*/README.md"))]
    options = ["--options", json.dumps({"title": "Test", **more})]
    index_datasets.main(["--cards", *cards, "--card", str(folder / "README.md"), *options])
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets") / "tiny"
    for k, sample in enumerate(PLACES):
        counts = np.full((9, 4), k, np.int32) + np.arange(9)[:, None] % 2
        export_sample(folder, sample, counts=counts)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "datasets" / "tiny")


def load(datasets_folder, cache, **options):
    from datasets import load_dataset

    return load_dataset(str(datasets_folder), cache_dir=str(cache), **options)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_each_split_holds_its_samples_pairs(folder, tmp_path, split):
    datasets_folder = describe(folder)
    loaded = load(datasets_folder, tmp_path / "cache", name="tiny", split=split)
    (sample,) = [sample for sample, of in PLACES.items() if of == split]
    own = pair_shards.open_shard(folder / "shards" / f"{sample}.arrow")
    assert loaded.features == own.features
    assert len(loaded) == 9
    assert set(loaded["sample"]) == {sample}
    assert {loaded.features["name"].int2str(code) for code in loaded["name"]} == {sample}
    assert loaded[4]["gexp"] == own[4]["gexp"]
    assert np.array_equal(np.asarray(loaded[4]["image"]), np.asarray(own[4]["image"]))


def test_a_split_can_be_streamed(folder, tmp_path):
    datasets_folder = describe(folder)
    rows = load(datasets_folder, tmp_path / "cache", name="tiny", split="test", streaming=True)
    rows = list(rows)
    assert [row["sample"] for row in rows] == ["S3"] * 9
    assert rows[0]["image"].size == (PATCHES["patch_px"],) * 2
    assert rows[3]["gexp"] == pair_shards.open_shard(folder / "shards" / "S3.arrow")[3]["gexp"]


def test_the_folder_of_one_dataset_loads_by_itself(folder, tmp_path):
    describe(folder)
    assert len(load(folder, tmp_path / "cache", split="train")) == 9


@pytest.mark.parametrize("streaming", [False, True])
def test_a_reexported_shard_is_what_load_dataset_then_returns(folder, tmp_path, streaming):
    def rows():
        loaded = load(
            describe(folder), tmp_path / "cache", name="tiny", split="test", streaming=streaming
        )
        return [(np.asarray(row["image"]).mean(), row["gexp"]) for row in loaded]

    before = rows()
    assert rows() == before
    (folder / "S3" / "he.ome.tif").unlink()
    shutil.rmtree(folder / "S3" / "spots.zarr")
    counts = np.full((9, 4), 77, np.int32)
    export_sample(folder, "S3", counts=counts, image=255 - tissue_image(seed=2))
    after = rows()
    assert [gexp for _, gexp in after] == [[[77] * 4]] * 9
    assert all(abs(old + new - 255) < 2 for (old, _), (new, _) in zip(before, after, strict=True))


def test_the_version_follows_shards_and_splits():
    shards = [("train", "S1", "aa"), ("test", "S2", "bb")]
    version = hf_card.dataset_version(1, shards)
    assert version == hf_card.dataset_version(1, shards[::-1])
    others = [
        hf_card.dataset_version(1, [("train", "S1", "aa"), ("test", "S2", "bc")]),
        hf_card.dataset_version(1, [("val", "S1", "aa"), ("test", "S2", "bb")]),
    ]
    assert len({version, *others}) == 3
    assert version.split(".")[0] == "1"


def test_several_datasets_are_configs_of_one(folder, tmp_path):
    other = shutil.copytree(folder, folder.parent / "other")
    split = {"train": ["S1", "S3"], "val": [], "test": ["S2"]}
    describe(other, "other", split)
    datasets_folder = describe(folder)
    assert set(load(datasets_folder, tmp_path / "c", name="other", split="train")["sample"]) == {
        "S1",
        "S3",
    }
    assert set(load(datasets_folder, tmp_path / "c", name="tiny", split="train")["sample"]) == {
        "S1"
    }


@pytest.mark.parametrize("streaming", [False, True])
def test_a_fold_uses_the_shards_of_another_dataset(folder, tmp_path, streaming):
    """By relative paths, in its own card and in the card over all."""
    split = {"train": ["S3"], "val": ["S1"], "test": ["S2"]}
    describe(folder.parent / "fold-1", "fold-1", split, home=folder)
    datasets_folder = describe(folder)
    assert not (folder.parent / "fold-1" / "shards").exists()
    for place, name in ((datasets_folder, "fold-1"), (folder.parent / "fold-1", None)):
        rows = load(place, tmp_path / "c", name=name, split="test", streaming=streaming)
        assert [row["sample"] for row in rows] == ["S2"] * 9
    versions = {
        config["config_name"]: config["version"]
        for config in hf_card.read_front_matter(datasets_folder / "README.md")["configs"]
    }
    assert versions["fold-1"] != versions["tiny"]


def test_the_published_layout_holds_all_rows_as_train_and_csv_files_tell_the_splits(
    folder, tmp_path
):
    """Read as code written for the published data set does: the tables lie in data/<config>/, and
    `name` is matched with the column `id`."""
    split = {"train": ["S1"], "val": ["S2"], "test": ["S2", "S3"], "shared_donors": "as published"}
    datasets_folder = describe(folder, split=split)
    config = "tiny-published-layout"
    data = load(datasets_folder, tmp_path / "c", name=config, split="train")
    assert data.num_rows == 27  # S2, which stands in two splits, once
    names = data.features["name"]
    for name, expected in (("train", ["S1"]), ("val", ["S2"]), ("test", ["S2", "S3"])):
        with open(folder / "data" / config / f"{name}.csv", newline="") as handle:
            table = list(csv.DictReader(handle))
        assert [row["id"] for row in table] == expected
        codes = {names.str2int(row["id"]) for row in table}
        rows = [i for i, code in enumerate(data["name"]) if code in codes]
        assert set(data.select(rows)["sample"]) == set(expected)
    assert data.features["source"].str2int("geo") == 0
    assert np.asarray(data[0]["gexp"]).shape == (1, 4)
    assert table[0]["organ"] == "breast"
    assert table[0]["patient"] == "D_S2"


def test_patches_below_the_published_crop_are_told_in_log_and_card(folder, capsys):
    describe(folder)
    logged = capsys.readouterr().err
    told = (
        "patches of 64 px are smaller than the 512 px that code written for the published data set"
    )
    assert f"tiny-published-layout: {told}" in logged
    assert f"**Note: {told}" in (folder / "README.md").read_text()
    assert "98% of its crop" in logged


def test_patches_of_the_published_crop_are_not_warned_of():
    sizes = [{"patch_px": 512}, {"patch_px": 600}]
    assert hf_card.layout_warning(sizes) == ""
    assert "patches of 300 px" in hf_card.layout_warning([*sizes, {"patch_px": 300}])


def test_native_patches_of_several_scales_make_one_dataset(tmp_path):
    folder = tmp_path / "datasets" / "tiny"
    for sample in PLACES:
        export_sample(folder, sample, patches={"native_px": 100, "encoding": "png"})
    describe(folder)
    text = (folder / "README.md").read_text()
    assert "100 x 100 pixels of the H&E as scanned (column `um_per_px`: 0.34 µm" in text


def test_a_split_without_samples_is_not_in_the_card(folder):
    describe(folder, split={"train": ["S1", "S2"], "test": ["S3"]})
    config, _ = hf_card.read_front_matter(folder / "README.md")["configs"]
    assert [files["split"] for files in config["data_files"]] == ["train", "test"]
    assert config["data_files"][0]["path"] == ["shards/S1.arrow", "shards/S2.arrow"]


def test_the_card_tells_people_what_it_holds(folder):
    describe(folder)
    text = (folder / "README.md").read_text()
    assert "27 pairs" in text
    assert f"{len(GENES)} genes" in text
    assert "| test | S3 | D_S3 | breast | Cancer | 10 | 9 |" in text
    assert "64 x 64 pixels at 0.5 µm per pixel (32 µm field of view)" in text
    assert "CC BY 4.0" in text
    assert "No donor stands in two splits." in text


def test_the_cards_tell_which_samples_were_left_out(folder):
    lost = "tiny is without sample S9 (12.5 % of the spots, by HEST's counts): status 404"
    above = describe(folder, left_out=[lost])
    for card in (folder, above):
        assert f"Left out:\n\n- {lost}\n" in (card / "README.md").read_text()
    describe(folder)
    assert "Left out" not in (folder / "README.md").read_text()


def test_names_that_are_markup_bring_no_html_and_no_link_into_the_card(folder, monkeypatch):
    evil = "<script>x</script> [a](javascript:b) | `c`"
    names = dict.fromkeys(PLACES, evil)
    monkeypatch.setattr(
        sys.modules[__name__],
        "sample_row",
        lambda sample, **more: small_pairs.sample_row(
            sample, title=evil, landing_page="javascript:b", license=evil, organ=evil, **more
        ),
    )
    describe(folder, donors=names, split={**_lists(), "shared_donors": evil})
    text = (folder / "README.md").read_text(encoding="utf-8").partition("\n---\n")[2]
    assert "<script" not in text.replace(r"\<script", "")
    assert "](javascript" not in text.replace(r"\](javascript", "")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in rows} <= {6, 8}


def _lists():
    return {of: [sample for sample in PLACES if PLACES[sample] == of] for of in PLACES.values()}


def test_the_card_tells_a_shared_donor_in_bold(folder):
    split = {"train": ["S1"], "val": ["S2"], "test": ["S3"], "shared_donors": "one tumour"}
    describe(folder, split=split, donors={"S1": "A", "S3": "A"})
    text = (folder / "README.md").read_text()
    (bold,) = [line for line in text.splitlines() if line.startswith("**")]
    assert bold.startswith("**Not donor-disjoint: donor A (S1 in train, S3 in test)")
    assert "1 of 1 test sample(s) (100% of its spots, pooled) share a donor with train" in bold
    assert bold.endswith("one tumour.**")


def test_the_same_inputs_make_the_same_card(folder):
    describe(folder)
    first = (folder / "README.md").read_bytes()
    describe(folder)
    assert (folder / "README.md").read_bytes() == first


def test_shards_of_other_labels_are_refused(folder, monkeypatch):
    import small_pairs

    monkeypatch.setitem(small_pairs.LABELS, "name", ["S3", "S2", "S1"])
    export_sample(folder, "S2")
    with pytest.raises(InputError, match=r"S2\.arrow: labels: found others than in .*S1\.arrow"):
        describe(folder)


def test_shards_of_other_patches_are_refused(folder):
    export_sample(folder, "S2", patches={**PATCHES, "um_per_px": 0.4})
    with pytest.raises(InputError, match=r"S2\.arrow: patches"):
        describe(folder)


def test_shards_of_other_genes_than_the_list_are_refused(folder):
    (folder / "genes.tsv").write_text(
        "gene_symbol\tgene_id\n" + "".join(f"{g}\t\n" for g in GENES[::-1])
    )
    with pytest.raises(InputError, match=r"S1\.arrow: genes: found others than in genes\.tsv"):
        describe(folder)


def test_swapped_shards_are_refused(folder):
    shards = folder / "shards"
    (shards / "S1.arrow").rename(shards / "S0.arrow")
    (shards / "S2.arrow").rename(shards / "S1.arrow")
    (shards / "S0.arrow").rename(shards / "S2.arrow")
    with pytest.raises(InputError, match=r"sample: found S2; give the shard of S1"):
        describe(folder)


def test_a_card_without_a_head_is_refused(folder):
    describe(folder)
    (folder / "README.md").write_text("# Notes\n")
    with pytest.raises(InputError, match="front matter: found none; delete it"):
        index(folder.parent)


def test_two_configs_of_one_name_are_refused(folder):
    describe(folder)
    shutil.copytree(folder, folder.parent / "twin")
    with pytest.raises(InputError, match="config_name: found tiny, as in"):
        index(folder.parent)


def test_the_front_matter_is_plain_yaml(folder):
    describe(folder)
    _, head, _ = (folder.parent / "README.md").read_text().split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["license"] == "cc-by-4.0"
    assert "license_name" not in head
    assert head["size_categories"] == ["n<1K"]
    assert head["pairs"] == 27
    assert head["task_categories"] == ["image-feature-extraction"]
    assert head["configs"][0]["data_files"][2]["path"] == ["tiny/shards/S3.arrow"]


@pytest.mark.parametrize(
    ("texts", "stated"),
    [
        (["CC BY 4.0", "cc-by-4.0"], {"license": "cc-by-4.0"}),
        (["CC BY 4.0", "MIT"], {"license": ["cc-by-4.0", "mit"]}),
        (["CC BY 4.0", ""], {"license": "other", "license_name": "CC BY 4.0; not stated"}),
        (["by request"], {"license": "other", "license_name": "by request"}),
    ],
)
def test_the_head_states_the_licences_as_the_hub_names_them(texts, stated):
    head = yaml.safe_load(hf_card.front_matter("A", texts, [], 1).split("---\n")[1])
    assert {key: head[key] for key in ("license", "license_name") if key in head} == stated
    again = hf_card.front_matter("A", hf_card.licences_of(head), [], 1)
    assert yaml.safe_load(again.split("---\n")[1]) == head


@pytest.mark.parametrize(
    ("pairs", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9_999_999, "1M<n<10M"), (10**7, "n>10M")],
)
def test_a_number_of_pairs_has_the_word_of_the_hub(pairs, word):
    assert hf_card.size_category(pairs) == word


def test_the_picture_shows_patches_of_each_split_in_their_order(tmp_path):
    """Each sample's patches are of one grey: its split's row of the picture is of that grey."""
    folder = tmp_path / "datasets" / "tiny"
    greys = {"S1": 40, "S2": 120, "S3": 200}
    for sample, grey in greys.items():
        counts = np.full((9, 4), grey, np.int32)
        export_sample(folder, sample, counts=counts, image=np.full_like(tissue_image(), grey))
    describe(folder)
    picture = np.asarray(Image.open(folder / "preview.jpg"), int)
    step = preview.PATCH_PX + preview.GAP_PX
    for row, sample in enumerate(greys):
        band = picture[row * step + 4 : row * step + preview.PATCH_PX - 4]
        assert abs(np.median(band) - greys[sample]) < 4
    card = (folder / "README.md").read_text()
    assert "from top to bottom: train, val, test](preview.jpg)" in card
    index_card = (folder.parent / "README.md").read_text()
    assert "](tiny/preview.jpg)" in index_card
    assert "arXiv" in card
    assert "arXiv" in index_card
