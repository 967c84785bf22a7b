"""Right alignments are accepted, wrong ones refused, and what can't be told is a warning."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import ROOT
from tiny_bundle import write_bundle, write_he

import check_alignment
from pairscape.acquire import alignment
from pairscape.core.errors import InputError
from pairscape.images.tiff import TiffImage
from pairscape.spots import alignment_figure, registration, registration_maps

PIXEL_SIZE_UM = 0.2125
SECTIONS = ("C2", "C3", "C4", "C5")


def look_at(bundle, he_image):
    """What ``judge`` needs of a sample: the picture, the region, and the pixel size."""
    with TiffImage(he_image) as image:
        size_px, um_per_px = (image.width, image.height), image.um_per_px
        small, scale = image.thumbnail(registration_maps.THUMBNAIL_PX)
    return (
        registration_maps.read_picture(small, scale, size_px),
        registration_maps.read_region(bundle),
        um_per_px,
    )


def judge(matrix, seen):
    picture, region, um_per_px = seen
    return registration.judge(matrix, picture, region, PIXEL_SIZE_UM, um_per_px, seed=0)


def about(linear, centre):
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - np.array(linear) @ centre
    return matrix


def wrong_ones(matrix, size_px):
    """Alignments that go wrong as files do."""
    middle = np.array(size_px) / 2
    shifted = matrix.copy()
    shifted[:2, 2] += np.array([200, -224]) / PIXEL_SIZE_UM  # 300 µm
    return {
        "inverse": np.linalg.inv(matrix),
        "identity": np.eye(3),
        "mirrored in x": matrix @ about([[-1, 0], [0, 1]], middle),
        "mirrored in y": matrix @ about([[1, 0], [0, -1]], middle),
        "turned by 90": matrix @ about([[0, -1], [1, 0]], middle),
        "turned by 180": matrix @ about([[-1, 0], [0, -1]], middle),
        "shifted by 300 µm": shifted,
        "of a smaller image": matrix @ np.diag([4, 4, 1.0]),
    }


def run(folder, bundle, he_image, he_alignment=None, sample=None, **options):
    folder = Path(folder)
    argv = ["--bundle", bundle, "--he-image", he_image]
    argv += ["--he-alignment", he_alignment] if he_alignment else []
    argv += ["--report", folder / "alignment.json", "--overlay", folder / "overlay.png"]
    options = {"sample": {"sample": "S1"} | (sample or {}), "seed": 1} | options
    check_alignment.main([*map(str, argv), "--options", json.dumps(options)])
    return json.loads((folder / "alignment.json").read_text())


@pytest.fixture(scope="module")
def right_alignment(shared):
    """The right alignment of one of the four sections."""

    def read(section):
        folder = shared / "data" / "her2st-xenium" / section
        return alignment.read_alignment(folder / f"{section}_he_imagealignment.csv")

    return read


@pytest.fixture(scope="module")
def real(shared, right_alignment):
    """What is seen of one of the four sections, and its right alignment."""

    @functools.cache
    def look(section):
        folder = shared / "data" / "her2st-xenium" / section
        return look_at(folder / "outs", folder / f"{section}_he_image.ome.tif"), right_alignment(
            section
        )

    return look


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_of_a_real_section_only_the_right_alignment_is_accepted(real, right_alignment, section):
    seen, right = real(section)
    verdict = judge(right, seen)
    assert verdict["verdict"] == "accepted", verdict["why"]
    assert verdict["lead"]["high"] < 0
    other = SECTIONS[(SECTIONS.index(section) + 1) % 4]
    wrong = wrong_ones(right, seen[0].size_px) | {f"of {other}": right_alignment(other)}
    for name, matrix in wrong.items():
        verdict = judge(matrix, seen)
        assert verdict["verdict"] == "refused", f"{name}: {verdict['why']}"
        # What it is beaten by is the truth, to within two spots.
        far = registration.farthest_um(right, verdict["rival"]["matrix"], seen[1], PIXEL_SIZE_UM)
        assert far < 2 * registration_maps.SPOT_UM, name


def test_a_few_micrometres_off_is_the_same_alignment(real):
    seen, right = real("C2")
    near = right.copy()
    near[0, 2] += 20 / PIXEL_SIZE_UM
    assert registration.farthest_um(right, near, seen[1], PIXEL_SIZE_UM) == pytest.approx(20)
    assert judge(near, seen)["verdict"] == "accepted"


def test_a_real_section_gets_a_report_and_a_picture(shared, tmp_path):
    folder = shared / "data" / "her2st-xenium" / "C4"
    report = run(
        tmp_path,
        folder / "outs",
        folder / "C4_he_image.ome.tif",
        folder / "C4_he_imagealignment.csv",
    )
    assert (report["verdict"], report["warnings"]) == ("ok", [])
    assert report["mirrored"]
    assert report["um_per_px"] == pytest.approx(0.6875)
    assert report["tissue_on_the_he"] == 1
    assert report["evidence"]["score"] > report["evidence"]["rival"]["score"]
    assert (tmp_path / "overlay.png").stat().st_size > 100_000


def test_a_wrong_alignment_is_refused_in_one_line_with_both_scores_and_a_picture(shared, tmp_path):
    folder = shared / "data" / "her2st-xenium" / "C3"
    matrix = alignment.read_alignment(folder / "C3_he_imagealignment.csv")
    wrong = tmp_path / "inverse.csv"
    np.savetxt(wrong, np.linalg.inv(matrix), delimiter=",")
    (tmp_path / "alignment.json").write_text("{}")
    (tmp_path / "overlay.png").write_bytes(b"old")
    files = folder / "outs", folder / "C3_he_image.ome.tif", wrong
    with pytest.raises(InputError) as refusal:
        run(tmp_path, *files)
    said = str(refusal.value)
    assert "\n" not in said
    assert f"{wrong}: matrix: found an alignment that another one beats: its score is 0.0" in said
    assert "that of the inverse of the matrix 0.5" in said
    assert "overlay.failed.png" in said
    assert "alignment.trusted" in said
    assert {path.name for path in tmp_path.iterdir()} == {
        "inverse.csv",
        "alignment.failed.json",
        "alignment.refused.json",
        "overlay.failed.png",
    }
    report = run(tmp_path, *files, trusted=True)
    assert report["verdict"] == "warning"
    assert "listed in alignment.trusted" in report["warnings"][-1]
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"inverse.csv", "alignment.json", "overlay.png"}


def test_the_squares_drawn_at_full_resolution_are_the_densest_apart_from_each_other():
    rng = np.random.default_rng(0)
    dense, denser, far = [300.0, 300.0], [420.0, 300.0], [1620.0, 1500.0]
    sizes = ((dense, 50), (denser, 60), (far, 30))
    nuclei_um = [rng.uniform(0, 2000, (200, 2))]
    nuclei_um += [centre + rng.uniform(-50, 50, (size, 2)) for centre, size in sizes]
    chosen = alignment_figure.choose_details(
        np.concatenate(nuclei_um), 120, lambda xy: xy[:, 0] < 1700
    )
    np.testing.assert_allclose(chosen, [denser, far], atol=60)
    assert not len(alignment_figure.choose_details(np.empty((0, 2)), 120, lambda xy: xy[:, 0] < 0))


@pytest.mark.parametrize("section", ["C2", "C4"])
def test_the_outlines_drawn_at_full_resolution_lie_on_dark_nuclei(shared, real, section):
    """So an alignment that is 10 µm off is seen: its outlines leave the nuclei."""
    folder = shared / "data" / "her2st-xenium" / section
    (_, region, _), right = real(section)

    def darkness(matrix):
        """Of the H&E within the outlines, against the whole of the details."""
        with TiffImage(folder / f"{section}_he_image.ome.tif") as image:
            details = check_alignment.read_details(
                folder / "outs", image, matrix, region, PIXEL_SIZE_UM
            )
        assert len(details) == 2
        inside, whole = [], []
        for detail in details:
            centres = np.array([outline.mean(axis=0) for outline in detail.outlines])
            x, y = np.round(centres - detail.corner_px - 0.5).astype(int).T
            height, width = detail.picture.shape[:2]
            here = (x >= 0) & (y >= 0) & (x < width) & (y < height)
            assert here.sum() > 10
            inside.append(255 - detail.picture[y[here], x[here]].mean())
            whole.append(255 - detail.picture.mean())
        return np.mean(inside) - np.mean(whole)

    moved = right.copy()
    moved[0, 2] += 10 / PIXEL_SIZE_UM
    assert darkness(right) > 25
    assert darkness(moved) < darkness(right) / 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return write_bundle(folder / "outs"), *write_he(folder)


def test_what_is_too_small_to_tell_is_a_warning(tiny, tmp_path):
    report = run(tmp_path, *tiny)
    assert report["verdict"] == "warning"
    assert "can't be told" in report["warnings"][0]
    assert (tmp_path / "overlay.png").exists()


def test_an_alignment_that_puts_the_tissue_beside_the_he_is_refused(tiny, tmp_path):
    bundle, he_image, he_alignment = tiny
    matrix = alignment.read_alignment(he_alignment)
    matrix[0, 2] += 1e5
    np.savetxt(tmp_path / "far.csv", matrix, delimiter=",")
    with pytest.raises(InputError, match=r"an alignment that puts 0 % of the tissue on the H&E"):
        run(tmp_path, bundle, he_image, tmp_path / "far.csv")


def test_the_pixel_size_goes_by_tissue_then_table_then_header(tiny, tmp_path):
    """Here the tissue doesn't tell: the table outranks the header, the trusting user them both."""
    bundle, _, he_alignment = tiny
    he_image, _ = write_he(tmp_path, stated=1.0)
    files = bundle, he_image, he_alignment
    with pytest.raises(InputError, match=r"0\.5 µm a pixel where the H&E is said to have 1, and"):
        run(tmp_path, *files)
    with pytest.raises(InputError, match=r"0\.5 µm a pixel where the H&E is said to have 2, and"):
        run(tmp_path, *files, sample={"he_um_per_px": "2"})
    for more in ({"sample": {"he_um_per_px": "0.5"}}, {"trusted": True}):
        report = run(tmp_path, *files, **more)
        assert report["verdict"] == "warning"
        words = "PhysicalSizeX of the image says 1 µm a pixel, the alignment 0.5, which is used"
        assert words in report["warnings"]


