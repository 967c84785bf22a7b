import functools
import gzip
import hashlib
import http.server
import io
import json
import os
import stat
import threading
import zipfile

import numpy as np
import pytest
import tiny_bundle

import fetch_bundle
from pairscape.acquire import downloads
from pairscape.core.errors import InputError
from pairscape.jobs import job_lock


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.files``; ``server.faults`` holds what goes wrong with the next requests."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            return self.answer(fault, b"no", {"Retry-After": "7"} if fault == 429 else None)
        content = self.server.files.get(self.path.removeprefix("/bucket").partition("?")[0])
        if content is None:
            return self.answer(404, b"")
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.server.new_tags:
            tag = f'"{len(self.server.requests)}"'
        headers, status, start = {"ETag": tag, "Accept-Ranges": "bytes"}, 200, 0
        wanted = self.headers.get("Range")
        unchanged = self.headers.get("If-Range", tag) == tag or self.server.careless
        if wanted and unchanged and self.server.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or len(content)) + 1, len(content))
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
            if start >= len(content):
                return self.answer(416, b"")
        body = content[start : end if status == 206 else None]
        cut = len(body) // 2 if fault == "drop" else len(body)
        if fault == "truncate":
            body = body[: cut // 2]
        if fault == "too long":
            headers["Content-Length"] = str(len(body) + 10)
            self.close_connection = True
        if fault == "too short":
            headers["Content-Length"] = str(len(body) - 10)
            body = body[:-10]
        if fault == "other bytes":
            body = bytes(len(body))
        return self.answer(status, body, headers, min(cut, len(body)))

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
        server.new_tags = server.careless = False
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def mirror(server):
    """Another host with the same files."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        other.files, other.faults, other.requests, other.ranges = server.files, [], [], True
        other.new_tags = other.careless = False
        other.url = f"http://127.0.0.1:{other.server_address[1]}/bucket"
        thread = threading.Thread(target=other.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield other
        other.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """No waiting between tries (what would be waited is listed), no proxy before the server."""
    monkeypatch.setenv("no_proxy", "*")
    patient, seconds = downloads.download, []
    monkeypatch.setattr(downloads, "download", functools.partial(patient, sleep=seconds.append))
    return seconds


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


def fetch(sample, folder, *flags):
    options = json.dumps({"sample": sample})
    fetch_bundle.main([f"--bundle={folder}", "--options", options, *flags])
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


@pytest.mark.parametrize("address", ["/S1_he_image.ome.tif", "/another.ome.tif"])
def test_what_two_results_share_is_fetched_once_and_by_one_at_a_time(
    published, server, tmp_path, monkeypatch, address
):
    """Their logs, and so the locks of their jobs, lie apart."""
    folder = fetch(published, tmp_path / "bundles" / "S1")
    lock = tmp_path / "bundles" / "S1.lock"
    other = {**job_lock._describe_process(), "pid": os.getppid()}
    lock.write_text(json.dumps({**other, "started": job_lock._started(os.getppid())}))
    asked = len(server.requests)
    server.files[address] = server.files["/S1_he_image.ome.tif"]
    published["he_image_url"] = server.url + address
    waits = []

    def sleep(seconds):
        waits.append(len(server.requests))
        lock.unlink()  # the other has ended

    monkeypatch.setattr(job_lock.time, "sleep", sleep)
    fetch(published, folder, f"--log={tmp_path / 'job.log'}")
    job_lock.release_all()
    assert waits == [asked]
    assert (len(server.requests) > asked) == (address == "/another.ome.tif")
    assert_whole(folder, tmp_path, server)


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


def test_two_versions_of_a_file_are_never_spliced(published, server, tmp_path, monkeypatch):
    server.faults = ["drop"]
    with monkeypatch.context() as once:
        once.setattr(downloads, "TRIES", 1)
        with pytest.raises(InputError):
            downloads.download(published["bundle_url"], tmp_path / "y.zip", by_hand="")
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


def test_the_waits_between_tries_double_and_the_server_may_ask_for_more(
    published, server, tmp_path, waits
):
    server.faults = [503, 503, 429, 503]
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)
    assert waits == [1, 2, 7, 8]


def test_a_server_that_announces_more_than_it_sends_is_given_up(published, server, tmp_path):
    server.faults = ["too long"] * 20
    with pytest.raises(InputError, match=f"{downloads.TRIES} times"):
        fetch(published, tmp_path / "S1")
    assert len(server.requests) < 2 * downloads.TRIES


@pytest.mark.parametrize(("careless", "ranges"), [(False, True), (True, True), (False, False)])
def test_a_server_whose_marks_change_gives_whole_files_or_none(
    published, server, tmp_path, careless, ranges
):
    server.new_tags, server.careless, server.ranges = True, careless, ranges
    server.faults = ["drop"]
    assert_whole(fetch(published, tmp_path / "S1"), tmp_path, server)


def test_a_careless_server_that_has_another_file_now_isnt_spliced(
    published, server, tmp_path, monkeypatch
):
    """It answers the range asked for, whatever the mark: its new mark and size give it away."""
    server.careless, server.faults = True, ["drop"]
    old = server.files["/S1_outs.zip"]
    with monkeypatch.context() as once:
        once.setattr(downloads, "TRIES", 1)
        with pytest.raises(InputError):
            downloads.download(published["bundle_url"], tmp_path / "y.zip", by_hand="")
    for changed in (b"x" * len(old), b"y" * (len(old) + 1)):
        server.files["/S1_outs.zip"] = changed
        downloads.download(published["bundle_url"], tmp_path / "y.zip", by_hand="")
        assert (tmp_path / "y.zip").read_bytes() == changed
        (tmp_path / "y.zip").rename(tmp_path / "y.zip.part")
        mark = {"url": published["bundle_url"], "version": '"old"', "size": len(changed) + 5}
        (tmp_path / "y.zip.part.json").write_text(json.dumps(mark))


def known(server, sample, what="sha256"):
    content = server.files["/S1_outs.zip"]
    digest = hashlib.new(what, content).hexdigest()
    return sample | {"bundle_bytes": str(len(content)), "bundle_checksum": f"{what}:{digest}"}


@pytest.mark.parametrize("fault", ["truncate", "too short", "other bytes"])
@pytest.mark.parametrize("what", ["sha256", "md5"])
def test_a_wrong_file_is_noticed_where_size_and_checksum_are_known(
    published, server, tmp_path, fault, what
):
    sample = known(server, published, what)
    if fault == "other bytes":  # once may happen on the way
        server.faults = [fault]
        assert_whole(fetch(sample, tmp_path / "S1"), tmp_path, server)
    server.faults = [fault] * 9
    with pytest.raises(InputError) as refusal:
        fetch(sample, tmp_path / "S2")
    size = sample["bundle_bytes"]
    told = f"where {size} are expected" if fault != "other bytes" else f"a file with {what} "
    assert told in str(refusal.value)
    assert len(server.requests) <= 6
    assert not (tmp_path / "S2").exists()


def test_a_part_of_a_server_without_marks_is_continued_where_the_checksum_is_known(
    published, server, tmp_path
):
    sample = known(server, published)
    server.new_tags, server.faults = True, ["drop"] * 3
    assert_whole(fetch(sample, tmp_path / "S1"), tmp_path, server)
    starts = [asked for path, asked in server.requests if path == "/S1_outs.zip"]
    assert starts[0] is None
    assert all(starts[1:])


@pytest.mark.parametrize("refusal", [403, 404, 503])
@pytest.mark.parametrize("to_mirror", [True, False])
def test_the_other_host_is_asked_where_one_fails(
    published, server, mirror, tmp_path, refusal, to_mirror
):
    server.faults = [refusal] * (1 if refusal < 500 else downloads.TRIES)
    pair = [server.url, mirror.url] if to_mirror else [mirror.url, server.url]
    folder = fetch(published, tmp_path / "S1", "--mirrors", json.dumps(dict([pair])))
    assert_whole(folder, tmp_path, server)
    assert [path for path, _ in mirror.requests] == ["/bucket/S1_outs.zip"]


def test_the_other_host_goes_on_with_a_part_of_the_same_version(
    published, server, mirror, tmp_path
):
    server.faults = ["drop"] + [503] * downloads.TRIES
    mirrors = json.dumps({server.url: mirror.url})
    assert_whole(fetch(published, tmp_path / "S1", "--mirrors", mirrors), tmp_path, server)
    half = len(server.files["/S1_outs.zip"]) // 2
    assert mirror.requests == [("/bucket/S1_outs.zip", f"bytes={half}-")]


def test_a_refusal_of_both_hosts_tells_both(published, server, mirror, tmp_path):
    server.faults, mirror.faults = [403], [404]
    with pytest.raises(InputError) as refusal:
        fetch(published, tmp_path / "S1", "--mirrors", json.dumps({server.url: mirror.url}))
    port = mirror.server_address[1]
    assert f"status 403 Forbidden; at 127.0.0.1:{port} status 404" in str(refusal.value)


def test_secrets_of_an_address_are_neither_logged_nor_kept(
    published, server, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("S1_TOKEN", "hush")
    published["bundle_url"] += "?token=${S1_TOKEN}&sig=hash"
    server.faults = [503, "drop"]
    log = tmp_path / "fetch.log"
    monkeypatch.setattr("sys.argv", ["fetch_bundle.py", "--options", json.dumps(published)])
    folder = fetch(published, tmp_path / "S1", f"--log={log}")
    assert_whole(folder, tmp_path, server)
    assert server.requests[0][0] == "/S1_outs.zip?token=hush&sig=hash"
    said = log.read_text() + capfd.readouterr().err + (folder / "fetched.json").read_text()
    assert "/S1_outs.zip" in said
    assert "trying again" in said
    assert "hush" not in said
    assert "sig=hash" not in said
    server.faults = [403]
    with pytest.raises(InputError) as refusal:
        fetch(published, tmp_path / "S2")
    assert "hush" not in str(refusal.value)
    assert "sig=hash" not in str(refusal.value)


def test_a_secret_that_isnt_set_and_a_password_are_refused(published, server, tmp_path):
    for url, told in (
        (published["bundle_url"] + "?token=${NO_SUCH}", "variable NO_SUCH: found nothing"),
        ("https://me:hush@example.org/S1.zip", "a user or password in it; give a secret as"),
    ):
        with pytest.raises(InputError) as refusal:
            fetch(published | {"bundle_url": url}, tmp_path / "S1")
        assert told in str(refusal.value)
        assert "hush" not in str(refusal.value)
    assert not server.requests


LUNG = {
    "sample": "S9",
    "bundle_name": "output-XETG00048__0003400__S9",
    "bundle_url": "",
    "he_image": "",
    "he_alignment": "microns",
    "landing_page": "https://example.org/GSE1",
    "geo_accession": "GSM1",
}


@pytest.mark.parametrize("flags", [(), ("--downloads=mine",)])
def test_a_sample_without_an_address_says_what_to_put_where(tmp_path, flags):
    with pytest.raises(InputError) as refusal:
        fetch(LUNG, tmp_path / "S9", *flags)
    told = ["sample S9, bundle_url", "https://example.org/GSE1 or GSM1", str(tmp_path / "S9")]
    told += [f"{LUNG['bundle_name']}_outs.zip", "S9_he_image.ome.tif", "key downloads"]
    for part in told:
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["he_image", "he_alignment"])
def test_what_has_no_address_is_told_before_anything_is_fetched(published, server, tmp_path, part):
    sample = published | {"he_image": "", "he_alignment": "", f"{part}_url": ""}
    with pytest.raises(InputError, match=f"sample S1, {part}_url: found no known address"):
        fetch(sample, tmp_path / "S1")
    assert not server.requests


@pytest.mark.parametrize("form", ["folder", "outs", "zip"])
def test_a_bundle_on_the_disk_is_linked_or_unpacked_and_the_rest_fetched(
    published, server, tmp_path, form
):
    """The lung samples of GEO: the bundle has no address, the H&E has one."""
    mine, name = tmp_path / "mine", LUNG["bundle_name"]
    origin = tmp_path / "origin"
    mine.mkdir()
    if form == "zip":
        (mine / f"{name}.zip").write_bytes(server.files["/S1_outs.zip"])
    elif form == "outs":
        (mine / name).mkdir()
        (mine / name / "outs").symlink_to(origin)
    else:
        (mine / name).symlink_to(origin)
    server.files["/GSM1_HE.tif.gz"] = gzip.compress(server.files["/S1_he_image.ome.tif"])
    sample = LUNG | {"he_image_url": server.url + "/GSM1_HE.tif.gz"}
    folder = fetch(sample, tmp_path / "S9", f"--downloads={mine}")
    for path in ("transcripts.parquet", "morphology_focus/morphology_focus_0000.ome.tif"):
        assert (folder / path).read_bytes() == (origin / path).read_bytes()
        assert (folder / path).samefile(origin / path) == (form != "zip")
    he_image = (folder / "S9_he_image.ome.tif").read_bytes()
    assert he_image == server.files["/S1_he_image.ome.tif"]
    assert [path for path, _ in server.requests] == ["/GSM1_HE.tif.gz"]
    receipt = json.loads((folder / "fetched.json").read_text())
    assert list(receipt["on_disk"]) == ["bundle"]
    assert receipt["he_image_url"] == sample["he_image_url"]


def test_an_image_and_an_alignment_on_the_disk_arent_fetched(published, server, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("S1_outs.zip", "S1_he_image.ome.tif", "S1.csv"):
        (mine / name).write_bytes(server.files[f"/{name}"])
    folder = fetch(published, tmp_path / "S1", f"--downloads={mine}")
    assert_whole(folder, tmp_path, server)
    assert (folder / "S1_he_image.ome.tif").samefile(mine / "S1_he_image.ome.tif")
    assert len(list(mine.iterdir())) == 3
    assert not server.requests


def test_an_image_of_one_huge_strip_is_retiled_on_arrival(published, server, tmp_path, monkeypatch):
    import tifffile

    from pairscape.images import tiff

    image = np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8)
    options = {"photometric": "rgb", "compression": "deflate", "rowsperstrip": 600}
    tifffile.imwrite(tmp_path / "huge.tif", image, **options)
    server.files["/S1_he_image.ome.tif"] = (tmp_path / "huge.tif").read_bytes()
    monkeypatch.setattr(tiff, "MAX_TILE_BYTES", 1_000_000)
    folder = fetch(published, tmp_path / "S1")
    with tiff.TiffImage(folder / "S1_he_image.ome.tif") as found:
        assert found.is_tiled
        assert np.array_equal(found.read_region(0, 0, 700, 600), image)
    assert json.loads((folder / "fetched.json").read_text())["he_image_retiled"]
    assert not list(folder.glob(".part-*"))


def test_a_gzip_out_of_proportion_is_refused(published, server, tmp_path):
    server.files["/S1_HE.tif.gz"] = gzip.compress(bytes(30_000_000))
    published["he_image_url"] = server.url + "/S1_HE.tif.gz"
    with pytest.raises(InputError, match="bytes unpacked; don't trust it"):
        fetch(published, tmp_path / "S1")
    assert not (tmp_path / "S1").exists()


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
