"""The published data set as a source: a local copy in its schema becomes our shards, row by row."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_pairs import LABELS, sample_row, tissue_image

import import_pairs
from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards, published_pairs
from pairscape.images import encoding

GENES = ("ACTA2", "CD3E", "EPCAM", "KRT8")
UM_PER_PX = 0.2738
NAMES = ["S3", "X9", "S1"]  # the copy's class names are in no order of ours
TEXTS = pair_shards.PUBLISHED_TEXT


def hosted_rows(count=18):
    """Rows in the published schema: the samples S1 and S3 mixed, on a lattice of 55 µm."""
    image = tissue_image(300, 400)
    for i in range(count):
        k = i // 2
        row, column = divmod(k, 3)
        patch = np.roll(image[:64, :80], 5 * i, 1)
        yield {
            "name": i % 2 * 2,  # S3, S1, S3, ...
            "image": {"bytes": encoding.encode_patch(patch, "png"), "path": None},
            "gexp": [[i, 0, 3, 70000 + i]],
            "cell_coords": [100.5 + column * 55 / UM_PER_PX, 40.25 + row * 55 / UM_PER_PX],
            "source": 0,
            "tissue": 1,
            **dict.fromkeys(TEXTS, ""),
            "age": "61" if i % 2 else None,
            "diagnosis": "cancer",
            "cancer": True,
        }


def hosted_features(gexp=None):
    from datasets import ClassLabel, Features, Image, List, Value

    return Features(
        {
            "name": ClassLabel(names=NAMES),
            "image": Image(),
            "gexp": gexp or List(List(Value("uint16" if gexp else "int64"))),
            "cell_coords": List(Value("float64")),
            "source": ClassLabel(names=["hest"]),
            "tissue": ClassLabel(names=["bowel", "lung"]),
            **{column: Value("string") for column in TEXTS},
            "cancer": Value("bool"),
        }
    )


def hosted(rows=None, features=None):
    from datasets import Dataset

    rows = list(hosted_rows() if rows is None else rows)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    return Dataset.from_dict(columns, features=features or hosted_features())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "genes.tsv").write_text(
        "gene_symbol\tgene_id\n" + "".join(f"{gene}\tENSG{gene}\n" for gene in GENES)
    )
    return tmp_path


def run(folder, name="S1", copy="hosted", um_per_px=str(UM_PER_PX), **changes):
    sample = sample_row(name, organ="Lung", source="geo", he_um_per_px=um_per_px, **changes)
    options = {"sample": sample, "dataset": "x", "labels": LABELS}
    import_pairs.main(
        [
            "--published-data",
            str(folder / copy),
            "--genes",
            str(folder / "genes.tsv"),
            "--shard",
            str(folder / f"{name}.arrow"),
            "--options",
            json.dumps(options),
        ]
    )
    return folder / f"{name}.arrow"


def save(data, path, form):
    if form == "save_to_disk":
        data.save_to_disk(path, num_shards=3)
    elif form == "parquet":
        path.mkdir()
        data.to_parquet(path / "train.parquet", batch_size=5)
    else:  # as the cache of load_dataset has it
        import pyarrow as pa

        path.mkdir()
        for part, rows in enumerate((range(7), range(7, 18))):
            table = data.data.table.take(pa.array(list(rows)))
            with pa.ipc.new_stream(
                str(path / f"train-{part}.arrow"), data.features.arrow_schema
            ) as w:
                w.write_table(table.cast(data.features.arrow_schema), max_chunksize=4)


@pytest.mark.parametrize("form", ["save_to_disk", "parquet", "stream"])
@pytest.mark.parametrize("name", ["S1", "S3"])
def test_every_row_of_a_sample_comes_over_and_no_other(folder, form, name):
    save(hosted(), folder / "hosted", form)
    shard = run(folder, name)
    rows = [row for row in hosted_rows() if NAMES[row["name"]] == name]
    table = pair_shards.read_shard_table(shard).to_pylist()
    assert len(table) == 9
    for row, wanted in zip(table, rows, strict=True):
        assert row["image"]["bytes"] == wanted["image"]["bytes"]  # not encoded anew
        assert row["gexp"] == wanted["gexp"]
        assert np.allclose(row["cell_coords"], wanted["cell_coords"])
        assert row["age"] == (wanted["age"] or "")
        assert row["sample"] == name
        assert (row["donor"], row["cancer"]) == (f"D_{name}", True)
    dataset = pair_shards.open_shard(shard)
    assert {dataset.features["name"].int2str(code) for code in dataset["name"]} == {name}
    assert {dataset.features["tissue"].int2str(code) for code in dataset["tissue"]} == {"lung"}
    assert pair_shards.shard_metadata(shard)["genes"] == list(GENES)


def test_spots_get_their_place_in_the_published_lattice(folder):
    save(hosted(), folder / "hosted", "stream")
    index = pair_shards.read_index(run(folder)).to_pylist()
    assert [row["spot"] for row in index] == [
        f"{i:03d}x{j:03d}" for i in range(3) for j in range(3)
    ]
    assert np.diff([row["x_um"] for row in index[:3]]) == pytest.approx([55, 55])
    assert index[0]["y_um"] == pytest.approx(40.25 * UM_PER_PX)


def test_spots_off_the_lattice_are_numbered(folder, capsys):
    save(hosted(), folder / "hosted", "stream")
    index = pair_shards.read_index(run(folder, um_per_px="0.2125")).to_pylist()
    assert [row["spot"] for row in index] == [f"000x{i:03d}" for i in range(9)]
    assert "aren't on a lattice of 55 µm at 0.2125" in capsys.readouterr().err


def test_counts_of_an_array_feature_are_read(folder):
    from datasets import Array2D

    features = hosted_features(Array2D((1, 4), "int32"))
    save(hosted(features=features), folder / "hosted", "save_to_disk")
    assert pair_shards.read_expression(run(folder))[0].tolist() == [1, 0, 3, 70001]


def test_the_same_copy_makes_the_same_bytes(folder):
    save(hosted(), folder / "hosted", "save_to_disk")
    first = run(folder).read_bytes()
    assert run(folder).read_bytes() == first


def broken(change):
    rows = list(hosted_rows())
    for row in rows:
        change(row)
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(gexp=[[1, 2, 3]]), "gexp: found 3 genes a row for the panel's 4"),
        (lambda row: row.update(gexp=[[1, 2, 3, -4]]), "gexp: found values that aren't counts"),
        (lambda row: row.update(cell_coords=[1.0]), "cell_coords: found 1 numbers a row, not 2"),
        (
            lambda row: row.update(image={"bytes": None, "path": "gone.png"}),
            "row 1, image: found no bytes",
        ),
        (
            lambda row: row.update(image={"bytes": b"no image", "path": None}),
            "image: found cannot identify image",
        ),
        (lambda row: row.update(name=1), "column name: found no row of S1; take S1 out"),
    ],
)
def test_a_copy_that_is_not_of_the_published_form_is_refused(folder, change, message):
    save(hosted(broken(change)), folder / "hosted", "stream")
    with pytest.raises(InputError, match=message):
        run(folder)
    assert not (folder / "S1.arrow").exists()


def test_a_missing_damaged_or_other_copy_is_refused(folder):
    with pytest.raises(InputError, match="published_data: found no folder; give the folder of one"):
        run(folder)
    (folder / "hosted").mkdir()
    with pytest.raises(InputError, match="neither Arrow nor Parquet"):
        run(folder)
    (folder / "hosted" / "a.arrow").write_bytes(b"ARROW1 or not")
    with pytest.raises(InputError, match=r"a\.arrow: file: .* the copy is damaged"):
        run(folder)


def test_a_copy_without_the_names_of_its_classes_is_refused(folder):
    import pyarrow as pa

    table = hosted().data.table.replace_schema_metadata(None)
    (folder / "hosted").mkdir()
    with pa.ipc.new_stream(str(folder / "hosted" / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="column name: found numbers without the names"):
        run(folder)


def test_a_sample_without_a_scale_is_refused(folder):
    with pytest.raises(
        InputError, match="sample S1, he_um_per_px: found ''; give the µm per pixel"
    ):
        run(folder, um_per_px="")


def test_files_of_a_cache_that_are_not_the_data_are_passed_over(folder):
    save(hosted(), folder / "hosted", "stream")
    (folder / "hosted" / "cache-1234.arrow").write_bytes(b"")
    names = [path.name for path in published_pairs.list_files(folder / "hosted")]
    assert names == ["train-0.arrow", "train-1.arrow"]


def bytes_read() -> int:
    """What this process has read by system calls so far."""
    return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="Linux counts what is read")
def test_of_a_copy_only_the_rows_of_the_sample_are_read_once_and_few_are_held(folder):
    """Two files: one is all of S3, of the other a fifth is S1. The images are most of the bytes."""
    import pyarrow as pa

    rng = np.random.default_rng(0)
    (folder / "hosted").mkdir()
    for file, names in enumerate(([0] * 40, [0] * 32 + [2] * 8)):
        rows = list(hosted_rows(40))
        for row, name in zip(rows, names, strict=True):
            row |= {"name": name, "image": {"bytes": rng.bytes(200_000)}}
        hosted(rows).to_parquet(folder / "hosted" / f"{file}.parquet", batch_size=4)
    files = published_pairs.list_files(folder / "hosted")
    whole = sum(path.stat().st_size for path in files)
    pool, before = pa.proxy_memory_pool(pa.default_memory_pool()), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    start = bytes_read()
    try:
        parts = published_pairs.find_parts(files, "S1")
        assert len(published_pairs.read_places(parts)) == 8
        few = bytes_read() - start
        rows = sum(1 for _ in published_pairs.iter_rows(parts, len(GENES), TEXTS))
    finally:
        pa.set_memory_pool(before)
    share = 8 / 80 * whole
    assert (rows, whole > 16_000_000) == (8, True)
    assert few < 0.2 * share  # footers, names and places; was all of both files, mapped
    assert bytes_read() - start < 1.3 * share  # was all of both files, twice more
    assert pool.max_memory() < 1.5 * share  # of one row group; was both files
