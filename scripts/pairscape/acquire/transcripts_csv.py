"""``transcripts.csv.gz``, streamed in bounded memory, for bundles without the table in Parquet."""

import csv
import gzip
from collections.abc import Iterator

import pyarrow as pa

from pairscape.core.errors import InputError

# Which types the columns of a table in text have; others are left to the reader.
TYPES = {
    "transcript_id": pa.uint64(),
    "cell_id": pa.dictionary(pa.int32(), pa.string()),
    "overlaps_nucleus": pa.uint8(),
    "feature_name": pa.dictionary(pa.int32(), pa.string()),
    "codeword_category": pa.dictionary(pa.int32(), pa.string()),
    "is_gene": pa.bool_(),
    **dict.fromkeys(("x_location", "y_location", "z_location", "qv"), pa.float32()),
}
BLOCK_BYTES = 1 << 24


def read_header(path) -> list[str]:
    """The names of the columns."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as handle:
        return next(csv.reader(handle), [])


def iter_batches(path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most ``batch_rows`` rows in the order of the file."""
    from pyarrow import csv as arrow_csv

    rows = 0
    with pa.input_stream(str(path), compression="gzip") as stream:
        reader = arrow_csv.open_csv(
            stream,
            read_options=arrow_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
            convert_options=arrow_csv.ConvertOptions(
                include_columns=columns,
                column_types={name: TYPES[name] for name in columns if name in TYPES},
            ),
        )
        for batch in reader:
            rows += len(batch)
            for start in range(0, len(batch), batch_rows):
                yield batch.slice(start, batch_rows)
    if not rows:
        raise InputError(path, "rows", "none", "use a bundle that holds transcripts")
