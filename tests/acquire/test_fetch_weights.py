"""Fetching weights, against a Hub and a file server of our own: what is taken, kept and refused."""

import functools
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from test_fetch_bundle import Handler

import fetch_weights
from pairscape.acquire import source_checks, weight_downloads
from pairscape.core.errors import InputError
from pairscape.encoders import specs

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "config" / "encoders"
TOKEN = "hf_" + "notarealtoken" * 2
COMMIT = "c0ffee" * 6 + "c0ff"
CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as a download asks for; large files are redirected to the file server."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if self.server.faults:
            return self.answer(self.server.faults.pop(0))
        if self.server.refusal:
            status, code = self.server.refusal
            said = {"X-Error-Code": code, "X-Error-Message": f"not for {TOKEN}"}
            return self.answer(status, said if code else {}, f"no {TOKEN}".encode())
        path, facts = self.path.split("?")[0], {"X-Repo-Commit": COMMIT}
        name = path.rpartition("/")[2]
        if name in self.server.small:
            return self.answer(200, facts | {"ETag": '"0123"'}, self.server.small[name])
        if name not in self.server.large:
            return self.answer(404, {"X-Error-Code": "EntryNotFound"})
        facts["X-Linked-Size"] = str(len(CONTENT))
        facts["X-Linked-Etag"] = f'"{self.server.large[name]}"'
        facts["Location"] = f"{self.server.bytes_at}/{name}?signature=sesame"
        return self.answer(302, facts)

    do_GET = do_HEAD

    def answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


class Files(Handler):
    """The file server; it must never see the token."""

    def do_GET(self):
        assert self.headers.get("Authorization") is None
        super().do_GET()


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.requests, server.faults = [], []
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    return server


@pytest.fixture
def server():
    with serve(Files) as server:
        server.files, server.ranges = {"/model.bin": CONTENT}, True
        server.new_tags = server.careless = False
        yield server
        server.shutdown()


