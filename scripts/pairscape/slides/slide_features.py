"""The format of a slide's patch embeddings: TRIDENT's HDF5 layout, one file per slide.

``features`` (N, D) with the attributes ``name``, ``savetodir``, ``encoder``; ``coords`` (N, 2) int64,
the top-left corners in pixels of the slide's full resolution, with those of ``COORDS_ATTRIBUTES``.
Files of TRIDENT and of HistoBistro (``feats``) are read as well; what they lack is None.

Ours hold a checksum of both and of their attributes, ``rows_sha256``, which the readers of the
numbers verify.

A cohort's slides are listed in ``slides.tsv`` beside them, those without features too.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError, missing_file
from pairscape.core.hdf5 import open_hdf5
from pairscape.core.tsv import Table, counts, numbers, text

FEATURE_KEYS = ("features", "feats")  # TRIDENT's and HistoBistro's; the first one there is read
COORDS_ATTRIBUTES = (
    "patch_size",
    "patch_size_level0",
    "level0_magnification",
    "target_magnification",
    "overlap",
    "name",
    "savetodir",
    "level0_width",
    "level0_height",
)
EMBEDDED, SKIPPED = "embedded", "skipped"
SLIDES = Table(
    "slides.tsv",
    "embed_slides",
    (
        *text(slide="the slide", status="embedded or skipped", reason="why it was skipped"),
        *counts(patches="of the slide"),
        *numbers(um_per_px="of its full resolution; empty if unknown"),
        *text(file="its features, from the table's folder", sha256="of that file"),
    ),
)
SUM = "rows_sha256"
_BLOCK_ROWS = 1 << 13


class SlideFeatures(NamedTuple):
    """The patch embeddings of one slide."""

    features: np.ndarray  # (N, D) float32
    coords: np.ndarray | None  # (N, 2) int64, level-0 px; None where the file has none
    attributes: dict  # of both data sets: encoder, name, patch_size, um_per_px, ...


def write_slide_features(
    path,
    blocks: Iterable[np.ndarray],
    coords: np.ndarray | None,
    width: int,
    encoder: str,
    attributes: Mapping,
    more: Mapping | None = None,
) -> int:
    """Write the embeddings of one slide, block by block, in bounded memory; returns their number.

    The stem of ``path``, an ``.h5``, is the slide's name; nothing of it stays after an error.

    Parameters
    ----------
    blocks
        Arrays (n, width) of features by ``encoder``, whose rows follow each other in the order of
        ``coords``.
    coords
        (N, 2) level-0 px, top-left corners; None, where they aren't known, leaves them out.
    attributes
        Of ``coords``: those of ``COORDS_ATTRIBUTES`` but ``name`` and ``savetodir``, and more of
        our own such as ``um_per_px``. ``more`` are those of ``features``, such as checksums.
    """
    import h5py

    path = Path(path)
    # The folder by its name alone: results move, and a path would name the machine.
    names = {"name": path.stem, "savetodir": path.parent.name}
    with files.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        features = file.create_dataset(
            "features", (0, width), np.float32, maxshape=(None, width), chunks=(1, width)
        )
        features.attrs.update({**names, "encoder": encoder, **(more or {})})
        at, digest = 0, hashlib.sha256()
        for block in blocks:
            if block.shape[1] != width:
                raise ValueError(f"blocks of width {block.shape[1]}, not {width}")
            if not np.isfinite(block).all():
                place = f"features of the patches {at} to {at + len(block) - 1}"
                remedy = "look at those patches and at the encoder's weights"
                raise InputError(path, place, "numbers that aren't finite", remedy)
            features.resize(at + len(block), axis=0)
            features[at:] = block
            digest.update(np.ascontiguousarray(block, np.float32))
            at += len(block)
        if coords is not None:
            coords = np.asarray(coords, np.int64).reshape(-1, 2)
            if len(coords) != at:
                raise ValueError(f"the blocks hold {at} rows, the coordinates {len(coords)}")
            places = file.create_dataset("coords", data=coords)
            places.attrs.update({**attributes, **names})
        features.attrs[SUM] = _sum(digest, features, file.get("coords"))
    return at


def read_slide_features(path) -> SlideFeatures:
    """Read the embeddings of one slide: ours, TRIDENT's or HistoBistro's. All of it, into memory."""
    with _open(path) as (features, coords, attributes):
        array = np.empty(features.shape[-2:], np.float32)
        at = 0
        for block in _blocks(path, features, coords, _BLOCK_ROWS):
            array[at : at + len(block)] = block
            at += len(block)
        return SlideFeatures(array, _corners(coords), attributes)


def first_rows_sha256(path, rows: int = 64) -> str:
    """The checksum of a slide's number of patches and first features: it tells another slide."""
    with _open(path) as (features, coords, _):
        block = next(iter(_blocks(path, features, coords, rows)), np.empty((0, 0)))
        digest = hashlib.sha256(str(features.shape[-2:]).encode())
        digest.update(np.ascontiguousarray(block, np.float32))
    return digest.hexdigest()


