"""Reading a Xenium bundle: the folder that the analysis software or Xenium Ranger writes.

What differs between the versions of the software (``format_version``), and how it is read here:

=================  ==========================================================================
transcripts        ``transcripts.parquet``; else ``transcripts.csv.gz``, streamed as well
text columns       text, bytes (1.x) or dictionaries; always dictionaries of text here
cell ids           integers, -1 for none (before 1.3), else text, ``UNASSIGNED`` for none
genes              ``is_gene``, else ``codeword_category``, else the prefix of ``feature_name``
panel              ``gene_panel.json``, else the features of ``cell_feature_matrix.h5``
morphology         ``morphology_focus.ome.tif`` (1.x), ``morphology_focus/morphology_focus_NNNN``
                   (2.x, 3.x), ``morphology_focus/chNNNN_<name>`` (from 4.0 on)
=================  ==========================================================================

What is there decides, not the version that is stated: a bundle may have been through other hands.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairscape.acquire import columns as kinds
from pairscape.acquire import transcripts_csv
from pairscape.core.errors import InputError
from pairscape.core.hdf5 import open_hdf5
from pairscape.core.names import bare_gene_id, check_gene_symbols

GENE_CATEGORIES = ("predesigned_gene", "custom_gene")
NON_GENE_PREFIXES = (
    "NegControlProbe_",
    "NegControlCodeword_",
    "UnassignedCodeword_",
    "DeprecatedCodeword_",
    "BLANK_",
    "Intergenic_Region_",
    "antisense_",
)
GENE_FEATURES = "Gene Expression"  # the type of genes in cell_feature_matrix.h5
TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz")  # the first one there is read
BATCH_ROWS = 1 << 20
DAMAGED = "the file is damaged or cut off: fetch it again"
AS_WRITTEN = "fetch the file again as the instrument wrote it"
NEEDED = ("feature_name", "x_location", "y_location", "qv")  # columns of the transcripts


def find_file(bundle, name: str) -> Path:
    """The path of a file of the bundle."""
    bundle = Path(bundle)
    if bundle.is_file():
        raise InputError(bundle, "bundle", "a file", "unpack it and name the folder")
    if not bundle.is_dir():
        raise InputError(bundle, "bundle", "nothing", "correct the path or fetch the bundle")
    path = bundle / name
    if not path.is_file():
        raise InputError(path, "file", "nothing", "fetch the whole bundle again")
    return path


def read_experiment(bundle) -> dict:
    """``experiment.xenium``: pixel size, software version and panel name of the bundle."""
    path = find_file(bundle, "experiment.xenium")
    experiment = _read_json(path)
    if not isinstance(experiment, dict):
        raise InputError(path, "JSON", type(experiment).__name__, DAMAGED)
    size = experiment.get("pixel_size")
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0.01 <= size <= 10:
        found = "nothing" if size is None else json.dumps(size)
        remedy = "give the size of a morphology pixel in um, such as 0.2125"
        raise InputError(path, "pixel_size", found, remedy)
    return experiment


def pixel_size_um(experiment: dict) -> float:
    """Size of a pixel of the morphology image, in micrometres."""
    return float(experiment["pixel_size"])


def software_version(experiment: dict) -> str:
    """Version of the software that wrote the bundle; Xenium Ranger's where it wrote it anew."""
    ranger = experiment.get("xenium_ranger")
    if isinstance(ranger, dict) and ranger.get("version"):
        return str(ranger["version"])
    return str(experiment.get("analysis_sw_version") or "")


def format_version(experiment: dict, file="experiment.xenium") -> tuple[int, int]:
    """Major and minor version of the bundle's layout: Xenium Ranger's where it wrote it anew."""
    version = software_version(experiment)
    match = re.fullmatch(r"(?:xenium(?:ranger)?-)?(\d+)\.(\d+)(?:[.-].*)?", version, re.IGNORECASE)
    if not match:
        ranger = isinstance(experiment.get("xenium_ranger"), dict)
        field = "xenium_ranger.version" if ranger else "analysis_sw_version"
        remedy = "nothing to do: it is read by the format that its files show"
        raise InputError(file, field, repr(version), remedy)
    return int(match[1]), int(match[2])