@pytest.fixture
def hub(server, monkeypatch):
    with serve(Hub) as hub:
        hub.large, hub.small = {"model.bin": SHA256}, {"vocabulary.json": b"{}"}
        hub.refusal, hub.bytes_at = None, server.url
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        hub.shutdown()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No waiting between tries (what would be waited is listed), no proxy before the servers."""
    monkeypatch.setenv("no_proxy", "*")
    seconds = []
    patient = functools.partial(weight_downloads.fetch, sleep=seconds.append)
    monkeypatch.setattr(weight_downloads, "fetch", patient)
    return seconds


def declared(source, location, **weights):
    spec = specs.read_encoder(CONFIG, "image", "uni")
    spec["weights"] = {
        "source": source,
        "location": location,
        "file": "model.bin",
        "extra_files": [],
        "sha256": None,
        "layout": "same",
        "gated": False,
        "licence": "CC-BY-NC-ND-4.0",
        **weights,
    }
    return {**spec, "built": True}


def flags(folder, spec, file="model.bin"):
    options = {"kind": "image", "name": "uni", "encoder": spec}
    return ["--weights", str(folder / file), "--options", json.dumps(options)]


def fetch(folder, spec, file="model.bin"):
    fetch_weights.main(flags(folder, spec, file))
    return json.loads((folder / f"{file}.source.json").read_text())


def refusal(folder, spec, file="model.bin") -> str:
    with pytest.raises(InputError) as error:
        fetch_weights.main(flags(folder, spec, file))
    assert "\n" not in str(error.value)
    assert TOKEN not in str(error.value)
    return str(error.value)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_of_the_hub_comes_whole_with_its_commit_and_checksum(tmp_path, hub):
    record = fetch(tmp_path, declared("huggingface", "lab/uni"))
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert names(tmp_path) == ["model.bin", "model.bin.source.json"]
    assert record["sha256"] == SHA256
    assert record["revision"] == COMMIT
    assert record["from"] == f"{hub.url}/lab/uni/resolve/{COMMIT}/model.bin"
    assert record["verified_by"] == "the Hub"
    assert record["licence"] == "CC-BY-NC-ND-4.0"
    assert record["bytes"] == len(CONTENT)
    assert {token for *_, token in hub.requests} == {f"Bearer {TOKEN}"}
    assert "/lab/uni/resolve/main/" in hub.requests[0][1]


def test_the_declared_revision_is_asked_for(tmp_path, hub):
    fetch(tmp_path, declared("huggingface", "lab/uni", revision="v1.0"))
    assert "/lab/uni/resolve/v1.0/" in hub.requests[0][1]


def test_extra_files_come_from_the_same_place_or_their_own(tmp_path, hub, server):
    server.files["/elsewhere/means.npy"] = b"means"
    server.files["/elsewhere/other.tsv"] = b"other"
    spec = declared(
        "huggingface",
        "lab/uni",
        extra_files=["vocabulary.json", "means.npy"],
        extra_sources={
            "means.npy": {
                "source": "url",
                "location": f"{server.url}/elsewhere/",
                "sha256": hashlib.sha256(b"means").hexdigest(),
            }
        },
    )
    assert fetch(tmp_path, spec, "vocabulary.json")["revision"] == COMMIT
    assert fetch(tmp_path, spec, "means.npy")["verified_by"] == "the encoder's file"
    assert (tmp_path / "vocabulary.json").read_bytes() == b"{}"
    assert (tmp_path / "means.npy").read_bytes() == b"means"
    beside = declared("url", f"{server.url}/elsewhere/means.npy", extra_files=["other.tsv"])
    fetch(tmp_path, beside, "other.tsv")
    assert (tmp_path / "other.tsv").read_bytes() == b"other"
    assert "no file model.pth" in refusal(tmp_path, spec, "model.pth")


def test_a_broken_transfer_goes_on_in_the_next_run(tmp_path, hub, server):
    server.faults = ["drop", *[503] * 5]
    spec = declared("huggingface", "lab/uni")
    assert "run it again to go on from here" in refusal(tmp_path, spec)
    assert "model.bin" not in names(tmp_path)
    server.requests.clear()
    fetch(tmp_path, spec)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [f"bytes={len(CONTENT) // 2}-"]


def test_a_busy_hub_is_asked_again(tmp_path, hub, waits):
    hub.faults = [503, 429]
    fetch(tmp_path, declared("huggingface", "lab/uni"))
    assert waits == [1, 2]


def test_bytes_that_arent_the_hubs_checksum_are_not_taken(tmp_path, hub, server):
    server.files["/model.bin"] = bytes(len(CONTENT))
    assert SHA256 in refusal(tmp_path, declared("huggingface", "lab/uni"))
    assert "model.bin" not in names(tmp_path)


def test_another_checksum_than_declared_is_told_before_the_bytes_come(tmp_path, hub, server):
    said = refusal(tmp_path, declared("huggingface", "lab/uni", sha256="0" * 64))
    assert SHA256 in said
    assert "weights.sha256" in said
    assert not server.requests


@pytest.mark.parametrize("token", [TOKEN, ""])
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_names_licence_and_page(tmp_path, hub, monkeypatch, token, status):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
    hub.refusal = (status, "GatedRepo")
    said = refusal(tmp_path, declared("huggingface", "lab/uni", gated=True))
    assert "CC-BY-NC-ND-4.0" in said
    assert f"ask for access at {hub.url}/lab/uni" in said
    assert "HF_TOKEN" in said
    assert ("isn't allowed" if token else "wasn't given") in said


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ((404, "RepoNotFound"), "repository: found status 404; correct weights.location"),
        ((404, "EntryNotFound"), "model.bin: found no such file"),
        ((404, "RevisionNotFound"), "revision: found no v9"),
        ((500, ""), "download: found status 500; run it where there is a network"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(tmp_path, hub, refused, said):
    hub.refusal = refused
    assert said in refusal(tmp_path, declared("huggingface", "lab/uni", revision="v9"))


def test_no_network_is_one_line_that_names_the_login_node(tmp_path, hub, monkeypatch, waits):
    hub.shutdown()
    hub.server_close()
    said = refusal(tmp_path, declared("huggingface", "lab/uni"))
    assert "such as a login node" in said
    assert waits == [1, 2, 4, 8, 16]


@pytest.mark.parametrize("refused", [None, (403, "GatedRepo"), (500, "")])
def test_the_token_and_signatures_are_in_no_log(tmp_path, hub, server, refused):
    hub.refusal = refused
    if refused and refused[0] == 500:
        hub.refusal, server.files = None, {}
    command = [sys.executable, str(ROOT / "scripts" / "fetch_weights.py")]
    done = subprocess.run(
        [
            *command,
            *flags(tmp_path, declared("huggingface", "lab/uni")),
            "--log",
            str(tmp_path / "l"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == (1 if refused else 0), done.stderr
    kept = "".join(
        path.read_text() for path in tmp_path.iterdir() if path.suffix in (".json", "") or refused
    )
    said = done.stdout + done.stderr + kept
    assert said
    assert TOKEN not in said
    assert "sesame" not in said
    assert "Traceback" not in said


def test_a_url_is_fetched_and_checked(tmp_path, server):
    location = f"{server.url}/model.bin?key=sesame"
    record = fetch(tmp_path, declared("url", location, sha256=SHA256))
    assert record["verified_by"] == "the encoder's file"
    assert "sesame" not in json.dumps(record["from"])
    other = tmp_path / "other"
    assert SHA256 in refusal(other, declared("url", location, sha256="0" * 64))
    assert "model.bin" not in names(other)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
        (b"", "an empty file"),
    ],
)
def test_a_page_in_place_of_the_file_is_refused(tmp_path, server, content, said):
    server.files["/model.bin"] = content
    spec = declared("url", f"{server.url}/model.bin")
    assert said in refusal(tmp_path / "fetched", spec)
    assert names(tmp_path / "fetched") == []
    (tmp_path / "model.bin").write_bytes(content)
    assert said in refusal(tmp_path, spec)
    assert (tmp_path / "model.bin").read_bytes() == content


def test_a_file_on_this_machine_is_copied(tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "model.bin").write_bytes(CONTENT)
    for location in (tmp_path / "given", tmp_path / "given" / "model.bin"):
        folder = tmp_path / f"to_{location.name}"
        record = fetch(folder, declared("path", str(location), sha256=SHA256))
        assert record["from"] == str(tmp_path / "given" / "model.bin")
        assert (folder / "model.bin").read_bytes() == CONTENT
    assert (tmp_path / "given" / "model.bin").read_bytes() == CONTENT
    said = refusal(tmp_path / "x", declared("path", str(tmp_path / "nowhere")))
    assert "weights.location: found no file" in said


def test_what_is_given_out_by_hand_is_asked_for_and_then_taken(tmp_path):
    spec = declared("path", "https://lab.example/model", gated=True)
    said = refusal(tmp_path, spec)
    assert "CC-BY-NC-ND-4.0" in said
    assert "https://lab.example/model" in said
    assert str(tmp_path / "model.bin") in said
    (tmp_path / "model.bin").write_bytes(CONTENT)
    for _ in range(2):
        record = fetch(tmp_path, spec)
        assert record["from"] == "put there by hand"
        assert record["sha256"] == SHA256
        assert record["verified_by"] is None
    spec["weights"]["sha256"] = SHA256
    assert fetch(tmp_path, spec)["verified_by"] == "the encoder's file"


def test_a_file_put_there_is_kept_whatever_its_checksum(tmp_path, hub):
    (tmp_path / "model.bin").write_bytes(b"mine")
    said = refusal(tmp_path, declared("huggingface", "lab/uni", sha256=SHA256))
    assert SHA256 in said
    assert (tmp_path / "model.bin").read_bytes() == b"mine"
    assert not hub.requests


def test_a_fetched_file_is_kept_until_another_one_has_come(tmp_path, hub, server):
    spec = declared("huggingface", "lab/uni")
    fetch(tmp_path, spec)
    hub.requests.clear()
    fetch(tmp_path, spec)
    assert not hub.requests  # nothing asked for what is there

    newer = b"newer" * 1000
    later = declared("huggingface", "lab/uni", sha256=hashlib.sha256(newer).hexdigest())
    hub.refusal = (403, "GatedRepo")
    refusal(tmp_path, later)
    assert (tmp_path / "model.bin").read_bytes() == CONTENT
    assert json.loads((tmp_path / "model.bin.source.json").read_text())["sha256"] == SHA256
    server.files["/newer.bin"] = newer
    moved = declared("url", f"{server.url}/newer.bin", sha256=hashlib.sha256(newer).hexdigest())
    fetch(tmp_path, moved)
    assert (tmp_path / "model.bin").read_bytes() == newer
    assert names(tmp_path) == ["model.bin", "model.bin.source.json"]


def test_a_file_that_changed_since_it_was_fetched_is_told_and_kept(tmp_path, hub):
    spec = declared("huggingface", "lab/uni")
    fetch(tmp_path, spec)
    (tmp_path / "model.bin").write_bytes(b"cut off")
    assert "in its record" in refusal(tmp_path, spec)
    assert (tmp_path / "model.bin").read_bytes() == b"cut off"
    (tmp_path / "model.bin.source.json").unlink()
    assert fetch(tmp_path, spec)["from"] == "put there by hand"


def test_what_needs_no_fetching_or_cant_be_built_is_told(tmp_path):
    package = specs.read_encoder(CONFIG, "image", "tf_efficientnet_lite0")
    assert "nothing to fetch" in refusal(tmp_path, package)
    spec = declared("url", "https://lab.example/model.bin")
    assert "not built yet" in refusal(tmp_path, {**spec, "built": False})


def asked_of(spec, file="model.bin"):
    """What check_sources asks of a file of an encoder, and its answer."""
    asked = {"kind": "image", "name": "uni", "part": file, "url": "", "bytes": "", "place": ""}
    return source_checks.check({**asked, "encoder": spec}, {}, timeout_s=2)


def test_weights_at_the_hub_are_asked_for_with_a_few_bytes(hub, server):
    row = asked_of(declared("huggingface", "owner/model"))
    assert (row["verdict"], row["bytes"], row["found"]) == ("there", len(CONTENT), "")
    assert TOKEN not in str(row)
    assert "sesame" not in str(row)


@pytest.mark.parametrize(
    ("status", "code", "verdict", "told"),
    [
        (403, "GatedRepo", "refused", "licence: "),
        (401, None, "refused", "status 401"),
        (404, "EntryNotFound", "refused", "no such file"),
        (500, None, "unreachable", "run it where there is a network"),
    ],
)
def test_what_the_hub_refuses_is_told_with_what_to_do(hub, status, code, verdict, told):
    hub.refusal = (status, code)
    row = asked_of(declared("huggingface", "owner/model"))
    assert row["verdict"] == verdict
    assert told in row["found"]
    assert TOKEN not in str(row)


def test_weights_that_are_given_out_by_hand_are_missing_until_they_are_there(server):
    row = asked_of(declared("local", "https://example.org/page"))
    assert row["verdict"] == "missing"
    assert "given out by hand: get model.bin from https://example.org/page" in row["found"]
