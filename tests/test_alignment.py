import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pairscape import alignment, files
from pairscape.errors import InputError


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
    spots = files.read_tsv(folder / "truth" / f"{section}_spots.tsv")
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
        ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,4\n", "keypoints"),
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
