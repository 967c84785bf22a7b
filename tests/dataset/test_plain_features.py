"""Controls without a network: place, colours and library size, and the patch without its spot."""

import numpy as np
import pytest
from tiny_pairs import SAMPLES, write_dataset

from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards, patch_reader, plain_features
from pairscape.dataset.shards import Shards
from pairscape.encoders import specs

SPEC = {"input": {"resize_px": 32, "crop_px": 32, "interpolation": "bilinear"}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    paths, patches, counts, _ = write_dataset(tmp_path_factory.mktemp("dataset"))
    return Shards.open(paths, list(SAMPLES)), patches, counts


def features(name, shards, spec=SPEC):
    width, blocks = plain_features.BUILDERS[name](shards, spec)
    rows = np.concatenate(list(blocks))
    assert rows.shape == (sum(shards.row_counts), width)
    assert rows.dtype == np.float32
    return rows


def test_the_builders_are_those_that_are_known_to_have_no_network():
    assert set(plain_features.BUILDERS) == set(specs.PLAIN)


def test_coordinates_are_waves_along_each_section_and_nothing_else(dataset):
    shards, _, _ = dataset
    rows = features("coordinates", shards)
    at = 0
    for path, count in zip(shards.paths, shards.row_counts, strict=True):
        table = pair_shards.read_index(path)
        x, y = (table[name].to_numpy() for name in ("x_um", "y_um"))
        unit = (y - y.min()) / np.ptp(y)
        # The first wave of 35 is cos(pi y), the sixth cos(pi x).
        np.testing.assert_allclose(rows[at : at + count, 0], np.cos(np.pi * unit), atol=1e-6)
        unit = (x - x.min()) / np.ptp(x)
        np.testing.assert_allclose(rows[at : at + count, 5], np.cos(np.pi * unit), atol=1e-6)
        at += count


def test_library_size_tells_sums_and_genes_and_no_gene_apart(dataset):
    shards, _, counts = dataset
    rows = features("library_size", shards)
    np.testing.assert_allclose(np.expm1(rows[:, 0]), counts.sum(1), rtol=1e-4)
    np.testing.assert_allclose(np.expm1(rows[:, 1]), (counts > 0).sum(1), rtol=1e-4)
    np.testing.assert_array_equal(features("expression", shards), np.log1p(counts.astype("f4")))


def test_colours_count_nuclei_and_weigh_stains():
    patch = np.full((32, 32, 3), (235, 180, 215), np.uint8)  # eosin
    pale = plain_features._colours_of(patch)
    for x, y in ((4, 4), (20, 6), (12, 22)):
        patch[y : y + 5, x : x + 5] = (70, 50, 140)  # haematoxylin
    dark = plain_features._colours_of(patch)
    assert np.expm1(pale[[9, 10]]).round().tolist() == [0, 0]
    assert np.expm1(dark[10]) == pytest.approx(3)
    assert np.expm1(dark[11]) == pytest.approx(25)
    assert np.expm1(dark[9]) == pytest.approx(75 / 1024)
    assert dark[0] < pale[0]  # brightness
    assert dark[2] > pale[2]  # haematoxylin


def test_a_blanked_patch_hides_its_spot_and_nothing_more(dataset):
    shards, _, _ = dataset
    whole = patch_reader.PatchReader(shards.paths, SPEC["input"]).read(range(60))
    blank = patch_reader.PatchReader(shards.paths, {**SPEC["input"], "blank_spot": True})
    hidden = blank.read(range(60))
    facts = pair_shards.shard_metadata(shards.paths[0])
    um = facts["patches"]["um_per_px"] * facts["patches"]["patch_px"] / 32
    middle = (np.arange(32) - 15.5) * um
    reach = facts["spots"]["preset"]["size_um"] / 2
    x, y = np.meshgrid(middle, middle)
    corners = np.hypot(x, y) <= reach * 2**0.5
    assert (hidden[:, corners] == patch_reader.GREY).all()
    np.testing.assert_array_equal(hidden[:, ~corners], whole[:, ~corners])
    assert 0 < corners.mean() < 1
    assert corners[(np.abs(x) < reach) & (np.abs(y) < reach)].all()  # all of a square spot


def test_spots_of_unknown_size_cannot_be_blanked(dataset, monkeypatch):
    shards, _, _ = dataset
    facts = {**pair_shards.shard_metadata(shards.paths[0]), "spots": {}}
    monkeypatch.setattr(pair_shards, "shard_metadata", lambda path: facts)
    patch_reader._spot_disc.cache_clear()
    reader = patch_reader.PatchReader(shards.paths, {**SPEC["input"], "blank_spot": True})
    with pytest.raises(InputError, match=r"spots\.preset: found nothing"):
        reader.read([0])
