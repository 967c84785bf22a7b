import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bundle

from pairscape import bundle as xenium
from pairscape.errors import InputError

COLUMNS = ["feature_name", "x_location", "y_location", "qv"]


@pytest.fixture
def bundle(tmp_path):
    return tiny_bundle.write_bundle(tmp_path / "bundle")


def read_all(bundle, columns, **options):
    batches = list(xenium.iter_transcripts(bundle, columns, **options))
    return pa.Table.from_batches([batch.cast(batches[0].schema) for batch in batches]), batches


def test_transcripts_come_in_bounded_batches_and_in_order(bundle):
    table, batches = read_all(bundle, COLUMNS, batch_rows=1000)
    assert max(len(batch) for batch in batches) <= 1000
    truth = tiny_bundle.make_transcripts()
    assert np.array_equal(table["x_location"].to_numpy(), truth["x_location"])
    assert table["feature_name"].to_pylist() == truth["feature_name"].tolist()
    assert all(pa.types.is_dictionary(batch.schema.field("feature_name").type) for batch in batches)


def test_names_stored_as_bytes_are_text(bundle):
    transcripts = tiny_bundle.make_transcripts()
    names = transcripts["feature_name"].tolist()
    transcripts["feature_name"] = [name.encode() for name in names]
    tiny_bundle.write_transcripts(bundle, transcripts)
    assert read_all(bundle, ["feature_name"])[0]["feature_name"].to_pylist() == names


@pytest.mark.parametrize(
    ("absent", "rule"),
    [
        ([], "is_gene"),
        (["is_gene"], "codeword_category"),
        (["is_gene", "codeword_category"], "feature_name"),
    ],
)
def test_genes_are_told_by_the_best_column_there_is(bundle, absent, rule):
    truth = tiny_bundle.make_transcripts()
    tiny_bundle.write_transcripts(bundle, truth.drop(columns=absent))
    assert xenium.gene_column(xenium.open_transcripts(bundle).schema_arrow.names) == rule
    columns = ["feature_name"] if rule == "feature_name" else ["feature_name", rule]
    found = [xenium.gene_rows(batch) for batch in xenium.iter_transcripts(bundle, columns)]
    assert np.array_equal(np.concatenate(found), truth["is_gene"])


def test_is_gene_wins_over_the_other_columns(bundle):
    transcripts = tiny_bundle.make_transcripts(10)
    transcripts["is_gene"] = [True] + [False] * 9
    tiny_bundle.write_transcripts(bundle, transcripts)
    (batch,) = xenium.iter_transcripts(bundle, ["feature_name", "codeword_category", "is_gene"])
    assert xenium.gene_rows(batch).tolist() == transcripts["is_gene"].tolist()


def test_the_panel_holds_genes_and_no_controls(bundle):
    panel = xenium.read_panel(bundle)
    assert [gene["gene_symbol"] for gene in panel] == tiny_bundle.GENES
    assert panel[1] == {
        "gene_symbol": "BETA",
        "gene_id": "ENSG00000000001",
        "category": "current",
    }


def test_cell_counts_of_a_gene_are_those_of_the_matrix(bundle):
    counts = xenium.read_cell_counts(bundle, "ALPHA", block=2)
    assert counts.tolist() == [0, 2, 0, 5]
    assert counts.index.tolist() == xenium.read_cells(bundle)["cell_id"].tolist()
    assert xenium.read_cell_counts(bundle, "GAMMA").tolist() == [0, 0, 0, 0]
    with pytest.raises(InputError, match="gene OMEGA"):
        xenium.read_cell_counts(bundle, "OMEGA")


def test_real_cell_counts_add_up(shared):
    folder = shared / "data" / "her2st-xenium" / "C2" / "outs"
    cells = xenium.read_cells(folder)
    total = sum(
        xenium.read_cell_counts(folder, gene["gene_symbol"]).sum()
        for gene in xenium.read_panel(folder)[:3]
    )
    assert 0 < total < cells["transcript_counts"].sum()


def test_the_software_that_wrote_last_gives_the_version(bundle):
    experiment = xenium.read_experiment(bundle)
    assert xenium.software_version(experiment) == "xenium-3.0.0.15"
    assert xenium.pixel_size_um(experiment) == tiny_bundle.PIXEL_SIZE_UM
    ranger = experiment | {"xenium_ranger": {"version": "xenium-4.0.1.0"}}
    assert xenium.software_version(ranger) == "xenium-4.0.1.0"


def change(bundle, name, **values):
    path = bundle / name
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def cut(bundle, name):
    path = bundle / name
    path.write_bytes(path.read_bytes()[:-100])


def drop_column(bundle, name, column):
    table = pq.read_table(bundle / name)
    pq.write_table(table.drop_columns([column]), bundle / name)


@pytest.mark.parametrize(
    ("spoil", "read", "message"),
    [
        (
            lambda b: (b / "experiment.xenium").unlink(),
            xenium.read_experiment,
            "file: found nothing",
        ),
        (lambda b: cut(b, "experiment.xenium"), xenium.read_experiment, "experiment.xenium: JSON"),
        (lambda b: change(b, "experiment.xenium", pixel_size=None), xenium.read_experiment, "size"),
        (lambda b: change(b, "experiment.xenium", pixel_size=-1), xenium.read_experiment, "-1"),
        (
            lambda b: change(b, "experiment.xenium", analysis_sw_version=None),
            xenium.read_experiment,
            "analysis_sw_version",
        ),
        (lambda b: cut(b, "gene_panel.json"), xenium.read_panel, "gene_panel.json: JSON"),
        (lambda b: change(b, "gene_panel.json", payload={}), xenium.read_panel, "'targets'"),
        (lambda b: tiny_bundle.write_panel(b, []), xenium.read_panel, "no gene"),
        (
            lambda b: tiny_bundle.write_panel(b, ["A", "A"]),
            xenium.read_panel,
            "gene A: found it twice",
        ),
        (lambda b: cut(b, "transcripts.parquet"), xenium.open_transcripts, "parquet: footer"),
        (
            lambda b: drop_column(b, "transcripts.parquet", "qv"),
            xenium.open_transcripts,
            "column qv",
        ),
        (
            lambda b: tiny_bundle.write_transcripts(b, tiny_bundle.make_transcripts(0)),
            xenium.open_transcripts,
            "rows: found none",
        ),
        (lambda b: cut(b, "cells.parquet"), xenium.read_cells, "cells.parquet: footer"),
        (lambda b: drop_column(b, "cells.parquet", "x_centroid"), xenium.read_cells, "x_centroid"),
        (
            lambda b: cut(b, "cell_feature_matrix.h5"),
            lambda b: xenium.read_cell_counts(b, "ALPHA"),
            "cell_feature_matrix.h5: matrix",
        ),
    ],
)
def test_a_broken_file_is_named(bundle, spoil, read, message):
    spoil(bundle)
    with pytest.raises(InputError) as refusal:
        read(bundle)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_damaged_page_is_refused_while_streaming(bundle):
    path = bundle / "transcripts.parquet"
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(2).column(4)
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"transcripts\.parquet: rows"):
        read_all(bundle, COLUMNS)


def test_a_zip_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "outs.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match="unpack it"):
        xenium.read_experiment(tmp_path / "outs.zip")
    with pytest.raises(InputError, match="bundle: found nothing"):
        xenium.read_experiment(tmp_path / "absent")
