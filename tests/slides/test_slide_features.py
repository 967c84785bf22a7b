"""The format of slide features: TRIDENT's layout, others' files, the list of a cohort's slides."""

import h5py
import numpy as np
import pytest

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.slides import slide_features

COORDS = np.array([[0, 0], [512, 0], [512, 513]])
ATTRIBUTES = {
    "patch_size": 256,
    "patch_size_level0": 512,
    "level0_magnification": 40,
    "target_magnification": 20,
    "overlap": 0,
    "level0_width": 2000,
    "level0_height": 1500,
    "um_per_px": 0.25,
}


def features(rows=3, width=7, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def write(path, blocks=None, coords=COORDS, width=7, **more):
    blocks = [features()[:2], features()[2:]] if blocks is None else blocks
    return slide_features.write_slide_features(
        path, iter(blocks), coords, width, "uni", ATTRIBUTES, more
    )


def trident_file(path, dtype="f4", **changes):
    """A file as the facts say that TRIDENT writes it, made without our writer."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset("features", data=features().astype(dtype), chunks=(1, 7))
        data.attrs.update({"name": path.stem, "savetodir": "/somewhere", "encoder": "uni_v1"})
        coords = file.create_dataset("coords", data=COORDS.astype(np.int64))
        coords.attrs.update({k: v for k, v in ATTRIBUTES.items() if k != "um_per_px"})
        coords.attrs.update({"name": path.stem, "savetodir": "/somewhere"})
        for key, value in changes.items():
            del file[key]
            if value is not None:
                file[key] = value
    return path


def test_features_round_trip_in_the_layout_of_the_facts(tmp_path):
    path = tmp_path / "uni" / "A.1.h5"
    assert write(path, made_from="x") == 3
    with h5py.File(path) as file:
        assert set(file) == {"features", "coords"}
        assert file["features"].dtype == np.float32
        assert file["features"].chunks == (1, 7)
        assert file["coords"].dtype == np.int64
        assert {"name", "savetodir", "encoder"} <= set(file["features"].attrs)
        assert set(slide_features.COORDS_ATTRIBUTES) <= set(file["coords"].attrs)
        assert file["coords"].attrs["name"] == "A.1"
    found = slide_features.read_slide_features(path)
    np.testing.assert_array_equal(found.features, features())
    np.testing.assert_array_equal(found.coords, COORDS)
    assert found.attributes["um_per_px"] == 0.25
    assert found.attributes["encoder"] == "uni"
    assert found.attributes["made_from"] == "x"
    shape, coords, attributes = slide_features.read_slide_facts(path)
    assert shape == (3, 7)
    assert attributes == found.attributes
    np.testing.assert_array_equal(coords, COORDS)
    np.testing.assert_array_equal(
        np.concatenate(list(slide_features.iter_slide_features(path, 2))), features()
    )


def test_no_path_of_the_machine_stands_in_a_file_and_its_bytes_are_the_same_anywhere(tmp_path):
    for folder in ("one", "another"):
        write(tmp_path / folder / "uni" / "A.h5")
    data = (tmp_path / "one" / "uni" / "A.h5").read_bytes()
    assert data == (tmp_path / "another" / "uni" / "A.h5").read_bytes()
    assert str(tmp_path).encode() not in data


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_files_of_trident_are_read(tmp_path, dtype):
    found = slide_features.read_slide_features(trident_file(tmp_path / "A.h5", dtype))
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, features(), rtol=1e-3)
    np.testing.assert_array_equal(found.coords, COORDS)
    assert found.attributes["encoder"] == "uni_v1"
    assert found.attributes["patch_size_level0"] == 512
    assert "um_per_px" not in found.attributes


def test_files_of_histobistro_are_read_without_coordinates(tmp_path):
    with h5py.File(tmp_path / "A.h5", "w") as file:
        file["feats"] = features()
    found = slide_features.read_slide_features(tmp_path / "A.h5")
    np.testing.assert_array_equal(found.features, features())
    assert found.coords is None


def test_a_slide_without_patches_keeps_its_width(tmp_path):
    write(tmp_path / "A.h5", [], np.empty((0, 2)))
    found = slide_features.read_slide_features(tmp_path / "A.h5")
    assert found.features.shape == (0, 7)
    assert found.coords.shape == (0, 2)


def cut_off(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "file: found nothing"),
        (lambda path: path.write_text("no HDF5"), "HDF5: found"),
        (cut_off, "HDF5: found .*truncated"),
        (lambda path: trident_file(path, features=None), "keys: found coords"),
        (lambda path: trident_file(path, features=features()[0]), "features: found float32 of"),
        (lambda path: trident_file(path, features=np.ones((3, 7), int)), "features: found int64"),
        (lambda path: trident_file(path, coords=COORDS[:2]), "coords: found int64 of shape"),
        (
            lambda path: trident_file(path, features=np.where(np.eye(3, 7), np.nan, 1.0)),
            "patch 0: found a number that isn't finite",
        ),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, spoil, words):
    path = trident_file(tmp_path / "A.h5")
    spoil(path)
    with pytest.raises(InputError, match=words) as error:
        slide_features.read_slide_features(path)
    assert "\n" not in str(error.value)


def test_features_that_arent_finite_leave_no_file(tmp_path):
    blocks = [features()[:2], np.full((1, 7), np.inf, np.float32)]
    with pytest.raises(InputError, match="patches 2 to 2: found numbers that aren't finite"):
        write(tmp_path / "A.h5", blocks)
    assert not list(tmp_path.iterdir())


def listed(folder, **changes):
    path = folder / "A.h5"
    write(path)
    row = {"slide": "A", "status": "embedded", "reason": "", "patches": 3, "um_per_px": 0.25}
    row |= {"file": path, "sha256": files.sha256_file(path)} | changes
    skipped = {"slide": "B", "status": "skipped", "reason": "no tissue", "patches": 0}
    skipped |= {"um_per_px": None, "file": "", "sha256": ""}
    slide_features.write_slides(folder / "slides.tsv", [row, skipped])
    return folder / "slides.tsv"


def test_the_list_of_slides_opens_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path)
    table = listed(tmp_path / "x")
    assert "x/" not in table.read_text()
    (tmp_path / "x").rename(tmp_path / "y")
    first, second = slide_features.read_slides(tmp_path / "y" / "slides.tsv", verify=True)
    assert first["file"].samefile(tmp_path / "y" / "A.h5")
    assert first["patches"] == 3
    assert second["file"] is None
    assert second["reason"] == "no tissue"
    assert second["um_per_px"] is None


def test_a_list_whose_files_are_missing_or_others_is_refused(tmp_path):
    table = listed(tmp_path)
    write(tmp_path / "A.h5", [features(seed=1)])
    slide_features.read_slides(table)
    with pytest.raises(InputError, match="sha256: found another"):
        slide_features.read_slides(table, verify=True)
    (tmp_path / "A.h5").unlink()
    with pytest.raises(InputError, match="file of A: found nothing"):
        slide_features.read_slides(table)
    with pytest.raises(InputError, match="line 2: found the status 'maybe'"):
        slide_features.read_slides(listed(tmp_path, status="maybe"))
