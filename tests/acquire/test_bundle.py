import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_bundle
from bundle_layouts import write_bundle_with_cells

from pairscape.acquire import bundle as xenium
from pairscape.acquire import transcripts_csv
from pairscape.acquire.image_checks import morphology_files
from pairscape.core.errors import InputError
from pairscape.simulation.layouts import LAYOUTS, change_layout

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
    total = sum(
        xenium.read_cell_counts(folder, gene["gene_symbol"]).sum()
        for gene in xenium.read_panel(folder)[:3]
    )
    assert 0 < total < pq.read_table(folder / "cells.parquet")["transcript_counts"].to_numpy().sum()


def test_nuclei_are_outlines_of_those_in_the_box_several_of_a_cell_apart(tmp_path):
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4.0]])
    corners = ([10, 10], [20, 10], [300, 10])
    nuclei = [
        pd.DataFrame({"cell_id": "one", "vertex_x": x, "vertex_y": y, "label_id": label})
        for label, corner in enumerate(corners)
        for x, y in [(square + corner).T]
    ]
    pd.concat(nuclei).to_parquet(tmp_path / "nucleus_boundaries.parquet")
    read = xenium.read_nuclei(tmp_path, [0, 0], [100, 100])
    assert [outline.tolist() for outline in read] == [
        (square + corner).tolist() for corner in corners[:2]
    ]
    (tmp_path / "nucleus_boundaries.parquet").unlink()
    assert xenium.read_nuclei(tmp_path, [0, 0], [100, 100]) is None


def test_the_software_that_wrote_last_gives_the_version(bundle):
    experiment = xenium.read_experiment(bundle)
    assert xenium.software_version(experiment) == "xenium-3.0.0.15"
    assert xenium.pixel_size_um(experiment) == tiny_bundle.PIXEL_SIZE_UM
    ranger = experiment | {"xenium_ranger": {"version": "xenium-4.0.1.0"}}
    assert xenium.software_version(ranger) == "xenium-4.0.1.0"


@pytest.fixture(scope="module")
def with_cells(tmp_path_factory):
    return write_bundle_with_cells(tmp_path_factory.mktemp("cells") / "bundle")


def tell(bundle):
    """What all layouts of one bundle have in common."""
    columns = xenium.transcript_columns(bundle)
    wanted = ["feature_name", "x_location", "y_location", "qv", "cell_id", "overlaps_nucleus"]
    wanted += [xenium.gene_column(columns)]
    rows = []
    for batch in xenium.iter_transcripts(bundle, wanted, batch_rows=4_000):
        assert len(batch) <= 4_000
        assert batch.schema.names == list(dict.fromkeys(wanted))
        x, y, qv = (batch.column(i).to_numpy(zero_copy_only=False) for i in (1, 2, 3))
        rows += zip(
            batch.column("feature_name").to_pylist(),
            x.tolist(),
            y.tolist(),
            qv.tolist(),
            xenium.gene_rows(batch).tolist(),
            xenium.cell_rows(batch).tolist(),
            batch.column("overlaps_nucleus").to_pylist(),
            strict=True,
        )
    panel = [(gene["gene_symbol"], gene["gene_id"]) for gene in xenium.read_panel(bundle)]
    cells = xenium.read_cells(bundle)
    counts = xenium.read_cell_counts(bundle, "ALPHA").reindex(cells["cell_id"])
    return rows, panel, cells["x_centroid"].tolist(), counts.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_a_bundle_tells_the_same(with_cells, tmp_path, layout):
    copy = tmp_path / "bundle"
    shutil.copytree(with_cells, copy)
    change_layout(copy, layout)
    (rows, *others), (expected, *rest) = tell(copy), tell(with_cells)
    assert rows == expected
    assert others == rest
    experiment = xenium.read_experiment(copy)
    assert xenium.format_version(experiment) == tuple(
        int(part) for part in layout.split("-")[0].split(".")
    )
    paths = morphology_files(copy, experiment)
    assert len(paths) == LAYOUTS[layout].get("stains", 1)
    assert not any(name in paths[0].name for name in ("0001", "0002", "0003"))


def test_the_sample_of_cells_isnt_empty(with_cells):
    rows, _, _, counts = tell(with_cells)
    assert 500 < sum(row[5] for row in rows) < len(rows) / 2
    assert sum(row[6] for row in rows) > 50
    assert min(counts) > 0


@pytest.mark.parametrize(
    ("version", "told"),
    [
        ("xenium-3.0.0.15", (3, 0)),
        ("Xenium-1.0.2", (1, 0)),
        ("xenium-4.0.0.0-rc1", (4, 0)),
        ("2.0.1", (2, 0)),
    ],
)
def test_a_version_is_read_in_every_spelling(version, told):
    assert xenium.format_version({"analysis_sw_version": version}) == told


def test_a_version_that_says_nothing_is_refused():
    with pytest.raises(InputError, match=r"analysis_sw_version: found 'R&D'; nothing to do: it"):
        xenium.format_version({"analysis_sw_version": "R&D"})
    for experiment in ({}, {"analysis_sw_version": None}, {"analysis_sw_version": ["4"]}):
        assert isinstance(xenium.software_version(experiment), str)
        with pytest.raises(InputError, match="analysis_sw_version: found"):
            xenium.format_version(experiment)
    ranger = {"analysis_sw_version": "xenium-1.6.0.7", "xenium_ranger": {"version": "mine"}}
    with pytest.raises(InputError, match=r"xenium_ranger\.version: found 'mine'"):
        xenium.format_version(ranger)


