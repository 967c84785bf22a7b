"""The format of stored embeddings: image features of a dataset, and a run's embedded pairs.

Both are plain ``.npy`` arrays, float32, memory-mapped by their readers, with a JSON beside them
that holds their shape and checksums. A reader verifies everything before it returns anything.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.dataset.stored_features import (
    BLOCK_ROWS,
    FORMAT,
    INDEX_COLUMNS,
    read_array,
    read_index,
    read_meta,
)


def run_files(run_dir, split: str) -> dict[str, Path]:
    """The paths of a run's embedded split: ``images``, ``genes``, ``trunk``, ``index``, ``meta``."""
    folder = Path(run_dir) / "embeddings"
    arrays = {what: folder / f"{split}_{what}.npy" for what in ("images", "genes", "trunk")}
    return {**arrays, "index": folder / f"{split}.tsv", "meta": folder / f"{split}.json"}


def write_run_embeddings(
    run_dir,
    split: str,
    images: np.ndarray,
    genes: np.ndarray | None,
    index,
    meta: Mapping,
    trunk: np.ndarray | None = None,
) -> None:
    """Write the embedded pairs of one split of a run (see ``run_files``).

    Parameters
    ----------
    images, genes
        (N, D) each, rows of unit length but where ``meta`` says ``unit_length`` false; row i of both is
        pair i. The train split, which is only read by what predicts from images, needs no genes.
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
            for at in range(0, len(array), BLOCK_ROWS):
                block = array[at : at + BLOCK_ROWS]
                if not np.isfinite(block).all():
                    remedy = "the training diverged: lower learning_rate or gradient_clip"
                    fault = "embeddings that aren't finite"
                    raise InputError(paths[what], f"{what} of {split}", fault, remedy)
                stored[at : at + len(block)] = block
            stored.flush()
            del stored
    for what in {"genes", "trunk"} - set(arrays):
        paths[what].unlink(missing_ok=True)
    tsv.write_tsv(paths["index"], rows, INDEX_COLUMNS)
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

    ``images`` and ``genes``: (N, D) float32, memory-mapped, read-only, rows of unit length but where
    ``meta`` says ``unit_length`` false; ``index``: a pandas DataFrame of ``INDEX_COLUMNS``, row i for
    pair i; ``meta``: the JSON.
    """
    paths, meta = _read_meta(run_dir, split)
    arrays = {what: _read_side(paths, meta, what) for what in ("images", "genes")}
    for what, array in arrays.items() if meta.get("unit_length", True) else ():
        for at in range(0, len(array), BLOCK_ROWS):
            norms = np.linalg.norm(array[at : at + BLOCK_ROWS].astype(np.float64), axis=1)
            if len(norms) and np.abs(norms - 1).max() > 1e-3:
                row = f"row {at + int(np.abs(norms - 1).argmax())}"
                fault = "an embedding that isn't of unit length"
                raise InputError(paths[what], row, fault, "delete it and pretrain again")
    return {**arrays, "index": read_index(paths, meta), "meta": meta}


def read_run_images(run_dir, split: str) -> dict:
    """Read the image side of one split of a run, which is all that the train split may have.

    ``images``: (N, D) float32, memory-mapped, rows of the shared space; ``trunk``: (N, W) what a tuned
    image encoder gives before the projection, or None; ``index`` and ``meta`` as of
    ``read_run_embeddings``.
    """
    paths, meta = _read_meta(run_dir, split)
    images, has_trunk = _read_side(paths, meta, "images"), "trunk" in meta["sha256"]
    trunk = _read_side(paths, meta, "trunk", meta.get("trunk_width")) if has_trunk else None
    return {"images": images, "trunk": trunk, "index": read_index(paths, meta), "meta": meta}


def _read_meta(run_dir, split: str) -> tuple[dict[str, Path], dict]:
    paths = run_files(run_dir, split)
    return paths, read_meta(paths["meta"], ("rows", "width", "sha256"))


def _read_side(paths: Mapping, meta: Mapping, what: str, width: int | None = None) -> np.ndarray:
    shape = (meta["rows"], width or meta["width"])
    return read_array(paths[what], shape, meta["sha256"].get(what))
