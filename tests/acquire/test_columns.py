"""A bundle's columns of whatever type: the same rows, or one line that names column and type."""

import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bundle
from test_bundle import read_all

import check_bundle
from pairscape.acquire import bundle as xenium
from pairscape.core.errors import InputError

ROWS = 600
WANTED = ["feature_name", "x_location", "y_location", "qv", "is_gene", "cell_id"]
WANTED += ["overlaps_nucleus"]
PARTIAL = np.arange(ROWS) % 3 == 0  # rows of no cell


def table():
    """Transcripts whose places are exact in every type, some in cells 1 and 2."""
    rows = tiny_bundle.make_transcripts(ROWS)
    places = np.arange(ROWS, dtype=np.float32) % 400
    ids = np.where(PARTIAL, "-1", (np.arange(ROWS) % 2 + 1).astype(str))
    more = {"cell_id": ids, "overlaps_nucleus": (np.arange(ROWS) % 2).astype(np.uint8)}
    rows["qv"] = rows["qv"].round()
    return rows.assign(x_location=places, y_location=places[::-1], **more)


def tell(bundle):
    """The rows of the transcripts as the other modules see them."""
    told = []
    for batch in xenium.iter_transcripts(bundle, WANTED):
        columns = [batch.column(name).to_pylist() for name in ("feature_name", "overlaps_nucleus")]
        numbers = [batch.column(name).to_numpy(zero_copy_only=False) for name in WANTED[1:4]]
        assert all(column.dtype in (np.float32, np.float64, np.int64) for column in numbers)
        told += zip(
            *columns, *numbers, xenium.gene_rows(batch), xenium.cell_rows(batch), strict=True
        )
    return [tuple(float(v) if not isinstance(v, str) else v for v in row) for row in told]


