"""Fetching the released data set, against a Hub of our own, and importing what came."""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import test_import_pairs as released
from test_fetch_weights import COMMIT, TOKEN, Files, Hub, serve

import fetch_hosted
from pairscape.acquire import hosted_pairs
from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards

ROOT = Path(__file__).parents[2]
PANEL = "human-lung-healthy-panel"
NAMES = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]


class DataHub(Hub):
    """The Hub, with the list of a data set's files as `dataset_info(files_metadata=True)` asks it."""

    def do_HEAD(self):
        path = self.path.split("?")[0]
        if not path.startswith("/api/datasets/") or self.server.faults or self.server.refusal:
            return super().do_HEAD()
        self.server.requests.append((self.command, self.path, self.headers.get("Authorization")))
        body = json.dumps({"id": "lab/pairs", "sha": COMMIT, "siblings": self.server.siblings})
        return self.answer(200, {"Content-Type": "application/json"}, body.encode())

    do_GET = do_HEAD


def sibling(path: str, content: bytes) -> dict:
    """A file in the Hub's list: its size, and of large ones the SHA-256."""
    lfs = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return {"rfilename": path, "size": len(content), "blobId": "0", "lfs": lfs}


@pytest.fixture
def server():
    with serve(Files) as server:
        server.files, server.ranges = {}, True
        server.new_tags = server.careless = False
        yield server
        server.shutdown()


