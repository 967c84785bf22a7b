"""``transcripts.csv.gz``, streamed in bounded memory, for bundles without the table in Parquet."""

import contextlib
import csv
import gzip
import re
from collections.abc import Iterator

import pyarrow as pa

from pairscape.core.errors import InputError

# Which types the columns of a table in text have; others are left to the reader. Ids of transcripts
# and flags are read as they are spelled: 2.8e+14 and T are met.
_TEXT = pa.dictionary(pa.int32(), pa.string())
TYPES = {
    "transcript_id": pa.string(),
    **dict.fromkeys(("cell_id", "feature_name", "codeword_category"), _TEXT),
    **dict.fromkeys(("overlaps_nucleus", "is_gene"), _TEXT),
    **dict.fromkeys(("x_location", "y_location", "z_location", "qv"), pa.float32()),
    **dict.fromkeys(("x_centroid", "y_centroid"), pa.float64()),
}
BLOCK_BYTES = 1 << 24


def read_header(path) -> list[str]:
    """The names of the columns."""
    with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as handle:
        return next(csv.reader(handle), [])


def iter_batches(path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``batch_rows`` rows in the order of the file."""
    rows = 0
    with pa.input_stream(str(path), compression="gzip") as stream:
        try:
            for batch in _open(stream, columns):
                rows += len(batch)
                for start in range(0, len(batch), batch_rows):
                    yield _with_numbers(batch.slice(start, batch_rows))
        except pa.ArrowInvalid as error:
            match = re.search(
                r"CSV column #(\d+): (?:Row #\d+: )?(CSV conversion error to .*)", str(error)
            )
            if not match:
                raise
            name = read_header(path)[int(match[1])]
            remedy = "write numbers as numbers, with a decimal point"
            raise InputError(path, f"column {name}", match[2], remedy) from None
    if not rows:
        raise InputError(path, "rows", "none", "use a bundle that holds transcripts")


def read_table(path, columns: list[str]) -> pa.Table:
    """Columns of a table that fits in memory."""
    with pa.input_stream(str(path), compression="gzip") as stream:
        return _open(stream, columns).read_all()


def _open(stream, columns: list[str]):
    from pyarrow import csv as arrow_csv

    return arrow_csv.open_csv(
        stream,
        read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        convert_options=arrow_csv.ConvertOptions(
            include_columns=columns,
            column_types={name: TYPES[name] for name in columns if name in TYPES},
        ),
    )


def _with_numbers(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Ids of transcripts as numbers, where they are spelled as whole ones."""
    index = batch.schema.get_field_index("transcript_id")
    if index >= 0:
        with contextlib.suppress(pa.ArrowInvalid):
            ids = batch.column(index).cast(pa.uint64())
            return batch.set_column(index, "transcript_id", ids)
    return batch
