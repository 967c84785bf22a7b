"""The published data set, read from a local copy: all rows of a panel, matched on ``name``.

Its schema: ``name`` ClassLabel, ``image`` Image, ``gexp`` (1, G) counts in the order of the gene
symbols, ``cell_coords`` in pixels of the H&E, ``source`` and ``tissue`` labels, texts, ``cancer``.
A copy is a folder with the Arrow files of a panel (as the Hub, ``load_dataset``'s cache or
``save_to_disk`` have them) or its Parquet files.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pairscape.core.errors import InputError

NEEDED = ("name", "image", "gexp", "cell_coords")
AT_ONCE = 256  # rows that are held at a time
PITCH_UM = 55.0  # of the published lattice of spots, see pool_spots
REMEDY = "give the folder of one panel of the published data set"


def list_files(folder) -> list[Path]:
    """The Arrow or Parquet files of a copy, in the order of their names."""
    folder = Path(folder)
    for pattern in ("*.arrow", "*.parquet"):
        files = sorted(path for path in folder.rglob(pattern) if path.is_file())
        # What a mapped or filtered copy leaves in a cache folder isn't the data set.
        files = [path for path in files if not path.name.startswith(("cache-", "tmp", ".part-"))]
        if files:
            return files
    what = "no folder" if not folder.is_dir() else "neither Arrow nor Parquet files in it"
    raise InputError(folder, "published_data", what, REMEDY)


@dataclass(frozen=True)
class Part:
    """One file of a copy, of which the columns of a sample's rows are read and nothing else."""

    path: Path
    columns: tuple[str, ...]
    features: Mapping  # of Hugging Face, by column; empty where its schema carries none
    rows: np.ndarray  # (N,) int64, ascending: the rows of the sample

    def blocks(self, columns: Sequence[str]) -> Iterator[tuple[np.ndarray, pa.Table]]:
        """Columns of the sample's rows, some rows at a time, with the numbers of the rows.

        Taking rows of a whole column would join its chunks in memory first, images and all. Of
        Parquet the row groups that hold none of the rows aren't touched.
        """
        with _told(self.path), _open(self.path) as file:
            for first, batch in _batches(file, columns, self.rows):
                low, high = np.searchsorted(self.rows, [first, first + batch.num_rows])
                for start in range(low, high, AT_ONCE):
                    block = self.rows[start : min(start + AT_ONCE, high)]
                    yield block, pa.Table.from_batches([batch]).take(pa.array(block - first))


def find_parts(files: Sequence[Path], sample: str) -> list[Part]:
    """The files that hold rows of a sample; of each file its column of names alone is read."""
    parts = []
    for path in files:
        with _told(path), _open(path) as file:
            schema = _schema(file)
            for column in NEEDED:
                if column not in schema.names:
                    others = f"only {', '.join(schema.names)}"
                    raise InputError(path, f"column {column}", others, REMEDY)
            names = [batch["name"] for _, batch in _batches(file, ["name"])]
            names = pa.chunked_array(names, type=schema.field("name").type)
            features = read_features(path, schema)
            rows = sample_rows(path, names, features, sample)
        if len(rows):
            parts.append(Part(path, tuple(schema.names), features, rows))
    return parts


@contextlib.contextmanager
def _told(path):
    """What a damaged file makes the reader say, as a refusal."""
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(path, "file", str(error), "the copy is damaged: fetch it again") from None


@contextlib.contextmanager
def _open(path):
    """A Parquet file, or a table of an Arrow file, mapped into memory."""
    import pyarrow.parquet as pq

    if Path(path).suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            yield file
        return
    with pa.memory_map(str(path)) as source:
        try:
            table = pa.ipc.open_stream(source).read_all()
        except pa.ArrowInvalid:
            table = pa.ipc.open_file(source).read_all()
    yield table


def _schema(file) -> pa.Schema:
    return file.schema if isinstance(file, pa.Table) else file.schema_arrow


