"""Embedding whole slides: what is embedded, what is taken as it is, what is skipped and listed."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from small_slides import paint, write_slide
from tiny_pairs import GENES
from tiny_pairs import SPEC as ENCODER

import embed_slides
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, image_encoders, specs
from pairscape.images import encoding, grids, whole_slide
from pairscape.pretrain import pair, stored_pair
from pairscape.pretrain.options import resolve_training
from pairscape.slides import slide_features

PATCHES = {"patch_px": 64, "um_per_px": 0.5, "min_tissue": 0.1}
PLAN = {**PATCHES, "bad_slides": "skip", "figures": 0}
LORA = ENCODER | {"finetuning": {"lora_targets": ["conv_pw", "conv_pwl"]}}
MLP = specs.read_encoder(Path(__file__).parents[2] / "config" / "encoders", "gene", "mlp")
GENE_ROWS = [{"gene_symbol": gene, "gene_id": f"ENSG{gene}"} for gene in GENES]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.manual_seed(0)
    torch.save(image_encoders.build(ENCODER, None).model.state_dict(), path)
    return path


@pytest.fixture
def slides(tmp_path):
    """Two good slides of 16 patches each."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for number in range(2):
        write_slide(folder / f"S{number}.tif", paint(seed=number))
    return folder


def write_cohort(slides, rows):
    """A cohort table of (slide, file) or (slide, file, um_per_px)."""
    lines = ["slide\tpatient\tsite\tfile\tum_per_px\tMSI"]
    lines += ["\t".join([r[0], f"P{r[0]}", "A", r[1], *(r[2:] or [""]), "1"]) for r in rows]
    (slides / "cohort.tsv").write_text("\n".join(lines) + "\n")
    return slides / "cohort.tsv"


GOOD = [("S0", "S0.tif"), ("S1", "S1.tif")]


def run(slides, weights, rows=GOOD, *, model="stand_in", out=None, threads=1, flags=(), **changes):
    """Run the program; the rows of slides.tsv by slide."""
    out = (out or slides.parent) / model / "slides.tsv"
    options = {
        "cohort": "c",
        "model": model,
        "root": str(slides),
        "encoder": ENCODER,
        "encoder_name": "stand_in",
        "slide_embedding": PLAN | {k: changes.pop(k) for k in list(changes) if k in PLAN},
    } | changes
    embed_slides.main(
        [
            *("--cohort", str(write_cohort(slides, rows)), "--slides", str(out)),
            *(("--weights", str(weights)) if weights else ()),
            *(str(flag) for flag in flags),
            *("--options", json.dumps(options), "--threads", str(threads)),
        ]
    )
    return {row["slide"]: row for row in slide_features.read_slides(out, verify=True)}


def patches_of(path):
    with whole_slide.WholeSlide(path) as slide:
        _, mask = grids.find_tissue(slide)
        grid = grids.lay_on_tissue(slide, mask, **PATCHES)
        return grid.coords, [slide.read_patch(corner, *grid[1:]) for corner in grid.coords]


def test_features_are_the_encoders_of_the_patches(slides, weights):
    rows = run(slides, weights)
    assert [row["status"] for row in rows.values()] == ["embedded"] * 2
    tower = image_encoders.build(ENCODER, weights)
    for name, row in rows.items():
        coords, patches = patches_of(slides / f"{name}.tif")
        with torch.inference_mode():
            expected = tower(image_encoders.transform(ENCODER)(patches)).numpy()
        found = slide_features.read_slide_features(row["file"])
        np.testing.assert_array_equal(found.coords, coords)
        np.testing.assert_allclose(found.features, expected, atol=1e-4)
        assert row["patches"] == len(patches) >= 16
        assert row["um_per_px"] == pytest.approx(0.25)
        assert found.attributes["encoder"] == "stand_in"
        assert found.attributes["patch_size_level0"] == 128
    assert not np.allclose(
        slide_features.read_slide_features(rows["S0"]["file"]).features[:16],
        slide_features.read_slide_features(rows["S1"]["file"]).features[:16],
    )


