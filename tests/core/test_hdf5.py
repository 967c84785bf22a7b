"""HDF5 files whose data lie elsewhere are refused, by whichever program reads them."""

import h5py
import numpy as np
import pytest
import tiny_bundle

from pairscape.acquire import bundle as xenium
from pairscape.core.errors import InputError
from pairscape.core.hdf5 import open_hdf5
from pairscape.slides import slide_features
from pairscape.spots import spot_quality


def link(file, name, other):
    file[name] = h5py.ExternalLink(str(other), "/secret")


def external_storage(file, name, other):
    file.create_dataset(name, (3, 4), np.float32, external=[(str(other), 0, 48)])


def virtual(file, name, other):
    layout = h5py.VirtualLayout((3, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "secret", (3, 4))
    file.create_virtual_dataset(name, layout)


@pytest.mark.parametrize("put", [link, external_storage, virtual])
@pytest.mark.parametrize("name", ["features", "matrix/features/name", "more/deep/er"])
def test_data_of_another_file_are_refused(tmp_path, put, name):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((3, 4), np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = np.zeros((3, 2))
        file.require_group("x")["loop"] = file["/"]
        put(file, name, tmp_path / "other.h5")
    with (
        pytest.raises(InputError, match=f"{name}: found .* another file"),
        open_hdf5(tmp_path / "a.h5"),
    ):
        pass
    with pytest.raises(InputError, match="another file"):
        slide_features.read_slide_features(tmp_path / "a.h5")
    bundle = tiny_bundle.write_bundle(tmp_path / "outs")
    (tmp_path / "a.h5").replace(bundle / "cell_feature_matrix.h5")
    for read in (xenium.read_features, lambda b: xenium.read_cell_counts(b, "ALPHA")):
        with pytest.raises(InputError, match="another file"):
            read(bundle)
    with pytest.raises(InputError, match="another file"):
        spot_quality.read_cell_sums(bundle, ["ALPHA"])


def test_a_file_of_links_within_itself_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((3, 4), np.float32)
        file["again"] = h5py.SoftLink("/features")
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["again"].shape == (3, 4)
