"""Bringing the files of an encoder's weights: from where, under which licence, and verified."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from pairscape.acquire import downloads, hub
from pairscape.core import files
from pairscape.core.errors import InputError, allowed_words
from pairscape.core.logs import log

FORMAT = 1
BY_HAND = "put there by hand"
# What a server or a careless clone puts in the place of a file.
_NO_WEIGHTS = {
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS",
}


def place_of(spec: Mapping, name: str, encoder_file) -> dict:
    """Where the weights file of an encoder, or one of its extra files, comes from.

    ``source``, ``location``, ``file`` (its path at that place), ``revision`` and ``sha256`` (or
    ``None``), ``gated``, ``licence``, and ``beside``: the location is that of the weights file.
    ``encoder_file`` is named in messages.
    """
    weights = spec["weights"]
    facts = {key: weights[key] for key in ("source", "location", "gated", "licence")}
    facts |= {"revision": weights.get("revision"), "sha256": None, "beside": False}
    if name == PurePosixPath(weights["file"]).name:
        return facts | {"file": weights["file"], "sha256": weights["sha256"]}
    named = {PurePosixPath(file).name: file for file in weights.get("extra_files", ())}
    if name not in named:
        remedy = allowed_words(name, [PurePosixPath(weights["file"]).name, *named])
        raise InputError(encoder_file, "weights", f"no file {name}", remedy)
    origin = weights.get("extra_sources", {}).get(named[name])
    if origin is None:
        return facts | {"file": named[name], "beside": True}
    return facts | {"file": named[name], "revision": None, "gated": False} | dict(origin)


def fetch(
    spec: Mapping,
    encoder_file,
    path,
    record_path,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> dict:
    """Bring one file of an encoder, or take the one that lies there, and write down what it is.

    A file that is there stays until another one has come and is verified. One without a record was
    put there by the user: it is verified and taken, and never replaced.

    The name of ``path`` tells which file of the encoder it is; ``encoder_file`` is named in messages.
    The record that is written and given back says source, revision, checksum and licence.
    """
    path, record_path = Path(path), Path(record_path)
    place = place_of(spec, path.name, encoder_file)
    asked = {key: place[key] for key in ("source", "location", "file", "revision")}
    record = _take(path, _read_record(record_path), asked, place, encoder_file)
    if record is None:
        record = _bring(path, spec, place, encoder_file, sleep)
    record = {
        "format": FORMAT,
        "encoder": spec["title"],
        "file": path.name,
        "licence": place["licence"],
        "gated": place["gated"],
        "asked": asked,
        **record,
        "bytes": path.stat().st_size,
    }
    files.write_json(record_path, record)
    return record


def _take(path: Path, known: Mapping, asked: Mapping, place: Mapping, encoder_file) -> dict | None:
    """The facts of the file that is there; None where one has to be brought."""
    if not path.is_file():
        return None
    found, wanted = files.sha256_file(path), place["sha256"]
    as_recorded = known.get("sha256") == found
    fetched = as_recorded and known["from"] != BY_HAND
    if wanted is not None and found != wanted:
        if not fetched:
            told = f"{found}, in a file that wasn't fetched like this"
            remedy = "move the file away to have it fetched, or correct weights.sha256"
            remedy = f"{wanted} is declared in {encoder_file}: {remedy}"
            raise InputError(path, "sha256", told, remedy)
    elif wanted is None and known and not as_recorded:
        told = f"{found}, and {known.get('sha256')} in its record"
        remedy = "delete the file to have it fetched again, or its record to take the file as it is"
        raise InputError(path, "sha256", told, remedy)
    elif wanted is not None or not fetched or known["asked"] == asked:
        _refuse_pages(path, "get the file itself and put it there")
        log.info("%s: it is there already, SHA-256 %s", path, found)
        origin = known if as_recorded else {"from": BY_HAND, "revision": None, "verified_by": None}
        verified = "the encoder's file" if wanted else origin["verified_by"]
        return {
            "from": origin["from"],
            "revision": origin["revision"],
            "sha256": found,
            "verified_by": verified,
        }
    log.warning("%s: not the file that is declared now; it stays until that one is there", path)
    return None


def _bring(path: Path, spec: Mapping, place: Mapping, encoder_file, sleep) -> dict:
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(f".arriving-{path.name}")  # a fixed name: a later run goes on with it
    page = page_of(place)
    log.info("%s: from %s, licence: %s", path.name, page, place["licence"])
    by_hand = f"get {place['file']} from {page} ({place['licence']}) and put it at {path}"
    wanted, found = place["sha256"], {"revision": None, "verified_by": None}
    checksum = f"sha256:{wanted}" if wanted else ""
    if place["source"] == "huggingface":
        there = ask_hub(place, encoder_file, sleep)
        if wanted and there["sha256"] not in (None, wanted):
            remedy = "name the right weights.revision there, or correct weights.sha256"
            remedy = f"{wanted} is declared in {encoder_file}: {remedy}"
            raise InputError(there["url"], "sha256", there["sha256"], remedy)
        if there["sha256"]:
            checksum, found["verified_by"] = f"sha256:{there['sha256']}", "the Hub"
        found |= {"from": there["url"], "revision": there["revision"]}
        downloads.download(
            there["url"],
            arriving,
            by_hand=by_hand,
            size=there["size"],
            checksum=checksum,
            secret_headers=there["headers"],
            sleep=sleep,
        )
    elif place["source"] == "url":
        address = address_of(place, spec, encoder_file)
        found["from"] = downloads.without_query(address)
        downloads.download(address, arriving, by_hand=by_hand, checksum=checksum, sleep=sleep)
    else:
        original = _local(place, spec, path, encoder_file)
        found["from"] = str(original)
        with files.atomic_path(arriving) as temporary:
            shutil.copyfile(original, temporary)
    try:
        _refuse_pages(arriving, by_hand)
        sha256 = files.sha256_file(arriving)
        if wanted and sha256 != wanted:
            remedy = f"{wanted} is declared in {encoder_file}: {by_hand}"
            raise InputError(found["from"], "sha256", sha256, remedy)
    except InputError:
        files.remove(arriving)
        raise
    if wanted:
        found["verified_by"] = "the encoder's file"
    else:
        log.info("%s: no checksum is declared; this file's SHA-256 is %s", path, sha256)
    os.replace(arriving, path)
    return {**found, "sha256": sha256}


def ask_hub(
    place: Mapping,
    encoder_file,
    sleep: Callable[[float], None] = time.sleep,
    tries: int = downloads.TRIES,
    timeout_s: float = downloads.TIMEOUT_S,
) -> dict:
    """Address, revision, size and checksum of a file on the Hugging Face Hub, or why not."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    endpoint = hub.endpoint()
    what = {"repo_id": place["location"], "filename": place["file"], "endpoint": endpoint}

    def question(token):
        url = hf_hub_url(**what, revision=place["revision"])
        return get_hf_file_metadata(url, token=token, endpoint=endpoint, timeout=timeout_s)

    def refusal(*why):
        return _refusal_of_hub(*why, place, encoder_file)

    found = hub.ask(question, page_of(place), refusal, sleep, tries)
    etag = found.etag or ""
    revision = found.commit_hash or place["revision"]
    return {
        "url": hf_hub_url(**what, revision=revision),
        "revision": revision,
        "size": found.size,
        "sha256": etag if len(etag) == 64 else None,  # small files have a Git checksum instead
        "headers": hub.headers(),
    }


