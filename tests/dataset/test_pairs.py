"""Shards: what is written is what every reader gets back."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from small_pairs import LABELS, sample_row

from pairscape.core.errors import InputError
from pairscape.dataset import cutting, gene_lists, pair_shards
from pairscape.images.encoding import encode_patch, tissue_fraction

ROOT = Path(__file__).parents[2]
METADATA = dict.fromkeys(pair_shards.METADATA_KEYS, "x") | {"genes": ["A", "B", "C"]}


def some_rows(count=600, **changes):
    generator = np.random.default_rng(0)
    patch = generator.integers(0, 255, (16, 16, 3), np.uint8)
    for i in range(count):
        yield {
            **cutting.sample_columns(sample_row()),
            "image": encode_patch(np.roll(patch, i, 0), "png"),
            "gexp": np.array([i, 0, 2**31 - 1 - i], np.int32),
            "cell_coords": (i + 0.5, 2 * i),
            "spot": f"s{i}",
            "array_row": i,
            "array_col": -i,
            "x_um": i / 3,
            "y_um": i * 1e5 + 1e-6,
            "um_per_px": 0.5,
            "tissue_fraction": 0.25,
            **changes,
        }


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "S1.arrow"
    features = cutting.pair_features(3, LABELS)
    assert pair_shards.write_shard(path, some_rows(), features, METADATA) == 600
    return path


def test_every_row_comes_back_through_datasets(shard):
    dataset = pair_shards.open_shard(shard)
    assert len(dataset) == 600
    assert dataset.features["name"].names == LABELS["name"]
    row = dataset[257]
    assert row["image"].size == (16, 16)
    wanted = next(row for i, row in enumerate(some_rows()) if i == 257)
    assert row["gexp"] == [wanted["gexp"].tolist()]
    assert row["cell_coords"] == [257.5, 514.0]
    assert dataset.features["name"].int2str(row["name"]) == "S1"
    assert dataset.features["tissue"].int2str(row["tissue"]) == "breast"
    for column in ("spot", "array_row", "array_col", "x_um", "y_um", "sample", "donor", "cancer"):
        assert row[column] == wanted[column]
    assert np.array_equal(
        np.asarray(row["image"]), np.roll(np.asarray(dataset[0]["image"]), 257, 0)
    )


def test_the_columns_are_those_of_the_published_data_set_and_ours():
    published = "name image gexp cell_coords source tissue atlas age diagnosis oncotree_code "
    published += "tumor_grade gender race treatment_type therapeutic_agents tumor_tissue_type "
    published += "assay preservation_method stain spaceranger species cytassist cancer"
    features = cutting.pair_features(3, LABELS)
    assert set(published.split()) < set(features)
    assert list(features)[: len(pair_shards.LABEL_COLUMNS) + 3] == published.split()[:6]


def test_the_published_facts_of_a_sample_are_filled_in():
    columns = cutting.sample_columns(sample_row(disease_state="Healthy", preservation="FFPE"))
    assert (columns["diagnosis"], columns["cancer"]) == ("healthy", False)
    assert (columns["assay"], columns["stain"]) == ("Xenium", "HnE")
    assert (columns["species"], columns["preservation_method"]) == ("Homo sapiens", "FFPE")
    assert columns["gender"] == ""


def test_counts_and_index_are_read_without_the_images(shard):
    counts = pair_shards.read_expression(shard)
    assert counts.dtype == np.int32
    assert np.array_equal(counts, np.stack([row["gexp"] for row in some_rows()]))
    index = pair_shards.read_index(shard)
    assert index["spot"].to_pylist() == [f"s{i}" for i in range(600)]
    assert not {"image", "gexp"} & set(index.column_names)


def test_the_fast_path_does_not_import_datasets(shard):
    program = (
        "import sys; from pairscape.dataset import pair_shards as pairs; "
        f"pairs.read_expression({str(shard)!r}); pairs.shard_metadata({str(shard)!r}); "
        "sys.exit('datasets' in sys.modules or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT / "scripts")


def test_the_same_rows_make_the_same_bytes(shard, tmp_path):
    pair_shards.write_shard(
        tmp_path / "again", some_rows(), cutting.pair_features(3, LABELS), METADATA
    )
    assert (tmp_path / "again").read_bytes() == shard.read_bytes()


def test_what_made_a_shard_stands_in_it(shard):
    assert pair_shards.shard_metadata(shard) == METADATA


def test_an_unknown_label_is_refused_and_nothing_stays(tmp_path):
    with pytest.raises(InputError, match=r"labels\.tissue: found no 'ovary' among breast, lung"):
        pair_shards.write_shard(
            tmp_path / "S1.arrow",
            some_rows(3, tissue="ovary"),
            cutting.pair_features(3, LABELS),
            METADATA,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999, "batches"])
def test_a_shard_that_is_cut_off_is_refused(shard, tmp_path, keep):
    data = shard.read_bytes()
    end = len(data) - 8 if keep == "batches" else int(len(data) * keep)
    (tmp_path / "S1.arrow").write_bytes(data[:end])
    with pytest.raises(InputError, match="run export_pairs again"):
        pair_shards.read_shard_table(tmp_path / "S1.arrow")


def test_another_arrow_file_is_refused(tmp_path):
    table = pa.table({"image": [b""], "gexp": [1]})
    with pa.ipc.new_stream(str(tmp_path / "S1.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(InputError, match="schema metadata"):
        pair_shards.shard_metadata(tmp_path / "S1.arrow")


def test_a_missing_shard_is_refused(tmp_path):
    with pytest.raises(InputError, match="found nothing; run export_pairs"):
        pair_shards.read_shard_table(tmp_path / "S1.arrow")


def test_png_is_lossless_and_jpeg_close():
    import io

    from PIL import Image

    y, x = np.mgrid[:64, :64]
    patch = np.stack([3 * x, 200 - 2 * y, 128 + 0 * x], -1).astype(np.uint8)
    decoded = {
        encoding: np.asarray(Image.open(io.BytesIO(encode_patch(patch, encoding))))
        for encoding in ("png", "jpeg")
    }
    assert np.array_equal(decoded["png"], patch)
    assert np.abs(decoded["jpeg"].astype(int) - patch).mean() < 2


def test_tissue_is_what_is_darker_than_glass():
    patch = np.full((10, 10, 3), (238, 215, 232), np.uint8)  # tinted glass
    assert tissue_fraction(patch) == 0
    patch[:3] = 180, 90, 160  # eosin
    patch[3:5] = 90, 60, 140  # haematoxylin
    assert tissue_fraction(patch) == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [("gene_symbol\tgene_id\n", "no genes"), ("gene_symbol\tgene_id\nA\t\nA\t\n", "A twice")],
)
def test_a_damaged_gene_list_is_refused(tmp_path, text, message):
    (tmp_path / "genes.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        gene_lists.read_genes(tmp_path / "genes.tsv")
