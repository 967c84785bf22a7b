"""Columns of a bundle's tables as one type each, whatever type a file gives them, without loss."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pairscape.core.errors import InputError

TEXTS = ("feature_name", "codeword_category")
FLAGS = ("is_gene", "overlaps_nucleus")
FRACTIONS = ("x_location", "y_location", "z_location", "x_centroid", "y_centroid")
UNASSIGNED = ("UNASSIGNED", "-1", "-1.0", "")  # cell ids of transcripts in no cell
MISSING = ("na", "n/a", "nan", "none", "null", "<na>")  # as other programs write a missing value
_TRUE, _FALSE = ("true", "t", "1", "1.0", "yes"), ("false", "f", "0", "0.0", "no", "", *MISSING)
_TEXT_TYPE = pa.dictionary(pa.int32(), pa.string())


def require_kind(path, name: str, kind: pa.DataType) -> None:
    """Refuse a column of a type from which its values can't be had."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    text = _is_text(kind)
    if name in TEXTS:
        wanted, right = "text", text
    elif name in (*FRACTIONS, "qv"):
        wanted, right = "numbers", number
    elif name in FLAGS:
        wanted, right = "true or false", number or text or pa.types.is_boolean(kind)
    elif name == "cell_id":
        wanted, right = "text or whole numbers", number or text
    else:
        return
    if not (right or pa.types.is_null(kind)):
        raise InputError(path, f"column {name}", str(kind), f"write it as {wanted}")


def convert(batch: pa.RecordBatch, path) -> pa.RecordBatch:
    """A batch whose columns of text are dictionaries, flags true or false, places float32 or float64.

    ``cell_id`` is int64 or a dictionary of text. What can't be converted without loss is refused by
    the names of its column and type; ``ArrowInvalid``: text that isn't UTF-8.
    """
    for index, field in enumerate(batch.schema):
        column = batch.column(index)
        if pa.types.is_string_view(field.type):
            column = column.cast(pa.string())
        require_kind(path, field.name, column.type)
        if field.name in TEXTS:
            column = _as_text(column)
        elif field.name in FLAGS:
            column = _as_flag(column, path, field.name)
        elif field.name == "cell_id":
            column = _as_ids(column, path)
        elif field.name in FRACTIONS:
            column = _as_fraction(column)
        if column is not batch.column(index):
            batch = batch.set_column(index, field.name, column)
    return batch


def ids_as_text(column: pa.ChunkedArray, path) -> list[str]:
    """Cell ids as text, as ``cell_id`` of the transcripts gives them."""
    chunks = [_as_ids(chunk, path) for chunk in column.chunks]
    return [str(value) for chunk in chunks for value in chunk.to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(
        test(values)
        for test in (
            *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
            *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_null),
        )
    )


def _as_text(column: pa.Array) -> pa.DictionaryArray:
    if column.type == _TEXT_TYPE:
        return column
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    # Not by a cast of the whole, which pyarrow doesn't know for all types.
    indices, words = column.indices.cast(pa.int32()), column.dictionary.cast(pa.string())
    return pa.DictionaryArray.from_arrays(indices, words)


def _as_flag(column: pa.Array, path, name: str) -> pa.Array:
    """Booleans; a missing value stays missing."""
    if pa.types.is_boolean(column.type):
        return column
    if not _is_text(column.type):
        numbers = column.cast(pa.float64())
        wrong = pc.invert(pc.is_in(numbers, pa.array([0.0, 1.0, None, np.nan])))
        if pc.any(wrong).as_py():
            first = numbers.filter(wrong)[0].as_py()
            remedy = "write it as true or false, or 1 or 0"
            raise InputError(path, f"column {name}", f"{first:g} ({column.type})", remedy)
        return pc.equal(numbers, 1.0)
    column = _as_text(column)
    words = [(word or "").strip().lower() for word in column.dictionary.to_pylist()]
    for word in words:
        if word not in (*_TRUE, *_FALSE):
            remedy = "write it as true or false, or 1 or 0"
            raise InputError(path, f"column {name}", repr(word[:60]), remedy)
    flags = pa.array([word in _TRUE for word in words], pa.bool_())
    return flags.take(column.indices)


def _as_ids(column: pa.Array, path) -> pa.Array:
    if _is_text(column.type):
        return _as_text(column)
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column if column.type == pa.int64() else column.cast(pa.int64())
    except pa.ArrowInvalid as error:
        fault = f"{column.type} that are no cells' numbers ({error})"
        raise InputError(path, "column cell_id", fault, "write cell ids as text") from None


def _as_fraction(column: pa.Array) -> pa.Array:
    kind = column.type
    if kind in (pa.float32(), pa.float64()):
        return column
    return column.cast(pa.float32() if kind == pa.float16() else pa.float64())