def _refusal_of_hub(error, status, token, place: Mapping, encoder_file) -> InputError | None:
    """Why the Hub doesn't give a file, as far as asking again won't help."""
    from huggingface_hub import errors

    shown = page_of(place)
    if isinstance(error, errors.HFValidationError):
        field, location = "weights.location", repr(place["location"])
        return InputError(encoder_file, field, location, "name the repository as <owner>/<name>")
    if isinstance(error, errors.EntryNotFoundError):
        remedy = f"correct weights.file or weights.revision in {encoder_file}"
        return InputError(shown, place["file"], "no such file", remedy)
    if isinstance(error, errors.RevisionNotFoundError):
        remedy = f"correct weights.revision in {encoder_file}"
        return InputError(shown, "revision", f"no {place['revision']}", remedy)
    if status not in (401, 403, 404):
        return None
    if isinstance(error, errors.GatedRepoError) or place["gated"]:
        return hub.no_access(shown, f"licence: {place['licence']}; ", status, token)
    remedy = f"correct weights.location in {encoder_file}, or set a valid HF_TOKEN"
    return InputError(shown, "repository", f"status {status}", remedy)


def page_of(place: Mapping) -> str:
    """Where a person reads about the file and asks for it."""
    if place["source"] == "huggingface":
        return f"{hub.endpoint()}/{place['location']}"
    return downloads.without_query(str(place["location"]))


def address_of(place: Mapping, spec: Mapping, encoder_file) -> str:
    """The URL of a file: the location is that of the weights file, or of a folder (``.../``)."""
    location = place["location"]
    if not location:
        remedy = f"give the URL of {spec['title']}"
        raise InputError(encoder_file, "weights.location", "nothing", remedy)
    folder = urlsplit(location).path.endswith("/")
    return urljoin(location, place["file"]) if folder or place["beside"] else location


def _local(place: Mapping, spec: Mapping, path: Path, encoder_file) -> Path:
    """A file on this machine; it is said how to give it where the location is a web page."""
    location = place["location"]
    if not location or urlsplit(location).scheme in ("http", "https"):
        asked = "accept its terms there" if place["gated"] else "its terms are there"
        raise InputError(
            path,
            "file",
            "nothing",
            f"{spec['title']} is given out by hand: get {place['file']} from "
            f"{location or 'its authors'} (licence: {place['licence']}; {asked}) and put it at "
            "this path",
        )
    found = Path(location).expanduser()
    if found.is_dir():
        found /= place["file"]
    if not found.is_file():
        remedy = "correct it, or put the file there"
        raise InputError(encoder_file, "weights.location", f"no file {found}", remedy)
    return found


def _refuse_pages(path: Path, remedy: str) -> None:
    with open(path, "rb") as handle:
        begin = handle.read(512).lstrip().lower()
    if not begin:
        raise InputError(path, "content", "an empty file", remedy)
    for mark, what in _NO_WEIGHTS.items():
        if begin.startswith(mark):
            raise InputError(path, "content", what, remedy)


def _read_record(path: Path) -> dict:
    """An earlier record; nothing where there is none or it can't be read."""
    try:
        found = files.read_json(path)
    except InputError:
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}