def test_the_text_table_is_read_only_where_there_is_no_other(bundle):
    (bundle / "transcripts.csv.gz").write_bytes(b"nonsense")
    assert xenium.find_transcripts(bundle).name == "transcripts.parquet"
    assert xenium.transcript_rows(bundle) == 20_000


def test_the_text_table_streams_in_bounded_memory(tmp_path):
    """A table of 60 MB of text is never more than a few blocks in memory."""
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    table = tiny_bundle.make_transcripts(1000).to_csv(index=False)
    head, body = table.split("\n", 1)
    with gzip.open(bundle / "transcripts.csv.gz", "wt", compresslevel=1) as handle:
        handle.write(head + "\n")
        for _ in range(500):
            handle.write(body)
    (bundle / "transcripts.parquet").unlink()
    before, rows = pa.total_allocated_bytes(), 0
    for batch in xenium.iter_transcripts(bundle, COLUMNS):
        rows += len(batch)
        assert pa.total_allocated_bytes() - before < 8 * transcripts_csv.BLOCK_BYTES
    assert rows == 500_000


def to_csv(bundle, change=lambda table: table):
    table = change(tiny_bundle.make_transcripts())
    (bundle / "transcripts.parquet").unlink()
    table.to_csv(bundle / "transcripts.csv.gz", index=False)


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
        (lambda b: cut(b, "gene_panel.json"), xenium.read_panel, "gene_panel.json: JSON"),
        (lambda b: change(b, "gene_panel.json", payload={}), xenium.read_panel, "'targets'"),
        (lambda b: tiny_bundle.write_panel(b, []), xenium.read_panel, "no gene"),
        (
            lambda b: tiny_bundle.write_panel(b, ["A", "A"]),
            xenium.read_panel,
            "payload.targets: found A twice",
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


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda b: (to_csv(b), cut(b, "transcripts.csv.gz")), "transcripts.csv.gz: rows"),
        (
            lambda b: (to_csv(b), (b / "transcripts.csv.gz").write_bytes(b"feature_name,qv")),
            "transcripts.csv.gz: header",
        ),
        (lambda b: to_csv(b, lambda t: t.drop(columns="qv")), "csv.gz: column qv"),
        (lambda b: to_csv(b, lambda t: t[:0]), "csv.gz: rows: found none"),
        (
            lambda b: to_csv(b, lambda t: t.assign(x_location="here")),
            "csv.gz: column x_location: found",
        ),
    ],
)
def test_a_broken_text_table_is_named(bundle, spoil, message):
    spoil(bundle)
    with pytest.raises(InputError) as refusal:
        read_all(bundle, COLUMNS)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_column_of_the_wrong_kind_is_refused(bundle):
    table = tiny_bundle.make_transcripts().assign(x_location="here")
    tiny_bundle.write_transcripts(bundle, table)
    with pytest.raises(InputError, match="column x_location: found string"):
        xenium.open_transcripts(bundle)


def test_a_bundle_without_any_list_of_genes_is_refused(bundle):
    (bundle / "gene_panel.json").unlink()
    (bundle / "cell_feature_matrix.h5").unlink()
    with pytest.raises(InputError, match=r"gene_panel\.json: file: found nothing"):
        xenium.read_panel(bundle)


def test_the_real_panel_is_that_of_the_real_matrix(shared):
    folder = shared / "data" / "xenium-mouse-ileum-tiny"
    panel = {gene["gene_symbol"]: gene["gene_id"] for gene in xenium.read_panel(folder)}
    assert xenium.feature_genes(xenium.read_features(folder)) == panel


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


def test_names_that_arent_ascii_and_a_byte_order_mark_are_read(bundle):
    import h5py

    path = bundle / "experiment.xenium"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    assert xenium.read_experiment(bundle)["pixel_size"] == tiny_bundle.PIXEL_SIZE_UM
    with h5py.File(bundle / "cell_feature_matrix.h5", "a") as file:
        names = [name.decode() for name in file["matrix/features/name"][:]]
        names[names.index("BETA")] = "β-actin"
        ids = [identity.decode() for identity in file["matrix/features/id"][:]]
        ids[0] = "ENSG00000000000.7"
        del file["matrix/features/name"], file["matrix/features/id"]
        file["matrix/features/name"] = np.array([name.encode() for name in names])
        file["matrix/features/id"] = np.array([identity.encode() for identity in ids])
    found = xenium.read_features(bundle)
    assert found[0]["id"] == "ENSG00000000000"
    assert "β-actin" in [feature["name"] for feature in found]
    assert xenium.read_cell_counts(bundle, "β-actin").sum() == 1


def test_a_gene_without_a_name_is_refused(bundle):
    tiny_bundle.write_panel(bundle, ["A", " "])
    with pytest.raises(InputError, match=r"payload\.targets: found an empty name, of gene 2"):
        xenium.read_panel(bundle)
