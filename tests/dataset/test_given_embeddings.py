"""Embeddings that another program has made: they find their pairs by name, or are refused."""

import json
import subprocess
import sys

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_pairs import SAMPLES, SPEC, write_dataset, write_splits

import embed_genes
import embed_images
import export_ids
import pretrain
from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv, write_tsv
from pairscape.dataset import stored_features
from pairscape.pretrain import run_embeddings

WIDTH = 6
GIVEN = {**SPEC, "builder": "given", "arguments": {}, "width": WIDTH, "parameters": 0, "input": {}}
ENCODER = {"images": GIVEN, "genes": {**GIVEN, "kind": "gene", "learned_from": "weights"}}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A data set, its ids as the program lists them, and the embedding of each, by name."""
    folder = tmp_path_factory.mktemp("dataset")
    shards, *_ = write_dataset(folder)
    write_splits(folder / "splits.tsv", [(s, d, split) for s, (d, split, _) in SAMPLES.items()])
    flags = ["--shards", *map(str, shards), "--splits", str(folder / "splits.tsv")]
    export_ids.main([*flags, "--ids", str(folder / "ids.tsv"), "--patches", str(folder / "out")])
    ids = read_tsv(folder / "ids.tsv", export_ids.COLUMNS)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((len(ids), WIDTH)).astype(np.float32)
    return folder, shards, ids, embeddings


def encoder(kind, **changes):
    weights = {**SPEC["weights"], **changes.pop("weights", {})}
    return {**ENCODER[kind], "weights": weights, **changes}


def embed(dataset, out, file, kind="images", **changes):
    folder, shards, _, _ = dataset
    samples = {"dataset": "tiny", "samples": list(SAMPLES)}
    options = {"encoder": encoder(kind, **changes), "encoder_name": "theirs", **samples}
    flags = ["--shards", *map(str, shards), "--weights", str(file)]
    flags += ["--features", str(out / "f.npy"), "--index", str(out / "f.json")]
    genes = ["--genes", str(folder / "genes.tsv")] if kind == "genes" else []
    program = {"images": embed_images, "genes": embed_genes}[kind]
    program.main([*flags, *genes, "--options", json.dumps(options)])
    return stored_features.read_features(out / "f.npy", out / "f.json")


def write_parquet(path, names, embeddings):
    column = pa.array(list(map(list, embeddings)), pa.list_(pa.float32()))
    pq.write_table(pa.table({"pair": names, "embedding": column}), path, row_group_size=7)
    return path


def shuffled(ids, embeddings, further=3):
    """The pairs in another order, among pairs of other data sets."""
    order = np.random.default_rng(1).permutation(len(ids))
    names = [ids[i]["pair"] for i in order]
    others = [f"elsewhere/spot{i}" for i in range(further)]
    return [*others, *names], np.concatenate([np.zeros((further, WIDTH), "f4"), embeddings[order]])


def test_the_ids_name_every_pair_with_its_place_and_patch(dataset):
    folder, _, ids, _ = dataset
    assert len(ids) == sum(rows for _, _, rows in SAMPLES.values())
    assert {row["sample"]: row["split"] for row in ids} == {
        sample: split for sample, (_, split, _) in SAMPLES.items()
    }
    assert len({row["pair"] for row in ids}) == len(ids)
    files = sorted(path.relative_to(folder / "out") for path in (folder / "out").rglob("*.*"))
    assert sorted(row["pair"] for row in ids) == [str(path.with_suffix("")) for path in files]


@pytest.mark.parametrize("kind", ["images", "genes"])
def test_rows_of_a_parquet_find_their_pairs_whatever_the_order(dataset, tmp_path, kind):
    _, _, ids, embeddings = dataset
    path = write_parquet(tmp_path / "e.parquet", *shuffled(ids, embeddings))
    features, index = embed(dataset, tmp_path, path, kind)
    np.testing.assert_array_equal(features, embeddings)
    assert len(index["weights_sha256"]) == 64
    assert {p.name for p in tmp_path.iterdir()} == {"e.parquet", "f.npy", "f.json"}


def test_rows_of_an_npy_are_named_by_the_table_beside_it(dataset, tmp_path):
    _, _, ids, embeddings = dataset
    names, rows = shuffled(ids, embeddings)
    np.save(tmp_path / "e.npy", rows)
    with pytest.raises(InputError, match=r"e\.tsv: file: found nothing; name the pair"):
        embed(dataset, tmp_path, tmp_path / "e.npy")
    write_tsv(tmp_path / "e.tsv", [{"pair": name} for name in names], ["pair"])
    beside = {"extra_files": ["e.tsv"]}
    features, index = embed(dataset, tmp_path, tmp_path / "e.npy", weights=beside)
    np.testing.assert_array_equal(features, embeddings)
    write_tsv(tmp_path / "e.tsv", [{"pair": name} for name in reversed(names)], ["pair"])
    other, changed = embed(dataset, tmp_path, tmp_path / "e.npy", weights=beside)
    assert index["weights_sha256"] != changed["weights_sha256"]
    assert not np.array_equal(other, embeddings)


def test_slides_as_trident_writes_them_find_their_pairs_by_place(dataset, tmp_path):
    _, _, ids, embeddings = dataset
    side = 10
    for sample in SAMPLES:
        rows = [i for i, row in enumerate(ids) if row["sample"] == sample][::-1]
        centres = [[float(ids[i]["he_x_px"]), float(ids[i]["he_y_px"])] for i in rows]
        with h5py.File(tmp_path / f"{sample}.h5", "w") as file:
            corners = np.round(np.array([[-500.0, -500.0], *centres]) - side / 2).astype(int)
            file.create_dataset("coords", data=corners).attrs["patch_size_level0"] = side
            file["features"] = np.concatenate([np.ones((1, WIDTH), "f4"), embeddings[rows]])
    first, *others = (f"{sample}.h5" for sample in SAMPLES)
    features, _ = embed(dataset, tmp_path, tmp_path / first, weights={"extra_files": others})
    np.testing.assert_array_equal(features, embeddings)
    with pytest.raises(InputError, match=r"S1\.h5: pair: found no row of 44 of 92 pairs, as S2/"):
        embed(dataset, tmp_path, tmp_path / first)


def drop(names, rows):
    return names[:-1], rows[:-1]


def double(names, rows):
    return [*names, names[-1]], np.concatenate([rows, rows[-1:]])


def widen(names, rows):
    return names, np.concatenate([rows, rows[:, :1]], axis=1)


def break_one(names, rows):
    return names, np.where(np.arange(len(rows))[:, None] == 5, np.nan, rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"e\.parquet: pair: found no row of 1 of 92 pairs, as S\d/.*; embed every pair"),
        (double, r"e\.parquet: pair: found S\d/\S+ twice; give each pair one row"),
        (widen, r"e\.parquet: embedding: found rows of shape \(7,\); 6 numbers each are declared"),
        (break_one, r"rows 0 to 92: found features that aren't finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(dataset, tmp_path, change, message):
    _, _, ids, embeddings = dataset
    path = write_parquet(tmp_path / "e.parquet", *change(*shuffled(ids, embeddings)))
    with pytest.raises(InputError, match=message):
        embed(dataset, tmp_path, path)
    assert [p.name for p in tmp_path.iterdir()] == ["e.parquet"]


def test_a_file_of_another_checksum_is_refused(dataset, tmp_path):
    _, _, ids, embeddings = dataset
    path = write_parquet(tmp_path / "e.parquet", *shuffled(ids, embeddings))
    with pytest.raises(InputError, match=r"e\.parquet: sha256: found \w{64}; 0{64} is declared"):
        embed(dataset, tmp_path, path, weights={"sha256": "0" * 64})


def test_an_outside_script_s_pairs_are_scored_without_training(dataset, tmp_path):
    """Both sides in one space, made by a program that knows of Pairscape only the ids."""
    folder, shards, _, _ = dataset
    script = """
