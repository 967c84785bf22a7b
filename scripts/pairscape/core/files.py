"""Whole files or none: atomic writing, checksums, small tables and JSON."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pairscape.core.errors import InputError

SEAL = "json_sha256"


@contextlib.contextmanager
def atomic_path(path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the place of ``path`` when the block ends well.

    After an error nothing of it stays and an older ``path`` is untouched. The block may create a
    file or a folder there. The temporary name keeps the suffixes of ``path``. What processes that
    were killed have left of the same path is deleted.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    remove(temporary)
    for left in path.parent.glob(f".part-*-{glob.escape(path.name)}"):
        number = left.name.split("-")[1]
        if left.name == f".part-{number}-{path.name}" and not _is_running(number):
            remove(left)
    try:
        yield temporary
        if not temporary.is_dir():
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
        if path.is_dir() and not path.is_symlink():
            remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def _is_running(number: str) -> bool:
    """Whether this machine has a process of that number; another machine's may look dead: job locks
    see to it that none of those is at work on the same path.
    """
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        pass
    return True


def remove(path) -> None:
    """Delete a file or a folder with all in it; do nothing where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def sums_path(path) -> Path:
    """Where ``write_sums`` writes."""
    path = Path(path)
    return path.with_name(f"{path.name}.sha256")


def write_sums(path) -> None:
    """Write the checksums of a file, or of all files of a folder, beside it: ``<name>.sha256``.

    For formats that hold none. ``sha256sum -c`` in that folder verifies them as well.
    """
    path = Path(path)
    found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    with atomic_path(sums_path(path)) as temporary:
        temporary.write_text(
            "".join(
                f"{sha256_file(file)}  {file.relative_to(path.parent).as_posix()}\n"
                for file in found
            ),
            encoding="utf-8",
        )


def check_sums(path, remedy: str) -> str | None:
    """Refuse a file or folder that isn't as ``write_sums`` saw it; nothing without its list.

    Returns
    -------
    The checksum of a file that was compared; None for a folder, and without a list.
    """
    path = Path(path)
    try:
        lines = sums_path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    found = None
    for line in lines:
        wanted, _, name = line.partition("  ")
        file = path.parent / name
        if file != path and path not in file.parents:
            raise InputError(sums_path(path), "list", repr(line[:100]), remedy)
        found = sha256_file(file) if file.is_file() else "nothing"
        if found != wanted:
            raise InputError(
                file, "sha256", found[:12], f"{wanted[:12]} is what was written: {remedy}"
            )
    return None if path.is_dir() else found


def zip_fault(path) -> str | None:
    """What is damaged in a ZIP archive by its own checksums, or None.

    ``torch.save`` writes such archives, and ``torch.load`` doesn't compare their checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entry = archive.testzip()
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged archive raises
        return f"a damaged archive ({error})"
    return None if entry is None else f"a damaged entry, {entry}"


def write_json(path, value, sealed: bool = False) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused.

    ``sealed`` adds a checksum of a dictionary to it, which ``read_json`` verifies and takes off.
    """
    if sealed:
        value = {**value, SEAL: sha256_json(json.loads(json.dumps(value, allow_nan=False)))}
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path):
    """Read a JSON file."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, "JSON", str(error), "the file is damaged: delete it and make it again"
        ) from None
    if isinstance(value, dict) and SEAL in value:
        seal, found = value.pop(SEAL), sha256_json(value)
        if seal != found:
            remedy = (
                f"its content gives {found[:12]}: it was changed or damaged; delete it and make it"
                " again"
            )
            raise InputError(path, SEAL, str(seal)[:12], remedy)
    return value