def test_a_header_that_the_tissue_contradicts_is_a_warning(shared, tmp_path):
    folder = shared / "data" / "her2st-xenium" / "C4"
    he_image = tmp_path / "he.ome.tif"
    he_image.write_bytes((folder / "C4_he_image.ome.tif").read_bytes())
    xml = tifffile.tiffcomment(he_image)
    tifffile.tiffcomment(he_image, xml.replace('SizeX="0.6875"', 'SizeX="0.2125"').encode())
    with TiffImage(he_image) as image:
        assert image.um_per_px == 0.2125
    report = run(tmp_path, folder / "outs", he_image, folder / "C4_he_imagealignment.csv")
    assert report["evidence"]["verdict"] == "accepted"
    assert report["warnings"] == [
        "PhysicalSizeX of the image says 0.2125 µm a pixel, the alignment 0.6875, which is used"
    ]


def test_words_and_their_lack_are_told(tiny, tmp_path):
    bundle, he_image, _ = tiny
    report = run(tmp_path, bundle, he_image, sample={"he_alignment": "microns"})
    assert report["how"] == "microns"
    assert report["um_per_px"] == pytest.approx(0.5)
    with pytest.raises(InputError, match="never taken for the identity"):
        run(tmp_path, bundle, he_image)


def test_the_residual_of_keypoints_is_reported_and_a_large_one_said(tiny, tmp_path):
    bundle, he_image, he_alignment = tiny
    matrix = alignment.read_alignment(he_alignment)
    he_px = np.array([[100.0, 100], [800, 100], [800, 800], [100, 800]])
    fixed = he_px @ matrix[:2, :2].T + matrix[:2, 2]
    fixed[:, 0] += np.array([40, -40, 40, -40]) / PIXEL_SIZE_UM
    rows = np.hstack([fixed, he_px])
    header = "fixedX,fixedY,alignmentX,alignmentY"
    np.savetxt(tmp_path / "points.csv", rows, delimiter=",", header=header, comments="")
    report = run(tmp_path, bundle, he_image, tmp_path / "points.csv")
    assert (report["how"], report["keypoints"]) == ("keypoints", 4)
    assert report["keypoint_residual_um"] == pytest.approx(40)
    assert any("keypoints lie 40 µm off" in warning for warning in report["warnings"])


