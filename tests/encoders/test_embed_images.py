"""Embedding all patches of a dataset, and the format of stored features."""

import json
import socket

import numpy as np
import pytest
import torch
from tiny_pairs import SAMPLES, SPEC, write_dataset

import embed_images
from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards, stored_features
from pairscape.encoders import image_encoders
from pairscape.images import encoding
from pairscape.pretrain import augmentation, run_embeddings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    shards, patches, _, _ = write_dataset(folder)
    torch.manual_seed(0)
    tower = image_encoders.build(SPEC, None)
    torch.save(tower.model.state_dict(), folder / "weights.pth")
    return folder, shards, patches


CONTROL = {**SPEC, "weights": None, "control": "floor: untrained"}
EXPRESSION = {
    **CONTROL,
    "builder": "expression",
    "arguments": {},
    "width": None,
    "parameters": 0,
    "input": {"library_size": "none", "transform": "log1p"},
}


def run(dataset, out, shards=None, weights=True, threads=1, **changes):
    folder, all_shards, _ = dataset
    options = {
        "encoder": SPEC,
        "encoder_name": "stand_in",
        "dataset": "tiny",
        "samples": list(SAMPLES),
        "batch": 16,
    } | changes
    embed_images.main(
        [
            *("--shards", *map(str, shards or all_shards)),
            *(("--weights", str(folder / "weights.pth")) if weights else ()),
            *("--features", str(out / "features.npy"), "--index", str(out / "features.json")),
            *("--options", json.dumps(options), "--threads", str(threads)),
        ]
    )
    return out / "features.npy", out / "features.json"