def iter_slide_features(path, rows: int = _BLOCK_ROWS):
    """Yield the features of one slide in blocks (n, D) float32, checked as by the other reader.

    The checksum can only be compared after the last block.
    """
    with _open(path) as (features, coords, _):
        yield from _blocks(path, features, coords, rows)


def verify(path) -> None:
    """Look at every number of a slide's features, and at their checksum.

    Features that are all zero, or alike for several patches, are none.
    """
    first, alike, rows = None, True, 0
    for block in iter_slide_features(path):
        first, rows = block[:1] if first is None else first, rows + len(block)
        alike = alike and bool((block == first).all())
    if rows and alike and (rows > 1 or not first.any()):
        found = f"{'zeros' if not first.any() else 'the same numbers'} for all of {rows} patches"
        raise InputError(
            path, "features", found, "look at the encoder's run, and make the file again"
        )


def read_slide_facts(path) -> tuple[tuple[int, int], np.ndarray | None, dict]:
    """Shape (N, D), coordinates and attributes of a slide's file, without its features."""
    with _open(path) as (features, coords, attributes):
        return tuple(map(int, features.shape[-2:])), _corners(coords), attributes


def write_slides(path, rows: Sequence[Mapping]) -> None:
    """Write ``slides.tsv``: one row per slide of the cohort.

    ``file`` is taken as a path (or empty) and written relative to the table's folder.
    """
    folder = Path(path).parent.resolve()

    def relative(file):
        return Path(os.path.relpath(Path(file).resolve(), folder)).as_posix() if file else ""

    SLIDES.write(path, [{**row, "file": relative(row["file"])} for row in rows], digits=None)


def read_slides(path, verify: bool = False) -> list[dict]:
    """Read ``slides.tsv`` and, to ``verify`` them, the files' checksums.

    ``file`` is a path that opens from here, or None.
    """
    path = Path(path)
    again = "delete the table and embed the slides again"
    rows = SLIDES.read(path)
    for number, row in enumerate(rows, 2):
        if row["status"] not in (EMBEDDED, SKIPPED):
            raise InputError(path, f"line {number}", f"the status {row['status']!r}", again)
        if row["patches"] is None:
            raise InputError(path, f"line {number}, patches", "nothing", again)
        row["file"] = path.parent / row["file"] if row["status"] == EMBEDDED else None
        if row["file"] is None:
            continue
        if not row["file"].is_file():
            raise InputError(path, f"file of {row['slide']}", f"nothing at {row['file']}", again)
        if verify and files.sha256_file(row["file"]) != row["sha256"]:
            raise InputError(row["file"], "sha256", "another than slides.tsv holds", again)
    return rows


