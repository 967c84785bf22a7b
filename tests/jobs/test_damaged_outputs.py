"""What a reader makes of a file that was cut off, emptied, changed in one bit, or deleted.

It refuses it in one line, or sets it aside, and never uses it. Tables whose bytes are their only
truth (genes.tsv, splits.tsv, scores) are held against what else is known; a digit changed in one is
seen by ``make verify`` alone.
"""

import contextlib
import random
import shutil

import numpy as np
import pytest
import torch
from scipy import sparse
from small_pairs import write_small_spots
from test_pair import make_pair
from tiny_pairs import GENES, SAMPLES, write_dataset

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts, gene_lists, pair_shards, splits, stored_features
from pairscape.dataset.shards import Shards
from pairscape.encoders.architectures import drvi
from pairscape.evaluate import retrieval
from pairscape.pretrain import checkpoints, run_embeddings, runs, stored_pair
from pairscape.slides import slide_embedding, slide_features
from pairscape.spots import pooling, spots_zarr

IDENTITY = "0" * 64
RUN = {
    "experiment": "e",
    "dataset": "d",
    "image_encoder": "i",
    "gene_encoder": "g",
    "seed": 1,
    "options_sha256": "c" * 64,
    "learning_rate": 0.001,
}


def numbers(rows, width, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def unit(rows, width, seed):
    found = numbers(rows, width, seed)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def index_rows(count):
    """Rows of a run's index; floats that a wrong digit changes."""
    one = dict.fromkeys(stored_features.INDEX_COLUMNS, "a")
    place = {"array_row": 1, "array_col": 2, "x_um": 12.5, "y_um": 55.25}
    return [{**one, "row": i, **place} for i in range(count)]


# Each format: what writes it into a folder, and what a program reads of it.


def write_shards(folder):
    write_dataset(folder, patch_px=8)


def read_shard(folder):
    path = folder / "shards" / "S1.arrow"
    assert pair_shards.read_shard_table(path).num_rows == SAMPLES["S1"][2]
    return pair_shards.shard_sha256(path)


def write_features(folder):
    shards = [{"sample": "S1", "rows": 9, "sha256": "a" * 64}]
    meta = {"encoder_sha256": "b" * 64, "fingerprint": [0.5, 1.25]}
    paths = folder / "features.npy", folder / "features.json"
    stored_features.write_features(*paths, [numbers(9, 4)], shards, 4, meta)


def read_features(folder):
    array, index = stored_features.read_features(folder / "features.npy", folder / "features.json")
    return array.tobytes(), index


def write_run(folder):
    sides = unit(6, 4, 1), unit(6, 4, 2)
    meta = {"experiment": "e", "logit_scale": 14.25}
    run_embeddings.write_run_embeddings(folder, "test", *sides, index_rows(6), meta)


def read_run(folder):
    read = run_embeddings.read_run_embeddings(folder, "test")
    sides = read["images"].tobytes(), read["genes"].tobytes()
    return *sides, read["index"].to_dict(), read["meta"]


def write_model(folder):
    small = make_pair(image_tuning="frozen")
    stored_pair.save_pair(folder / "model.ckpt", small, small.kept_state(), {"genes": GENES})


def read_model(folder):
    module, meta = stored_pair.load_pair(folder / "model.ckpt")
    return {name: v.numpy().tobytes() for name, v in module.state_dict().items()}, meta


def write_last(folder):
    state = {"head.weight": torch.from_numpy(numbers(8, 8))}
    torch.save({"identity": IDENTITY, "step": 7, "state": state}, folder / "last.ckpt")


def read_last(folder):
    """What is gone on from; one that is set aside stands for a refusal."""
    path = checkpoints.resumable(folder, IDENTITY)
    if path is None:
        if (folder / "last.ckpt").exists():
            raise AssertionError("a last.ckpt in the way")
        raise InputError(folder / "last.ckpt", "file", "damage", "set aside")
    stored = torch.load(path, weights_only=True)
    return stored["step"], stored["state"]["head.weight"].numpy().tobytes()


def write_spots(folder):
    xy_um = np.arange(40, dtype=float).reshape(20, 2)
    write_small_spots(folder / "spots.zarr", xy_um)
    files.write_sums(folder / "spots.zarr")  # as spots.write_spots does, see below


def read_spots(folder):
    return spots_zarr.read_spots(folder / "spots.zarr").obs.to_numpy().tolist()


def write_slide(folder):
    coords = np.arange(20).reshape(10, 2) * 224
    own = {"patch_size": 224, "um_per_px": 0.5}
    path = folder / "slide.h5"
    more = {"made_from": "m"}
    slide_features.write_slide_features(path, [numbers(10, 6)], coords, 6, "i", own, more)


def read_slide(folder):
    read = slide_features.read_slide_features(folder / "slide.h5")
    assert slide_embedding.is_made(folder / "slide.h5", "m")
    return read.features.tobytes(), read.coords.tobytes(), read.attributes


def write_fitted(folder):
    torch.save({"mean.weight": torch.from_numpy(numbers(8, 8))}, folder / "encoder.pt")
    fit = {"arguments": {"n_latent": 8}, "genes": GENES, "leaked": [], "samples": []}
    sha256 = files.sha256_file(folder / "encoder.pt")
    files.write_json(
        folder / "fit.json", {**fit, "format": drvi.FORMAT, "sha256": sha256}, sealed=True
    )


def read_fitted(folder):
    return drvi.read_fit(folder / "encoder.pt")


def write_options(folder):
    files.write_json(folder / "options.json", RUN, sealed=True)


def read_options(folder):
    return runs.read_run(folder / "options.json", ["options_sha256"], "e", "d")[1]


def read_genes(folder):
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(folder / "genes.tsv")]
    shards = Shards.open([folder / "shards" / f"{name}.arrow" for name in SAMPLES])
    return expression_counts.Counts(shards, genes).shape