def _batches(file, columns: Sequence[str], rows: np.ndarray | None = None):
    """Record batches of columns, each with the number of its first row; those without rows apart."""
    first = 0
    if isinstance(file, pa.Table):
        for batch in file.select(list(columns)).to_batches():
            yield first, batch
            first += batch.num_rows
        return
    for group in range(file.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        if rows is None or np.subtract(*np.searchsorted(rows, [end, first])):
            for batch in file.iter_batches(AT_ONCE, row_groups=[group], columns=list(columns)):
                yield first, batch
                first += batch.num_rows
        first = end


def read_features(path, schema: pa.Schema) -> dict:
    """The Hugging Face features of a file, by column; empty where its schema carries none."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return {}
    with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
        return dict(json.loads(metadata)["info"]["features"])
    raise InputError(path, "schema metadata", "features that can't be read", REMEDY)


def sample_rows(path, values: pa.ChunkedArray, features: Mapping, sample: str) -> np.ndarray:
    """The rows of a file whose ``name`` (its values are given) is ``sample``."""
    if pa.types.is_integer(values.type):
        names = (features.get("name") or {}).get("names")
        if not names:
            remedy = "give the copy with the schema of `datasets` (save_to_disk keeps it)"
            unnamed = "numbers without the names of their classes"
            raise InputError(path, "column name", unnamed, remedy)
        if sample not in names:
            return np.zeros(0, np.int64)
        return np.flatnonzero(values.to_numpy() == names.index(sample))
    return np.flatnonzero(np.array(values.to_pylist(), object) == sample)


def iter_rows(parts: Sequence[Part], gene_count: int, columns: Sequence[str]) -> Iterator[dict]:
    """Yield the rows of a sample, in the order of the files.

    Each has ``image`` (encoded bytes, as published), ``gexp`` int32 (G,), ``cell_coords`` (x, y),
    and those of ``columns`` that the copy has (labels by their names).
    """
    for part in parts:
        path = part.path
        others = [column for column in columns if column in part.columns]
        for block, table in part.blocks([*NEEDED[1:], *others]):
            counts = _counts(path, table["gexp"], len(block), gene_count)
            places = _places(path, table["cell_coords"], len(block))
            texts = {
                column: _texts(path, table[column], part.features.get(column)) for column in others
            }
            images = table["image"].to_pylist()
            for i, row in enumerate(block):
                yield {
                    "image": _image(path, int(row), images[i]),
                    "gexp": counts[i],
                    "cell_coords": tuple(places[i]),
                    **{column: values[i] for column, values in texts.items()},
                }


def read_places(parts: Sequence[Part]) -> np.ndarray:
    """``cell_coords`` (N, 2) of a sample's rows; the images aren't touched."""
    places = [np.zeros((0, 2))]
    for part in parts:
        for block, table in part.blocks(["cell_coords"]):
            places.append(_places(part.path, table["cell_coords"], len(block)))
    return np.concatenate(places)


def lattice(centres_px: np.ndarray, um_per_px: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Row and column (int32) of each spot in the published lattice of 55 µm, from its place in the H&E.

    And whether all spots lie on the lattice (within a tenth of its pitch) and no two of them in one
    place; where not, the columns number the spots.
    """
    step = (centres_px - centres_px.min(0)) * um_per_px / PITCH_UM
    column, row = np.rint(step).astype(np.int32).T
    regular = bool(np.abs(step - np.rint(step)).max() < 0.1)
    regular &= len(np.unique(np.stack([row, column]), axis=1).T) == len(row)
    if not regular:
        row, column = np.zeros(len(row), np.int32), np.arange(len(row), dtype=np.int32)
    return row, column, regular


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    """All numbers of a column of lists, however deeply nested, one after the other."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.int32())
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    nested = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    while any(is_nested(array.type) for is_nested in nested):
        array = array.flatten()
    return array.to_numpy(zero_copy_only=False)


def _counts(path, column: pa.ChunkedArray, rows: int, gene_count: int) -> np.ndarray:
    flat = _flat(column)
    if flat.size != rows * gene_count:
        other = f"{flat.size / max(rows, 1):g} genes a row for the panel's {gene_count}"
        remedy = "give the data of this panel, or this panel's gene list"
        raise InputError(path, "column gexp", other, remedy)
    if flat.dtype.kind not in "iuf":
        raise InputError(path, "column gexp", f"{flat.dtype} values", REMEDY)
    counts = flat.astype(np.int32)
    if (counts != flat).any() or (counts < 0).any():
        remedy = "give the raw data set, not a scaled one"
        raise InputError(path, "column gexp", "values that aren't counts", remedy)
    return counts.reshape(rows, gene_count)


def _places(path, column: pa.ChunkedArray, rows: int) -> np.ndarray:
    flat = _flat(column)
    if flat.size != rows * 2 or flat.dtype.kind not in "iuf" or not np.isfinite(flat).all():
        other = f"{flat.size / max(rows, 1):g} numbers a row, not 2"
        raise InputError(path, "column cell_coords", other, REMEDY)
    return flat.astype(float).reshape(rows, 2)


def _texts(path, column: pa.ChunkedArray, feature) -> list:
    """Values of a column; labels by their names, None as empty text."""
    names = feature.get("names") if isinstance(feature, Mapping) else None
    values = column.to_pylist()
    if names:
        return [names[value] if value is not None and value >= 0 else "" for value in values]
    return ["" if value is None else value for value in values]


def _image(path, row: int, image) -> bytes:
    data = image.get("bytes") if isinstance(image, Mapping) else image
    if data is None and isinstance(image, Mapping) and image.get("path"):
        file = Path(path).parent / image["path"]
        if file.is_file():
            return file.read_bytes()
    if not isinstance(data, bytes) or not data:
        remedy = "give the copy with embedded images (`cast_column` and save_to_disk keep them)"
        raise InputError(path, f"row {row}, image", "no bytes", remedy)
    return data