import csv, sys
import numpy as np
import pyarrow as pa, pyarrow.parquet as pq
names = [row["pair"] for row in csv.DictReader(open(sys.argv[1]), delimiter="\t")][::-1]
shared = np.random.default_rng(3).standard_normal((len(names), 6))
for side, noise in (("images", 0.0), ("genes", 0.1)):
    rows = shared + noise * np.random.default_rng(4).standard_normal(shared.shape)
    table = {"pair": names, "embedding": [list(map(float, row)) for row in rows]}
    pq.write_table(pa.table(table), f"{sys.argv[2]}/{side}.parquet")
"""
    (tmp_path / "theirs.py").write_text(script)
    subprocess.run(
        [sys.executable, tmp_path / "theirs.py", folder / "ids.tsv", tmp_path], check=True
    )
    flags, arguments = [], {"images": {}, "genes": {"paired_with": "theirs"}}
    for kind, side in (("images", "image"), ("genes", "gene")):
        out = tmp_path / kind
        out.mkdir()
        embed(dataset, out, tmp_path / f"{kind}.parquet", kind, arguments=arguments[kind])
        flags += [f"--{side}-features={out / 'f.npy'}", f"--{side}-index={out / 'f.json'}"]
    options = {
        "experiment": "given",
        "dataset": "tiny",
        "image_name": "theirs",
        "gene_name": "theirs",
        "image_encoder": encoder("images"),
        "gene_encoder": encoder("genes", arguments=arguments["genes"]),
        "samples": list(SAMPLES),
        "seed": 1,
        "training": {"image_tuning": "frozen", "gene_tuning": "frozen", "batch_size": 8},
        "protocol": "corrected",
    }
    names = ("model.ckpt", "options.json", "metrics.csv", "curve.png")
    made = dict(zip(("model", "run-options", "metrics", "curve"), names, strict=True))
    call = ["--shards", *map(str, shards), f"--splits={folder / 'splits.tsv'}"]
    call += [f"--genes={folder / 'genes.tsv'}", *flags]
    call += [f"--{flag}={tmp_path / 'run' / name}" for flag, name in made.items()]
    pretrain.main([*call, "--options", json.dumps(options)])
    described = json.loads((tmp_path / "run/options.json").read_text())
    assert described["closed_form"]["method"] == "given as pairs"
    stored = run_embeddings.read_run_embeddings(tmp_path / "run", "test")
    assert stored["images"].shape == (24, WIDTH)
    assert (stored["images"] @ stored["genes"].T).argmax(1).tolist() == list(range(24))
    options["image_name"] = "another"
    with pytest.raises(InputError, match="pair theirs with theirs, whose space it is in"):
        pretrain.main([*call, "--options", json.dumps(options)])