def test_the_number_of_threads_and_the_batch_change_nothing(slides, weights, tmp_path):
    one = run(slides, weights, batch=5)
    other = run(slides, weights, threads=3, batch=5, out=tmp_path / "again")
    assert [row["sha256"] for row in one.values()] == [row["sha256"] for row in other.values()]


def test_a_run_that_was_broken_off_goes_on_where_it_was(slides, weights, monkeypatch):
    first = run(slides, weights)
    opened = []
    original = whole_slide.WholeSlide
    monkeypatch.setattr(
        whole_slide, "WholeSlide", lambda path, *a: opened.append(path.name) or original(path, *a)
    )
    (slides.parent / "stand_in" / "slides.tsv").unlink()
    first["S1"]["file"].unlink()
    again = run(slides, weights)
    assert opened == ["S1.tif"]
    assert {n: row["sha256"] for n, row in again.items()} == {
        n: row["sha256"] for n, row in first.items()
    }


def test_what_changed_is_embedded_anew(slides, weights, tmp_path):
    def sums(**more):
        return {name: row["sha256"] for name, row in run(slides, weights, **more).items()}

    first = sums()
    write_slide(slides / "S1.tif", paint(seed=9))
    changed = sums()
    assert changed["S0"] == first["S0"]
    assert changed["S1"] != first["S1"]
    assert sums(min_tissue=0.9)["S0"] != first["S0"]
    # A damaged file is made again.
    damaged = slides.parent / "stand_in" / "S0.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert sums() == changed
    other = tmp_path / "other.pth"
    torch.manual_seed(1)
    model = image_encoders.build(ENCODER | {"untrained_seed": 5}, None).model
    torch.save(model.state_dict(), other)
    assert {r["sha256"] for r in run(slides, other).values()}.isdisjoint(changed.values())


