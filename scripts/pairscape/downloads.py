"""Fetching files over HTTP, and unpacking archives, without trusting either."""

import json
import os
import re
import shutil
import ssl
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from pairscape import files
from pairscape.errors import InputError
from pairscape.program import log, progress

CHUNK = 1 << 20
TRIES = 6
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
MAX_EXPANSION = 50  # unpacked over packed bytes; images and tables in bundles stay far below


class _TryAgainError(Exception):
    """A failure that may pass: the connection or the server broke."""


def download(
    url: str,
    path,
    *,
    by_hand: str,
    tries: int = TRIES,
    timeout_s: float = 60,
    first_wait_s: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch ``url`` to ``path``; what is there of an earlier attempt is continued.

    The bytes gather in ``<path>.part``; ``<path>.part.json`` holds the server's mark of the version
    (ETag or date), so that two versions are never spliced. ``path`` itself is whole or absent.

    Parameters
    ----------
    by_hand
        What the user can do instead, for the message when it can't be fetched.
    tries
        Attempts in a row that bring no byte; each that brings some starts the count anew.
    timeout_s
        Silence after which a connection counts as broken.
    first_wait_s
        Pause after the first failure; it doubles with each.

    Raises
    ------
    InputError
        The server refuses, the size is wrong, or the tries are used up.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not re.match(r"https?://", url):
        raise InputError(url, "URL", "another scheme", "give an http or https address")
    path.parent.mkdir(parents=True, exist_ok=True)
    part, mark = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    failures = 0
    while True:
        had = part.stat().st_size if part.exists() else 0
        try:
            _continue(url, part, mark, timeout_s, by_hand)
            break
        except _TryAgainError as error:
            grew = part.exists() and part.stat().st_size > had
            failures = 1 if grew else failures + 1
            if failures >= tries:
                remedy = f"run it again to go on from here, or {by_hand}"
                raise InputError(url, "download", f"{error} ({tries} times)", remedy) from None
            wait_s = first_wait_s * 2 ** (failures - 1)
            log.warning("%s: %s; trying again in %g s", url, error, wait_s)
            sleep(wait_s)
    os.replace(part, path)
    mark.unlink(missing_ok=True)
    return path


def _continue(url: str, part: Path, mark: Path, timeout_s: float, by_hand: str) -> None:
    """One request for what is still missing."""
    start = part.stat().st_size if part.exists() else 0
    version = json.loads(mark.read_text()) if start and mark.exists() else None
    if not version:
        start = 0  # of an unknown version
    headers = {"User-Agent": "pairscape", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file is shorter than what we have
            files.remove(part)
            raise _TryAgainError("the file there has changed") from None
        if error.code in RETRY_STATUS:
            raise _TryAgainError(f"status {error.code} {error.reason}") from None
        raise InputError(url, "answer", f"status {error.code} {error.reason}", by_hand) from None
    except (OSError, HTTPException) as error:
        raise _TryAgainError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with response:
        if response.status != 206:
            start = 0
        total = _total_size(response, start)
        needed = (total or 0) - start
        if needed > shutil.disk_usage(part.parent).free:
            raise InputError(
                part.parent,
                "free space",
                f"less than {needed} bytes",
                "free space and run it again",
            )
        version = response.headers.get("ETag", "")
        # A weak ETag may stand for other bytes, so it can't join two halves.
        version = response.headers.get("Last-Modified") if version[:2] in ("", "W/") else version
        files.write_json(mark, version)
        with open(part, "ab" if start else "wb") as handle:
            _copy(response, handle, start, total, part.name.removesuffix(".part"))
    got = part.stat().st_size
    if total is not None and got < total:
        raise _TryAgainError(f"the connection ended after {got} of {total} bytes")
    if total is not None and got > total:
        files.remove(part)
        raise _TryAgainError(f"{got} bytes came where {total} were announced")


def _copy(response, handle, start: int, total: int | None, what: str) -> None:
    bar = progress((), f"fetching {what}", total, "B")
    bar.unit_scale = True
    bar.update(start)
    try:
        while chunk := response.read(CHUNK):
            handle.write(chunk)
            bar.update(len(chunk))
    except (TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as error:
        # IncompleteRead carries what had come before the break.
        handle.write(getattr(error, "partial", b"") or b"")
        raise _TryAgainError(f"the connection broke ({type(error).__name__})") from None
    finally:
        bar.close()


def _total_size(response, start: int) -> int | None:
    """Bytes of the whole file, if the server says so."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise _TryAgainError("the server sent another range than asked for")
        return int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def extract_bundle(archive, folder, wanted: Callable[[str], bool]) -> list[str]:
    """Unpack the bundle of a zip into ``folder``.

    The bundle's root is where ``experiment.xenium`` lies, so a top folder is stripped.

    Parameters
    ----------
    wanted
        Tells for a path below the root whether it is needed; other members are left out.

    Returns
    -------
    The paths made, relative to ``folder``.

    Raises
    ------
    InputError
        It isn't a zip, is damaged, holds no bundle or several, a path leaves the folder, a member
        is a link, encrypted or there twice, or it is out of proportion to the archive or the disk.
    """
    archive, folder = Path(archive), Path(folder)
    again = "delete it and fetch it again"
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            for member in members:
                _refuse_unsafe(archive, member)
            roots = [
                PurePosixPath(member.filename).parent
                for member in members
                if PurePosixPath(member.filename).name == "experiment.xenium"
            ]
            if len(roots) != 1:
                found = "no" if not roots else f"{len(roots)} times"
                raise InputError(
                    archive, "experiment.xenium", found, "use the archive of one Xenium bundle"
                )
            chosen = {}
            for member in members:
                path = PurePosixPath(member.filename)
                if not path.is_relative_to(roots[0]):
                    continue
                name = str(path.relative_to(roots[0]))
                if not wanted(name):
                    continue
                if name in chosen:
                    raise InputError(archive, name, "it twice", again)
                chosen[name] = member
            size = sum(member.file_size for member in chosen.values())
            if size > MAX_EXPANSION * archive.stat().st_size + CHUNK:
                raise InputError(
                    archive, "size", f"{size} bytes unpacked", "don't trust it: get it elsewhere"
                )
            folder.mkdir(parents=True, exist_ok=True)
            if size > shutil.disk_usage(folder).free:
                raise InputError(
                    folder, "free space", f"less than {size} bytes", "free space and run it again"
                )
            for name, member in progress(chosen.items(), "unpacking", len(chosen), "file"):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, open(target, "xb") as handle:
                    shutil.copyfileobj(source, handle, CHUNK)
            return sorted(chosen)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError) as error:
        raise InputError(archive, "zip", str(error), again) from None
    except zipfile.zlib.error as error:
        raise InputError(archive, "zip", str(error), again) from None


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    path, remedy = PurePosixPath(member.filename), "don't trust it: get it elsewhere"
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
        raise InputError(archive, member.filename, "a path that leaves the folder", remedy)
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise InputError(archive, member.filename, "a link or device", remedy)
    if member.flag_bits & 1:
        raise InputError(archive, member.filename, "an encrypted file", remedy)
