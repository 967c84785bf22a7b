"""Whether an address gives its file, found with a few bytes of it: its beginning and its last byte."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http.client import HTTPException
from urllib.parse import urlsplit

from pairscape.acquire import downloads
from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, counts, numbers, text

TIMEOUT_S = 20.0  # of silence, and of all that an address is read for
FIRST_BYTES = 1 << 18
LEAST_RATE = 1e6  # bytes per second: 10 GB, a bundle, in three hours
THERE, ON_DISK = "there", "on disk"
MISSING, REFUSED, TRUNCATED = "missing", "refused", "truncated"
SLOW, UNREACHABLE = "slow", "unreachable"
# What a fetch can do with; the first of them is the best.
CAN_BE_HAD = (ON_DISK, THERE, SLOW)
VERDICTS = (*CAN_BE_HAD, UNREACHABLE, TRUNCATED, REFUSED, MISSING)
GONE = (404, 410)
SOURCES = Table(
    "sources.tsv",
    "check_sources",
    (
        *text(
            kind="sample, or image or gene for an encoder",
            name="the sample or encoder",
            part="bundle, he_image or he_alignment; of an encoder a file",
            verdict=f"one of {', '.join(VERDICTS)}",
            found="what was found, where it isn't all that was hoped for",
            url="the address that answered best, without its query",
        ),
        *counts(bytes="size, where it is known"),
        *numbers(rate="MB per second of the first bytes, where some came"),
    ),
)


@dataclass(frozen=True)
class Answer:
    """What became of the question for a file; ``found`` is in words, ``rate`` in bytes per second."""

    verdict: str
    found: str = ""
    url: str = ""
    size: int | None = None
    rate: float | None = None


def probe(
    url: str,
    mirrors: Mapping[str, str] | None = None,
    size: int | None = None,
    secret_headers: Mapping[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Ask an address, and where it fails its mirrors, as ``downloads.download`` would; never all of it.

    ``size`` are the bytes that the file should have. The secret goes to the host of ``url`` alone.
    """
    try:
        downloads.check_address(url)
    except InputError as error:
        return Answer(REFUSED, f"{error.field}: {error.found}", downloads.without_query(url))
    answers = []
    for address in downloads.addresses(url, mirrors or {}):
        secret = secret_headers if address == url and secret_headers else {}
        answers.append(_ask(address, size, secret, timeout_s))
        if answers[-1].verdict == THERE:
            break
    best = min(answers, key=lambda answer: VERDICTS.index(answer.verdict))
    others = [one for one in answers if one is not best and one.found != best.found]
    words = "".join(f"; at {urlsplit(one.url).netloc} {one.found}" for one in others)
    return replace(best, found=best.found + words * (best.verdict != THERE))


def _ask(url: str, size: int | None, secret: Mapping[str, str], timeout_s: float) -> Answer:
    shown, begun = downloads.without_query(url), time.monotonic()
    try:
        with downloads.ask(
            url, {"Range": f"bytes=0-{FIRST_BYTES - 1}"}, secret, timeout_s
        ) as answer:
            total, ranges = downloads.total_size(answer, 0), answer.status == 206
            came = _read(answer, begun + timeout_s)
        seconds = time.monotonic() - begun
        whole = min(total, FIRST_BYTES) if total is not None else came
        rate = came / seconds
        told = {"url": shown, "size": total, "rate": rate}
        if size is not None and total not in (None, size):
            return Answer(TRUNCATED, f"{total} bytes where {size} are expected", **told)
        if came < whole and seconds < timeout_s:
            return Answer(TRUNCATED, f"an end after {came} bytes of {total}", **told)
        if total == 0:
            return Answer(TRUNCATED, "an empty file", **told)
        if ranges and not _has_end(url, total, secret, timeout_s):
            return Answer(TRUNCATED, f"no last byte of the {total} announced", **told)
    except downloads.PastEndError:
        return Answer(TRUNCATED, "an empty file", shown)
    except downloads.RefusedError as error:
        return Answer(MISSING if error.status in GONE else REFUSED, str(error), shown)
    except (downloads.TryAgainError, OSError) as error:
        found = str(error) if isinstance(error, downloads.TryAgainError) else type(error).__name__
        if time.monotonic() - begun >= timeout_s:
            return Answer(SLOW, f"no answer in {timeout_s:g} s", shown)
        return Answer(UNREACHABLE, found, shown)
    if came < whole or (came == FIRST_BYTES and rate < LEAST_RATE):
        return Answer(SLOW, f"{rate / 1e6:.2f} MB/s, below {LEAST_RATE / 1e6:g}", **told)
    return Answer(THERE, "" if ranges else "no ranges: a broken download starts anew", **told)


def _read(answer, until: float) -> int:
    """How many of the first bytes come before a time."""
    came = 0
    while came < FIRST_BYTES and time.monotonic() < until:
        try:
            chunk = answer.read1(FIRST_BYTES - came)
        except (OSError, HTTPException):
            break
        if not chunk:
            break
        came += len(chunk)
    return came


def _has_end(url: str, total: int, secret: Mapping[str, str], timeout_s: float) -> bool:
    """Whether the last byte that was announced is there."""
    try:
        header = {"Range": f"bytes={total - 1}-{total - 1}"}
        with downloads.ask(url, header, secret, timeout_s) as answer:
            return downloads.total_size(answer, total - 1) == total and len(answer.read(2)) == 1
    except (downloads.PastEndError, HTTPException):
        return False
