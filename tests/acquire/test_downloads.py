"""Servers that never end, disks that fill, secrets that a library would quote."""

import email.message
import http.client
import io
import logging
import ssl
import urllib.error
import urllib.request

import pytest

from pairscape.acquire import downloads
from pairscape.core.errors import InputError

URL = "https://example.org/a.zip?token=${S1_TOKEN}"


class Response:
    """An answer that is read in ``pieces``, with or without its length announced."""

    def __init__(self, pieces, length=None):
        self.pieces, self.status, self.given = iter(pieces), 200, 0
        self.headers = {} if length is None else {"Content-Length": str(length)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def read1(self, size):
        piece = next(self.pieces, b"")[:size]
        self.given += len(piece)
        return piece


def fetch(tmp_path, monkeypatch, answer, url="https://example.org/a.zip", **options):
    """Download with ``answer()`` in the place of the network; the answers that were given."""
    given = []

    def urlopen(request, timeout):
        given.append(answer())
        return given[-1]

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    options = {"by_hand": "get it by hand", "sleep": lambda _: None} | options
    try:
        downloads.download(url, tmp_path / "a.zip", **options)
    finally:
        fetch.given = given
    return given


def forever(piece):
    while True:
        yield piece


def test_a_server_without_length_is_stopped_at_the_known_size(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="more bytes came than the 1000 that were announced"):
        fetch(tmp_path, monkeypatch, lambda: Response(forever(b"x" * 65536)), size=1000)
    assert len(fetch.given) == downloads.TRIES
    assert all(response.given == 1001 for response in fetch.given)
    assert list(tmp_path.glob("a.zip")) == []
    whole = fetch(tmp_path, monkeypatch, lambda: Response([b"x" * 600, b"y" * 400]), size=1000)
    assert len(whole) == 1
    assert (tmp_path / "a.zip").stat().st_size == 1000


def test_a_server_without_any_size_leaves_the_disk_its_floor(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "SPACE_EVERY", 1 << 16)
    free = iter([10**12, 10**12, 10**12, *[downloads.FREE_BYTES - 1] * 5])
    usage = lambda _: type("Usage", (), {"free": next(free)})  # noqa: E731
    monkeypatch.setattr(downloads.shutil, "disk_usage", usage)
    with pytest.raises(InputError, match="free space: found less than"):
        fetch(tmp_path, monkeypatch, lambda: Response(forever(b"x" * 65536)))
    assert fetch.given[0].given < 1 << 20
    assert list(tmp_path.glob("a.zip")) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full():
        raise OSError(28, "No space left on device")
        yield

    with pytest.raises(InputError, match="free space: found less than"):
        fetch(tmp_path, monkeypatch, lambda: Response(full()))


def test_a_server_that_drips_is_given_up(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(downloads.time, "monotonic", lambda: float(next(clock)))
    with pytest.raises(InputError, match=r"only \d+ bytes in 121 s \(6 times\)"):
        fetch(tmp_path, monkeypatch, lambda: Response(forever(b"x")), size=10**9)
    assert len(fetch.given) == downloads.TRIES
    monkeypatch.setattr(downloads, "LEAST_RATE", 0.5)
    pieces = [b"x"] * 1000
    fetch(tmp_path, monkeypatch, lambda: Response(pieces), size=1000)
    assert (tmp_path / "a.zip").stat().st_size == 1000


@pytest.mark.parametrize("secret", ["hu sh", "hush\r", "hush\n", "h\u00fcsh", "hush\t", "hush\x7f"])
@pytest.mark.parametrize("where", ["address", "header"])
def test_a_secret_that_nothing_can_hold_is_refused_and_not_told(
    tmp_path, monkeypatch, secret, where
):
    headers = {"Authorization": f"Bearer {secret}"} if where == "header" else None
    monkeypatch.setenv("S1_TOKEN", secret if where == "address" else "fine")
    with pytest.raises(InputError) as refusal:
        downloads.download(URL, tmp_path / "a.zip", by_hand="x", secret_headers=headers)
    assert "a blank, a line's end or a letter beyond ASCII in it (it isn't shown)" in str(
        refusal.value
    )
    assert secret.strip() not in str(refusal.value)
    assert ("variable S1_TOKEN" in str(refusal.value)) == (where == "address")


HEADERS = email.message.Message()
ERRORS = {
    "URL": http.client.InvalidURL("URL can't contain control characters. '/a.zip?token=hush'"),
    "header": ValueError("Invalid header value b'Bearer hush'"),
    "unicode": UnicodeEncodeError("ascii", "hush", 0, 1, "hush"),
    "reason": urllib.error.URLError("no host given: hush"),
    "status": urllib.error.HTTPError(
        "https://x?hush", 404, "hush", email.message.Message(), io.BytesIO()
    ),
    "retried": urllib.error.HTTPError("https://x?hush", 503, "hush", email.message.Message(), None),
    "line": http.client.BadStatusLine("hush"),
    "os": urllib.error.URLError(OSError("tunnel to hush failed")),
    "tls": urllib.error.URLError(ssl.SSLError(1, "hush")),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_no_text_of_a_library_leaves_the_program(tmp_path, monkeypatch, caplog, kind):
    """Whatever a library says of an address or a header, it may quote it."""
    monkeypatch.setenv("S1_TOKEN", "hush")
    monkeypatch.setattr(logging.getLogger("pairscape"), "propagate", True)

    def fail():
        raise ERRORS[kind]

    with pytest.raises(InputError) as refusal:
        fetch(tmp_path, monkeypatch, fail, URL)
    assert "hush" not in str(refusal.value) + caplog.text
    assert refusal.value.__cause__ is None
