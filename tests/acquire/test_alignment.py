import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairscape.acquire import alignment
from pairscape.core import tsv
from pairscape.core.errors import InputError

HEADER = "fixedX,fixedY,alignmentX,alignmentY"
MATRIX = np.array([[0.011, 1.2895, 807.97], [-1.2895, 0.011, 73097.65], [0, 0, 1]])


@given(
    st.floats(-179, 179),
    st.booleans(),
    st.floats(0.1, 2),
    st.floats(-1e4, 1e4),
    st.floats(-1e4, 1e4),
)
def test_a_matrix_is_taken_apart_and_undone(degrees, mirrored, um_per_px, x0, y0):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = np.eye(3)
    matrix[:2, :2] = turn @ np.diag([-1 if mirrored else 1, 1]) * um_per_px / 0.2125
    matrix[:2, 2] = x0, y0
    parts = alignment.decompose(matrix, 0.2125)
    assert parts["mirrored"] == mirrored
    assert parts["um_per_px"] == pytest.approx(um_per_px)
    assert parts["rotation_degrees"] == pytest.approx(degrees, abs=1e-6)
    assert parts["anisotropy"] == pytest.approx(1)
    assert parts["shear"] == pytest.approx(0, abs=1e-5)
    points = np.array([[0.0, 0], [12.5, 700], [-3, 4]])
    there = alignment.he_px_to_um(matrix, 0.2125, points)
    np.testing.assert_allclose(there[0], [x0 * 0.2125, y0 * 0.2125])
    np.testing.assert_allclose(alignment.um_to_he_px(matrix, 0.2125, there), points, atol=1e-6)


def test_stretch_and_shear_are_told_apart():
    stretched = alignment.decompose(np.diag([2.0, 1.0, 1.0]), 1.0)
    assert stretched["anisotropy"] == pytest.approx(2)
    assert stretched["shear"] == pytest.approx(0)
    sheared = alignment.decompose(
        np.array([[1.0, np.tan(np.deg2rad(10)), 0], [0, 1, 0], [0, 0, 1]]), 1
    )
    assert sheared["shear"] == pytest.approx(10)


@pytest.mark.parametrize("section", ["C2", "C3", "C4", "C5"])
def test_real_alignments_agree_with_how_they_were_made(shared, section):
    folder = shared / "data" / "her2st-xenium"
    matrix = alignment.read_alignment(folder / section / f"{section}_he_imagealignment.csv")
    frame = json.loads((folder / "truth" / f"{section}_frame.json").read_text())
    parts = alignment.decompose(matrix, frame["xenium_um_per_px"])
    assert parts["um_per_px"] == pytest.approx(frame["he_um_per_px"])
    assert parts["mirrored"] == frame["mirrored_x_before_rotation"]
    turn = parts["rotation_degrees"] - frame["rotation_degrees_xy"]
    assert (turn + 180) % 360 - 180 == pytest.approx(0, abs=1e-6)
    spots = tsv.read_tsv(folder / "truth" / f"{section}_spots.tsv")
    um = np.array([[float(row["xenium_um_x"]), float(row["xenium_um_y"])] for row in spots])
    px = np.array([[float(row["he_px_x"]), float(row["he_px_y"])] for row in spots])
    assert np.abs(alignment.um_to_he_px(matrix, 0.2125, um) - px).max() < 0.01


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,0,0\n0,1,0\n", "3 + 3 numbers in 2 lines"),
        ("1,0\n0,1\n0,0\n", "2 + 2 + 2 numbers in 3 lines"),
        ("", "no numbers in 0 lines"),
        ("1,0,0\n0,one,0\n0,0,1\n", "could not convert string to float: 'one'"),
        ("1,0,0\n0,nan,0\n0,0,1\n", "a value that isn't finite"),
        ("1,2,0\n2,4,0\n0,0,1\n", "a singular matrix"),
        ("0,0,0\n0,0,0\n0,0,1\n", "a singular matrix"),
        ("1,0,0\n0,1,0\n0,0.001,1\n", "row 3: found 0, 0.001, 1"),
        ("1 2 3;4\n5 6 7\n", "2 + 3 numbers in 2 lines"),
        ("0,1,2\n" * 9, "3 + 3 + 3 + 3 + 3 + ... numbers in 9 lines"),
        (f"{HEADER}\n1,2,3,4\n5,6,7,9\n", "keypoints: found 2; set at least three"),
        (f"{HEADER}\n1,1,0,0\n2,2,5,0\n3,3,0,5\n", "3 points on one line of the morphology"),
        (f"{HEADER}\n0,0,1,1\n5,0,2,2\n0,5,3,3\n9,9,4,4\n", "4 points on one line of the H&E"),
        (f"{HEADER}\n1,1,0,0\n1,1,0,0\n1,1,0,0\n", "3 points on one line of the H&E"),
        (f"{HEADER}\n1,2,3,4\n5,6,7\n", "keypoint 2: found 3 fields"),
        (f"{HEADER}\n1,2,3,4\n5,6,7,x\n", "keypoint 2: found could not convert"),
        (f"{HEADER}\n1,2,3,4\n5,6,7,inf\n", "keypoint 2: found a value that isn't finite"),
        ("fixedX,fixedY,alignmentX\n1,2,3\n", "column alignmentY: found 0 in fixedX"),
        (f"{HEADER}\n", "keypoints: found 0"),
        (b"\xff\xfe\x00", "bytes that aren't text"),
        (None, "found nothing"),
    ],
)
def test_a_broken_alignment_is_refused(tmp_path, text, found):
    path = tmp_path / "he.csv"
    if isinstance(text, bytes):
        path.write_bytes(text)
    elif text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as refusal:
        alignment.read_alignment(path)
    assert str(path) in str(refusal.value)
    assert found in str(refusal.value)


