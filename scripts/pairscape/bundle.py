"""Reading a Xenium bundle: the folder that the instrument's analysis software writes."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pairscape.errors import InputError

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
BATCH_ROWS = 1 << 20
DAMAGED = "the file is damaged or cut off: fetch it again"


def find_file(bundle, name: str) -> Path:
    """The path of a file of the bundle.

    Raises
    ------
    InputError
        The bundle isn't a folder, or the file isn't in it.
    """
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
    """``experiment.xenium``: pixel size, software version and panel name of the bundle.

    Raises
    ------
    InputError
        The file is missing, isn't JSON, or lacks ``pixel_size`` or ``analysis_sw_version``.
    """
    path = find_file(bundle, "experiment.xenium")
    experiment = _read_json(path)
    if not isinstance(experiment, dict):
        raise InputError(path, "JSON", type(experiment).__name__, DAMAGED)
    size = experiment.get("pixel_size")
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0.01 <= size <= 10:
        found = "nothing" if size is None else json.dumps(size)
        raise InputError(
            path, "pixel_size", found, "give the size of a morphology pixel in um, such as 0.2125"
        )
    if not isinstance(experiment.get("analysis_sw_version"), str):
        raise InputError(
            path,
            "analysis_sw_version",
            "no text",
            "fetch the file again as the instrument wrote it",
        )
    return experiment


def pixel_size_um(experiment: dict) -> float:
    """Size of a pixel of the morphology image, in micrometres."""
    return float(experiment["pixel_size"])


def software_version(experiment: dict) -> str:
    """Version of the software that wrote the bundle; Xenium Ranger's where it wrote it anew."""
    ranger = experiment.get("xenium_ranger")
    if isinstance(ranger, dict) and ranger.get("version"):
        return str(ranger["version"])
    return experiment["analysis_sw_version"]


def read_panel(bundle) -> list[dict]:
    """The genes of ``gene_panel.json`` in its order, controls left out.

    Returns
    -------
    One ``{"gene_symbol", "gene_id", "category"}`` a gene. ``gene_id`` is "" where the panel gives
    none; ``category`` is the word of the target's source, "" where there is none.

    Raises
    ------
    InputError
        The file is missing or damaged, names no gene, or names one twice.
    """
    path = find_file(bundle, "gene_panel.json")
    content = _read_json(path)
    genes = []
    try:
        for target in content["payload"]["targets"]:
            if target["type"]["descriptor"] != "gene":
                continue
            data, source = target["type"]["data"], target.get("source") or {}
            category = source.get("category", "") if isinstance(source, dict) else str(source)
            genes.append(
                {
                    "gene_symbol": str(data["name"]),
                    "gene_id": str(data.get("id") or ""),
                    "category": str(category or ""),
                }
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(path, "payload.targets", f"no {error}", DAMAGED) from None
    if not genes:
        raise InputError(path, "payload.targets", "no gene", "use the panel file of this bundle")
    seen = set()
    for gene in genes:
        if gene["gene_symbol"] in seen:
            raise InputError(
                path, f"gene {gene['gene_symbol']}", "it twice", "name each gene of the panel once"
            )
        seen.add(gene["gene_symbol"])
    return genes


def open_transcripts(bundle) -> pq.ParquetFile:
    """``transcripts.parquet``, open, its text columns as dictionaries.

    Raises
    ------
    InputError
        The file is missing, cut off, empty, or lacks a column that pooling needs.
    """
    path = find_file(bundle, "transcripts.parquet")
    try:
        metadata = pq.read_metadata(path)
        # pyarrow raises a KeyError for a column that isn't there.
        texts = {"feature_name", "codeword_category"} & set(metadata.schema.names)
        file = pq.ParquetFile(
            path, metadata=metadata, read_dictionary=sorted(texts), memory_map=True
        )
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "footer", str(error), DAMAGED) from None
    for name in ("feature_name", "x_location", "y_location", "qv"):
        if name not in file.schema_arrow.names:
            raise InputError(
                path,
                f"column {name}",
                f"only {', '.join(file.schema_arrow.names)}",
                "fetch the file again as the instrument wrote it",
            )
    if file.metadata.num_rows == 0:
        raise InputError(path, "rows", "none", "use a bundle that holds transcripts")
    return file


