"""A run that couldn't be made says so in ``failed.json``, and its options.json repeats it.

Tables then print why beside a dash, and nobody types it in. To try such a run again, delete its
model.ckpt, which is a line of words; a run that ends well deletes ``failed.json`` itself.
"""

from collections.abc import Mapping
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError

FILE = "failed.json"
OUT_OF_MEMORY = "out of memory"
# What a run declares of its test split: there, in words, where it failed.
DECLARED = ("meta", "index", "images", "genes")
RUN_KEYS = ("experiment", "dataset", "image_encoder", "gene_encoder", "seed")


def reason(error: BaseException) -> str | None:
    """Why a run failed, where the same run would fail again: for now, its memory ran out.

    None for anything else, which is a defect or a bad input, and stops what follows.
    """
    message = str(error).lower()
    words = any(text in message for text in ("out of memory", "can't allocate memory"))
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return OUT_OF_MEMORY if named or (isinstance(error, RuntimeError) and words) else None


def write(run_dir, run: Mapping, why: str, message: str = "") -> Path:
    """Record that a run failed: ``run`` holds its ``RUN_KEYS``."""
    path = Path(run_dir) / FILE
    record = {key: run[key] for key in RUN_KEYS} | {"control": run.get("control", "")}
    record |= {"reason": why, "message": " ".join(message.split())[:500]}
    files.write_json(path, record)
    return path


def is_failure(run) -> bool:
    """Whether what options.json holds is such a record."""
    return isinstance(run, Mapping) and "reason" in run


def clear(run_dir) -> None:
    """Forget an earlier failure."""
    (Path(run_dir) / FILE).unlink(missing_ok=True)


def read(path) -> dict:
    """Read what ``write`` wrote."""
    run = files.read_json(path)
    for key in (*RUN_KEYS, "reason"):
        if not isinstance(run, dict) or run.get(key) in (None, ""):
            raise InputError(path, key, "nothing", "delete it and run that pretraining again")
    return run


def beside(options_path) -> Path | None:
    """The record of failure that stands in place of a run's options.json, if any."""
    path = Path(options_path)
    if path.name == FILE:
        return path
    record = path.with_name(FILE)
    return record if record.is_file() and not path.is_file() else None