BROKEN = {
    "no_pixel_size": lambda path: write_slide(path, paint(), None),
    "no_tissue": lambda path: write_slide(path, paint(tissue=None)),
    "not_a_slide": lambda path: path.write_text("hello"),
    "cut_off": lambda path: path.write_bytes(
        write_slide(path, paint()).read_bytes()[: path.stat().st_size // 2]
    ),
    "missing": lambda path: None,
}


def test_broken_slides_are_listed_with_their_reason_and_stop_nobody(slides, weights):
    rows = [GOOD[0], *((name, f"{name}.tif") for name in BROKEN), GOOD[1]]
    for name, make in BROKEN.items():
        make(slides / f"{name}.tif")
    found = run(slides, weights, rows)
    assert list(found) == [name for name, *_ in rows]
    skipped = {name: row["reason"] for name, row in found.items() if row["status"] == "skipped"}
    assert set(skipped) == set(BROKEN)
    for name, words in {
        "no_pixel_size": "um_per_px: found nothing; write it in the column um_per_px",
        "no_tissue": "tissue: found none",
        "not_a_slide": "OpenSlide can't read it",
        "cut_off": "OpenSlide can't read it",
        "missing": "file: found nothing",
    }.items():
        assert words in skipped[name]
        assert found[name]["patches"] == 0
        assert found[name]["file"] is None
    kept = sorted(path.name for path in (slides.parent / "stand_in").iterdir())
    assert kept == ["S0.h5", "S1.h5", "slides.tsv"]


def test_the_cohort_table_gives_the_pixel_size_that_a_file_lacks(slides, weights):
    BROKEN["no_pixel_size"](slides / "x.tif")
    found = run(slides, weights, [("x", "x.tif", "0.25")])
    expected, _ = patches_of(slides / "S0.tif")
    assert found["x"]["patches"] == len(expected)


def test_a_slide_that_broke_since_keeps_no_features(slides, weights):
    run(slides, weights)
    (slides / "S1.tif").write_text("hello")
    assert run(slides, weights)["S1"]["status"] == "skipped"
    assert not (slides.parent / "stand_in" / "S1.h5").exists()


def test_a_tile_that_breaks_off_midway_leaves_no_features(slides, weights, monkeypatch):
    original, read_of = whole_slide.WholeSlide.read_patch, []

    def read(slide, *patch):
        read_of.append(slide.path.name)
        if slide.path.name == "S1.tif" and read_of.count("S1.tif") == 10:
            raise InputError(slide.path, "region", "damage", "mend it")
        return original(slide, *patch)

    monkeypatch.setattr(whole_slide.WholeSlide, "read_patch", read)
    found = run(slides, weights, batch=4)
    assert found["S1"]["reason"] == "region: found damage; mend it"
    assert not list((slides.parent / "stand_in").glob("*S1*"))


def test_the_policy_stop_stops_and_a_cohort_of_broken_slides_is_refused(slides, weights):
    (slides / "S0.tif").write_text("hello")
    with pytest.raises(InputError, match=r"S0\.tif: image: found Unsupported"):
        run(slides, weights, bad_slides="stop")
    with pytest.raises(InputError, match="slides for stand_in: found none of 1"):
        run(slides, weights, GOOD[:1])
    assert not (slides.parent / "stand_in" / "slides.tsv").exists()


def feature_file(path, width=256, encoder="stand_in", **more):
    features = np.random.default_rng(0).standard_normal((20, width)).astype(np.float32)
    with h5py.File(path, "w") as file:
        file["features"] = features
        file["features"].attrs.update({"encoder": encoder, **more})
        file["coords"] = np.zeros((20, 2), np.int64)
        file["coords"].attrs["patch_size_level0"] = 512
    return features


def test_feature_files_of_others_are_taken_where_they_lie(slides, weights):
    features = feature_file(slides / "T.h5")
    found = run(slides, weights, [*GOOD, ("T", "T.h5", "0.25")])["T"]
    assert found["file"].samefile(slides / "T.h5")
    assert (found["patches"], found["um_per_px"]) == (20, 0.25)
    np.testing.assert_array_equal(
        slide_features.read_slide_features(found["file"]).features, features
    )


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("patch_size", 512, "patch_size: found 512; 64 is needed"),
        ("target_magnification", 10, "target_magnification: found 10; 20 is needed"),
        ("overlap", 16, "overlap: found 16; 0 is needed"),
        ("patch_um_per_px", 1.0, "patch_um_per_px: found 1.0; 0.5 is needed"),
        ("patch_size", "large", "patch_size: found large; 64 is needed"),
    ],
)
def test_features_of_other_patches_are_refused(slides, weights, key, value, words):
    feature_file(slides / "A.h5")
    with h5py.File(slides / "A.h5", "a") as file:
        fits = {"patch_size": 64, "target_magnification": 20, "overlap": 0, "patch_um_per_px": 0.5}
        file["coords"].attrs.update(fits)
    assert run(slides, weights, [("A", "A.h5")])["A"]["status"] == "embedded"
    with h5py.File(slides / "A.h5", "a") as file:
        file["coords"].attrs[key] = value
    assert words in run(slides, weights, [*GOOD, ("A", "A.h5")])["A"]["reason"]


@pytest.mark.parametrize("value", [0.0, 1.5])
def test_features_that_are_all_alike_are_refused(slides, weights, value):
    with h5py.File(slides / "A.h5", "w") as file:
        file["features"] = np.full((20, 256), value, np.float32)
    reason = run(slides, weights, [*GOOD, ("A", "A.h5")])["A"]["reason"]
    assert "for all of 20 patches" in reason


