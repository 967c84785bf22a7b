import functools
import gzip
import hashlib
import http.server
import io
import json
import stat
import threading
import zipfile

import pytest
import tiny_bundle

import fetch_bundle
from pairscape import downloads
from pairscape.errors import InputError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.faults`` holds what goes wrong with the next requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            return self.answer(fault, b"no")
        content = self.server.files.get(self.path)
        if content is None:
            return self.answer(404, b"")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers, status, start = {"ETag": tag, "Accept-Ranges": "bytes"}, 200, 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range") == tag and self.server.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            status = 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        body = content[start:]
        cut = len(body) // 2 if fault == "drop" else len(body)
        return self.answer(status, body, headers, cut)

    def answer(self, status, body, headers=None, cut=None):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:cut])
        if cut is not None and cut < len(body):
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.faults, server.requests, server.ranges = {}, [], [], True
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting between tries, and no proxy before the local server."""
    monkeypatch.setenv("no_proxy", "*")
    patient = downloads.download
    monkeypatch.setattr(downloads, "download", functools.partial(patient, sleep=lambda _: None))


def zip_folder(folder, top="") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, top + str(path.relative_to(folder)))
        archive.writestr(top + "morphology.ome.tif", b"a large stack that nobody reads")
        archive.writestr("__MACOSX/._experiment", b"")
    return packed.getvalue()


@pytest.fixture
def published(server, tmp_path):
    """A sample whose files the server has."""
    bundle = tiny_bundle.write_bundle(tmp_path / "origin")
    he, matrix = tiny_bundle.write_he(tmp_path)
    server.files |= {
        "/S1_outs.zip": zip_folder(bundle, "S1_outs/"),
        "/S1_he_image.ome.tif": he.read_bytes(),
        "/S1.csv": matrix.read_bytes(),
    }
    return {
        "sample": "S1",
        "landing_page": "https://example.org/S1",
        "bundle_url": server.url + "/S1_outs.zip",
        "he_image_url": server.url + "/S1_he_image.ome.tif",
        "he_alignment_url": server.url + "/S1.csv",
    }


def fetch(sample, folder):
    fetch_bundle.main([f"--bundle={folder}", "--options", json.dumps({"sample": sample})])
    return folder


def assert_whole(folder, tmp_path, server):
    for name in ("transcripts.parquet", "morphology_focus/morphology_focus_0000.ome.tif"):
        assert (folder / name).read_bytes() == (tmp_path / "origin" / name).read_bytes()
    assert (folder / "S1_he_image.ome.tif").read_bytes() == server.files["/S1_he_image.ome.tif"]
    assert (folder / "S1_he_imagealignment.csv").read_bytes() == server.files["/S1.csv"]
    assert not (folder.parent / (folder.name + ".download")).exists()
    assert not list(folder.parent.glob(".part-*"))


def test_all_of_a_sample_is_fetched_and_only_what_is_needed(published, server, tmp_path):
    folder = fetch(published, tmp_path / "bundles" / "S1")
    assert_whole(folder, tmp_path, server)
    assert not (folder / "morphology.ome.tif").exists()
    assert not (folder / "__MACOSX").exists()


@pytest.mark.parametrize("faults", [["drop"], [503, "drop", 502, "drop"], ["drop"] * 8])
def test_a_download_goes_on_where_it_broke(published, server, tmp_path, faults):
    server.faults = list(faults)
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)
    ranges = [asked for path, asked in server.requests if path == "/S1_outs.zip"]
    assert ranges[0] is None
    assert sum(asked is not None for asked in ranges) >= 1
    half = len(server.files["/S1_outs.zip"]) // 2
    assert f"bytes={half}-" in ranges


def test_a_server_without_ranges_is_asked_from_the_start(published, server, tmp_path):
    server.ranges, server.faults = False, ["drop", "drop"]
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)


def test_two_versions_of_a_file_are_never_spliced(published, server, tmp_path):
    server.faults = ["drop"]
    with pytest.raises(InputError):
        downloads.download(published["bundle_url"], tmp_path / "y.zip", by_hand="", tries=1)
    server.files["/S1_outs.zip"] = b"quite another file"
    downloads.download(published["bundle_url"], tmp_path / "y.zip", by_hand="")
    assert (tmp_path / "y.zip").read_bytes() == b"quite another file"


def test_a_rerun_goes_on_and_fetches_nothing_twice(published, server, tmp_path):
    he = server.files.pop("/S1_he_image.ome.tif")
    with pytest.raises(InputError, match="status 404"):
        fetch(published, tmp_path / "S1")
    assert not (tmp_path / "S1").exists()
    assert (tmp_path / "S1.download").is_dir()
    server.files["/S1_he_image.ome.tif"] = he
    server.requests.clear()
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)
    assert [path for path, _ in server.requests] == ["/S1_he_image.ome.tif", "/S1.csv"]


def test_a_server_that_stays_broken_is_given_up_and_its_part_kept(published, server, tmp_path):
    server.faults = ["drop"] + [503] * 20
    with pytest.raises(InputError) as refusal:
        fetch(published, tmp_path / "S1")
    assert "status 503" in str(refusal.value)
    assert f"{downloads.TRIES} times" in str(refusal.value)
    (part,) = (tmp_path / "S1.download").glob("*.part")
    assert part.stat().st_size == len(server.files["/S1_outs.zip"]) // 2
    assert len(server.requests) == 1 + downloads.TRIES - 1


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_says_what_to_do_by_hand(published, server, tmp_path, status):
    server.faults = [status]
    with pytest.raises(InputError) as refusal:
        fetch(published, tmp_path / "S1")
    for part in (published["bundle_url"], str(status), "https://example.org/S1", "sample S1"):
        assert part in str(refusal.value)
    assert str(tmp_path / "S1") in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert len(server.requests) == 1


def test_a_sample_without_an_address_says_where_to_put_it(tmp_path):
    sample = {"sample": "S9", "bundle_url": "", "landing_page": "https://example.org/GSE1"}
    with pytest.raises(InputError) as refusal:
        fetch(sample, tmp_path / "S9")
    for part in ("sample S9, bundle_url", "https://example.org/GSE1", str(tmp_path / "S9")):
        assert part in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_files_of_the_user_are_never_replaced(published, server, tmp_path):
    folder = tmp_path / "S1"
    (folder / "morphology_focus").mkdir(parents=True)  # as Snakemake makes it for outputs
    fetch(published, folder)
    fetch(published, folder)  # again, over what it had fetched itself
    assert_whole(folder, tmp_path, server)
    assert (
        json.loads((folder / "fetched.json").read_text())["bundle_url"] == published["bundle_url"]
    )
    (folder / "mine.csv").write_text("kept")
    with pytest.raises(InputError, match=r"weren't fetched \(mine\.csv\)"):
        fetch(published, folder)
    assert (folder / "mine.csv").read_text() == "kept"


def test_a_gzipped_image_is_unpacked(published, server, tmp_path):
    content = server.files["/S1_he_image.ome.tif"]
    server.files["/S1_HE.tif.gz"] = gzip.compress(content)
    published["he_image_url"] = server.url + "/S1_HE.tif.gz"
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)


def archive_of(*members):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.writestr(*member)  # name, content, way of compression
    return packed.getvalue()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


EXPERIMENT = ("experiment.xenium", "{}")


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (archive_of(EXPERIMENT, ("../evil", "x")), "../evil: found a path that leaves"),
        (archive_of(EXPERIMENT, ("/evil", "x")), "/evil: found a path that leaves"),
        (archive_of(EXPERIMENT, ("a\\..\\..\\evil", "x")), "a path that leaves"),
        (archive_of(EXPERIMENT, (link("cells.parquet"), "/etc/passwd")), "a link or device"),
        (archive_of(("notes.txt", "x")), "experiment.xenium: found no"),
        (archive_of(("a/experiment.xenium", ""), ("b/experiment.xenium", "")), "found 2 times"),
        (archive_of(EXPERIMENT, ("cells.parquet", b"\0" * 20_000_000)), "bytes unpacked"),
        (b"<html>Please sign in</html>", "zip: found File is not a zip file"),
        (archive_of(EXPERIMENT, ("cells.parquet", b"x" * 5000))[:-40], "zip: found"),
        (
            archive_of(EXPERIMENT, ("cells.parquet", bytes(range(256)), 0)).replace(
                bytes(range(100, 120)), bytes(20), 1
            ),
            "zip: found",
        ),
    ],
)
def test_an_unsafe_or_damaged_archive_leaves_nothing(published, server, tmp_path, archive, message):
    server.files["/S1_outs.zip"] = archive
    with pytest.raises(InputError) as refusal:
        fetch(published, tmp_path / "out" / "S1")
    assert message in str(refusal.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["S1.download"]
    assert not (tmp_path / "evil").exists()


def test_only_web_addresses_are_fetched(tmp_path):
    sample = {"sample": "S1", "bundle_url": f"file://{tmp_path}/S1_outs.zip"}
    with pytest.raises(InputError, match="URL: found another scheme"):
        fetch(sample, tmp_path / "S1")
