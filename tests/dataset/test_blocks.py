"""One section in three blocks: no two of them show the same tissue, and the shares are as wanted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_pairs import PIXEL_SIZE_UM, alignment_matrix

from pairscape.acquire.alignment import um_to_he_px
from pairscape.core.splits import ONE_SECTION, SPLITS
from pairscape.dataset import blocks
from pairscape.dataset.leakage import find_leaks
from pairscape.dataset.splits import make_splits

SHARES = {"train": 0.6, "val": 0.15, "test": 0.25}


def grid(columns, rows, pitch_um=55.0):
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return np.column_stack([x.ravel(), y.ravel()]) * pitch_um


def gaps(side_px, matrix):
    return np.abs(matrix[:2, :2] * PIXEL_SIZE_UM).sum(axis=1) * side_px


@given(
    angle=st.floats(-180, 180),
    mirrored=st.booleans(),
    seed=st.integers(0, 100),
    size=st.tuples(st.integers(20, 40), st.integers(20, 40)),
)
def test_no_patch_of_a_block_overlaps_one_of_another(angle, mirrored, seed, size):
    matrix = alignment_matrix(0.5, angle, mirrored)
    xy_um, side_px = grid(*size), 224
    placed = blocks.place(xy_um, SHARES, gaps(side_px, matrix), seed)
    he_px = um_to_he_px(matrix, PIXEL_SIZE_UM, xy_um)
    for one, other in (("train", "val"), ("val", "test"), ("train", "test")):
        a, b = he_px[placed == one], he_px[placed == other]
        apart = np.abs(a[:, None] - b[None]).max(axis=-1)
        assert apart.min() > side_px


@given(columns=st.integers(16, 200), seed=st.integers(0, 9))
def test_the_shares_are_as_wanted_to_a_row_of_spots(columns, seed):
    rows = 10
    placed = blocks.place(grid(columns, rows), SHARES, np.array([112.0, 112.0]), seed)
    sizes = {split: (placed == split).sum() for split in SPLITS}
    left = sum(sizes.values())
    assert left >= len(placed) - 2 * 2 * rows  # a gap of 112 µm takes two columns
    for split, share in SHARES.items():
        assert abs(sizes[split] - share * left) <= 2 * rows


def test_a_section_is_cut_across_its_longer_side_from_either_end_by_the_seed():
    tall = grid(8, 40)
    placed = {seed: blocks.place(tall, SHARES, np.array([112.0, 112.0]), seed) for seed in range(8)}
    for one in placed.values():
        for split in SPLITS:
            y = tall[one == split, 1]
            inside = (tall[:, 1] >= y.min()) & (tall[:, 1] <= y.max())
            assert (one[inside] == split).all()
    begins = {one[0] for one in placed.values()}
    assert begins == {"train", "test"}
    assert (blocks.place(tall, SHARES, np.array([112.0, 112.0]), 3) == placed[3]).all()


def test_a_section_shorter_than_its_gaps_lacks_a_split():
    placed = blocks.place(grid(4, 2), SHARES, np.array([112.0, 112.0]), 1)
    assert set(SPLITS) - set(placed)


@pytest.mark.parametrize("own", [None, "the only section that we have"])
def test_blocks_are_acknowledged_leaks_in_words(own):
    parts = [
        {"sample": f"S1-{split}", "donor": "D", "bundle": "/b/S1", "part": split}
        for split in SPLITS
    ]
    rows = make_splits(parts, {"method": "within_sample", "shared_donors": own})
    assert [row["split"] for row in rows] == list(SPLITS)
    assert {row["shared_donors"] for row in rows} == {own or ONE_SECTION}
    leaks = find_leaks(rows, {row["sample"]: row for row in parts})
    assert {leak["level"] for leak in leaks} == {"acknowledged"}
    assert {leak["finding"] for leak in leaks} == {"same_bundle"}
