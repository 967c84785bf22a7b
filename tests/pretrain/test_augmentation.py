"""Augmentation: each patch for itself, a function of seed, step and row alone."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from pairscape.pretrain.augmentation import BLUR_KERNEL_PX, KINDS, augment, augment_together, draw

SIDE = 32


@pytest.fixture(scope="module")
def patch():
    """A patch without any symmetry."""
    return np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)


def copies(patch, count):
    return np.repeat(patch[None], count, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_function_of_seed_step_and_row(patch, kind):
    batch = copies(patch, 40)
    made = augment(batch, 3, 7, range(40), kind)
    assert made.dtype == np.uint8
    assert made.shape == batch.shape
    # Neither the order nor the others of the batch matter.
    order = np.random.default_rng(1).permutation(40)[:9]
    assert np.array_equal(augment(batch[order], 3, 7, order, kind), made[order])
    assert np.array_equal(augment(batch[:1], 3, 7, [12], kind)[0], made[12])
    for seed, step in ((4, 7), (3, 8), (7, 3)):
        assert not np.array_equal(augment(batch, seed, step, range(40), kind), made)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_given_is_left_as_it_was(patch, kind):
    batch = copies(patch, 4)
    made = augment(batch, 0, 0, range(4), kind)
    assert np.array_equal(batch, copies(patch, 4))
    assert not np.shares_memory(made, batch)


def test_flips_are_drawn_for_each_patch_by_itself(patch):
    made = augment(copies(patch, 400), 0, 0, range(400), "flips")
    views = [patch[::y, ::x] for y in (1, -1) for x in (1, -1)]
    counts = [sum(np.array_equal(one, view) for one in made) for view in views]
    assert sum(counts) == 400
    # 100 each; the standard deviation is 9.
    assert min(counts) > 60
    # Neighbours of a batch don't share their draws, nor do steps.
    kinds = np.array([[np.array_equal(one, v) for v in views].index(True) for one in made])
    assert 0.15 < np.mean(kinds[1:] == kinds[:-1]) < 0.35


def test_hescape_draws_zoom_blur_sharpness_and_flips_for_each_patch(patch):
    """Each made patch is one of the sixteen combinations, at one sigma; all of them come."""
    count = 200
    made = augment(copies(patch, count), 0, 0, range(count), "hescape")
    assert len({one.tobytes() for one in made}) == count

    image = torch.from_numpy(patch).permute(2, 0, 1)
    quarter = SIDE // 4
    half = [quarter, quarter, SIDE // 2, SIDE // 2]
    bases = [image, functional.resized_crop(image, *half, [SIDE, SIDE])]
    sigmas = np.geomspace(0.1, 5, 200)  # the picture changes fastest about 0.4
    guesses = []
    for base in bases:
        blurred = [functional.gaussian_blur(base, BLUR_KERNEL_PX, [s, s]) for s in sigmas]
        guesses += [blurred, [functional.adjust_sharpness(one, 2.0) for one in blurred]]
    guesses = torch.stack([one for group in guesses for one in group])
    guesses = guesses.permute(0, 2, 3, 1).numpy().astype(np.int16)
    found, drawn = [], []
    for one in made[:40]:
        apart = {
            (y, x): np.abs(guesses - one[::y, ::x]).mean((1, 2, 3))
            for y in (1, -1)
            for x in (1, -1)
        }
        flips = min(apart, key=lambda key: apart[key].min())
        best = int(apart[flips].argmin())
        assert apart[flips][best] < 1.5  # grey levels, between two sigmas that were tried
        zoom, sharpen, at = np.unravel_index(best, (2, 2, len(sigmas)))
        found.append((zoom, sharpen, *flips))
        drawn.append(sigmas[at])
    assert len(set(found)) >= 14
    for place in range(4):
        share = np.mean([one[place] == found[0][place] for one in found])
        assert 0.3 < share < 0.7
    assert min(drawn) < 0.8
    assert max(drawn) > 4


def test_it_comes_before_normalisation_so_that_nothing_is_cut_off(patch):
    """HESCAPE sharpens normalised images, which loses all that is negative."""
    from pairscape.images.encoding import normalise

    made = augment(copies(patch, 30), 0, 0, range(30), "hescape")
    images = normalise(made, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert all(float(image.min()) < -0.5 for image in images)
    assert all(float(image.max()) > 0.5 for image in images)


def test_a_uniform_patch_stays_what_it_is():
    batch = np.full((6, SIDE, SIDE, 3), (200, 120, 7), np.uint8)
    for kind in KINDS:
        assert np.array_equal(augment(batch, 0, 0, range(6), kind), batch)


def test_patches_of_odd_sizes_keep_their_size():
    batch = np.random.default_rng(0).integers(0, 256, (8, 45, 31, 3), np.uint8)
    for kind in KINDS:
        assert augment(batch, 0, 0, range(8), kind).shape == batch.shape


def test_an_unknown_kind_is_refused(patch):
    with pytest.raises(ValueError, match="flips, hescape"):
        augment(patch[None], 0, 0, [0], "rotations")


def together(batch, kind, per_batch=False):
    drawn = torch.from_numpy(draw(3, 7, range(len(batch)), per_batch))
    return augment_together(torch.from_numpy(batch), drawn, kind).numpy()


@pytest.mark.parametrize("per_batch", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_patches_augmented_together_become_what_torchvision_makes_of_each(kind, per_batch):
    """Smooth ones too, where a shift of the kernel by a pixel would show."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (60, 45, 31, 3), np.uint8)
    y, x = np.mgrid[:45, :31]
    smooth = np.stack([(3 * x + 2 * y + 7 * i) % 256 for i in range(60)]).astype(np.uint8)
    for batch in (noise, np.repeat(smooth[..., None], 3, -1)):
        given = batch.copy()
        made = together(batch, kind, per_batch)
        expected = augment(batch, 3, 7, range(60), kind, per_batch)
        apart = np.abs(made.astype(int) - expected.astype(int))
        # Sharpening doubles what rounding did before it.
        assert apart.max() <= (0 if kind == "flips" else 3)
        assert (apart > 0).mean() < 0.01
        assert np.array_equal(batch, given)
        # The test can fail: the draws of other rows make other patches.
        other = np.abs(made[::-1].astype(int) - expected.astype(int))
        assert per_batch or (other > 3).mean() > 0.3