@pytest.fixture(scope="module")
def embedded(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    return run(dataset, out)


def test_features_are_the_towers_in_the_order_of_the_shards(dataset, embedded):
    folder, _, patches = dataset
    features, index = stored_features.read_features(*embedded)
    tower = image_encoders.build(SPEC, folder / "weights.pth")
    with torch.inference_mode():
        expected = tower(image_encoders.transform(SPEC)(list(patches)))
    assert features.shape == (len(patches), 256)
    distances = np.abs(features[:, None] - features[None]).max(2)[
        ~np.eye(len(features), dtype=bool)
    ]
    assert np.abs(features - expected.numpy()).max() < 1e-2 * distances.min()
    assert [shard["sample"] for shard in index["shards"]] == list(SAMPLES)
    assert [shard["rows"] for shard in index["shards"]] == [n for _, _, n in SAMPLES.values()]
    assert index["views"] == 1
    assert index["fingerprint"] == image_encoders.fingerprint(tower, SPEC)


def test_features_are_mapped_from_disk_and_the_same_again(dataset, embedded, tmp_path):
    features, _ = stored_features.read_features(*embedded)
    assert isinstance(features, np.memmap)
    run(dataset, tmp_path)
    for path in embedded:
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()


def test_the_number_of_threads_changes_nothing(dataset, embedded, tmp_path):
    found = run(dataset, tmp_path, threads=3)
    for path, other in zip(embedded, found, strict=True):
        assert path.read_bytes() == other.read_bytes()


def test_an_error_while_batches_wait_stops_the_others(dataset):
    """The first error is told; what waits behind it isn't run to its end."""
    folder, _, patches = dataset
    tower = image_encoders.build(SPEC, folder / "weights.pth")
    read = []

    def fail(batch):
        read.append(batch)
        if batch == 3:
            raise InputError("shard", "image", "damage", "mend it")
        return patches[:2]

    with pytest.raises(InputError, match="found damage"):
        list(image_encoders.embed(tower, SPEC, fail, range(1000), 2))
    assert len(read) < 20


def test_views_follow_each_other_and_the_first_is_the_patch_itself(dataset, embedded, tmp_path):
    folder, _, patches = dataset
    plain, _ = stored_features.read_features(*embedded)
    made = run(dataset, tmp_path, views=3, augmentation="hescape", seed=5)
    features, index = stored_features.read_features(*made)
    count = len(patches)
    assert features.shape == (3 * count, 256)
    assert (index["views"], index["augmentation"], index["augmentation_seed"]) == (3, "hescape", 5)
    assert np.array_equal(features[:count], plain)
    tower = image_encoders.build(SPEC, folder / "weights.pth")
    spread = np.abs(plain - plain[::-1]).max()
    for view in (1, 2):
        rows = np.array([0, 47, 48, count - 1])
        changed = augmentation.augment(patches[rows], 5, view, rows, "hescape")
        with torch.inference_mode():
            expected = tower(image_encoders.transform(SPEC)(list(changed))).numpy()
        assert np.abs(features[view * count + rows] - expected).max() < 1e-3 * spread
        assert np.abs(features[view * count + rows] - plain[rows]).max() > 1e-2 * spread


def test_more_views_only_add_to_fewer(dataset, tmp_path):
    few, many = tmp_path / "few", tmp_path / "many"
    for out, views in ((few, 2), (many, 3)):
        out.mkdir()
        run(dataset, out, views=views, augmentation="flips")
    few, many = (np.load(out / "features.npy") for out in (few, many))
    assert np.array_equal(many[: len(few)], few)


@pytest.mark.parametrize("kind", [None, "rotations", "none"])
def test_views_without_an_augmentation_are_refused(dataset, tmp_path, kind):
    with pytest.raises(InputError, match="augmentation: found"):
        run(dataset, tmp_path, views=2, augmentation=kind)


def test_a_control_without_weights_is_random_by_its_seed(dataset, embedded, tmp_path):
    found = []
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        (tmp_path / name).mkdir()
        spec = {**CONTROL, "untrained_seed": seed}
        made = run(dataset, tmp_path / name, weights=False, encoder=spec)
        found.append(stored_features.read_features(*made))
    (one, index), (again, _), (other, other_index) = found
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len(index["weights_sha256"]) == 64
    assert index["weights_sha256"] != other_index["weights_sha256"]


def test_nothing_but_a_control_runs_without_weights(dataset, tmp_path):
    plain = {key: value for key, value in CONTROL.items() if key != "control"}
    for spec, message in (
        (plain, r"stand_in\.yaml: weights: found null"),
        (SPEC, "--weights: file: found nothing; fetch the weights of A small stand-in first"),
    ):
        with pytest.raises(InputError, match=message):
            run(dataset, tmp_path, weights=False, encoder=spec)
    for spec in (CONTROL, EXPRESSION):
        with pytest.raises(InputError, match="has no weights: leave the flag out"):
            run(dataset, tmp_path, encoder=spec)
    assert not list(tmp_path.iterdir())


def test_expression_as_its_own_image_is_the_log_of_the_counts(dataset, tmp_path):
    made = run(dataset, tmp_path, weights=False, encoder=EXPRESSION)
    features, index = stored_features.read_features(*made)
    counts = np.concatenate([pair_shards.read_expression(path) for path in dataset[1]])
    assert np.allclose(features, np.log1p(counts), rtol=1e-6)
    assert index["width"] == counts.shape[1]
    with pytest.raises(InputError, match="sees no patches"):
        run(dataset, tmp_path, weights=False, encoder=EXPRESSION, views=2, augmentation="flips")


def test_no_network_is_asked_for_anything(dataset, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    run(dataset, tmp_path)
    assert (tmp_path / "features.npy").is_file()


def test_shards_in_another_order_are_refused(dataset, tmp_path):
    with pytest.raises(InputError) as error:
        run(dataset, tmp_path, shards=dataset[1][::-1])
    assert "sample: found S3" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_image_that_cant_be_decoded_is_named_and_nothing_is_left(dataset, tmp_path, monkeypatch):
    real = encoding.decode

    def damaged(encoded, path, row):
        return real(b"\xff\xd8\xff junk" if row == 7 else encoded, path, row)

    monkeypatch.setattr(encoding, "decode", damaged)
    with pytest.raises(InputError) as error:
        run(dataset, tmp_path)
    assert "S1.arrow: image of row 7" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_is_only_declared_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match="not built yet"):
        run(dataset, tmp_path, encoder={**SPEC, "built": False})


def test_weights_that_arent_there_are_asked_for(dataset, tmp_path):
    spec = {**SPEC, "weights": {**SPEC["weights"], "source": "package", "location": "no-such-one"}}
    with pytest.raises(InputError, match="no-such-one: Python package"):
        run(dataset, tmp_path, encoder=spec)


def test_damaged_features_are_refused(embedded, tmp_path):
    array, index = (path.read_bytes() for path in embedded)
    copies = tmp_path / "features.npy", tmp_path / "features.json"
    copies[1].write_bytes(index)
    for damaged in (array[:-4], array[:-4] + b"\x00\x00\x80\x3f", b""):
        copies[0].write_bytes(damaged)
        with pytest.raises(InputError, match="sha256"):
            stored_features.read_features(*copies)
    copies[0].unlink()
    with pytest.raises(InputError, match="found nothing"):
        stored_features.read_features(*copies)


def test_features_that_arent_finite_are_never_written(tmp_path):
    blocks = iter([np.ones((2, 3), np.float32), np.full((2, 3), np.nan, np.float32)])
    with pytest.raises(InputError, match="rows 2 to 4"):
        stored_features.write_features(
            tmp_path / "f.npy",
            tmp_path / "f.json",
            blocks,
            [{"sample": "s", "rows": 4, "sha256": ""}],
            3,
            {},
        )
    assert not list(tmp_path.iterdir())


def unit(rows, width, seed):
    array = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_run_embeddings_come_back_as_they_were_written(tmp_path):
    images, genes = unit(5, 4, 0), unit(5, 4, 1)
    index = [
        {
            "row": i,
            "sample": "NA",  # a name, not a missing value
            "donor": "",
            "spot": f"{i:03d}x000",
            "array_row": i,
            "array_col": 0,
            "x_um": 1 / 3 + i,
            "y_um": 0.1,
            "organ": "breast",
            "disease_state": "cancer",
        }
        for i in range(5)
    ]
    run_embeddings.write_run_embeddings(
        tmp_path, "test", images, genes, index, {"logit_scale": 14.0}
    )
    read = run_embeddings.read_run_embeddings(tmp_path, "test")
    assert np.array_equal(read["images"], images)
    assert np.array_equal(read["genes"], genes)
    assert read["index"].to_dict("records") == index
    assert read["meta"]["logit_scale"] == 14.0

    path = run_embeddings.run_files(tmp_path, "test")["genes"]
    np.save(path, genes[::-1])
    with pytest.raises(InputError, match=r"test_genes\.npy: sha256"):
        run_embeddings.read_run_embeddings(tmp_path, "test")
