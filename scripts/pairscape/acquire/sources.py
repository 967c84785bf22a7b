"""Where the parts of a published sample come from: addresses of its row, or files that the user has."""

from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire import downloads

PARTS = ("bundle", "he_image", "he_alignment")
# Of the H&E and its alignment, behind the name of a bundle or sample.
ENDINGS = {"he_image": "_he_image.ome.tif", "he_alignment": "_he_imagealignment.csv"}


def find(folder, part: str, sample: Mapping) -> Path | None:
    """The part of a sample that the user has downloaded, under one of the names it may have."""
    if not folder:
        return None
    folder, name = Path(folder), sample.get("sample", "")
    published = downloads.file_name(sample.get(f"{part}_url") or "")
    bundle_name = sample.get("bundle_name") or name
    if part == "bundle":
        stems = [published.removesuffix(".zip"), f"{bundle_name}_outs", bundle_name, name]
        places = [folder / stem / inner for stem in stems if stem for inner in ("", "outs")]
        found = [place for place in places if (place / "experiment.xenium").is_file()]
        found += [folder / f"{stem}.zip" for stem in stems if stem]
    else:
        names = [published.removesuffix(".gz"), published]
        names += [stem + ENDINGS[part] for stem in (bundle_name, name) if stem]
        found = [folder / file for file in names if file]
    return next((path for path in found if path.exists()), None)


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