def iter_transcripts(
    bundle, columns: Sequence[str], batch_rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """Stream columns of ``transcripts.parquet`` in bounded memory.

    Yields
    ------
    Batches of at most ``batch_rows`` rows in the order of the file. ``feature_name``
    and ``codeword_category`` are dictionaries of text; each batch has its own.

    Raises
    ------
    InputError
        As ``open_transcripts``; or a column isn't there or a page can't be decoded.
    """
    path = Path(bundle) / "transcripts.parquet"
    with open_transcripts(bundle) as file:
        missing = [name for name in columns if name not in file.schema_arrow.names]
        if missing:
            raise InputError(
                path, f"column {missing[0]}", "nothing", "fetch the file as the instrument wrote it"
            )
        try:
            # One thread: batches come in order, and memory stays at one row group's columns.
            for batch in file.iter_batches(batch_rows, columns=list(columns), use_threads=False):
                yield _decode_bytes(batch)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise InputError(path, "rows", str(error), DAMAGED) from None


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
        return column.fill_null(False).cast(pa.bool_()).to_numpy(zero_copy_only=False)
    words = column.dictionary.to_pylist()
    if rule == "codeword_category":
        is_gene = [word in GENE_CATEGORIES for word in words]
    else:
        is_gene = [word is not None and not word.startswith(NON_GENE_PREFIXES) for word in words]
    lookup = np.array([*is_gene, False])  # the last entry answers for nulls
    return lookup[column.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)]


def read_cells(bundle):
    """``cells.parquet`` as a pandas table, ``cell_id`` as text.

    Raises
    ------
    InputError
        The file is missing, damaged, or lacks ``cell_id``, ``x_centroid`` or ``y_centroid``.
    """
    path = find_file(bundle, "cells.parquet")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "footer", str(error), DAMAGED) from None
    for name in ("cell_id", "x_centroid", "y_centroid"):
        if name not in table.column_names:
            raise InputError(
                path, f"column {name}", "nothing", "fetch the file as the instrument wrote it"
            )
    cells = table.to_pandas()
    cells["cell_id"] = [
        value.decode() if isinstance(value, bytes) else str(value) for value in cells["cell_id"]
    ]
    return cells


def read_cell_counts(bundle, gene: str, block: int = 1 << 22):
    """Counts of one gene in each cell, from ``cell_feature_matrix.h5``, in bounded memory.

    Returns
    -------
    A pandas Series of int64, its index the cell ids as text.

    Raises
    ------
    InputError
        The file is missing or damaged, or has no such gene.
    """
    import h5py
    import pandas as pd

    path = find_file(bundle, "cell_feature_matrix.h5")
    try:
        with h5py.File(path) as file:
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
    except (OSError, KeyError) as error:
        raise InputError(path, "matrix", str(error), DAMAGED) from None
    return pd.Series(counts, index=cells)


def find_morphology(bundle, experiment: dict) -> Path | None:
    """The first page file of the morphology image; ``None`` where the bundle has none."""
    bundle = Path(bundle)
    named = (experiment.get("images") or {}).get("morphology_focus_filepath")
    if named and (bundle / named).is_file():
        return bundle / named
    for pattern in ("morphology_focus/*.ome.tif", "morphology_*.ome.tif", "morphology.ome.tif"):
        found = sorted(bundle.glob(pattern))
        if found:
            return found[0]
    return None


def _decode_bytes(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Text that analysis software 1.x stored as bytes, as text."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_dictionary(field.type) and pa.types.is_binary(field.type.value_type):
            column = batch.column(index)
            text = pa.DictionaryArray.from_arrays(
                column.indices, column.dictionary.cast(pa.string())
            )
            batch = batch.set_column(index, field.name, text)
    return batch


def _read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, "JSON", str(error), DAMAGED) from None