def test_feature_files_of_another_encoder_or_without_patches_are_skipped(slides, weights):
    feature_file(slides / "A.h5", encoder="uni_v1")
    feature_file(slides / "B.h5", width=99)
    feature_file(slides / "C.h5", weights_sha256="0" * 64)
    with h5py.File(slides / "D.h5", "w") as file:
        file["features"] = np.empty((0, 256), np.float32)
    found = run(slides, weights, [*GOOD, *((name, f"{name}.h5") for name in "ABCD")])
    assert [found[name]["reason"].split(";")[0] for name in "ABCD"] == [
        "encoder: found uni_v1",
        "features: found 99 numbers per patch",
        "weights_sha256: found 000000000000",
        "features: found no patch",
    ]


def test_one_slide_under_two_patients_is_refused_whatever_its_files_are_called(slides, weights):
    (slides / "copy.tif").write_bytes((slides / "S0.tif").read_bytes())
    with pytest.raises(
        InputError, match=r"slide S2, column file: found the features of slide S0, of"
    ):
        run(slides, weights, [*GOOD, ("S2", "copy.tif")])
    assert not (slides.parent / "stand_in" / "slides.tsv").exists()
    feature_file(slides / "A.h5")
    feature_file(slides / "B.h5", made="elsewhere")
    with pytest.raises(
        InputError, match=r"slide B, column file: found the features of slide A, of"
    ):
        run(slides, weights, [("A", "A.h5"), ("B", "B.h5")])


def save_pair(path, weights, **training):
    """A pair at random, as the pretraining would save it; returns its image side."""
    training = resolve_training({"embedding_dim": 16, **training})
    stored = {"images": 256} if training.image_tuning == "frozen" else {}
    description = pair.describe(LORA, MLP, training, GENE_ROWS, stored)
    tower = image_encoders.build(LORA, weights)
    description["trunk_sha256"] = {"images": image_encoders.tower_sha256(tower)}
    torch.manual_seed(3)
    genes = gene_encoders.build(MLP, None, GENE_ROWS, None)
    made = pair.Pair(description, {"images": None if stored else tower, "genes": genes})
    with torch.no_grad():
        for name, parameter in made.images.named_parameters():
            if "lora_B" in name:  # zero to begin with, as if there were no adapter
                parameter.normal_(0, 0.2)
    stored_pair.save_pair(path, made, made.kept_state(), {})
    return made.images.eval()