TYPES = {
    "is_gene int8": lambda t: t.assign(is_gene=t["is_gene"].astype(np.int8)),
    "is_gene float": lambda t: t.assign(is_gene=t["is_gene"].astype(float)),
    "is_gene text": lambda t: t.assign(is_gene=t["is_gene"].astype(str)),
    "is_gene T and F": lambda t: t.assign(is_gene=np.where(t["is_gene"], "T", "F")),
    "is_gene categories": lambda t: t.assign(is_gene=t["is_gene"].astype(str).astype("category")),
    "cell_id int32": lambda t: t.assign(cell_id=t["cell_id"].astype(np.int32)),
    "cell_id float": lambda t: t.assign(cell_id=t["cell_id"].astype(float).where(~PARTIAL)),
    "cell_id categories": lambda t: t.assign(cell_id=t["cell_id"].astype("category")),
    "cell_id NA": lambda t: t.assign(cell_id=t["cell_id"].where(~PARTIAL, "NA")),
    "cell_id nan": lambda t: t.assign(cell_id=t["cell_id"].where(~PARTIAL, "nan")),
    "cell_id missing": lambda t: t.assign(cell_id=t["cell_id"].where(~PARTIAL, None)),
    "overlaps_nucleus bool": lambda t: t.assign(overlaps_nucleus=t["overlaps_nucleus"] > 0),
    "overlaps_nucleus text": lambda t: t.assign(overlaps_nucleus=t["overlaps_nucleus"].astype(str)),
    "overlaps_nucleus int64": lambda t: t.assign(
        overlaps_nucleus=t["overlaps_nucleus"] + np.int64(0)
    ),
    "x_location float16": lambda t: t.assign(x_location=t["x_location"].astype(np.float16)),
    "x_location float64": lambda t: t.assign(x_location=t["x_location"].astype(float)),
    "x_location int": lambda t: t.assign(x_location=t["x_location"].astype(int)),
    "qv int": lambda t: t.assign(qv=t["qv"].astype(np.int64)),
    "feature_name categories": lambda t: t.assign(
        feature_name=t["feature_name"].astype("category")
    ),
    "feature_name bytes": lambda t: t.assign(feature_name=[n.encode() for n in t["feature_name"]]),
    "transcript_id float": lambda t: t.assign(transcript_id=t["transcript_id"] + 2.8e14),
    "transcript_id text": lambda t: t.assign(transcript_id=t["transcript_id"].astype(str)),
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return tell(tiny_bundle.write_bundle(tmp_path_factory.mktemp("b") / "outs", table()))


@pytest.mark.parametrize("kind", TYPES)
def test_a_column_of_another_type_tells_the_same(tmp_path, expected, kind):
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", TYPES[kind](table()))
    assert tell(bundle) == expected
    (bundle / "cells.parquet").unlink()  # it has other cells
    check_bundle.main([f"--bundle={bundle}", f"--report={tmp_path / 'check.json'}"])


@pytest.mark.parametrize("kind", [k for k in TYPES if "float16" not in k and "bytes" not in k])
def test_a_text_table_tells_the_same_however_it_is_spelled(tmp_path, expected, kind):
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", table())
    (bundle / "transcripts.parquet").unlink()
    text = TYPES[kind](table()).to_csv(index=False).encode("utf-8-sig")
    (bundle / "transcripts.csv.gz").write_bytes(gzip.compress(text))
    assert tell(bundle) == expected


def test_large_text_and_large_ids_are_read(tmp_path, expected):
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", table())
    columns = pa.Table.from_pandas(table(), preserve_index=False)
    for name in ("feature_name", "cell_id"):
        at = columns.schema.get_field_index(name)
        columns = columns.set_column(at, name, columns[name].cast(pa.large_string()))
    pq.write_table(columns, bundle / "transcripts.parquet")
    assert tell(bundle) == expected


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("is_gene", "perhaps", "column is_gene: found 'perhaps'"),
        ("is_gene", np.int8(2), "column is_gene: found 2 (int8)"),
        ("overlaps_nucleus", 0.5, "column overlaps_nucleus: found 0.5 (double)"),
        ("cell_id", 1.5, "column cell_id: found double that are no cells' numbers"),
        ("cell_id", np.uint64(2**64 - 1), "column cell_id: found uint64 that are no"),
        ("x_location", "here", "column x_location: found"),
        ("x_location", True, "column x_location: found bool"),
        ("feature_name", 7, "column feature_name: found int64"),
        ("qv", pd.Timestamp("2024-03-01"), "column qv: found timestamp"),
    ],
)
def test_what_cant_be_converted_is_refused_by_column_and_type(tmp_path, column, value, told):
    """By check_bundle, and as early as by any other program."""
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", table().assign(**{column: value}))
    with pytest.raises(InputError) as refusal:
        tell(bundle)
    assert told in str(refusal.value)
    with pytest.raises(InputError, match=f"column {column}: found"):
        check_bundle.main([f"--bundle={bundle}", f"--report={tmp_path / 'check.json'}"])


def test_a_word_among_the_numbers_of_a_text_table_is_named(tmp_path):
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", table())
    (bundle / "transcripts.parquet").unlink()
    text = table().astype({"x_location": object})
    text.loc[5, "x_location"] = "1,5"
    (bundle / "transcripts.csv.gz").write_bytes(gzip.compress(text.to_csv(index=False).encode()))
    with pytest.raises(InputError, match=r"column x_location: found CSV conversion error .*1,5"):
        read_all(bundle, WANTED)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.assign(cell_id=np.arange(len(c), dtype=np.uint32)),
        lambda c: c.assign(cell_id=[str(i).encode() for i in range(len(c))]),
        lambda c: c.assign(cell_id=np.arange(len(c), dtype=float)),
        lambda c: c.assign(
            cell_id=np.arange(len(c)), x_centroid=c["x_centroid"].astype(np.float32)
        ),
        lambda c: c.assign(cell_id=np.arange(len(c)), more=[{"a": 1}] * len(c)),
    ],
)
def test_cells_are_read_whatever_their_types(tmp_path, change):
    bundle = tiny_bundle.write_bundle(tmp_path / "outs", table())
    path = bundle / "cells.parquet"
    cells = pq.read_table(path).to_pandas()
    change(cells).to_parquet(path)
    found = xenium.read_cells(bundle)
    assert found["cell_id"].tolist() == [str(i) for i in range(len(cells))]
    np.testing.assert_allclose(found["x_centroid"], cells["x_centroid"], rtol=1e-6)
