"""Features of a dataset by a frozen encoder: ``.npy`` with an index that names every row."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError

FORMAT = 1


INDEX_COLUMNS = (
    "row",
    "sample",
    "donor",
    "spot",
    "array_row",
    "array_col",
    "x_um",
    "y_um",
    "organ",
    "disease_state",
)


_INDEX_TYPES = dict.fromkeys(("row", "array_row", "array_col"), "int64") | dict.fromkeys(
    ("x_um", "y_um"), "float64"
)


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
    """Write the image features of a dataset, block by block, in bounded memory.

    Parameters
    ----------
    features_path, index_path
        The ``.npy`` and the ``.json`` to write. The JSON is written last, so that it never speaks
        of an array that isn't there.
    blocks
        Arrays (n, width), whose rows follow each other in the order of ``shards``.
    shards
        One mapping each: ``sample``, ``rows``, ``sha256`` (of the shard's file).
    width
        Numbers per row.
    meta
        More keys of the JSON, such as the encoder's checksum and fingerprint.
    views
        How often the shards' rows come: row v * N + r of N is view v of row r. View 0 is the patch
        as it is, the others are augmented.

    Returns
    -------
    The index as written.
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
                raise InputError(
                    features_path,
                    f"rows {at} to {at + len(block)}",
                    "features that aren't finite",
                    "look at those patches and at the encoder's weights",
                )
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
    """Read what ``write_features`` wrote.

    Returns
    -------
    The features (N, D), float32, memory-mapped and read-only, and the index.
    """
    index = read_meta(index_path, ("rows", "views", "width", "sha256", "shards"))
    array = read_array(features_path, (index["rows"], index["width"]), index["sha256"])
    if index["views"] * sum(shard["rows"] for shard in index["shards"]) != len(array):
        raise InputError(
            index_path,
            "shards",
            f"rows that don't add up to {len(array)}",
            "delete it and embed the images again",
        )
    return array, index


def read_index(paths: Mapping, meta: Mapping):
    import pandas as pd

    _check_sum(paths["index"], meta["sha256"].get("index"))
    index = pd.read_csv(
        paths["index"],
        sep="\t",
        dtype={name: _INDEX_TYPES.get(name, str) for name in INDEX_COLUMNS},
        keep_default_na=False,
        float_precision="round_trip",
    )
    if tuple(index.columns) != INDEX_COLUMNS or len(index) != meta["rows"]:
        raise InputError(
            paths["index"],
            "table",
            f"{len(index)} rows of {', '.join(index.columns)}",
            f"it must hold {meta['rows']} rows of {', '.join(INDEX_COLUMNS)}: pretrain again",
        )
    return index


def read_meta(path, keys: Sequence[str]) -> dict:
    meta = files.read_json(path)
    missing = [key for key in keys if not isinstance(meta, dict) or key not in meta]
    if missing or meta.get("format") != FORMAT:
        raise InputError(
            path,
            missing[0] if missing else "format",
            "nothing" if missing else str(meta.get("format")),
            f"delete it and make it again (format {FORMAT})",
        )
    return meta


def read_array(path, shape: tuple[int, int], sha256: str | None) -> np.ndarray:
    _check_sum(path, sha256)
    try:
        # An empty file can't be mapped, and numpy says so with a ValueError.
        array = np.load(path, mmap_mode="r" if 0 not in shape else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(path, "array", str(error), "delete it and make it again") from None
    if array.shape != tuple(shape) or array.dtype != np.float32:
        raise InputError(
            path,
            "array",
            f"{array.dtype} {array.shape}",
            f"float32 {tuple(shape)} is what its JSON says: delete both and make them again",
        )
    for at in range(0, len(array), BLOCK_ROWS):
        if not np.isfinite(array[at : at + BLOCK_ROWS]).all():
            raise InputError(
                path,
                f"rows {at} to {at + BLOCK_ROWS}",
                "numbers that aren't finite",
                "delete it and make it again",
            )
    return array


def _check_sum(path, sha256: str | None) -> None:
    try:
        found = files.sha256_file(path)
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    if found != sha256:
        raise InputError(
            path,
            "sha256",
            found[:12],
            f"{str(sha256)[:12]} is what its JSON says: delete both and make them again",
        )