@pytest.fixture
def hub(server, monkeypatch, tmp_path):
    """A Hub with two shards of one panel, one of another, and a card."""
    rows = list(released.hosted_rows())
    for name, part in zip(NAMES, (rows[:9], rows[9:]), strict=True):
        released.hosted(part).to_parquet(tmp_path / name)
        server.files[f"/{name}"] = (tmp_path / name).read_bytes()
        (tmp_path / name).unlink()
    with serve(DataHub) as hub:
        hub.siblings = [sibling(f"{PANEL}/{name}", server.files[f"/{name}"]) for name in NAMES]
        hub.siblings += [sibling("human-5k-panel/train-00000.parquet", b"other")]
        hub.siblings += [{"rfilename": "README.md", "size": 3, "blobId": "1"}]
        hub.large = {
            Path(one["rfilename"]).name: one.get("lfs", {}).get("sha256") for one in hub.siblings
        }
        hub.small, hub.refusal, hub.bytes_at = {}, None, server.url
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub
        hub.shutdown()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No waiting between tries, no proxy before the servers."""
    monkeypatch.setenv("no_proxy", "*")
    seconds = []
    patient = functools.partial(hosted_pairs.fetch, sleep=seconds.append)
    monkeypatch.setattr(hosted_pairs, "fetch", patient)
    return seconds


def flags(folder, **options):
    values = {"repo": "lab/pairs", "revision": "main", "panel": PANEL, **options}
    place = [f"--folder={folder / 'hosted'}", f"--receipt={folder / 'hosted.json'}"]
    return [*place, "--options", json.dumps(values)]


def fetch(folder, **options) -> dict:
    fetch_hosted.main(flags(folder, **options))
    return json.loads((folder / "hosted.json").read_text())


def refusal(folder, **options) -> str:
    with pytest.raises(InputError) as error:
        fetch_hosted.main(flags(folder, **options))
    said = str(error.value)
    assert "\n" not in said
    assert TOKEN not in said
    assert not (folder / "hosted.json").exists()
    return said


def fetched(server) -> list[str]:
    return [path.split("?")[0].strip("/") for path, _ in server.requests]


def test_a_panel_comes_whole_with_its_commit_and_is_imported(tmp_path, hub, server):
    receipt = fetch(tmp_path)
    assert receipt["commit"] == COMMIT
    assert sorted(path.name for path in (tmp_path / "hosted").iterdir()) == NAMES
    for name in NAMES:
        content = server.files[f"/{name}"]
        assert (tmp_path / "hosted" / name).read_bytes() == content
        assert receipt["files"][name]["sha256"] == hashlib.sha256(content).hexdigest()
    asked = [path for _, path, _ in hub.requests]
    assert asked[0].startswith("/api/datasets/lab/pairs/revision/main")
    assert all(f"/datasets/lab/pairs/resolve/{COMMIT}/{PANEL}/" in path for path in asked[1:])
    assert {token for *_, token in hub.requests} == {f"Bearer {TOKEN}"}
    (tmp_path / "genes.tsv").write_text(
        "gene_symbol\tgene_id\n" + "".join(f"{gene}\tENSG{gene}\n" for gene in released.GENES)
    )
    table = pair_shards.read_shard_table(released.run(tmp_path)).to_pylist()
    wanted = [row for row in released.hosted_rows() if released.NAMES[row["name"]] == "S1"]
    assert [row["image"]["bytes"] for row in table] == [row["image"]["bytes"] for row in wanted]


def test_what_is_there_is_verified_and_the_rest_goes_on_where_it_broke(tmp_path, hub, server):
    content = server.files.pop(f"/{NAMES[1]}")
    assert "status 404" in refusal(tmp_path)
    server.requests.clear()
    server.files[f"/{NAMES[1]}"] = content
    server.faults = ["drop", *[503] * 5]
    assert "run it again to go on from here" in refusal(tmp_path)
    fetch(tmp_path)
    assert set(fetched(server)) == {NAMES[1]}  # never again the first
    assert server.requests[-1][1] == f"bytes={len(content) // 2}-"
    assert (tmp_path / "hosted" / NAMES[1]).read_bytes() == content


@pytest.mark.parametrize("fault", ["other bytes", "truncate"])
def test_bytes_that_arent_the_hubs_are_not_taken(tmp_path, hub, server, fault):
    server.faults = [fault] * 9
    refusal(tmp_path)
    assert not list((tmp_path / "hosted").glob("*.parquet"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (NAMES[0], "content: found other bytes than"),
        ("mine.arrow", "file: found what http"),
    ],
)
def test_a_file_of_the_users_in_the_folder_is_refused_and_kept(tmp_path, hub, name, told):
    (tmp_path / "hosted").mkdir()
    (tmp_path / "hosted" / name).write_bytes(b"mine")
    assert told in refusal(tmp_path)
    assert (tmp_path / "hosted" / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ((404, "RepoNotFound"), "repository: found status 404; correct hosted.repo"),
        ((404, "RevisionNotFound"), "hosted.revision: found no main; correct hosted.revision"),
        (
            (403, "GatedRepo"),
            "access: found a gated repository (status 403), and a token that isn't",
        ),
        ((500, ""), "download: found status 500; run it where there is a network"),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(tmp_path, hub, refused, said):
    hub.refusal = refused
    assert said in refusal(tmp_path)


def test_files_that_the_token_may_not_read_and_another_panel_are_one_line(tmp_path, hub):
    hub.large = {}
    said = refusal(tmp_path)
    assert f"ask for access at {hub.url}/datasets/lab/pairs and set HF_TOKEN" in said
    assert f"its folder {PANEL} and name that in published_data" in said
    said = refusal(tmp_path, panel="human-skin-panel")
    assert "panel human-skin-panel: found no Arrow or Parquet file in a folder of that name" in said
    assert f"'{PANEL}'" in said


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path, hub, server):
    hub.siblings[0]["size"] = 10**18
    assert "free space: found less than 1000000" in refusal(tmp_path)
    assert not server.requests


def test_the_token_is_in_no_log_record_or_receipt(tmp_path, hub):
    done = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts" / "fetch_hosted.py")),
            *(*flags(tmp_path), "--log", str(tmp_path / "fetch.log")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stderr
    kept = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {"fetch.log", "hosted.json"} < {path.name for path in kept}  # and the job's record
    said = done.stdout + done.stderr + "".join(path.read_text() for path in kept)
    assert "2 files of" in said
    assert TOKEN not in said
    assert "sesame" not in said