def read_splits(folder):
    path = folder / "splits.tsv"
    sizes = tuple(rows for _, _, rows in SAMPLES.values())
    rows = splits.read_splits(path)
    found = expression_counts.split_rows(Shards((), tuple(SAMPLES), sizes), rows, path)
    return {split: len(part) for split, part in found.items()}


def write_scores(folder):
    row = dict.fromkeys(retrieval.SCORES.names, "x")
    row |= dict.fromkeys(retrieval.SCORES.names_of(float), 0.125)
    retrieval.write_scores(folder / "retrieval.tsv", [row] * 5)


def read_scores(folder):
    return retrieval.read_scores(folder / "retrieval.tsv")


# Format: writer, reader, files that may be damaged, whether each bit of them is vouched for.
FORMATS = {
    "shard": (write_shards, read_shard, ["shards/S1.arrow"], True),
    "features": (write_features, read_features, ["features.npy", "features.json"], True),
    "run": (
        write_run,
        read_run,
        [f"embeddings/test{rest}" for rest in ("_images.npy", "_genes.npy", ".tsv", ".json")],
        True,
    ),
    "model": (write_model, read_model, ["model.ckpt"], True),
    "last": (write_last, read_last, ["last.ckpt"], True),
    "spots": (write_spots, read_spots, ["spots.zarr/tables/counts/*"], True),
    "slide": (write_slide, read_slide, ["slide.h5"], True),
    "fitted": (write_fitted, read_fitted, ["encoder.pt", "fit.json"], True),
    "options": (write_options, read_options, ["options.json"], True),
    "genes": (write_shards, read_genes, ["genes.tsv"], False),
    "splits": (write_shards, read_splits, ["splits.tsv"], False),
    "scores": (write_scores, read_scores, ["retrieval.tsv"], False),
}
CASES = [(name, file) for name, row in FORMATS.items() for file in row[2]]
VOUCHED = [(name, file) for name, file in CASES if FORMATS[name][3]]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Each format, written once when it is first asked for."""
    made = {}

    def folder_of(name):
        writer = FORMATS[name][0]
        if writer not in made:
            made[writer] = tmp_path_factory.mktemp("written")
            writer(made[writer])
        return made[writer]

    return folder_of


@pytest.fixture
def copied(written, tmp_path):
    """A copy of a format's folder to damage, and its files that a pattern names."""

    def copy(name, pattern):
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(written(name), folder)
        if not pattern.endswith("/*"):
            return folder, [folder / pattern]
        inside = (folder / pattern.removesuffix("/*")).rglob("*")
        return folder, sorted(path for path in inside if path.is_file())

    return copy


