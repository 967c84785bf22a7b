"""The files of a sample that the user has downloaded: which names are looked for, what is there.

``docs/downloads.md`` has the names as one table.
"""

import contextlib
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from pairscape.acquire.downloads import file_name
from pairscape.acquire.samples import NO_FILE, REGISTER
from pairscape.core.errors import InputError

# The image stack and the viewer's files are most of an archive, and no stage reads them.
WANTED = (
    "experiment.xenium",
    "transcripts.parquet",
    "transcripts.csv.gz",
    "cells.parquet",
    "cells.csv.gz",
    "cell_boundaries.parquet",
    "nucleus_boundaries.parquet",
    "cell_feature_matrix.h5",
    "cells.zarr.zip",
    "gene_panel.json",
    "metrics_summary.csv",
    "morphology_focus.ome.tif",
    "morphology_mip.ome.tif",
    "morphology_focus/*.ome.tif",
)
TRANSCRIPTS = ("transcripts.parquet", "transcripts.csv.gz")  # the first one there is read
# What a bundle of single files must have: one of each.
NEEDED = (
    TRANSCRIPTS,
    ("cell_feature_matrix.h5", "gene_panel.json"),
    ("cells.parquet", "cells.csv.gz"),
)
EXPERIMENT = ("experiment.xenium",)
# Alignments for which the pixel size of the morphology image cancels out.
IN_MICRONS = ("microns", REGISTER)
_FILES = "|".join(re.escape(name) for name in WANTED if "*" not in name)
_HE_IMAGE = r"(?:registered_)?HE\.tiff?|he_image(?:\.ome)?\.tiff?"


@dataclass(frozen=True)
class Downloads:
    """What of a sample lies in the folder of downloads; a list of several is ambiguous."""

    bundle: Path | None = None  # a folder or a zip
    loose: Mapping[str, list[Path]] = field(default_factory=dict)  # by their names in a bundle
    he_image: list[Path] = field(default_factory=list)
    he_alignment: Path | None = None

    @property
    def transcripts(self) -> str:
        """The name of the table of transcripts that the bundle will have."""
        names = set(self.loose)
        if self.bundle and self.bundle.is_dir():
            names = {path.name for path in self.bundle.iterdir()}
        elif self.bundle:  # what is wrong with it is told when it is unpacked
            with (
                contextlib.suppress(zipfile.BadZipFile, OSError),
                zipfile.ZipFile(self.bundle) as packed,
            ):
                names = {PurePosixPath(name).name for name in packed.namelist()}
        return next((name for name in TRANSCRIPTS if name in names), TRANSCRIPTS[0])


def find(folder, sample: Mapping[str, str]) -> Downloads:
    """What of a sample (columns of its row of the sample table) lies in a folder."""
    if not folder or not Path(folder).is_dir():
        return Downloads()
    folder, stems = Path(folder), _stems(sample)
    published = file_name(sample.get("bundle_url") or "").removesuffix(".zip")
    tops = [stem for stem in (published, f"{stems[0]}_outs", *stems) if stem]
    bundles = [folder / top / inner for top in tops for inner in ("", "outs")]
    bundles = [place for place in bundles if (place / "experiment.xenium").is_file()]
    bundles += [path for top in tops if (path := folder / f"{top}.zip").exists()]
    named = _named(folder, sample, "he_image", "_he_image.ome.tif")[:1]
    others = [path for paths in _loose(folder, sample, _HE_IMAGE).values() for path in paths]
    he_alignment = _named(folder, sample, "he_alignment", "_he_imagealignment.csv")
    return Downloads(
        bundle=next(iter(bundles), None),
        loose=_loose(folder, sample, _FILES),
        he_image=named or others,
        he_alignment=next(iter(he_alignment), None),
    )


def transcripts(folder, sample: Mapping[str, str]) -> str:
    """The name of the table of transcripts that a sample's bundle will have, fetched or by hand."""
    found = find(folder, sample)
    with contextlib.suppress(InputError):  # which the fetching tells
        found = check(found, sample, folder, page="")
    return found.transcripts


def check(found: Downloads, sample: Mapping[str, str], folder, page: str) -> Downloads:
    """What is to be used of it: no single files where there is a bundle, or an address and one lacks.

    Refuses two files for one thing, and single files that lack one where there is no address.
    """
    name, has_table = sample.get("sample", ""), set(TRANSCRIPTS) & set(found.loose)
    if not has_table and (found.bundle or sample.get("bundle_url")):
        found = replace(found, loose={})  # a panel or a matrix that lies there for other ends
    for what, paths in {**found.loose, "he_image": found.he_image}.items():
        if len(paths) > 1:
            words = ", ".join(path.name for path in paths)
            remedy = "keep one of them there"
            raise InputError(folder, f"sample {name}, {what}", f"{len(paths)} ({words})", remedy)
    if found.loose and found.bundle:
        words = f"{found.bundle.name} and single files ({_some(found)})"
        remedy = "keep the bundle or the single files there"
        raise InputError(folder, f"sample {name}, bundle", words, remedy)
    without_px = sample.get("he_alignment") in IN_MICRONS or sample.get("he_image") in NO_FILE
    needed = NEEDED if without_px else (*NEEDED, EXPERIMENT)
    lacks = [names for names in needed if found.loose and not set(names) & set(found.loose)]
    if not lacks:
        return found
    if sample.get("bundle_url"):
        return replace(found, loose={})
    words = f"{_some(found)} without {' or '.join(lacks[0])}"
    start = sample.get("geo_accession") or _stems(sample)[0]
    remedy = f"download it from {page} and put it there as {start}_{lacks[0][-1]}"
    raise InputError(folder, f"sample {name}, {lacks[0][-1]}", words, remedy)


def _some(found: Downloads) -> str:
    return next(paths[0].name for paths in found.loose.values())


def _stems(sample: Mapping[str, str]) -> list[str]:
    name = sample.get("sample", "")
    return list(dict.fromkeys(stem for stem in (sample.get("bundle_name") or name, name) if stem))


def _loose(folder: Path, sample: Mapping[str, str], names: str) -> dict[str, list[Path]]:
    """Files that are a sample's by their beginning, by what their names end with, ``.gz`` apart."""
    heads = [rf"(?:GSM\d+_)?{re.escape(stem)}_" for stem in _stems(sample)]
    if sample.get("geo_accession"):
        heads.append(rf"{re.escape(sample['geo_accession'])}_(?:.*_)?")
    pattern = re.compile(rf"(?:{'|'.join(heads)})({names})(?:\.gz)?")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            found.setdefault(match[1], []).append(path)
    return found


def _named(folder: Path, sample: Mapping[str, str], part: str, ending: str) -> list[Path]:
    """The files of a part that are there, under its published name or the sample's."""
    published = file_name(sample.get(f"{part}_url") or "")
    names = [published.removesuffix(".gz"), published]
    names += [stem + ending for stem in _stems(sample)]
    return [folder / name for name in names if name and (folder / name).exists()]
