"""The upload, against a hub of our own on this machine: what goes up, and that no token is told."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from small_pairs import export_sample
from test_describe_dataset import describe

import push_dataset
from pairscape.core.errors import InputError

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + "notarealtoken" * 2


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub as an upload asks for; every file is taken with the commit itself."""

    files, tokens, status = {}, set(), 200

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        Hub.tokens.add(self.headers.get("Authorization"))
        path = self.path.split("?")[0]
        if Hub.status != 200:
            self.answer({"error": f"refused for {TOKEN}"}, Hub.status)
        elif path.endswith("/repos/create"):
            Hub.files["create"] = json.loads(body)
            self.answer({"url": f"http://{self.headers['Host']}/datasets/me/pairs"})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {"path": of["path"], "uploadMode": "regular", "shouldIgnore": False} for of in files
            ]
            self.answer({"files": modes})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    data = base64.b64decode(line["value"]["content"])
                    Hub.files[line["value"]["path"]] = data
            url = f"http://{self.headers['Host']}/datasets/me/pairs/commit/c0ffee"
            self.answer({"commitUrl": url, "commitOid": "c0ffee", "success": True})
        else:
            self.answer({})

    def do_GET(self):
        self.answer({"id": "me/pairs", "sha": "0", "siblings": []})

    def answer(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    Hub.files, Hub.tokens, Hub.status = {}, set(), 200
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("push") / "datasets"
    for sample in ("S1", "S2", "S3"):
        export_sample(folder / "tiny", sample)
    describe(folder / "tiny")
    embeddings = folder / "tiny" / "embeddings" / "images" / "uni"
    embeddings.mkdir(parents=True)
    (embeddings / "features.npy").write_bytes(b"not for the world")
    return folder


def push(datasets, hub, **options):
    """Run the program as Snakemake does; returns its status and all that it said."""
    options = {"repo": "me/pairs", "private": True, **options}
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "scripts" / "push_dataset.py"),
            "--card",
            str(datasets / "README.md"),
            "--pushed",
            str(datasets / "pushed.json"),
            "--log",
            str(datasets / "push.log"),
            "--options",
            json.dumps(options),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_ENDPOINT": hub, "HF_TOKEN": TOKEN, "NO_PROXY": "127.0.0.1"},
    )
    return done.returncode, done.stdout + done.stderr + (datasets / "push.log").read_text()


def test_cards_tables_and_named_shards_go_up_and_nothing_else(datasets, hub):
    status, said = push(datasets, hub)
    assert status == 0, said
    created = Hub.files.pop("create")
    assert created["type"] == "dataset"
    assert created.get("private") or created.get("visibility") == "private"
    expected = {
        str(path.relative_to(datasets)): path.read_bytes()
        for pattern in (
            "README.md",
            "tiny/README.md",
            "tiny/*.tsv",
            "tiny/preview.jpg",
            "tiny/data/tiny-published-layout/*.csv",
            "tiny/shards/*.arrow",
        )
        for path in datasets.glob(pattern)
    }
    assert len(expected) == 13
    assert Hub.files == expected
    pushed = json.loads((datasets / "pushed.json").read_text())
    assert (pushed["repo"], pushed["commit"]) == ("me/pairs", "c0ffee")
    assert set(pushed["configs"]) == {"tiny", "tiny-published-layout"}


def test_the_token_reaches_the_hub_and_no_log(datasets, hub):
    for Hub.status in (200, 403, 401):
        _, said = push(datasets, hub)
        assert Hub.tokens == {f"Bearer {TOKEN}"}
        assert TOKEN not in said
        assert TOKEN not in (datasets / "pushed.json").read_text()


def test_a_refusal_of_the_hub_is_told_in_one_line(datasets, hub):
    Hub.status = 403
    status, said = push(datasets, hub)
    assert status == 1
    assert "upload: found status 403; use a token that may write to this repository" in said
    assert "Traceback" not in said


def options(datasets, **changes):
    values = {"repo": "me/pairs", "private": True, **changes}
    card, pushed = str(datasets / "README.md"), str(datasets / "no.json")
    return ["--card", card, "--pushed", pushed, "--options", json.dumps(values)]


def test_without_a_repository_nothing_is_sent(datasets):
    with pytest.raises(InputError, match=r"hub\.repo: found nothing; name the repository"):
        push_dataset.main(options(datasets, repo=None))


def test_a_public_upload_needs_every_licence(datasets):
    samples = [{"sample": "S1", "license": "CC BY 4.0"}, {"sample": "S2", "license": ""}]
    with pytest.raises(InputError, match="sample S2, license: found nothing, and the repository"):
        push_dataset.main(options(datasets, private=False, samples=samples))


def test_a_shard_that_the_card_names_and_that_is_gone_is_refused(datasets):
    shard = datasets / "tiny" / "shards" / "S2.arrow"
    shard.rename(shard.with_suffix(".away"))
    with pytest.raises(InputError, match=r"data file tiny/shards/S2\.arrow: found nothing there"):
        push_dataset.main(options(datasets))
    shard.with_suffix(".away").rename(shard)
