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

LIGHTNING = "pytorch-lightning_version"  # a key of all its checkpoints
_SAVE_STATE = "where you trust it, save its state_dict() by torch.save and give that file"
_LIGHTNING = (
    "a checkpoint of PyTorch Lightning",
    "save its `state_dict`, its names without the module's prefix, by torch.save and give that file",
)
_NO_WEIGHTS = {
    **dict.fromkeys((b"<!doctype", b"<html", b"<?xml"), "a web page, not weights"),
    b"version https://git-lfs": "a pointer of Git LFS, not the weights",
    b"\x89hdf": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
}


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

    What a file is its first bytes tell, not its name: safetensors, else it is read by ``torch.load``
    with ``weights_only``. Nothing is unwrapped or renamed. Tensors are mapped from the file where its
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
        if _is_safetensors(path):
            from safetensors.torch import load_file

            entries = load_file(path, device="cpu")
        else:
            mapped = zipfile.is_zipfile(path)  # the format before 2020 isn't, and can't be mapped
            if str(path).endswith(".safetensors"):  # which torch.load would take for one
                with open(path, "rb") as handle:
                    entries = torch.load(handle, map_location="cpu", weights_only=True)
            else:
                entries = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # bytes at random break an unpickler in any way
        fault = " ".join(str(error).split(".")[0].split()) or type(error).__name__
        raise InputError(
            path, "weights", *(_told(path) or (fault, "fetch the file again"))
        ) from None
    if not isinstance(entries, Mapping):
        raise InputError(path, "weights", type(entries).__name__, "give a file of named tensors")
    if LIGHTNING in entries:
        raise InputError(path, "weights", *_LIGHTNING)
    return dict(entries)


def _is_safetensors(path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then the header, JSON."""
    with open(path, "rb") as handle:
        begin = handle.read(9)
    size = int.from_bytes(begin[:8], "little")
    return begin[8:] == b"{" and 2 <= size < Path(path).stat().st_size


def _told(path) -> tuple[str, str] | None:
    """What a file is that can't be loaded and isn't damaged, and what to do; None if nobody knows."""
    with open(path, "rb") as handle:
        begin = handle.read(512)
    for mark, what in _NO_WEIGHTS.items():
        if begin.lstrip().lower().startswith(mark):
            return what, "get the weights themselves: named tensors by torch.save or safetensors"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            name = next((n for n in packed.namelist() if n.endswith("data.pkl")), None)
            if name is None:
                return "a zip archive without weights", "unpack it and give the weights file in it"
            begin = packed.read(name)
    elif begin[:1] != b"\x80":
        return None
    if LIGHTNING.encode() in begin:
        return _LIGHTNING
    try:
        globals_ = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged, or of the format before 2020
        return None
    found = f"a pickled {globals_[0]}, not named tensors alone" if globals_ else ""
    return (found, _SAVE_STATE) if found else None


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
        if found.is_floating_point() != value.is_floating_point() or _is_quantised(found, value):
            kind = str(found.dtype).removeprefix("torch.")
            remedy = (
                f"the model needs {str(value.dtype).removeprefix('torch.')}: quantised or other "
            )
            raise InputError(path, f"entry {name}", kind, f"{remedy}numbers aren't its weights")
        if found.is_floating_point() and not bool(torch.isfinite(found).all()):
            raise InputError(
                path, f"entry {name}", "numbers that aren't finite", "fetch the file again"
            )
    model.load_state_dict(dict(entries), strict=True)


def _is_quantised(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether floating-point numbers were stored in 8 bits or fewer: that loses what they were."""
    return found.is_quantized or (wanted.is_floating_point() and found.element_size() < 2)


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