@contextlib.contextmanager
def _open(path):
    """Yield the checked data sets of a slide's file: features, coords (or None), attributes."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_hdf5(path))
        except FileNotFoundError:
            raise missing_file(path) from None
        except (OSError, RuntimeError, KeyError) as error:
            raise _damaged(path, "HDF5", str(error)) from None
        try:
            checked = _checked(path, file)
        except InputError:
            raise
        except Exception as error:  # whatever h5py makes of damaged structures
            raise _damaged(path, "structure", str(error)) from None
        try:
            yield checked
        except (OSError, RuntimeError, KeyError) as error:
            # Cut off within its data a file opens well, and fails where it is read.
            raise _damaged(path, "data", str(error)) from None


def _blocks(path, features, coords, rows: int):
    """Yield the features in blocks, then verify the checksum if the file holds one."""
    source = features if features.ndim == 2 else features[0]
    digest = hashlib.sha256()
    for at in range(0, features.shape[-2], rows):
        block = np.ascontiguousarray(source[at : at + rows], np.float32)
        known = np.isfinite(block).all(1)
        if not known.all():
            place = f"features of patch {at + int(np.argmin(known))}"
            raise InputError(path, place, "a number that isn't finite", "make the file again")
        digest.update(block)
        yield block
    wanted, actual = _attributes(features).get(SUM), _sum(digest, features, coords)
    if wanted not in (None, actual):
        raise _damaged(path, SUM, f"{str(wanted)[:12]} for numbers that give {actual[:12]}")


def _checked(path, file) -> tuple:
    import h5py

    key = next((key for key in FEATURE_KEYS if key in file), None)
    if key is None:
        keys = ", ".join(sorted(file)[:6]) or "nothing"
        remedy = "give a file with `features` (N, D), as TRIDENT writes it"
        raise InputError(path, "keys", keys, remedy)
    features, coords = file[key], file.get("coords")
    shape = getattr(features, "shape", ())
    is_table = len(shape) == 2 or (len(shape) == 3 and shape[0] == 1)
    if not isinstance(features, h5py.Dataset) or not is_table or features.dtype.kind != "f":
        fault = f"{getattr(features, 'dtype', 'a group')} of shape {tuple(shape)}"
        remedy = "one row of floating-point numbers per patch is needed"
        raise InputError(path, key, fault, remedy)
    if coords is not None and (
        not isinstance(coords, h5py.Dataset)
        or coords.dtype.kind not in "iuf"
        or coords.shape[-2:] != (shape[-2], 2)
    ):
        fault = f"{getattr(coords, 'dtype', 'a group')} of shape {getattr(coords, 'shape', ())}"
        remedy = f"one x and y for each of {shape[-2]} patches is needed"
        raise InputError(path, "coords", fault, remedy)
    attributes = {} if coords is None else _attributes(coords)
    attributes |= _attributes(features)
    return features, coords, {key: v for key, v in attributes.items() if key != SUM}


def _sum(digest, features, coords) -> str:
    """The checksum of a file, given that of the features' numbers."""
    for dataset in (features,) if coords is None else (features, coords):
        attributes = {key: v for key, v in _attributes(dataset).items() if key != SUM}
        digest.update(json.dumps(attributes, sort_keys=True, default=repr).encode())
    if coords is not None:
        digest.update(np.ascontiguousarray(coords[...], np.int64))
    return digest.hexdigest()


def _attributes(dataset) -> dict:
    """Attributes as plain Python values."""
    plain = {
        key: value.item() if hasattr(value, "item") and np.size(value) == 1 else value
        for key, value in dataset.attrs.items()
    }
    return {key: v.decode() if isinstance(v, bytes) else v for key, v in plain.items()}


def _corners(coords) -> np.ndarray | None:
    return None if coords is None else np.asarray(coords[...]).reshape(-1, 2).astype(np.int64)


def _damaged(path, field: str, what: str) -> InputError:
    return InputError(path, field, what, "the file is damaged: delete it and make it again")
