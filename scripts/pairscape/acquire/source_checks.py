"""What can be had of all that a run would fetch: a question for each file, and the answers in words."""

import math
from collections.abc import Iterable, Mapping, Sequence

from pairscape.acquire import probes, weight_downloads
from pairscape.core.errors import InputError


def check(asked: Mapping, mirrors: Mapping[str, str], timeout_s: float) -> dict:
    """A row of ``probes.SOURCES``; ``asked`` is as ``plan.sources.files`` gives it."""
    size = int(asked["bytes"]) if asked["bytes"] else None
    if asked["place"]:
        answer = probes.Answer(probes.ON_DISK, url=asked["place"], size=size)
    elif "encoder" in asked:
        answer = _of_weights(asked, timeout_s)
    elif asked["url"]:
        answer = probes.probe(asked["url"], mirrors, size, timeout_s=timeout_s)
    else:
        answer = probes.Answer(probes.MISSING, "no known address")
    return {
        **{key: asked[key] for key in ("kind", "name", "part")},
        "verdict": answer.verdict,
        "found": answer.found,
        "url": answer.url,
        "bytes": answer.size,
        "rate": None if answer.rate is None else answer.rate / 1e6,
    }


def _of_weights(asked: Mapping, timeout_s: float) -> probes.Answer:
    """The answer for a file of an encoder; why the Hub refuses it stands in it."""
    spec, file = asked["encoder"], f"config/encoders/{asked['kind']}/{asked['name']}.yaml"
    page = ""
    try:
        place = weight_downloads.place_of(spec, asked["part"], file)
        page = weight_downloads.page_of(place)
        if place["source"] == "huggingface":
            hub = weight_downloads.ask_hub(place, file, tries=1, timeout_s=timeout_s)
            answer = probes.probe(hub["url"], None, hub["size"], hub["headers"], timeout_s)
            return answer
        if place["source"] == "url":
            address = weight_downloads.address_of(place, spec, file)
            return probes.probe(address, timeout_s=timeout_s)
    except InputError as error:
        unreachable = error.field == "download"
        verdict = probes.UNREACHABLE if unreachable else probes.REFUSED
        return probes.Answer(verdict, f"{error.field}: {error.found}; {error.remedy}", page)
    words = f"given out by hand: get {place['file']} from {place['location'] or 'its authors'}"
    return probes.Answer(probes.MISSING, f"{words} (licence: {place['licence']})", page)


def findings(rows: Iterable[Mapping]) -> list[str]:
    """A line for each file that isn't simply there."""
    return [
        f"{row['kind']} {row['name']}, {row['part']}: {row['verdict']}"
        + (f": {row['found']}" if row["found"] else "")
        + (f" ({row['url']})" if row["url"] else "")
        for row in rows
        if row["verdict"] != probes.ON_DISK and (row["verdict"] != probes.THERE or row["found"])
    ]


def in_short(rows: Sequence[Mapping]) -> str:
    """How many samples and encoders can be had whole, and how many gigabytes are to be fetched."""
    whole: dict[bool, dict] = {True: {}, False: {}}
    for row in rows:
        key, is_sample = (row["kind"], row["name"]), row["kind"] == "sample"
        had = row["verdict"] in probes.CAN_BE_HAD
        whole[is_sample][key] = whole[is_sample].get(key, True) and had
    fetched = [row for row in rows if row["verdict"] in (probes.THERE, probes.SLOW)]
    gigabytes = math.fsum(row["bytes"] or 0 for row in fetched) / 1e9
    unsized = sum(row["bytes"] is None for row in fetched)
    return (
        f"{sum(whole[True].values())} of {len(whole[True])} samples and "
        f"{sum(whole[False].values())} of {len(whole[False])} encoders' weights can be had from here, "
        f"{gigabytes:.1f} GB to fetch"
        + (f" and {unsized} file(s) of unknown size" if unsized else "")
    )