def test_a_pair_over_a_frozen_encoder_projects_its_features(slides, weights, tmp_path):
    side = save_pair(tmp_path / "model.ckpt", weights, image_tuning="frozen")
    (slides / "bad.tif").write_text("hello")
    rows = [*GOOD, ("bad", "bad.tif")]
    base = run(slides, weights, rows)
    flags = ("--pair", tmp_path / "model.ckpt", "--base", tmp_path / "stand_in" / "slides.tsv")
    found = run(slides, None, rows, model="pair", flags=flags, encoder=LORA)
    for name in ("S0", "S1"):
        before = slide_features.read_slide_features(base[name]["file"])
        after = slide_features.read_slide_features(found[name]["file"])
        with torch.inference_mode():
            expected = side(torch.from_numpy(before.features)).numpy()
        np.testing.assert_allclose(after.features, expected, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(after.features, axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(after.coords, before.coords)
        assert after.attributes["encoder"] == "pair"
        assert after.attributes["um_per_px"] == before.attributes["um_per_px"]
    assert found["bad"]["status"] == "skipped"
    assert "OpenSlide can't read it" in found["bad"]["reason"]


def test_a_pair_refuses_the_features_of_other_weights(slides, weights, tmp_path):
    other = tmp_path / "other.pth"
    torch.save(
        image_encoders.build(ENCODER | {"untrained_seed": 5}, None).model.state_dict(), other
    )
    save_pair(tmp_path / "model.ckpt", other, image_tuning="frozen")
    run(slides, weights)
    flags = ("--pair", tmp_path / "model.ckpt", "--base", tmp_path / "stand_in" / "slides.tsv")
    with pytest.raises(InputError, match=r"none of 2 .*weights_sha256: found"):
        run(slides, None, model="pair", flags=flags, encoder=LORA)


@pytest.mark.parametrize(
    "training",
    [
        {"image_tuning": "lora"},
        {"image_tuning": "full"},
        {"image_tuning": "lora", "image_projection": "transformer"},
    ],
)
def test_a_pair_whose_encoder_was_trained_embeds_the_patches_itself(
    slides, weights, tmp_path, training
):
    side = save_pair(tmp_path / "model.ckpt", weights, **training)
    flags = ("--pair", tmp_path / "model.ckpt")
    found = run(slides, weights, GOOD[:1], model="pair", flags=flags, encoder=LORA)
    _, patches = patches_of(slides / "S0.tif")
    size = {key: ENCODER["input"][key] for key in ("resize_px", "crop_px", "interpolation")}
    inputs = torch.from_numpy(np.stack([encoding.fit(patch, **size) for patch in patches]))
    with torch.inference_mode():
        expected = side(inputs).numpy()
    features = slide_features.read_slide_features(found["S0"]["file"]).features
    np.testing.assert_allclose(features, expected, atol=1e-4)
    feature_file(slides / "T.h5")
    found = run(slides, weights, [GOOD[0], ("T", "T.h5")], model="pair", flags=flags, encoder=LORA)
    assert "needs the slide itself" in found["T"]["reason"]


def test_flags_that_dont_fit_the_model_are_refused(slides, weights, tmp_path):
    save_pair(tmp_path / "model.ckpt", weights, image_tuning="frozen")
    flags = ("--pair", tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="--base: flag: found nothing; give the"):
        run(slides, None, model="pair", flags=flags, encoder=LORA)
    with pytest.raises(InputError, match="stand_in embeds the patches itself"):
        run(slides, weights, flags=("--base", "x.tsv"))
    changed = LORA | {"input": LORA["input"] | {"mean": [0, 0, 0]}}
    with pytest.raises(InputError, match="image encoder: found another than stand_in"):
        run(slides, None, model="pair", flags=flags, encoder=changed)
    with pytest.raises(InputError, match="it sees no patches"):
        run(slides, None, encoder=ENCODER | {"builder": "expression"})
    with pytest.raises(InputError, match="only a control may run without"):
        run(slides, None, encoder=ENCODER | {"weights": None})


def test_a_real_slide_is_embedded_and_drawn(shared, weights, tmp_path):
    """An Aperio slide of 0.499 um/px; patches of 128 um on its tissue, by the facts of the file."""
    path = shared / "data" / "wsi" / "CMU-1-Small-Region.svs"
    out = tmp_path / "slides"
    out.mkdir()
    found = run(
        out,
        weights,
        [("CMU-1", str(path))],
        patch_px=256,
        figures=1,
        flags=("--figures", tmp_path / "figures"),
    )["CMU-1"]
    assert found["um_per_px"] == 0.499
    coords, attributes = slide_features.read_slide_facts(found["file"])[1:]
    assert attributes["patch_side_px"] * 0.499 == pytest.approx(128)
    assert (attributes["level0_width"], attributes["level0_height"]) == (2220, 2967)
    # 8 x 11 patches fit; the tissue runs down its middle.
    assert 40 <= len(coords) <= 60
    assert (coords.max(0) + attributes["patch_side_px"] <= [2220, 2967]).all()
    columns = np.bincount((coords[:, 0] / attributes["patch_side_px"]).round().astype(int))
    assert columns.argmax() in (3, 4, 5)
    assert columns[0] == 0
    from PIL import Image

    with Image.open(tmp_path / "figures" / "CMU-1.png") as figure:
        assert min(figure.size) > 500


def test_the_checksum_of_a_slide_in_the_list_is_its_files(slides, weights):
    for row in run(slides, weights).values():
        assert row["sha256"] == files.sha256_file(row["file"])