@pytest.mark.parametrize("separator", [",", ", ", "\t", ";", " ", "   "])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_a_matrix_is_read_however_it_is_separated(tmp_path, separator, start):
    path = tmp_path / "he.csv"
    lines = [separator.join(repr(float(value)) for value in row) for row in MATRIX]
    path.write_text(start + "\r\n\r\n".join(lines) + "\n\n", encoding="utf-8")
    np.testing.assert_array_equal(alignment.read_alignment(path), MATRIX)


def write_keypoints(path, he_px, morphology_px, columns=HEADER):
    values = dict(zip(HEADER.split(","), np.hstack([morphology_px, he_px]).T, strict=True))
    values["note"] = np.zeros(len(he_px))
    names = columns.split(",")
    rows = zip(*(values[name] for name in names), strict=True)
    path.write_text("\n".join([columns, *(",".join(map(repr, map(float, row))) for row in rows)]))
    return path


def moved(matrix, xy):
    return xy @ matrix[:2, :2].T + matrix[:2, 2]


@pytest.mark.parametrize(
    "columns", [HEADER, "note,alignmentY,alignmentX,fixedX,fixedY", HEADER.upper()]
)
def test_keypoints_take_the_he_to_the_morphology_image(tmp_path, columns):
    """fixed is the image that the other one is brought to: the morphology image of the bundle."""
    he_px = np.random.default_rng(0).uniform(0, 50_000, (6, 2))
    path = write_keypoints(
        tmp_path / "keypoints.csv",
        he_px,
        moved(MATRIX, he_px),
        columns if columns != HEADER.upper() else HEADER,
    )
    if columns == HEADER.upper():
        path.write_text(path.read_text().replace(HEADER, columns))
    found = alignment.resolve_alignment(path, {}, 0.2125)
    np.testing.assert_allclose(found.matrix, MATRIX, atol=1e-6)
    assert found.how == "keypoints"
    assert found.keypoints == 6
    assert found.residual_um == pytest.approx(0, abs=1e-6)


def test_keypoints_are_fitted_over_all_of_them_and_their_residual_is_told(tmp_path):
    """Four corners of a square, one coordinate of which is off in turn: the fit is known."""
    he_px = np.array([[0.0, 0], [1000, 0], [1000, 1000], [0, 1000]])
    off = np.array([[8.0, 0], [-8, 0], [8, 0], [-8, 0]])  # no affine map follows it
    path = write_keypoints(tmp_path / "keypoints.csv", he_px, moved(MATRIX, he_px) + off)
    found = alignment.resolve_alignment(path, {"he_alignment": str(path)}, 0.25)
    np.testing.assert_allclose(found.matrix, MATRIX, atol=1e-6)
    assert found.residual_um == pytest.approx(8 * 0.25)


def test_a_word_of_the_sample_table_stands_for_an_alignment():
    found = alignment.resolve_alignment(None, {"he_alignment": "identity"}, 0.2125)
    assert (found.how, found.residual_um) == ("identity", None)
    np.testing.assert_array_equal(found.matrix, np.eye(3))
    sample = {"sample": "S1", "he_alignment": "microns", "he_um_per_px": ""}
    found = alignment.resolve_alignment(None, sample, 0.2125, 0.425)
    np.testing.assert_allclose(found.matrix, np.diag([2, 2, 1]))
    np.testing.assert_allclose(
        alignment.he_px_to_um(found.matrix, 0.2125, [[100, 200]]), [[42.5, 85.0]]
    )


def test_microns_take_the_users_word_before_the_images(caplog):
    sample = {"sample": "S1", "he_alignment": "microns", "he_um_per_px": "0.5"}
    assert alignment.resolve_alignment(None, sample, 0.25).matrix[0, 0] == 2
    assert alignment.resolve_alignment(None, sample, 0.25, 0.501).matrix[0, 0] == 0.501 / 0.25
    assert alignment.resolve_alignment(None, sample, 0.25, 0.4).matrix[0, 0] == 2  # the user's word
    assert (
        "S1: he_um_per_px says 0.5 um/px, the image 0.4: the sample table is taken" in caplog.text
    )
    with pytest.raises(InputError, match="S1, he_um_per_px: found nothing"):
        alignment.resolve_alignment(None, sample | {"he_um_per_px": ""}, 0.25)


@pytest.mark.parametrize("word", ["", "none", "Identity", "he.csv"])
def test_a_missing_alignment_is_never_the_identity(word):
    with pytest.raises(InputError, match="never taken for the identity"):
        alignment.resolve_alignment(None, {"sample": "S1", "he_alignment": word}, 0.2125, 0.2125)


def test_a_word_beside_a_file_is_refused(tmp_path):
    path = tmp_path / "he.csv"
    np.savetxt(path, MATRIX, delimiter=",")
    with pytest.raises(InputError, match=r"identity beside the file .*he\.csv; keep"):
        alignment.resolve_alignment(path, {"he_alignment": "identity"}, 0.2125)
