import numpy as np
import pytest

from pairscape.images import tissue

GLASS, STAIN, GREY, BLACK = (243, 240, 244), (190, 120, 170), (120, 120, 122), (0, 0, 0)


def painted(*blocks, side=200, ground=GLASS):
    """A slide with rectangles (top, left, height, width, colour) on it, and a scanner's noise."""
    picture = np.empty((side, side, 3))
    picture[:] = ground
    for top, left, height, width, colour in blocks:
        picture[top : top + height, left : left + width] = colour
    noise = np.random.default_rng(0).normal(0, 3, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_stain_is_tissue_and_margins_and_shadows_are_not():
    picture = painted((20, 20, 100, 60, STAIN), (150, 20, 40, 60, GREY), (0, 160, 200, 40, BLACK))
    mask = tissue.tissue_mask(picture, 4.0).mask
    assert mask[25:115, 25:75].all()
    assert not mask[155:185, 25:75].any()
    assert not mask[:, 165:].any()
    assert mask.mean() == pytest.approx(100 * 60 / 200**2, abs=0.01)


def test_glass_with_a_tint_is_no_tissue():
    mask = tissue.tissue_mask(painted((20, 20, 100, 60, STAIN), ground=(240, 212, 236)), 4.0).mask
    assert mask.mean() == pytest.approx(100 * 60 / 200**2, abs=0.01)


def test_a_full_slide_is_all_tissue_and_an_empty_one_none():
    two_kinds = painted((0, 0, 200, 100, STAIN), (0, 100, 200, 100, (150, 80, 150)))
    assert tissue.tissue_mask(two_kinds, 1.0).mask.all()
    assert not tissue.tissue_mask(painted(), 1.0).mask.any()
    assert not tissue.tissue_mask(np.full((50, 60, 3), 255, np.uint8), 1.0).mask.any()


def test_the_fraction_is_that_of_the_points_and_outside_is_none():
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    coarse = tissue.TissueMask(mask, 8.0, 50.0)  # 80 x 80 H&E pixels, the left half is tissue
    offsets = np.array([[-4.0, 0], [4, 0], [-4, 4], [4, 4]])
    centres = np.array([[20.0, 40], [40, 40], [60, 40], [0, 40], [-50, -50], [200, 40]])
    found = tissue.tissue_fraction(coarse, centres, offsets)
    assert found.tolist() == [1.0, 0.5, 0.0, 0.5, 0.0, 0.0]


def test_real_tissue_is_found(shared):
    from pairscape.images.tiff import TiffImage

    for section in ("C2", "C5"):
        path = shared / "data" / "her2st-xenium" / section / f"{section}_he_image.ome.tif"
        with TiffImage(path) as image:
            picture, scale = image.thumbnail(900)
        mask = tissue.tissue_mask(picture, scale).mask
        assert 0.3 < mask.mean() < 0.45
        assert not mask[-50:, -50:].any()  # pink glass