def find_panel(bundle) -> Path:
    """The file that names the genes: ``gene_panel.json``, else ``cell_feature_matrix.h5``."""
    path = Path(bundle) / "cell_feature_matrix.h5"
    if path.is_file() and not (Path(bundle) / "gene_panel.json").is_file():
        return path
    return find_file(bundle, "gene_panel.json")


def read_features(bundle) -> list[dict]:
    """The rows of ``cell_feature_matrix.h5``: ``{"name", "id", "type"}``, "" where it says nothing."""
    path = find_file(bundle, "cell_feature_matrix.h5")
    try:
        with open_hdf5(path) as file:
            features = file["matrix/features"]
            names = features["name"].asstr("utf-8")[:]
            kept = {
                key: features[column].asstr("utf-8")[:] if column in features else [""] * len(names)
                for key, column in (("id", "id"), ("type", "feature_type"))
            }
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(path, "matrix/features", str(error), DAMAGED) from None
    return [
        {"name": str(name), "id": bare_gene_id(str(identity)), "type": str(kind)}
        for name, identity, kind in zip(names, kept["id"], kept["type"], strict=True)
    ]


def feature_genes(features: list[dict]) -> dict[str, str]:
    """Gene symbol -> id of those features that are genes, by their type, else by their name."""
    return {
        feature["name"]: feature["id"] if feature["id"] != feature["name"] else ""
        for feature in features
        if feature["type"] in ("", GENE_FEATURES)
        and not feature["name"].startswith(NON_GENE_PREFIXES)
    }


def read_panel(bundle) -> list[dict]:
    """The genes of ``gene_panel.json`` in its order, controls left out.

    Where the bundle has no such file, the genes of ``cell_feature_matrix.h5``. ``gene_id`` is ""
    where the panel gives none; ``category`` is the word of the target's source, "" without one.
    """
    path = find_panel(bundle)
    if path.suffix == ".h5":
        genes = [
            {"gene_symbol": symbol, "gene_id": identity, "category": ""}
            for symbol, identity in feature_genes(read_features(bundle)).items()
        ]
        field, remedy = "matrix/features", "add the gene_panel.json of this bundle"
    else:
        content = _read_json(path)
        field, remedy = "payload.targets", "use the panel file of this bundle"
        try:
            targets = content["payload"]["targets"]
            genes = [_gene(one) for one in targets if one["type"]["descriptor"] == "gene"]
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(path, field, f"no {error}", DAMAGED) from None
    if not genes:
        raise InputError(path, field, "no gene", remedy)
    check_gene_symbols((gene["gene_symbol"] for gene in genes), path, field)
    return genes


def _gene(target: dict) -> dict:
    data, source = target["type"]["data"], target.get("source") or {}
    category = source.get("category", "") if isinstance(source, dict) else str(source)
    return {
        "gene_symbol": str(data["name"] or "").strip(),
        "gene_id": bare_gene_id(str(data.get("id") or "")),
        "category": str(category or ""),
    }


def find_transcripts(bundle) -> Path:
    """The table of transcripts: ``transcripts.parquet``, else ``transcripts.csv.gz``."""
    for name in TRANSCRIPTS[1:]:
        if (Path(bundle) / name).is_file() and not (Path(bundle) / TRANSCRIPTS[0]).is_file():
            return Path(bundle) / name
    return find_file(bundle, TRANSCRIPTS[0])


def open_transcripts(bundle) -> pq.ParquetFile:
    """``transcripts.parquet``, open, its text columns as dictionaries."""
    path = find_file(bundle, "transcripts.parquet")
    try:
        metadata = pq.read_metadata(path)
        # pyarrow raises a KeyError for a column that isn't there, and reads numbers as numbers.
        columns = [metadata.schema.column(i) for i in range(metadata.num_columns)]
        texts = [
            column.path
            for column in columns
            if column.path in (*kinds.TEXTS, *kinds.FLAGS, "cell_id")
            and column.physical_type == "BYTE_ARRAY"
        ]
        file = pq.ParquetFile(path, metadata=metadata, read_dictionary=texts, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "footer", str(error), DAMAGED) from None
    _require_columns(path, file.schema_arrow.names)
    if file.metadata.num_rows == 0:
        raise InputError(path, "rows", "none", "use a bundle that holds transcripts")
    for field in file.schema_arrow:
        kinds.require_kind(path, field.name, field.type)
    return file


