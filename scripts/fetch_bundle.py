"""Fetch the published bundle of a sample, its H&E image and its alignment.

IN   the sample's row of the sample table (addresses in --options)
OUT  the bundle's folder with <sample>_he_image.ome.tif and <sample>_he_imagealignment.csv in it

The folder appears when all of it is there, with fetched.json, which says what came from where.
What has come so far is kept beside it in <bundle>.download, and the next run goes on from it.
A folder with files of the user's own is left as it is.
"""

import fnmatch
import gzip
import hashlib
import os
import shutil
from pathlib import Path

from pairscape import downloads, files, program
from pairscape.errors import InputError

RESULT_VERSION = 1
RECEIPT = "fetched.json"
ADDRESSES = ("bundle_url", "he_image_url", "he_alignment_url")

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


def main(argv=None):
    args = program.parse(argv, __doc__, RESULT_VERSION, bundle="folder to make")
    sample = args.options.get("sample", {})
    name = sample.get("sample") or Path(args.bundle).name
    target = Path(args.bundle)
    by_hand = _by_hand(sample, name, target)
    if not sample.get("bundle_url"):
        raise InputError("--options", f"sample {name}, bundle_url", "no known address", by_hand)

    _refuse_foreign_files(target)
    waiting = target.with_name(target.name + ".download")

    def fetch(column: str, file: str) -> Path | None:
        url = sample.get(column)
        if not url:
            return None
        # Another address is another file, though it waits in the same folder.
        mark = hashlib.sha256(url.encode()).hexdigest()[:8]
        return downloads.download(url, waiting / f"{mark}-{file}", by_hand=by_hand)

    archive = fetch("bundle_url", "bundle.zip")
    he_url = sample.get("he_image_url", "")
    he_image = fetch("he_image_url", "he_image.tif" + (".gz" if he_url.endswith(".gz") else ""))
    he_alignment = fetch("he_alignment_url", "he_imagealignment.csv")
    with files.atomic_path(target) as folder:
        unpacked = downloads.extract_bundle(archive, folder, _is_wanted)
        if he_image:
            _place(he_image, folder / f"{name}_he_image.ome.tif")
        if he_alignment:
            _place(he_alignment, folder / f"{name}_he_imagealignment.csv")
        addresses = {key: sample.get(key, "") for key in ADDRESSES}
        made = _files_of(folder)
        files.write_json(folder / RECEIPT, {"sample": name, **addresses, "files": made})
    files.remove(waiting)
    parts = [f"{len(unpacked)} files of the bundle"]
    parts += ["H&E image"] if he_image else ["no H&E image"]
    parts += ["alignment"] if he_alignment else ["no alignment"]
    program.log.info("%s: fetched to %s (%s)", name, target, ", ".join(parts))


def _files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _refuse_foreign_files(target: Path) -> None:
    """The folder will be replaced: refuse it where it holds what this program didn't fetch."""
    found = _files_of(target) if target.is_dir() else []
    ours = files.read_json(target / RECEIPT)["files"] if RECEIPT in found else []
    foreign = [file for file in found if file not in (RECEIPT, *ours)]
    if foreign:
        raise InputError(
            target,
            "folder",
            f"files that weren't fetched ({foreign[0]})",
            "complete it by hand, or move it away so that all of it can be fetched",
        )


def _is_wanted(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in WANTED)


def _by_hand(sample: dict, name: str, target: Path) -> str:
    page = sample.get("landing_page") or sample.get("geo_accession") or "its publisher"
    what = sample.get("bundle_name") or sample.get("title") or "the bundle"
    return (
        f"download {what} of sample {name} from {page} and unpack it as {target} "
        f"(with {name}_he_image.ome.tif and {name}_he_imagealignment.csv in it)"
    )


def _place(source: Path, target: Path) -> None:
    """A second name for a fetched file (a copy across disks); a gzip is unpacked."""
    if source.suffix == ".gz":
        try:
            with gzip.open(source) as packed, open(target, "xb") as handle:
                shutil.copyfileobj(packed, handle, downloads.CHUNK)
        except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:
            raise InputError(source, "gzip", str(error), "delete it and fetch it again") from None
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


if __name__ == "__main__":
    program.run(main)
