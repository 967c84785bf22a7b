"""Fetching files over HTTP, without trusting the servers."""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException, responses
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from pairscape.acquire.refusals import UnavailableError
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log, progress

CHUNK = 1 << 20
TRIES = 6  # in a row at one host that bring nothing new; each that does starts the count anew
FIRST_WAIT_S = 1.0  # after the first failure; it doubles with each
TIMEOUT_S = 60  # silence after which a connection counts as broken
LONGEST_WAIT_S = 300
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
LEAST_RATE = 1024  # bytes per second over WINDOW_S; a server below it may never end
WINDOW_S = 120.0
SPACE_EVERY = 1 << 26  # bytes, after which it is looked at how much space is left
FREE_BYTES = 1 << 28  # of a disk, that no download takes: other jobs write there, too


class TryAgainError(Exception):
    """A failure that may pass: the connection or the server broke."""

    def __init__(self, what: str, wait_s: float = 0, slow: bool = False):
        self.wait_s = wait_s  # what the server asks for
        self.slow = slow  # so that what it brought is no progress
        super().__init__(what)


class PastEndError(TryAgainError):
    """The file ends before what was asked for."""


class RefusedError(Exception):
    """This host doesn't give this file; another one may."""

    def __init__(self, what: str, status: int | None = None):
        self.status = status
        super().__init__(what)


