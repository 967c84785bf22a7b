"""Reading patches from shards: the right ones, decoded once, normalised as the encoder wants."""

import io
import pickle
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pairs import SAMPLES, write_dataset

from pairscape.core.errors import InputError
from pairscape.dataset import cutting, pair_shards
from pairscape.dataset.patch_reader import PatchReader
from pairscape.images.encoding import encode_patch, fit, normalise, normalise_on_device

INPUT = {"resize_px": 32, "crop_px": 32, "interpolation": "bicubic"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    shards, patches, _, _ = write_dataset(tmp_path_factory.mktemp("dataset"))
    return shards, patches


def write_images(path, images):
    """A shard with these encoded images."""
    features = cutting.pair_features(1, {"name": ["S"], "source": ["local"], "tissue": ["breast"]})
    constant = cutting.sample_columns(
        {"sample": "S", "donor": "D", "source": "local", "organ": "breast"}
    )
    spot = {
        "gexp": np.zeros(1, np.int32),
        "cell_coords": np.zeros(2, np.float32),
        "spot": "000x000",
        **dict.fromkeys(("array_row", "array_col"), 0),
        **dict.fromkeys(("x_um", "y_um", "um_per_px", "tissue_fraction"), 1.0),
    }
    pair_shards.write_shard(
        path,
        ({**constant, **spot, "image": image} for image in images),
        features,
        dict.fromkeys(pair_shards.METADATA_KEYS) | {"sample": "S", "genes": ["G"]},
    )
    return path


def tissue(side, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (8, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.BICUBIC))


def test_rows_are_read_in_any_order_across_shards_and_batches(dataset, tmp_path, monkeypatch):
    shards, patches = dataset
    monkeypatch.setattr(pair_shards, "BATCH_ROWS", 7)
    many, _, _, _ = write_dataset(tmp_path)
    assert len(pair_shards.read_shard_table(many[0])["image"].chunks) == 7
    rows = np.random.default_rng(0).permutation(len(patches))[:60]
    for given in (shards, many):
        reader = PatchReader(given, INPUT)
        assert len(reader) == len(patches)
        assert reader.row_counts == [n for _, _, n in SAMPLES.values()]
        assert np.array_equal(reader.read(rows), patches[rows])
        assert np.array_equal(reader.read([5, 5, 91]), patches[[5, 5, 91]])
        assert reader.read([]).shape == (0, 32, 32, 3)


def test_rows_that_arent_there_are_refused(dataset):
    reader = PatchReader(dataset[0], INPUT)
    for row in (-1, len(reader)):
        with pytest.raises(IndexError):
            reader.read([0, row])


@pytest.mark.parametrize(
    ("stored_px", "resize_px", "crop_px"), [(32, 32, 32), (64, 32, 32), (48, 40, 32), (32, 32, 24)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("encoding", ["jpeg", "png"])
def test_patches_are_those_of_pillow_and_torchvision(
    tmp_path, stored_px, resize_px, crop_px, interpolation, encoding
):
    from torchvision.transforms import v2

    images = [encode_patch(tissue(stored_px, seed), encoding) for seed in range(3)]
    shard = write_images(tmp_path / "s.arrow", images)
    size = {"resize_px": resize_px, "crop_px": crop_px, "interpolation": interpolation}
    prepare = v2.Compose(
        [
            v2.Resize(resize_px, getattr(v2.InterpolationMode, interpolation.upper())),
            v2.CenterCrop(crop_px),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    expected = torch.stack([prepare(Image.open(io.BytesIO(image))) for image in images])
    batch = PatchReader([shard], size).read(range(3))
    assert batch.shape == (3, crop_px, crop_px, 3)
    assert torch.allclose(normalise(batch, MEAN, STD), expected, rtol=0, atol=1e-5)


def test_normalising_on_a_device_is_the_same():
    batch = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    expected = (batch / 255 - MEAN) / STD
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for found in (
        normalise(batch, MEAN, STD),
        normalise(batch[:, ::-1], MEAN, STD).flip(2),
        normalise_on_device(torch.from_numpy(batch).to(device), MEAN, STD).cpu(),
    ):
        assert found.dtype == torch.float32
        assert np.abs(found.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-5


def test_a_patch_of_the_right_size_is_decoded_into_its_place_and_only_once(tmp_path, monkeypatch):
    import simplejpeg

    calls = []
    real = simplejpeg.decode_jpeg

    def watched(*args, **options):
        calls.append(options.get("buffer"))
        return real(*args, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    images = [encode_patch(tissue(32, seed), "jpeg") for seed in range(4)]
    batch = PatchReader([write_images(tmp_path / "s.arrow", images)], INPUT).read([2, 0, 3])
    assert len(calls) == 3
    assert all(np.shares_memory(place, batch) for place in calls)


def test_bytes_are_mapped_not_read(tmp_path):
    # Images of no meaning: nothing is decoded.
    data = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    reader = PatchReader([write_images(tmp_path / "s.arrow", [data] * 40)], INPUT)
    import pyarrow as pa

    before = pa.total_allocated_bytes()
    with pytest.raises(InputError):
        reader.read([39])
    assert pa.total_allocated_bytes() - before < 1 << 20


@pytest.mark.parametrize("image", [b"\xff\xd8\xff junk", b"junk", b"", None])
def test_an_image_that_cant_be_decoded_is_named_with_its_shard(tmp_path, dataset, image):
    good = encode_patch(tissue(32), "jpeg")
    shard = write_images(tmp_path / "bad.arrow", [good, good, image])
    reader = PatchReader([dataset[0][0], shard], INPUT)
    with pytest.raises(InputError) as error:
        reader.read([48, 50])
    assert "bad.arrow: image of row 2: found" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_cut_off_is_an_error_and_no_grey_patch(tmp_path):
    whole = encode_patch(tissue(32), "jpeg")
    reader = PatchReader([write_images(tmp_path / "s.arrow", [whole[: len(whole) // 2]])], INPUT)
    with pytest.raises(InputError, match="image of row 0"):
        reader.read([0])


class Patches(torch.utils.data.Dataset):
    """What a worker gets: the reader, unpickled."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(self.reader)

    def __getitems__(self, rows):
        return normalise(self.reader.read(rows), MEAN, STD)


def first(batch):
    return batch


@pytest.mark.slow
def test_spawned_workers_read_the_same(dataset):
    shards, patches = dataset
    reader = PatchReader(shards, INPUT)
    reader.read([0])  # what it has mapped stays here
    assert len(pickle.dumps(reader)) < 2000
    loader = torch.utils.data.DataLoader(
        Patches(reader),
        batch_size=40,
        num_workers=2,
        multiprocessing_context="spawn",
        collate_fn=first,
    )
    assert torch.equal(torch.cat(list(loader)), normalise(patches, MEAN, STD))


def test_threads_may_read_side_by_side(dataset):
    shards, patches = dataset
    reader = PatchReader(shards, INPUT)
    found = {}

    def read(at):
        found[at] = reader.read(range(at, at + 4))

    threads = [threading.Thread(target=read, args=(at,)) for at in range(0, 80, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(found[at], patches[at : at + 4]) for at in range(0, 80, 4))


def test_the_encoders_transform_is_the_readers(dataset):
    from pairscape.encoders import image_encoders

    size = {"resize_px": 40, "crop_px": 24, "interpolation": "bilinear"}
    spec = {"input": {**size, "mean": MEAN, "std": STD}}
    batch = PatchReader(dataset[0], size).read(range(6))
    by_hand = image_encoders.transform(spec)(list(dataset[1][:6]))
    assert torch.equal(normalise(batch, MEAN, STD), by_hand)
    assert fit(dataset[1][0], **size).shape == (24, 24, 3)