def refused(name, folder):
    """Whether the reader refuses; what it refuses is told in one line."""
    with pytest.raises(InputError) as error:
        FORMATS[name][1](folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return error.value


@pytest.mark.parametrize(("name", "file"), CASES)
@pytest.mark.parametrize("damage", ["nothing of it", "half of it", "a bit less", "gone"])
def test_a_file_cut_off_or_gone_is_never_used(copied, name, file, damage):
    folder, found = copied(name, file)
    assert found
    path = max(found, key=lambda path: path.stat().st_size)
    content = path.read_bytes()
    keep = {"nothing of it": 0, "half of it": len(content) // 2, "a bit less": len(content) - 3}
    if damage == "gone":
        path.unlink()
        if name == "last":  # that is what a run begins with
            assert checkpoints.resumable(folder, IDENTITY) is None
            return
    elif damage == "a bit less" and name == "splits":
        path.write_bytes(content[: content.rindex(b"test") + 2])  # within the word of a split
    else:
        path.write_bytes(content[: keep[damage]])
    assert refused(name, folder)


@pytest.mark.parametrize(("name", "file"), VOUCHED)
def test_one_flipped_bit_is_never_used(copied, name, file):
    """Refused, or else of no consequence: between the parts of an archive, or white space."""
    folder, found = copied(name, file)
    whole = FORMATS[name][1](folder)
    rng = random.Random(1)
    told = 0
    for path in rng.sample(found, min(6, len(found))):
        content = path.read_bytes()
        if not content:
            continue
        # A flip in the seal's own name unseals a JSON, and touches nothing else.
        seal = content.find(files.SEAL.encode()) if path.suffix == ".json" else -1
        for _ in range(12 if len(found) == 1 else 2):
            at = rng.randrange(len(content))
            if seal <= at < seal + len(files.SEAL):
                continue
            damaged = bytearray(content)
            damaged[at] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                read = FORMATS[name][1](folder)
            except InputError:
                told += 1
            else:
                assert read == whole, f"byte {at} of {path.name}"
            for other in folder.glob("last-set-aside-*"):
                other.unlink()
        path.write_bytes(content)
    assert told
    assert FORMATS[name][1](folder) == whole


@pytest.mark.parametrize("file", ["model.ckpt", "last.ckpt"])
def test_a_flipped_weight_is_never_used(copied, file):
    """torch.load takes it for what it is; the archive's own checksums don't."""
    name = file.split(".")[0]
    folder, (path,) = copied(name, file)
    tensors = torch.load(path, weights_only=True)["state"]
    value = max(tensors.values(), key=torch.numel).contiguous().numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(value) + 5] ^= 16
    path.write_bytes(content)
    torch.load(path, weights_only=True)
    assert refused(name, folder)
    if name == "last":
        assert [left.name[:14] for left in folder.iterdir()] == ["last-set-aside"]


def test_a_missing_chunk_of_a_zarr_would_read_as_zeros_and_is_refused(copied):
    folder, _ = copied("spots", "spots.zarr/*")
    inside = folder / "spots.zarr" / "tables" / "counts" / "obs" / "x_um"
    for chunk in (path for path in inside.rglob("*") if path.is_file()):
        if not chunk.name.startswith((".z", "zarr.json")):
            chunk.unlink()
    error = refused("spots", folder)
    assert "x_um" in error.file
    assert error.found == "nothing"
    (folder / "spots.zarr.sha256").unlink()  # of an older version: this is what it would be
    with contextlib.suppress(InputError):
        assert not spots_zarr.read_spots(folder / "spots.zarr").obs["x_um"].any()


@pytest.mark.parametrize("name", ["shard", "spots"])
def test_what_has_no_list_of_checksums_is_read_as_before(copied, name):
    """Of an older version, or moved without it."""
    folder, _ = copied(name, FORMATS[name][2][0])
    whole = FORMATS[name][1](folder)
    for path in folder.rglob("*.sha256"):
        path.unlink()
    assert FORMATS[name][1](folder) == whole


def test_lists_of_checksums_are_those_of_sha256sum_and_name_only_their_own(tmp_path):
    (tmp_path / "a.zarr" / "b").mkdir(parents=True)
    (tmp_path / "a.zarr" / "b" / "0").write_bytes(b"abc")
    files.write_sums(tmp_path / "a.zarr")
    path = tmp_path / "a.zarr.sha256"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert path.read_text() == f"{abc}  a.zarr/b/0\n"
    assert files.check_sums(tmp_path / "a.zarr", "make it again") is None
    for other in ("../c", "a.zarrs/b", ""):
        path.write_text(f"{abc}  {other}\n")
        with pytest.raises(InputError, match="make it again"):
            files.check_sums(tmp_path / "a.zarr", "make it again")


def test_a_damaged_schema_of_a_shard_is_told_in_one_line(copied):
    path = copied("shard", "shards/S1.arrow")[1][0]
    content = path.read_bytes()
    for damaged in (b'#"align', b'\xff"align'):
        path.write_bytes(content.replace(b'{"align', damaged))
        with pytest.raises(InputError, match="schema metadata"):
            pair_shards.shard_metadata(path)


def test_a_new_shard_takes_its_checksum_with_it(tmp_path):
    write_dataset(tmp_path, patch_px=8)
    first = read_shard(tmp_path)
    write_dataset(tmp_path, patch_px=8, seed=1)
    assert read_shard(tmp_path) != first


def test_a_seal_is_taken_off_and_an_unsealed_file_is_read(tmp_path):
    path = tmp_path / "a.json"
    value = {"a": [1, 2.5, None], "b": {"2": "\u00e4"}}
    files.write_json(path, value, sealed=True)
    assert files.read_json(path) == value
    assert f'"{files.SEAL}"' in path.read_text()
    files.write_json(path, value)
    assert files.read_json(path) == value
    files.write_json(path, {1: 2}, sealed=True)  # keys that JSON turns into text
    assert files.read_json(path) == {"1": 2}


def test_a_slide_that_was_damaged_between_two_calls_is_embedded_again(copied):
    path = copied("slide", "slide.h5")[1][0]
    assert slide_embedding.is_made(path, "m")
    content = bytearray(path.read_bytes())
    content[content.index(numbers(10, 6)[3].tobytes()) + 1] ^= 1
    path.write_bytes(content)
    assert not slide_embedding.is_made(path, "m")


def test_splits_that_lost_a_sample_are_refused(copied):
    folder, (path,) = copied("splits", "splits.tsv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    assert str(refused("splits", folder)).endswith(
        "splits.tsv: sample S3: found no split; run split_donors again"
    )


@pytest.mark.slow
def test_pooled_spots_are_written_with_their_checksums(tmp_path):
    path = tmp_path / "spots.zarr"
    layout = {
        "spot": np.array(["a", "b"]),
        "array_row": np.array([0, 0], np.int32),
        "array_col": np.array([0, 1], np.int32),
        "x_um": np.array([1.0, 2.0]),
        "y_um": np.array([1.0, 2.0]),
    }
    genes = [{"gene_symbol": gene, "gene_id": gene} for gene in ("A", "B", "C")]
    counts = sparse.csr_matrix(np.int32([[1, 2, 3], [0, 1, 0]]))
    spots_zarr.write_spots(
        path,
        pooling.Pooled(counts, layout, 7, 7, {}, 0, 0),
        genes,
        size_um=1.0,
        corners_um=[[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]],
        pixel_size_um=0.2125,
        he_matrix=None,
        attrs={"sample": "S1"},
    )
    assert spots_zarr.read_spots(path).n_obs == 2
    listed = {line.split("  ")[1] for line in files.sums_path(path).read_text().splitlines()}
    assert listed == {
        file.relative_to(tmp_path).as_posix() for file in path.rglob("*") if file.is_file()
    }
    next(file for file in path.rglob("*") if file.stat().st_size > 50 and file.is_file()).unlink()
    with pytest.raises(InputError, match="let pool_spots make it again"):
        spots_zarr.read_spots(path)