def transcript_columns(bundle) -> list[str]:
    """The names of the columns of the transcripts; refuses what ``open_transcripts`` refuses."""
    path = find_transcripts(bundle)
    if path.suffix == ".parquet":
        with open_transcripts(bundle) as file:
            return file.schema_arrow.names
    try:
        names = transcripts_csv.read_header(path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(path, "header", str(error), DAMAGED) from None
    _require_columns(path, names)
    return names


def transcript_rows(bundle) -> int | None:
    """How many transcripts there are; None where only reading them all would tell."""
    if find_transcripts(bundle).suffix != ".parquet":
        return None
    with open_transcripts(bundle) as file:
        return file.metadata.num_rows


def iter_transcripts(
    bundle, columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Stream columns of the transcripts in bounded memory.

    Batches of at most ``batch_rows`` rows come in the order of the file, of the types that
    ``columns.convert`` gives; each batch has dictionaries of its own.
    """
    path = find_transcripts(bundle)
    columns = list(dict.fromkeys(columns))
    present = transcript_columns(bundle)
    _require_columns(path, present, columns)
    is_text = path.suffix != ".parquet"
    try:
        for batch in (
            transcripts_csv.iter_batches(path, columns, batch_rows)
            if is_text
            else _iter_parquet(bundle, columns, batch_rows)
        ):
            yield kinds.convert(batch, path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise InputError(path, "rows", str(error), DAMAGED) from None


def _iter_parquet(bundle, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    with open_transcripts(bundle) as file:
        # One thread: batches come in order, and memory stays at one row group's columns.
        yield from file.iter_batches(batch_rows, columns=columns, use_threads=False)


def _require_columns(path: Path, names: Sequence[str], wanted: Sequence[str] = NEEDED) -> None:
    for name in wanted:
        if name not in names:
            only = f"only {', '.join(names) or 'nothing'}"
            raise InputError(path, f"column {name}", only, AS_WRITTEN)


def gene_column(names: Sequence[str]) -> str:
    """Which column tells genes from controls: ``is_gene``, else the category, else the name."""
    for name in ("is_gene", "codeword_category"):
        if name in names:
            return name
    return "feature_name"


def gene_rows(batch: pa.RecordBatch) -> np.ndarray:
    """Which rows of a batch name a gene, (N,) bool, by the best column that the batch has.

    ``is_gene``; else a ``codeword_category`` of predesigned or custom genes; else the prefix of
    ``feature_name``. A missing value is no gene.
    """
    rule = gene_column(batch.schema.names)
    column = batch.column(rule)
    if rule == "is_gene":
        return column.fill_null(False).to_numpy(zero_copy_only=False)
    if rule == "codeword_category":
        return _rows_of_words(column, lambda word: word in GENE_CATEGORIES)
    return _rows_of_words(column, lambda word: not word.startswith(NON_GENE_PREFIXES))


def cell_rows(batch: pa.RecordBatch) -> np.ndarray:
    """Which rows of a batch with ``cell_id`` lie in a cell, (N,) bool.

    Not those of no cell: ``UNASSIGNED``; -1 where cell ids are integers; a missing value, ``NA`` too.
    """
    column = batch.column("cell_id")
    if pa.types.is_dictionary(column.type):
        return _rows_of_words(column, _names_cell)
    return column.fill_null(-1).to_numpy(zero_copy_only=False) >= 0


def _names_cell(word: str) -> bool:
    return word not in kinds.UNASSIGNED and word.lower() not in kinds.MISSING


def _rows_of_words(column: pa.DictionaryArray, chosen: Callable[[str], bool]) -> np.ndarray:
    """Which rows of a column of text hold a word that is chosen, (N,) bool; a missing one isn't."""
    words = column.dictionary.to_pylist()
    lookup = np.array([*(word is not None and chosen(word) for word in words), False])
    return lookup[column.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]


def read_cells(bundle):
    """``cells.parquet`` (else ``cells.csv.gz``) as a pandas table: ``cell_id`` (text) and centroids."""
    path = Path(bundle) / "cells.csv.gz"
    if not path.is_file() or (Path(bundle) / "cells.parquet").is_file():
        path = find_file(bundle, "cells.parquet")
    columns = ["cell_id", "x_centroid", "y_centroid"]
    try:
        if path.suffix == ".parquet":
            _require_columns(path, pq.read_schema(path).names, columns)
            table = pq.read_table(path, columns=columns)
        else:
            _require_columns(path, transcripts_csv.read_header(path), columns)
            table = transcripts_csv.read_table(path, columns)
        ids = kinds.ids_as_text(table["cell_id"], path)
    except (pa.ArrowInvalid, OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(path, "footer", str(error), DAMAGED) from None
    for name in columns:
        kinds.require_kind(path, name, table.schema.field(name).type)
    return table.select(columns[1:]).to_pandas().assign(cell_id=ids)[columns]


def read_outlines(path, filters=None) -> pa.Table:
    """The vertices of the outlines of cells or nuclei, in order: cell_id, vertex_x, vertex_y (µm).

    With label_id where the file has it: from 3.0 on several outlines may be of one cell.
    """
    needed = ("cell_id", "vertex_x", "vertex_y")
    try:
        names = pq.read_schema(path).names
        _require_columns(path, names, needed)
        columns = [*needed, *(name for name in ("label_id",) if name in names)]
        return pq.read_table(path, columns=columns, filters=filters)
    except (pa.ArrowException, OSError) as error:
        raise InputError(path, "table", str(error), DAMAGED) from None


def read_nuclei(bundle, low_um, high_um) -> list[np.ndarray] | None:
    """The outlines of nuclei in a box, each as (N, 2) µm; None where the bundle has none at all.

    A nucleus that reaches out of the box is cut there.
    """
    path = Path(bundle) / "nucleus_boundaries.parquet"
    if not path.is_file():
        return None
    sides = zip(("vertex_x", "vertex_y"), low_um, high_um, strict=True)
    inside = [(name, *bound) for name, low, high in sides for bound in ((">=", low), ("<=", high))]
    table = read_outlines(path, inside)
    keys = [name for name in ("cell_id", "label_id") if name in table.column_names]
    nuclei = table.to_pandas().groupby(keys, sort=False)[["vertex_x", "vertex_y"]]
    return [vertices.to_numpy(np.float64) for _, vertices in nuclei]


def read_cell_counts(bundle, gene: str, block: int = 1 << 22):
    """Counts of one gene in each cell, from ``cell_feature_matrix.h5``, in bounded memory: a pandas
    Series of int64 by the cell ids as text.
    """
    import pandas as pd

    path = find_file(bundle, "cell_feature_matrix.h5")
    try:
        with open_hdf5(path) as file:
            matrix = file["matrix"]
            names = [name.decode() for name in matrix["features/name"][:]]
            if gene not in names:
                raise InputError(path, f"gene {gene}", "nothing", "name a gene of this panel")
            row = names.index(gene)
            cells = [barcode.decode() for barcode in matrix["barcodes"][:]]
            ends = matrix["indptr"][1:]
            counts = np.zeros(len(cells), np.int64)
            indices, data = matrix["indices"], matrix["data"]
            for start in range(0, len(indices), block):
                hits = np.flatnonzero(indices[start : start + block] == row)
                values = data[start : start + block][hits]
                np.add.at(counts, np.searchsorted(ends, start + hits, side="right"), values)
    except (OSError, KeyError, ValueError) as error:
        raise InputError(path, "matrix", str(error), DAMAGED) from None
    return pd.Series(counts, index=cells)


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, "JSON", str(error), DAMAGED) from None
