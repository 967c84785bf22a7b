"""``last.ckpt``: what an interrupted training leaves, and going on from it."""

import logging
import os
from pathlib import Path

import torch

from pairscape.core import files
from pairscape.pretrain.pair import Pair
from pairscape.pretrain.training_record import Record

log = logging.getLogger("pairscape")


def resumable(folder, identity: str) -> Path | None:
    """The ``last.ckpt`` of an interrupted run, if it belongs to this one.

    One of other options or data, or that can't be read, is set aside, and that is said.
    """
    path = Path(folder) / "last.ckpt"
    if not path.is_file():
        return None
    try:
        if (fault := files.zip_fault(path)) is not None:
            raise ValueError(fault)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        known, step = stored["identity"], stored["step"]
        why = "it is of other options or data"
    except Exception:  # whatever is in a damaged file
        known, why = None, "it can't be read"
    if known == identity:
        log.info("going on from step %d of %s", step, path)
        return path
    aside = path.with_name(f"last-set-aside-{files.sha256_file(path)[:8]}.ckpt")
    os.replace(path, aside)
    log.info("%s isn't gone on from: %s; set aside as %s", path, why, aside.name)
    return None


def resume(folder: Path, identity: str, pair: Pair, optimizer, record: Record, world) -> int:
    """Load what an interrupted run has left, in every process; return the step to go on from."""
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        resumable(folder, identity)
    world.wait()
    path, step = folder / "last.ckpt", 0
    if path.is_file():
        stored = torch.load(path, map_location="cpu", weights_only=True)
        pair.load_kept_state(stored["state"])
        optimizer.load_state_dict(stored["optimizer"])
        record.load_state_dict(stored["record"])
        step = stored["step"]
    world.wait()  # before the first process writes a newer one
    return step


def save(folder: Path, identity: str, pair: Pair, optimizer, record: Record, step: int) -> None:
    """Write ``last.ckpt``, whole."""
    whole = {"identity": identity, "step": step, "state": pair.kept_state()}
    whole |= {"optimizer": optimizer.state_dict(), "record": record.state_dict()}
    path = folder / "last.ckpt"
    with files.atomic_path(path) as temporary, open(temporary, "wb") as handle:
        try:
            torch.save(whole, handle)
        except RuntimeError as error:
            cause = error.__context__
            if isinstance(cause, OSError):  # torch closes its archive even on a full disk
                raise OSError(cause.errno, cause.strerror, str(path)) from None
            raise
