"""Embeddings that another program has made: each row finds its pair by name, never by order.

Pairs are named ``<sample>/<spot>``, as ``export_ids`` lists them. A file of embeddings is

- Parquet: ``pair`` (text) and ``embedding`` (a list of numbers),
- ``.npy``, (rows, width), with ``<same name>.tsv`` beside it, whose column ``pair`` names its rows,
- HDF5: ``features`` (rows, width) and ``pair``; or a slide's file as TRIDENT writes it,
  ``<sample>.h5`` with ``features``, ``coords`` (upper left corners, pixels of the H&E) and the
  attribute ``patch_size_level0`` of them: its patches are those whose centres are a pair's.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError, one_of
from pairscape.core.tsv import read_tsv
from pairscape.dataset import pair_shards

REACH_PX = 1.0  # how far a patch's centre may lie from the pair's: corners are whole pixels
_BLOCK = 1 << 14
# Names of pairs, and their embeddings, (n,) and (n, width).
Block = tuple[Sequence[str], np.ndarray]


@dataclass(frozen=True)
class Pairs:
    """The pairs of a dataset, in its order: ``names`` (N,), ``centres_px`` (N, 2) on the H&E."""

    names: Sequence[str]
    centres_px: np.ndarray

    @classmethod
    def of_shards(cls, paths: Sequence) -> "Pairs":
        """Those of a dataset's shards."""
        tables = [
            pair_shards.read_index(path).select(["sample", "spot", "cell_coords"]) for path in paths
        ]
        places = [
            np.asarray(table["cell_coords"].to_pylist(), float).reshape(-1, 2) for table in tables
        ]
        names = [
            pair_name(sample, spot)
            for table in tables
            for sample, spot, _ in zip(*table.to_pydict().values(), strict=True)
        ]
        return cls(names, np.concatenate(places))


def pair_name(sample: str, spot: str) -> str:
    """How a pair is named in files of embeddings."""
    return f"{sample}/{spot}"


def arrange(paths: Sequence, width: int, pairs: Pairs, folder) -> Iterator[np.ndarray]:
    """Yield the embeddings of all pairs in their order, float32 (n, width), in bounded memory.

    Rows of other pairs are left out. ``InputError`` where a pair has no row, or two, or a row isn't
    ``width`` long. A scratch file lies in ``folder`` meanwhile.
    """
    row_of = {name: row for row, name in enumerate(pairs.names)}
    filled = np.zeros(len(row_of), bool)
    with tempfile.TemporaryFile(dir=folder) as scratch:
        arranged = np.memmap(scratch, np.float32, "w+", shape=(len(row_of), width))
        for path in map(Path, paths):
            one_of(path.suffix, _READERS, path, "ending", "of files of embeddings")
            for names, block in _READERS[path.suffix](path, pairs):
                if block.ndim != 2 or block.shape[1] != width:
                    found = f"rows of shape {block.shape[1:]}"
                    remedy = f"{width} numbers each are declared: correct width in its encoder file"
                    raise InputError(path, "embedding", found, remedy)
                for name, embedding in zip(names, block, strict=True):
                    row = row_of.get(name)
                    if row is None:
                        continue
                    if filled[row]:
                        raise InputError(path, "pair", f"{name} twice", "give each pair one row")
                    arranged[row], filled[row] = embedding, True
        absent = np.flatnonzero(~filled)
        if len(absent):
            found = f"no row of {len(absent)} of {len(filled)} pairs, as {pairs.names[absent[0]]}"
            raise InputError(paths[0], "pair", found, "embed every pair that export_ids lists")
        for at in range(0, len(filled), _BLOCK):
            yield np.array(arranged[at : at + _BLOCK])


