"""Weights of encoders: finding the files, reading them without trust, loading them strictly."""

import collections
import contextlib
import hashlib
import importlib.metadata
import logging
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn

from pairscape.core import files
from pairscape.core.errors import InputError

log = logging.getLogger("pairscape")


def find_weights(spec: Mapping, path=None) -> Path:
    """The file that holds an encoder's weights.

    Parameters
    ----------
    spec
        The encoder.
    path
        Where a fetched file lies; not needed for weights inside a Python package.
    """
    source = spec["weights"]
    if source["source"] != "package":
        if path is None or not Path(path).is_file():
            remedy = f"fetch the weights of {spec['title']} first"
            raise InputError(path or "--weights", "file", "nothing", remedy)
        return Path(path)
    try:
        package = importlib.metadata.distribution(source["location"])
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            source["location"], "Python package", "nothing", "install it into this environment"
        ) from None
    found = Path(str(package.locate_file(source["file"])))
    if not found.is_file():
        raise InputError(found, "file", "nothing", f"install {source['location']} again")
    return found


def find_extra(spec: Mapping, path) -> dict[str, Path]:
    """The other files that an encoder's builder reads, by name: they lie beside its weights.

    Parameters
    ----------
    spec
        The encoder; its ``weights.extra_files`` are the names.
    path
        The weights file.
    """
    found = {name: Path(path).parent / name for name in spec["weights"].get("extra_files", ())}
    for name, file in found.items():
        if not file.is_file():
            remedy = f"{spec['title']} needs {name} beside its weights: fetch it, or put it there"
            raise InputError(file, "file", "nothing", remedy)
    return found


def read_entries(spec: Mapping, path) -> dict:
    """Read the named entries of a weights file as they stand in it; no code of it is run.

    A file whose name ends in ``.safetensors`` is read as such, any other by ``torch.load`` with
    ``weights_only``. Nothing is unwrapped or renamed. Tensors are mapped from the file where its
    format allows it, so that a giant isn't in memory twice.

    Parameters
    ----------
    spec
        The encoder; the checksum comes first where its file declares one.
    path
        The weights file.
    """
    wanted = spec["weights"]["sha256"]
    found = files.sha256_file(path)
    if wanted is None:
        log.info("%s: the checksum isn't declared; this file's SHA-256 is %s", path, found)
    elif found != wanted:
        remedy = f"{wanted} is declared for {spec['title']}: fetch the file again"
        raise InputError(path, "sha256", found, remedy)
    try:
        if str(path).endswith(".safetensors"):
            from safetensors.torch import load_file

            entries = load_file(path, device="cpu")
        else:
            mapped = zipfile.is_zipfile(path)  # the format before 2020 isn't, and can't be mapped
            entries = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # bytes at random break an unpickler in any way
        fault = " ".join(str(error).split(".")[0].split()) or type(error).__name__
        raise InputError(path, "weights", fault, "fetch the file again") from None
    if not isinstance(entries, Mapping):
        raise InputError(path, "weights", type(entries).__name__, "give a file of named tensors")
    return dict(entries)


def leave_out(entries: Mapping, reasons: Mapping[str, str], path) -> dict:
    """The entries without those that a builder names as not needed, with the reason logged.

    Parameters
    ----------
    entries
        What ``read_entries`` returned, or part of it.
    reasons
        A pattern (for the whole name) and the reason why what it matches is left out.
    path
        The weights file, for the log.

    Returns
    -------
    What no pattern matches, in order.
    """
    left_out, kept = collections.Counter(), {}
    for name, value in entries.items():
        reason = next((why for what, why in reasons.items() if re.fullmatch(what, name)), None)
        if reason is None:
            kept[name] = value
        else:
            left_out[reason] += 1
    for reason, number in left_out.items():
        log.info("%s: %d entries left out: %s", path, number, reason)
    return kept


def load_strictly(model: nn.Module, entries: Mapping, path) -> None:
    """Load entries into a model: all its names, no others, equal shapes, finite numbers.

    Parameters
    ----------
    model
        Takes the values.
    entries
        Tensors by the model's names.
    path
        The weights file, for messages.
    """
    target = model.state_dict()
    missing = sorted(set(target) - set(entries))
    unknown = sorted(set(entries) - set(target))
    if missing or unknown:
        wrappers = [name for name in unknown if isinstance(entries[name], Mapping)]
        raise InputError(
            path,
            f"entry {missing[0] if missing else unknown[0]}",
            f"{len(missing)} entries missing, {len(unknown)} unknown"
            + (f" (first unknown: {unknown[0]})" if missing and unknown else "")
            + (f"; {wrappers[0]} holds entries of its own" if wrappers else ""),
            f"it must hold the model's {len(target)} entries and no other: give the right file",
        )
    for name, value in target.items():
        found = entries[name]
        if not isinstance(found, torch.Tensor) or found.shape != value.shape:
            fault = str(tuple(found.shape)) if isinstance(found, torch.Tensor) else repr(found)[:40]
            remedy = f"the model needs the shape {tuple(value.shape)}: give the right file"
            raise InputError(path, f"entry {name}", fault, remedy)
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise InputError(
                path, f"entry {name}", "numbers that aren't finite", "fetch the file again"
            )
    model.load_state_dict(dict(entries), strict=True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread: several add up in another order, and last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def state_sha256(model: nn.Module) -> str:
    """A checksum of all numbers of a model, by the sorted names of its entries."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        # By bytes: numpy has no bfloat16.
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
