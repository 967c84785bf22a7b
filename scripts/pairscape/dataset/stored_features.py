"""Features of a dataset by a frozen encoder: ``.npy`` with an index that names every row."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError, missing_file

FORMAT = 1
INDEX_TYPES = {
    "row": "int64",
    "sample": str,
    "donor": str,
    "spot": str,
    "array_row": "int64",
    "array_col": "int64",
    "x_um": "float64",
    "y_um": "float64",
    "organ": str,
    "disease_state": str,
}
INDEX_COLUMNS = tuple(INDEX_TYPES)
BLOCK_ROWS = 1 << 14


def write_features(
    features_path,
    index_path,
    blocks: Iterable[np.ndarray],
    shards: Sequence[Mapping],
    width: int,
    meta: Mapping,
    views: int = 1,
) -> dict:
    """Write the features of a dataset, block by block, in bounded memory; returns the index.

    The JSON is written last, so that it never speaks of an array that isn't there.

    Parameters
    ----------
    blocks
        Arrays (n, width), whose rows follow each other in the order of ``shards``.
    shards
        See ``Shards.described``.
    meta
        More keys of the JSON, such as the encoder's checksum and fingerprint.
    views
        How often the shards' rows come: row v * N + r of N is view v of row r. View 0 is the patch
        as it is, the others are augmented.
    """
    shards = [dict(shard) for shard in shards]
    rows = views * sum(shard["rows"] for shard in shards)
    with files.atomic_path(features_path) as temporary:
        array = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.float32, shape=(rows, width)
        )
        at = 0
        for block in blocks:
            if block.shape[1] != width:
                raise ValueError(f"blocks of width {block.shape[1]}, not {width}")
            if not np.isfinite(block).all():
                where, remedy = (
                    f"rows {at} to {at + len(block)}",
                    "look at those patches and weights",
                )
                raise InputError(features_path, where, "features that aren't finite", remedy)
            array[at : at + len(block)] = block
            at += len(block)
        if at != rows:
            raise ValueError(f"the blocks hold {at} rows, the views of the shards {rows}")
        array.flush()
        del array
        sha256 = files.sha256_file(temporary)
    index = {
        **meta,
        "format": FORMAT,
        "rows": rows,
        "views": views,
        "width": width,
        "dtype": "float32",
        "sha256": sha256,
        "shards": shards,
    }
    files.write_json(index_path, index, sealed=True)
    return index


def read_features(features_path, index_path) -> tuple[np.ndarray, dict]:
    """What ``write_features`` wrote: (N, D) float32, memory-mapped and read-only; and the index."""
    index = read_meta(index_path, ("rows", "views", "width", "sha256", "shards"))
    array = read_array(features_path, (index["rows"], index["width"]), index["sha256"])
    if index["views"] * sum(shard["rows"] for shard in index["shards"]) != len(array):
        other = f"rows that don't add up to {len(array)}"
        raise InputError(index_path, "shards", other, "delete it and embed the images again")
    return array, index


def read_index(paths: Mapping, meta: Mapping):
    """The index of a run's embeddings, a DataFrame of ``INDEX_COLUMNS``, checked by its JSON."""
    import pandas as pd

    _check_sum(paths["index"], meta["sha256"].get("index"))
    index = pd.read_csv(
        paths["index"],
        sep="\t",
        dtype=INDEX_TYPES,
        keep_default_na=False,
        float_precision="round_trip",
    )
    if tuple(index.columns) != INDEX_COLUMNS or len(index) != meta["rows"]:
        other = f"{len(index)} rows of {', '.join(index.columns)}"
        remedy = f"it must hold {meta['rows']} rows of {', '.join(INDEX_COLUMNS)}: pretrain again"
        raise InputError(paths["index"], "table", other, remedy)
    return index


def read_meta(path, keys: Sequence[str]) -> dict:
    """The JSON beside an array, with these keys."""
    meta = files.read_json(path)
    missing = [key for key in keys if not isinstance(meta, dict) or key not in meta]
    if missing or meta.get("format") != FORMAT:
        field = missing[0] if missing else "format"
        stands = "nothing" if missing else str(meta.get("format"))
        raise InputError(path, field, stands, f"delete it and make it again (format {FORMAT})")
    return meta


def read_array(path, shape: tuple[int, int], sha256: str | None) -> np.ndarray:
    """An array of float32, memory-mapped, that has the checksum and shape of its JSON."""
    _check_sum(path, sha256)
    try:
        # An empty file can't be mapped, and numpy says so with a ValueError.
        array = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(path, "array", str(error), "delete it and make it again") from None
    if array.shape != tuple(shape) or array.dtype != np.float32:
        remedy = f"float32 {tuple(shape)} is what its JSON says: delete both and make them again"
        raise InputError(path, "array", f"{array.dtype} {array.shape}", remedy)
    for at in range(0, len(array), BLOCK_ROWS):
        if not np.isfinite(array[at : at + BLOCK_ROWS]).all():
            where, remedy = f"rows {at} to {at + BLOCK_ROWS}", "delete it and make it again"
            raise InputError(path, where, "numbers that aren't finite", remedy)
    return array


def _check_sum(path, sha256: str | None) -> None:
    try:
        actual = files.sha256_file(path)
    except FileNotFoundError:
        raise missing_file(path) from None
    if actual != sha256:
        remedy = f"{str(sha256)[:12]} is what its JSON says: delete both and make them again"
        raise InputError(path, "sha256", actual[:12], remedy)