def test_a_blank_he_or_a_missing_table_of_cells_is_no_failure(tiny, tmp_path, shared):
    bundle, _, he_alignment = tiny
    tifffile.imwrite(
        tmp_path / "blank.tif",
        np.full((930, 930, 3), 240, np.uint8),
        tile=(256, 256),
        photometric="rgb",
    )
    report = run(tmp_path, bundle, tmp_path / "blank.tif", he_alignment)
    assert report["verdict"] == "warning"
    seen = look_at(shared / "data" / "her2st-xenium" / "C2" / "outs", tmp_path / "blank.tif")
    assert judge(np.eye(3), seen)["verdict"] == "undecided"
    assert registration_maps.read_region(bundle).counts["nuclei"] == 4
    (bundle / "cells.parquet").rename(bundle / "gone.parquet")
    region = registration_maps.read_region(bundle)
    (bundle / "gone.parquet").rename(bundle / "cells.parquet")
    assert region.counts["nuclei"] == 0
    assert list(region.maps) == ["transcripts"]


@pytest.fixture(scope="module")
def simulate(tmp_path_factory):
    """Make a simulated sample of a millimetre; returns what is seen of it and its alignment."""
    simulate_bundle = pytest.importorskip("simulate_bundle")
    folder = tmp_path_factory.mktemp("simulated")
    panel = ROOT / "config" / "published" / "panels" / "human-breast-panel.tsv"

    def make(seed, **knobs):
        bundle = folder / f"{seed}"
        options = {
            "sample": {"sample": "S", "donor": "D", "panel": "p", "organ": "Breast"},
            "seed": seed,
            "simulation": {
                "width_um": 1000,
                "height_um": 1000,
                "transcripts_per_spot": 60,
                **knobs,
            },
        }
        argv = ["--panel", str(panel), "--bundle", str(bundle), "--options", json.dumps(options)]
        simulate_bundle.main(argv)
        matrix = alignment.read_alignment(bundle / "S_he_imagealignment.csv")
        return look_at(bundle, bundle / "S_he_image.ome.tif"), matrix

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "mirrored"), [pytest.param(1, False, marks=pytest.mark.slow), (2, True)]
)
def test_of_a_simulated_sample_only_the_right_alignment_is_accepted(simulate, seed, mirrored):
    seen, right = simulate(seed, mirrored=mirrored)
    verdict = judge(right, seen)
    assert verdict["verdict"] == "accepted", verdict["why"]
    for name, matrix in wrong_ones(right, seen[0].size_px).items():
        verdict = judge(matrix, seen)
        assert verdict["verdict"] == "refused", f"{name}: {verdict['why']}"


@pytest.mark.parametrize("seed", [3, pytest.param(4, marks=pytest.mark.slow)])
def test_an_he_that_has_nothing_to_do_with_the_transcripts_is_left_undecided(simulate, seed):
    """The search finds something in any picture; that alone must not fail a sample."""
    seen, right = simulate(seed, morphology_signal=0)
    verdict = judge(right, seen)
    assert verdict["verdict"] == "undecided"
    assert "doesn't follow" in verdict["why"]
