"""An H&E without an alignment is registered, or refused in one line: never wrongly placed."""

import json
import sys

import numpy as np
import pytest
import tifffile
from conftest import ROOT

import register_image
from pairscape.acquire import alignment
from pairscape.core.errors import InputError
from pairscape.spots import registration_fit, registration_maps

sys.path.insert(0, str(ROOT / "benchmarks"))
import bench_register as bench


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """A simulated sample, and its H&E after a similarity: pixels, true alignment, µm per pixel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "SIDE_UM", 900)
        bundle, thumbnail, scale, right = bench.simulated(
            tmp_path_factory.mktemp("register"), 5, transcripts_per_spot=60
        )
    image, matrix, growth = bench.changed(thumbnail, np.random.default_rng(3))
    right = right @ np.diag([scale, scale, 1.0])
    um_per_px = alignment.decompose(right, bench.PIXEL_SIZE_UM)["um_per_px"] / growth
    return bundle, image, right @ np.linalg.inv(matrix), um_per_px


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(registration_fit, "KEPT", 2)


def run(folder, bundle, image, resolution=None, **facts):
    tags = {"tile": (256, 256), "photometric": "rgb"}
    tags |= {"resolution": resolution, "resolutionunit": "CENTIMETER"} if resolution else {}
    tifffile.imwrite(folder / "he.tif", image, **tags)
    argv = ["--bundle", bundle, "--he-image", folder / "he.tif", "--matrix", folder / "he.csv"]
    argv += ["--report", folder / "registration.json", "--figure", folder / "registration.png"]
    options = {"sample": {"sample": "S", **facts}, "seed": 1}
    register_image.main([*map(str, argv), "--options", json.dumps(options)])
    return json.loads((folder / "registration.json").read_text())


def test_a_turned_and_scaled_he_is_registered_to_a_few_micrometres(sample, tmp_path):
    bundle, image, right, um_per_px = sample
    report = run(tmp_path, bundle, image, he_um_per_px=str(um_per_px))
    found = alignment.read_alignment(tmp_path / "he.csv")
    region = registration_maps.read_region(bundle)
    assert bench.error_um(found, right, region) < 3
    assert report["used"]
    assert np.allclose(report["matrix"], found)
    assert report["residual_um"] < 3
    assert len(report["residuals"]) > 10
    evidence = report["evidence"]
    assert evidence["score"] - evidence["rival"]["score"] > registration_fit.CLEAR_MARGIN
    assert (tmp_path / "registration.png").stat().st_size > 10_000


def test_the_pixel_size_of_the_table_outranks_that_of_the_header(monkeypatch, sample, tmp_path):
    bundle, image, _, um_per_px = sample
    stated = []
    monkeypatch.setattr(
        registration_fit, "fit", lambda *_, he_um_per_px: stated.append(he_um_per_px)
    )
    for facts, size_um in (({"he_um_per_px": str(um_per_px)}, um_per_px), ({}, 0.2125)):
        with pytest.raises(InputError, match="far larger"):
            run(tmp_path, bundle, image, resolution=(1e4 / 0.2125,) * 2, **facts)
        assert stated.pop() == pytest.approx(size_um)


def test_the_he_of_another_section_is_refused_and_nothing_is_left_to_go_on_from(sample, tmp_path):
    """Blocks of the tissue dealt anew: colours and densities of an H&E, but not the places."""
    bundle, image, _, um_per_px = sample
    rng, side = np.random.default_rng(1), 220
    rows, columns = (n // side for n in image.shape[:2])
    blocks = [
        image[r * side : (r + 1) * side, c * side : (c + 1) * side]
        for r in range(rows)
        for c in range(columns)
    ]
    dealt = [blocks[i] for i in rng.permutation(len(blocks))]
    shuffled = np.vstack([np.hstack(dealt[r * columns : (r + 1) * columns]) for r in range(rows)])
    (tmp_path / "he.csv").write_text("an older one")
    with pytest.raises(InputError) as refused:
        run(tmp_path, bundle, shuffled, he_um_per_px=str(um_per_px))
    said = str(refused.value)
    assert "he.tif: registration: found a fit " in said
    assert said.endswith("in column he_alignment of sample S")
    left = {"he.tif", "registration.failed.json", "registration.refused.json"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert not json.loads((tmp_path / "registration.failed.json").read_text())["used"]


def test_an_he_without_contrast_is_refused(sample, tmp_path):
    blank = np.full((600, 600, 3), 240, np.uint8)
    with pytest.raises(InputError, match="registration: found an H&E without contrast; give the"):
        run(tmp_path, sample[0], blank, he_um_per_px="1")


VERDICT = {
    "verdict": "accepted",
    "why": "",
    "score": 0.5,
    "rival": {"name": "the identity", "score": 0.3},
    "lead": {"high": -0.1},
}


@pytest.mark.parametrize(
    ("change", "residual_um", "why"),
    [
        ({}, 1.0, None),
        ({"contrasts": (1.0, 0.6)}, 1.0, "stand out by 1.00, and another place's by 0.60"),
        (
            {"verdict": "undecided", "why": "little tissue"},
            1.0,
            "not|isn't the right one for sure: l",
        ),
        ({"score": 0.34}, 1.0, "score 0.34, and the identity has 0.30"),
        ({"lead": {"high": 0.01}}, 1.0, "the identity has 0.30"),
        ({}, 11.0, "lies 11 µm from its nuclei"),
        ({}, None, "too few nuclei"),
    ],
)
def test_a_fit_is_used_only_by_a_clear_margin(change, residual_um, why):
    residuals = np.empty((0, 2)) if residual_um is None else np.array([[residual_um, 0.0]])
    contrasts = change.get("contrasts", (1.0, 0.4))
    fitted = registration_fit.Fit(np.eye(3), residuals, residuals, *contrasts)
    told = registration_fit.refusal(fitted, VERDICT | change)
    assert (told is None) == (why is None)
    if why:
        assert any(part in told for part in why.split("|"))
