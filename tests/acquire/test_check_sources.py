"""What can be had from here, asked of a server of our own: a few bytes of each address, no more."""

import contextlib
import http.server
import json
import socket
import threading
import time

import pytest

import check_sources
from pairscape.acquire import probes, source_checks

SIZE = 3 * probes.FIRST_BYTES
LIMIT = 0.5


class Handler(http.server.BaseHTTPRequestHandler):
    """A file of ``SIZE`` bytes; what is wrong with it stands in its path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        kind = self.path.strip("/").partition("?")[0].split("/")[-1]
        self.server.asked.append((kind, self.headers.get("Range")))
        if kind.isdecimal():
            return self.say(int(kind), b"no")
        if kind == "hanging":
            return self.server.ended.wait(5)
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        size = {"empty": 0, "small": 100}.get(kind, SIZE)
        if kind == "cut" and first:
            return self.say(416, b"")
        if kind == "whole":
            return self.say(200, bytes(size), length=size)
        if not size:
            return self.say(200, b"", length=0)
        body = bytes(min(last, size - 1) + 1 - first)
        span = f"bytes {first}-{first + len(body) - 1}/{size}"
        length = len(body)
        if kind == "short" and not first:
            body = body[:1000]
        self.say(206, b"" if kind == "dripping" else body, {"Content-Range": span}, length)
        while kind == "dripping" and not self.server.ended.wait(0.02):
            self.wfile.write(b"x")
        return None

    def say(self, status, body, headers=None, length=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
        self.close_connection = True

    def handle(self):
        with contextlib.suppress(OSError):
            super().handle()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def running():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.ended = [], threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.ended.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def server(running, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    running.asked.clear()
    return running


def closed_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(server, kind, **more):
    return probes.probe(f"{server.url}/{kind}?token=sesame", timeout_s=LIMIT, **more)


@pytest.mark.parametrize(
    ("kind", "verdict", "found"),
    [
        ("good", "there", ""),
        ("small", "there", ""),
        ("whole", "there", "no ranges: a broken download starts anew"),
        ("404", "missing", "status 404 Not Found"),
        ("410", "missing", "status 410 Gone"),
        ("401", "refused", "status 401 Unauthorized"),
        ("403", "refused", "status 403 Forbidden"),
        ("503", "unreachable", "status 503 Service Unavailable"),
        ("empty", "truncated", "an empty file"),
        ("short", "truncated", f"an end after 1000 bytes of {SIZE}"),
        ("cut", "truncated", f"no last byte of the {SIZE} announced"),
        ("dripping", "slow", "0.00 MB/s, below 1"),
        ("hanging", "slow", "no answer in 0.5 s"),
    ],
)
def test_each_way_to_answer_has_its_verdict(server, kind, verdict, found):
    answer = ask(server, kind)
    assert (answer.verdict, answer.found) == (verdict, found)
    assert answer.url == f"{server.url}/{kind}"
    assert all(wanted for _, wanted in server.asked)  # never the whole of it


def test_no_more_than_the_beginning_and_the_last_byte_is_asked_for(server):
    answer = ask(server, "good")
    assert [r for _, r in server.asked] == [
        f"bytes=0-{probes.FIRST_BYTES - 1}",
        f"bytes={SIZE - 1}-{SIZE - 1}",
    ]
    assert answer.size == SIZE
    assert answer.rate > 0


def test_another_size_than_the_table_has_is_told(server):
    answer = ask(server, "good", size=SIZE + 1)
    assert answer.verdict == "truncated"
    assert answer.found == f"{SIZE} bytes where {SIZE + 1} are expected"
    assert ask(server, "good", size=SIZE).verdict == "there"


def test_a_rate_below_the_limit_is_slow(server, monkeypatch):
    monkeypatch.setattr(probes, "LEAST_RATE", 1e12)
    assert ask(server, "good").verdict == "slow"
    assert ask(server, "small").verdict == "there"


def test_a_mirror_is_asked_where_the_address_fails(server):
    mirrors = {f"{server.url}/404/": f"{server.url}/"}
    answer = probes.probe(f"{server.url}/404/good", mirrors, timeout_s=LIMIT)
    assert answer.verdict == "there"  # the address itself has it, too
    mirrors = {f"http://127.0.0.1:{closed_port()}/": f"{server.url}/"}
    closed = next(iter(mirrors))
    assert probes.probe(f"{closed}good", mirrors, timeout_s=LIMIT).url == f"{server.url}/good"
    answer = probes.probe(f"{closed}404", mirrors, timeout_s=LIMIT)
    assert answer.verdict == "unreachable"
    assert answer.found == "Connection refused; at " + server.url[7:] + " status 404 Not Found"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("ftp://example.org/a", "URL: another scheme"),
        ("https://me:hush@example.org/a", "URL: a user or password in it"),
        ("https://example.org/a?t=${S19_TOKEN}", "variable S19_TOKEN: nothing"),
    ],
)
def test_an_address_that_no_download_would_take_is_refused_unasked(url, found):
    answer = probes.probe(url)
    assert (answer.verdict, answer.found) == ("refused", found)
    assert "hush" not in answer.url


def file_of(name, part="bundle", url="", place="", size=""):
    asked = {"kind": "sample", "name": name, "part": part, "url": url, "bytes": size}
    return {**asked, "place": place}


def run(tmp_path, files, **options):
    table = tmp_path / "sources.tsv"
    given = json.dumps({"files": files, "timeout_s": LIMIT, **options})
    check_sources.main(["--table", str(table), "--options", given])
    return probes.SOURCES.read(table)


def test_the_table_has_every_file_and_the_console_a_line_for_each_finding(
    server, tmp_path, capsys, monkeypatch
):
    files = [
        file_of("A", url=f"{server.url}/good", size=str(SIZE)),
        file_of("A", "he_image", url=f"{server.url}/small"),
        file_of("B", url=f"{server.url}/404"),
        file_of("C", url=f"{server.url}/cut"),
        file_of("D", url=f"{server.url}/dripping"),
        file_of("E"),
        file_of("F", place="here.zip", size="5000"),
    ]
    begun = time.monotonic()
    rows = run(tmp_path, files)
    assert time.monotonic() - begun < 2 * LIMIT + 1
    assert [row["verdict"] for row in rows] == [
        *("there", "there", "missing", "truncated", "slow", "missing", "on disk")
    ]
    said = capsys.readouterr().err.splitlines()
    warned = [line.partition("warning: ")[2] for line in said if "warning: " in line]
    assert [line.split(":")[0] for line in warned] == [f"sample {x}, bundle" for x in "BCDE"]
    assert warned[-1] == "sample E, bundle: missing: no known address"
    assert warned[0] == f"sample B, bundle: missing: status 404 Not Found ({server.url}/404)"
    assert "3 of 6 samples and 0 of 0 encoders' weights can be had from here, 0.0 GB" in said[-1]


def test_gigabytes_are_those_that_are_still_to_be_fetched():
    row = dict.fromkeys(probes.SOURCES.names) | {"kind": "sample", "name": "A", "found": ""}
    rows = [row | {"verdict": verdict, "bytes": 2 * 10**9} for verdict in probes.VERDICTS]
    assert "0 of 1 samples" in source_checks.in_short(rows)
    assert "4.0 GB to fetch" in source_checks.in_short(rows)  # there and slow
    rows = [row | {"verdict": "there", "bytes": None}]
    assert "0.0 GB to fetch and 1 file(s) of unknown size" in source_checks.in_short(rows)