def read(spec: Mapping, weights, shards: Sequence, folder) -> tuple[Iterator[np.ndarray], dict]:
    """The embeddings of a dataset's pairs by a ``given`` encoder, and what names them.

    ``weights`` is the encoder's weights file: a file of embeddings, others and the names of rows may
    lie beside it (``extra_files``). Blocks as of ``arrange``; the scratch file lies in ``folder``.
    """
    from pairscape.encoders.weights import find_extra

    extra = find_extra(spec, weights).values()
    paths = [path for path in (Path(weights), *extra) if path.suffix != ".tsv"]
    sums = [files.sha256_file(path) for path in (Path(weights), *extra)]
    declared = spec["weights"]["sha256"]
    if declared not in (None, sums[0]):
        remedy = f"{declared} is declared: give that file, or correct sha256 in the encoder's file"
        raise InputError(weights, "sha256", sums[0], remedy)
    about = {"weights_sha256": files.sha256_json(sums) if extra else sums[0], "fingerprint": None}
    return arrange(paths, spec["width"], Pairs.of_shards(shards), folder), about


def _read_parquet(path: Path, pairs: Pairs) -> Iterator[Block]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(path, "Parquet", str(error), "write it again") from None
    for column in ("pair", "embedding"):
        one_of(column, table.schema_arrow.names, path, "column")
    for batch in table.iter_batches(_BLOCK, columns=["pair", "embedding"]):
        column = batch["embedding"]
        if not hasattr(column, "flatten") or column.null_count or batch["pair"].null_count:
            found = f"{column.type}, {column.null_count} empty"
            raise InputError(path, "embedding", found, "write a list of numbers in each row")
        values = column.flatten().to_numpy(zero_copy_only=False)
        if len(values) % max(len(batch), 1):
            raise InputError(path, "embedding", "lists of several lengths", "write equal ones")
        yield batch["pair"].to_pylist(), values.reshape(len(batch), -1)


def _read_npy(path: Path, pairs: Pairs) -> Iterator[Block]:
    names_file = path.with_suffix(".tsv")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(path, "array", str(error), "write it again by numpy.save") from None
    if not names_file.is_file():
        remedy = "name the pair of each row in its column pair, and name it in weights.extra_files"
        raise InputError(names_file, "file", "nothing", remedy)
    names = [row["pair"] for row in read_tsv(names_file, ["pair"])]
    yield from _blocks(path, array, names, names_file)


def _read_h5(path: Path, pairs: Pairs) -> Iterator[Block]:
    import h5py

    try:
        stored = h5py.File(path)
    except OSError as error:
        raise InputError(path, "HDF5", str(error), "write it again") from None
    with stored:
        one_of("features", stored, path, "dataset")
        if "pair" in stored:
            names = list(stored["pair"].asstr()[:])
        else:
            names = _nearest_pairs(path, stored, pairs)
        yield from _blocks(path, stored["features"], names, path)


def _nearest_pairs(path: Path, stored, pairs: Pairs) -> list[str]:
    """The pair at the centre of each patch of a slide; an empty name where there is none."""
    from scipy.spatial import KDTree

    one_of("coords", stored, path, "dataset")
    size = stored["coords"].attrs.get("patch_size_level0")
    if size is None:
        remedy = "give coords its attribute, the side of a patch in pixels of the H&E; or add pair"
        raise InputError(path, "coords, patch_size_level0", "nothing", remedy)
    sample = path.name.split(".")[0]
    rows = [row for row, name in enumerate(pairs.names) if name.startswith(pair_name(sample, ""))]
    if not rows:
        remedy = "name the file as the sample of its slide"
        raise InputError(path, "file", f"no sample named {sample}", remedy)
    centres = np.asarray(stored["coords"][:], float) + float(size) / 2
    distance, nearest = KDTree(pairs.centres_px[rows]).query(centres, p=np.inf)
    return [
        pairs.names[rows[near]] if away <= REACH_PX else ""
        for away, near in zip(distance, nearest, strict=True)
    ]


def _blocks(path: Path, array, names: list[str], names_file: Path) -> Iterator[Block]:
    if array.ndim != 2 or len(array) != len(names):
        found = f"{len(names)} names for an array of shape {tuple(array.shape)}"
        raise InputError(names_file, "pair", found, "name each row of it once")
    for at in range(0, len(names), _BLOCK):
        yield names[at : at + _BLOCK], np.asarray(array[at : at + _BLOCK])


_READERS: dict[str, Callable[[Path, Pairs], Iterator[Block]]] = {
    ".parquet": _read_parquet,
    ".npy": _read_npy,
    ".h5": _read_h5,
}
