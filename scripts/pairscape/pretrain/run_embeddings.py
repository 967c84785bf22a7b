"""The format of stored embeddings: image features of a dataset, and a run's embedded pairs.

Both are plain ``.npy`` arrays, float32, memory-mapped by their readers, with a JSON beside them
that holds their shape and checksums. A reader verifies everything before it returns anything.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

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
_BLOCK_ROWS = 1 << 14


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

    Raises
    ------
    InputError
        A block holds a number that isn't finite.
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

    Raises
    ------
    InputError
        One of the two is missing, damaged, or not made with the other.
    """
    index = _read_meta(index_path, ("rows", "views", "width", "sha256", "shards"))
    array = _read_array(features_path, (index["rows"], index["width"]), index["sha256"])
    if index["views"] * sum(shard["rows"] for shard in index["shards"]) != len(array):
        raise InputError(
            index_path,
            "shards",
            f"rows that don't add up to {len(array)}",
            "delete it and embed the images again",
        )
    return array, index


def run_files(run_dir, split: str) -> dict[str, Path]:
    """The paths of a run's embedded split: ``images``, ``genes``, ``trunk``, ``index``, ``meta``."""
    folder = Path(run_dir) / "embeddings"
    return {
        "images": folder / f"{split}_images.npy",
        "genes": folder / f"{split}_genes.npy",
        "trunk": folder / f"{split}_trunk.npy",
        "index": folder / f"{split}.tsv",
        "meta": folder / f"{split}.json",
    }


def write_run_embeddings(
    run_dir,
    split: str,
    images: np.ndarray,
    genes: np.ndarray | None,
    index,
    meta: Mapping,
    trunk: np.ndarray | None = None,
) -> None:
    """Write the embedded pairs of one split of a run.

    Parameters
    ----------
    run_dir
        The run's folder; the files go to its ``embeddings`` (see ``run_files``).
    split
        ``train``, ``val`` or ``test``.
    images, genes
        (N, D) each, rows of unit length but where ``meta`` says ``unit_length`` false; row i of both is
        pair i. The train split, which is only
        read by what predicts from images, needs no genes.
    index
        One row per pair with ``INDEX_COLUMNS``: a pandas DataFrame or a sequence of mappings.
    meta
        More keys of the JSON, such as ``logit_scale``.
    trunk
        (N, W), what a tuned image encoder gives before the projection; may be memory-mapped.
    """
    paths = run_files(run_dir, split)
    arrays = {"images": images, "genes": genes, "trunk": trunk}
    arrays = {what: array for what, array in arrays.items() if array is not None}
    rows = index.to_dict("records") if hasattr(index, "to_dict") else [dict(row) for row in index]
    if any(len(array) != len(rows) for array in arrays.values()) or (
        genes is not None and images.shape != genes.shape
    ):
        shapes = {what: array.shape for what, array in arrays.items()}
        raise ValueError(f"{shapes} for {len(rows)} index rows")
    for what, array in arrays.items():
        with files.atomic_path(paths[what]) as temporary:
            stored = np.lib.format.open_memmap(
                temporary, mode="w+", dtype=np.float32, shape=array.shape
            )
            for at in range(0, len(array), _BLOCK_ROWS):
                block = array[at : at + _BLOCK_ROWS]
                if not np.isfinite(block).all():
                    raise InputError(
                        paths[what],
                        f"{what} of {split}",
                        "embeddings that aren't finite",
                        "the training diverged: lower learning_rate or gradient_clip",
                    )
                stored[at : at + len(block)] = block
            stored.flush()
            del stored
    for what in {"genes", "trunk"} - set(arrays):
        paths[what].unlink(missing_ok=True)
    files.write_tsv(paths["index"], rows, INDEX_COLUMNS)
    widths = {} if trunk is None else {"trunk_width": trunk.shape[1]}
    files.write_json(
        paths["meta"],
        {
            **meta,
            **widths,
            "format": FORMAT,
            "split": split,
            "rows": len(images),
            "width": images.shape[1],
            "dtype": "float32",
            "sha256": {what: files.sha256_file(paths[what]) for what in (*arrays, "index")},
        },
        sealed=True,
    )


def read_run_embeddings(run_dir, split: str) -> dict:
    """Read the embedded pairs of one split of a run.

    Returns
    -------
    ``images`` and ``genes``: (N, D) float32, memory-mapped, read-only, rows of unit length but where
    ``meta`` says ``unit_length`` false;
    ``index``: a pandas DataFrame of ``INDEX_COLUMNS``, row i for pair i; ``meta``: the JSON.

    Raises
    ------
    InputError
        A file is missing, damaged, or not made with the others.
    """
    paths = run_files(run_dir, split)
    meta = _read_meta(paths["meta"], ("rows", "width", "sha256"))
    shape = (meta["rows"], meta["width"])
    arrays = {
        what: _read_array(paths[what], shape, meta["sha256"].get(what))
        for what in ("images", "genes")
    }
    for what, array in arrays.items() if meta.get("unit_length", True) else ():
        for at in range(0, len(array), _BLOCK_ROWS):
            norms = np.linalg.norm(array[at : at + _BLOCK_ROWS].astype(np.float64), axis=1)
            if len(norms) and np.abs(norms - 1).max() > 1e-3:
                raise InputError(
                    paths[what],
                    f"row {at + int(np.abs(norms - 1).argmax())}",
                    "an embedding that isn't of unit length",
                    "delete it and pretrain again",
                )
    return {**arrays, "index": _read_index(paths, meta), "meta": meta}


def read_run_images(run_dir, split: str) -> dict:
    """Read the image side of one split of a run, which is all that the train split may have.

    Returns
    -------
    ``images``: (N, D) float32, memory-mapped, rows of the shared space; ``trunk``: (N, W) what a
    tuned image encoder gives before the projection, or None; ``index`` and ``meta`` as of
    ``read_run_embeddings``.

    Raises
    ------
    InputError
        A file is missing, damaged, or not made with the others.
    """
    paths = run_files(run_dir, split)
    meta = _read_meta(paths["meta"], ("rows", "width", "sha256"))
    sums = meta["sha256"]
    images = _read_array(paths["images"], (meta["rows"], meta["width"]), sums.get("images"))
    trunk = None
    if "trunk" in sums:
        trunk = _read_array(paths["trunk"], (meta["rows"], meta.get("trunk_width")), sums["trunk"])
    return {"images": images, "trunk": trunk, "index": _read_index(paths, meta), "meta": meta}


def _read_index(paths: Mapping, meta: Mapping):
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


def _read_meta(path, keys: Sequence[str]) -> dict:
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


def _read_array(path, shape: tuple[int, int], sha256: str | None) -> np.ndarray:
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
    for at in range(0, len(array), _BLOCK_ROWS):
        if not np.isfinite(array[at : at + _BLOCK_ROWS]).all():
            raise InputError(
                path,
                f"rows {at} to {at + _BLOCK_ROWS}",
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
