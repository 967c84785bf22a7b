"""Image-gene pairs: one Arrow IPC stream per sample, which Hugging Face datasets can load.

The columns are those of the published data set (with its types) and ours. The schema carries the
Hugging Face features, without which images would load as structs and labels as integers, and under
the key ``pairscape`` a JSON with what made the shard.

Reading for training (``read_shard_table``, ``read_expression``, ``read_index``) needs pyarrow
alone; importing ``datasets`` takes seconds.
"""

import itertools
import json
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa

from pairscape.core.errors import InputError, missing_file
from pairscape.core.files import atomic_path, check_sums, sha256_file, sums_path, write_sums

BATCH_ROWS = 256
LABEL_COLUMNS = ("name", "source", "tissue")
PUBLISHED_TEXT = (
    "atlas",
    "age",
    "diagnosis",
    "oncotree_code",
    "tumor_grade",
    "gender",
    "race",
    "treatment_type",
    "therapeutic_agents",
    "tumor_tissue_type",
    "assay",
    "preservation_method",
    "stain",
    "spaceranger",
    "species",
    "cytassist",
)
METADATA_KEYS = ("sample", "dataset", "genes", "patches", "spots", "alignment", "result_version")
_METADATA = b"pairscape"
_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"  # closes an Arrow IPC stream
_REMEDY = "delete it and run export_pairs again"


def write_shard(path, rows: Iterable[Mapping], features, metadata: Mapping) -> int:
    """Write a shard, atomically and streamed, and return its rows; the same rows make the same bytes.

    Its checksum goes beside it, to ``<name>.arrow.sha256``: Arrow's format has none. ``rows`` are
    mappings with all columns of ``features`` (see ``cutting.pair_features``): ``image`` the encoded
    bytes, ``gexp`` int32 (G,), labels by their names. ``metadata`` is JSON with at least
    ``METADATA_KEYS``.
    """
    missing = [key for key in METADATA_KEYS if key not in metadata]
    if missing:
        raise ValueError(f"metadata lacks {', '.join(missing)}")
    schema = features.arrow_schema
    schema = schema.with_metadata(
        {**schema.metadata, _METADATA: json.dumps(metadata, sort_keys=True).encode()}
    )
    codes = {
        column: {name: code for code, name in enumerate(features[column].names)}
        for column in LABEL_COLUMNS
    }
    written = 0
    rows = iter(rows)
    sums_path(path).unlink(missing_ok=True)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as writer,
    ):
        while batch := list(itertools.islice(rows, BATCH_ROWS)):
            arrays = [_column(field, [row[field.name] for row in batch], codes) for field in schema]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            written += len(batch)
    write_sums(path)
    return written


def shard_sha256(path) -> str:
    """The checksum of a shard's file, which is what was written."""
    return check_sums(path, _REMEDY) or sha256_file(path)


def open_shard(path):
    """Open a shard as a memory-mapped ``datasets.Dataset`` (images decode to PIL)."""
    read_schema(path)
    from datasets import Dataset

    return Dataset.from_file(str(path))


def read_shard_table(path) -> pa.Table:
    """Map a shard into memory as a pyarrow table, without importing ``datasets``."""
    read_schema(path)
    try:
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_stream(source).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "record batches", str(error), _REMEDY) from None


def shard_metadata(path) -> dict:
    """What made a shard: ``sample``, ``dataset``, ``genes``, ``patches``, ``spots``, ..."""
    try:
        return json.loads(read_schema(path).metadata[_METADATA])
    except ValueError as error:
        raise InputError(path, "schema metadata", str(error), _REMEDY) from None


def map_expression(path) -> list[np.ndarray]:
    """The counts of a shard as its record batches, mapped from disk: int32 (rows, genes) each."""
    column = read_shard_table(path)["gexp"]
    width = column.type.value_type.list_size
    return [chunk.flatten().flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]


def read_expression(path) -> np.ndarray:
    """The counts of a shard, int32 (rows, genes), genes in the order of its metadata."""
    parts = map_expression(path)
    width = len(shard_metadata(path)["genes"])
    return np.concatenate(parts) if parts else np.empty((0, width), np.int32)


def read_index(path) -> pa.Table:
    """All columns of a shard but ``image`` and ``gexp``."""
    return read_shard_table(path).drop_columns(["image", "gexp"])


def _column(field: pa.Field, values: list, codes: Mapping) -> pa.Array:
    if field.name in codes:
        known = codes[field.name]
        if unknown := [value for value in values if value not in known]:
            lacks = f"no {unknown[0]!r} among {', '.join(known) or 'nothing'}"
            remedy = "make the labels of all samples of the dataset"
            raise InputError("--options", f"labels.{field.name}", lacks, remedy)
        return pa.array([known[value] for value in values], field.type)
    if field.name == "image":
        data = [pa.array(values, pa.binary()), pa.nulls(len(values), pa.string())]
        return pa.StructArray.from_arrays(data, fields=list(field.type))
    if field.name == "gexp":
        width = field.type.value_type.list_size
        counts = np.stack(values)
        if counts.shape[1:] != (width,) or counts.dtype != np.int32:
            raise ValueError(f"gexp is {counts.dtype} {counts.shape[1:]}, not int32 ({width},)")
        inner = pa.FixedSizeListArray.from_arrays(pa.array(counts.reshape(-1)), width)
        return pa.FixedSizeListArray.from_arrays(inner, 1).cast(field.type)
    if field.name == "cell_coords":
        flat = pa.array(np.asarray(values, np.float32).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, 2).cast(field.type)
    return pa.array(values, field.type)


def read_schema(path) -> pa.Schema:
    """The Arrow schema of a shard that is whole and ours."""
    try:
        with open(path, "rb") as handle:
            try:
                schema = pa.ipc.open_stream(handle).schema
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(path, "Arrow stream", str(error), _REMEDY) from None
            handle.seek(-len(_END), 2)
            closed = handle.read() == _END
    except FileNotFoundError:
        raise missing_file(path, "run export_pairs") from None
    # A stream cut off between two batches reads without an error, only with fewer rows.
    if not closed:
        raise InputError(path, "Arrow stream", "no end: the file is cut off", _REMEDY)
    if _METADATA not in (schema.metadata or {}) or b"huggingface" not in schema.metadata:
        raise InputError(path, "schema metadata", "no `pairscape` and `huggingface` keys", _REMEDY)
    return schema
