"""Where the parts of a published sample come from: addresses of its row, or files that the user has."""

from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire import by_hand

PARTS = ("bundle", "he_image", "he_alignment")
# Of the H&E and its alignment, behind the name of a sample.
ENDINGS = {"he_image": "_he_image.ome.tif", "he_alignment": "_he_imagealignment.csv"}


def find(folder, part: str, sample: Mapping) -> Path | None:
    """The part of a sample that the user has downloaded; of single files the transcripts."""
    found = by_hand.find(folder, sample)
    tables = [found.loose[name] for name in by_hand.TRANSCRIPTS if name in found.loose]
    bundle = found.bundle or next((paths[0] for paths in tables), None)
    he_image = next(iter(found.he_image), None)
    return {"bundle": bundle, "he_image": he_image, "he_alignment": found.he_alignment}[part]


def needed(sample: Mapping) -> list[str]:
    """The parts that a fetched sample must have an address of, or files on the disk."""
    parts = ["bundle"]
    if sample.get("he_image") == "":
        parts += ["he_image"]
        parts += ["he_alignment"] if sample.get("he_alignment") == "" else []
    return parts


def unknown(sample: Mapping, folder) -> list[str]:
    """Those of them that have neither an address nor lie in the folder of downloads."""
    return [
        part
        for part in needed(sample)
        if not sample.get(f"{part}_url") and not find(folder, part, sample)
    ]