def download(
    url: str,
    path,
    *,
    by_hand: str,
    mirrors: Mapping[str, str] | None = None,
    size: int | None = None,
    checksum: str = "",
    secret_headers: Mapping[str, str] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Fetch ``url`` to ``path``; what is there of an earlier attempt is continued.

    The bytes gather in ``<path>.part``; ``<path>.part.json`` holds where they come from and the
    server's mark of the version (ETag or date), so that two versions are never spliced. ``path``
    itself is whole or absent.

    Parameters
    ----------
    url
        May hold ``${NAME}`` for a secret of the environment. What is logged has no query.
    by_hand
        What the user can do instead, for the message when it can't be fetched.
    mirrors
        Beginnings of addresses that stand for each other; see ``addresses``.
    size, checksum
        Bytes of the file and its ``sha256:...`` or ``md5:...``, where they are known.
    secret_headers
        Sent to the host of ``url`` alone: not to where it redirects, and not to mirrors.
    """
    path = Path(path)
    if path.is_file():
        return path
    check_address(url)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, mark = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.json")
    begun_at = _read_mark(mark).get("url")
    hosts = sorted(addresses(url, mirrors or {}), key=lambda host: without_query(host) != begun_at)
    said, kind = [], UnavailableError
    for address, following in itertools.zip_longest(hosts, hosts[1:]):
        shown = without_query(address)
        failures = reached = corrupt = 0
        while True:
            try:
                secret = secret_headers if address == url and secret_headers else {}
                _continue(address, part, mark, size, bool(checksum), secret)
                corrupt += 1
                _verify(part, mark, checksum, last=corrupt > 1)
                os.replace(part, path)
                mark.unlink(missing_ok=True)
                return path
            except RefusedError as error:
                said.append((shown, str(error), by_hand))
                break
            except TryAgainError as error:
                had, reached = reached, max(reached, part.stat().st_size if part.exists() else 0)
                failures = 1 if reached > had and not error.slow else failures + 1
                if failures >= TRIES:
                    remedy = f"run it again to go on from here, or {by_hand}"
                    said.append((shown, f"{error} ({TRIES} times)", remedy))
                    kind = InputError  # it may have it yet
                    break
                wait_s = max(FIRST_WAIT_S * 2 ** (failures - 1), error.wait_s)
                log.warning("%s: %s; trying again in %g s", shown, error, wait_s)
                sleep(wait_s)
        if following:
            log.warning("%s: %s; going to %s", shown, said[-1][1], urlsplit(following).netloc)
    (shown, found, remedy), others = said[0], said[1:]
    found += "".join(f"; at {urlsplit(other).netloc} {what}" for other, what, _ in others)
    raise kind(shown, "download", found, remedy)


def addresses(url: str, mirrors: Mapping[str, str]) -> list[str]:
    """The address and those that serve the same file, by the beginnings that stand for each other."""
    found = [url]
    for one, other in mirrors.items():
        for old, new in ((one, other), (other, one)):
            if url.startswith(old) and new + url.removeprefix(old) not in found:
                found.append(new + url.removeprefix(old))
    return found


def check_address(url: str) -> None:
    """Refuse what is no web address, holds a password, or asks for a secret that isn't right."""
    shown = without_query(url)
    if not re.match(r"https?://", url):
        raise InputError(shown, "URL", "another scheme", "give an http or https address")
    if "@" in urlsplit(url).netloc:
        remedy = "give a secret as ${NAME} in the query, NAME being a variable of the environment"
        raise InputError(shown, "URL", "a user or password in it", remedy)
    _with_secrets(url)


def without_query(url: str) -> str:
    """The address without query and user, where tokens and signatures stand."""
    parts = urlsplit(url)
    return parts._replace(query="", fragment="", netloc=parts.netloc.rpartition("@")[2]).geturl()


def file_name(url: str) -> str:
    """The last part of an address's path."""
    return PurePosixPath(urlsplit(url).path).name


def _with_secrets(url: str) -> str:
    def value(match):
        if not os.environ.get(match[1]):
            remedy = "set it in the environment, the address asks for it"
            raise InputError(without_query(url), f"variable {match[1]}", "nothing", remedy)
        refuse_secret(os.environ[match[1]], without_query(url), f"variable {match[1]}")
        return os.environ[match[1]]

    return re.sub(r"\$\{(\w+)\}", value, url)


def refuse_secret(value: str, file, field: str) -> None:
    """Refuse a secret that no address or header can hold, without telling it.

    The libraries below would: their messages quote what they refuse.
    """
    if not all("!" <= letter <= "~" for letter in value.removeprefix("Bearer ")):
        found = "a blank, a line's end or a letter beyond ASCII in it (it isn't shown)"
        remedy = "set it anew without, as it was given out; in an address, percent-encoded"
        raise InputError(file, field, found, remedy)


def what_failed(error: BaseException) -> str:
    """What failed, in words that can't hold an address or a header: a library's message may."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLError):
        return f"TLS: {getattr(reason, 'reason', None) or type(reason).__name__}"
    words = reason.strerror if isinstance(reason, OSError) else None
    return words or type(reason if isinstance(reason, Exception) else error).__name__


def _read_mark(mark: Path) -> dict:
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _continue(
    url: str,
    part: Path,
    mark: Path,
    size: int | None,
    verified: bool,
    secret_headers: Mapping[str, str],
) -> None:
    """One request for what is still missing; nothing where nothing is missing.

    Where the checksum is known (``verified``), the part of any host is continued.
    """
    known = _read_mark(mark)
    start = part.stat().st_size if part.exists() and known else 0
    if start and start == known.get("size"):
        return
    if not known.get("version") and not verified:
        start = 0  # of an unknown version
    headers = {}
    if start:
        headers["Range"] = f"bytes={start}-"
        if not verified:
            headers["If-Range"] = known["version"]
    try:
        response = ask(url, headers, secret_headers)
    except PastEndError:  # the file is shorter than what we have
        files.remove(part)
        raise
    with response:
        if response.status != 206:
            start = 0
        total = total_size(response, start)
        version = response.headers.get("ETag", "")
        # A weak ETag may stand for other bytes, so it can't join two halves.
        version = response.headers.get("Last-Modified") if version[:2] in ("", "W/") else version
        if start and (
            known.get("size") not in (None, total)
            or (version and not verified and version != known["version"])
        ):
            files.remove(part)
            raise TryAgainError("the file there has changed")
        if size is not None and total not in (None, size):
            raise RefusedError(f"a file of {total} bytes where {size} are expected")
        needed = (total or size or 0) - start
        if needed > shutil.disk_usage(part.parent).free - FREE_BYTES:
            raise no_space(part.parent, needed + FREE_BYTES)
        files.write_json(
            mark, {"url": without_query(url), "version": version, "size": total or size}
        )
        with open(part, "ab" if start else "wb") as handle:
            _copy(response, handle, start, total or size, part.name.removesuffix(".part"))
    got, total = part.stat().st_size, total or size
    if total is not None and got < total:
        raise TryAgainError(f"the connection ended after {got} of {total} bytes")
    if total is not None and got > total:
        files.remove(part)
        raise TryAgainError(f"more bytes came than the {total} that were announced", slow=True)


def no_space(folder, needed: int, other_way: str = "") -> InputError:
    """The refusal of what needs more bytes than a folder's disk has free."""
    remedy = f"free space and run it again{other_way}"
    return InputError(folder, "free space", f"less than {needed} bytes", remedy)


def _verify(part: Path, mark: Path, checksum: str, last: bool) -> None:
    if not checksum:
        return
    kind, _, expected = checksum.partition(":")
    with open(part, "rb") as handle:
        found = hashlib.file_digest(handle, kind).hexdigest()
    if found == expected:
        return
    files.remove(part)
    files.remove(mark)
    what = f"a file with {kind} {found} where {expected} is expected"
    if last:
        raise RefusedError(what)
    raise TryAgainError(what)


def _copy(response, handle, start: int, total: int | None, what: str) -> None:
    """Write what comes, up to a byte more than announced, as long as it comes fast enough."""
    bar = progress((), f"fetching {what}", total, "B")
    bar.unit_scale = True
    bar.update(start)
    place, window, came = Path(handle.name).parent, time.monotonic(), 0
    left = math.inf if total is None else total - start + 1
    try:
        # What is there at once, so that drops of bytes are seen as such.
        while left and (chunk := response.read1(min(CHUNK, left) if total else CHUNK)):
            handle.write(chunk)
            bar.update(len(chunk))
            left, came = left - len(chunk), came + len(chunk)
            if came % SPACE_EVERY < len(chunk) and shutil.disk_usage(place).free < FREE_BYTES:
                raise no_space(place, FREE_BYTES)
            passed = time.monotonic() - window
            if passed > WINDOW_S:
                if came < LEAST_RATE * passed:
                    raise TryAgainError(f"only {came} bytes in {passed:.0f} s", slow=True)
                window, came = time.monotonic(), 0
    except (TimeoutError, ConnectionError, ssl.SSLError, HTTPException) as error:
        # IncompleteRead carries what had come before the break.
        handle.write(getattr(error, "partial", b"") or b"")
        raise TryAgainError(f"the connection broke ({type(error).__name__})") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise no_space(place, FREE_BYTES) from None
        raise
    finally:
        bar.close()
        with contextlib.suppress(OSError):
            handle.flush()
            os.fsync(handle.fileno())


def ask(
    url: str,
    headers: Mapping[str, str],
    secret_headers: Mapping[str, str],
    timeout_s: float = TIMEOUT_S,
    body: bytes | None = None,
):
    """The answer to one request, still open; raises ``TryAgainError`` or ``RefusedError``."""
    headers = {"User-Agent": "pairscape", "Accept-Encoding": "identity", **headers}
    try:
        request = urllib.request.Request(_with_secrets(url), body, headers)
        for name, value in secret_headers.items():
            refuse_secret(value, without_query(url), f"secret in the header {name}")
            request.add_unredirected_header(name, value)
        return urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise PastEndError("the file there has changed") from None
        said = f"status {error.code} {responses.get(error.code, '')}".strip()
        if error.code in RETRY_STATUS:
            asked = error.headers.get("Retry-After", "")
            wait_s = min(int(asked), LONGEST_WAIT_S) if asked.isdecimal() else 0
            raise TryAgainError(said, wait_s) from None
        raise RefusedError(said, error.code) from None
    except (OSError, HTTPException) as error:
        raise TryAgainError(what_failed(error)) from None
    except ValueError as error:
        raise RefusedError(f"an address that can't be asked ({type(error).__name__})") from None


def total_size(response, start: int) -> int | None:
    """Bytes of the whole file, if the server says so."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if not match or int(match[1]) != start:
            raise TryAgainError("the server sent another range than asked for")
        return int(match[2])
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None
