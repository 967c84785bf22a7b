"""Fetch the published bundle of a sample, its H&E image and its alignment.

IN   the sample's row of the sample table (addresses, sizes and checksums in --options)
OUT  the bundle's folder with <sample>_he_image.ome.tif and <sample>_he_imagealignment.csv in it

What lies in the folder --downloads under its own name is linked or unpacked instead of fetched:
the bundle as <bundle_name>_outs.zip, as folder, or as single files as GEO has them, the H&E and the
alignment as the last part of their address (docs/downloads.md has all names). Single files without
experiment.xenium get one where nothing depends on it. An H&E in strips too large to be read one by
one is retiled.

The folder appears when all of it is there, with fetched.json, which says what came from where.
What has come so far is kept beside it in <bundle>.download, and the next run goes on from it.
A folder with files of the user's own is left as it is.
"""

import fnmatch
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire import archives, by_hand, downloads, refusals, sources
from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.jobs import program

RESULT_VERSION = 1
RECEIPT = "fetched.json"
# Of a pixel of every Xenium instrument's morphology image; used where it cancels out.
MORPHOLOGY_PIXEL_UM = 0.2125


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle=program.OutputShared("folder to make"),
        archive="optional: published zip on this disk, unpacked in place of a fetched one",
        downloads="optional: folder of files that the user has downloaded",
        mirrors="optional: JSON of beginnings of addresses that stand for each other",
    )
    sample = args.options.get("sample", {})
    name = sample.get("sample") or Path(args.bundle).name
    target = Path(args.bundle)
    if args.archive:
        return _unpack(Path(args.archive), name, target)
    with refusals.kept(target, sample, refusals.UnavailableError):
        _fetch(args, sample, name, target)


def _fetch(args, sample: dict, name: str, target: Path) -> None:
    found = by_hand.find(args.downloads, sample)
    found = by_hand.check(found, sample, args.downloads, _page(sample))
    given = {
        "bundle": found.bundle or found.loose,
        "he_image": next(iter(found.he_image), None),
        "he_alignment": found.he_alignment,
    }
    _refuse_unknown(given, sample, name, target, args.downloads)
    if args.waited and _is_made(target, sample):
        logs.log.info("%s: another process has fetched it meanwhile", name)
        return None
    _refuse_foreign_files(target)
    waiting = target.with_name(target.name + ".download")
    mirrors = json.loads(args.mirrors or "{}")

    def get(part: str, file: str) -> Path | None:
        url = sample.get(f"{part}_url")
        if given[part] or not url or (part != "bundle" and sample.get("he_image") == "none"):
            return given[part]
        # Another address is another file, though it waits in the same folder.
        mark = hashlib.sha256(downloads.without_query(url).encode()).hexdigest()[:8]
        size = sample.get(f"{part}_bytes")
        return downloads.download(
            url,
            waiting / f"{mark}-{file}",
            by_hand=_by_hand(sample, name, target, args.downloads),
            mirrors=mirrors,
            size=int(size) if size else None,
            checksum=sample.get(f"{part}_checksum", ""),
        )

    bundle = get("bundle", "bundle.zip")
    packed = downloads.file_name(sample.get("he_image_url", "")).endswith(".gz")
    he_image = get("he_image", "he_image.tif" + (".gz" if packed else ""))
    he_alignment = get("he_alignment", "he_imagealignment.csv")
    retiled = False
    with files.atomic_path(target) as folder:
        if bundle == found.loose:
            made = _link_loose(found.loose, folder, name)
        elif bundle.is_dir():
            made = _link_folder(bundle, folder)
        else:
            made = archives.extract_bundle(bundle, folder, _is_wanted)
        if he_image:
            placed = folder / f"{name}_he_image.ome.tif"
            _place(he_image, placed, kept=bool(given["he_image"]))
            retiled = _retile(placed)
        if he_alignment:
            placed = folder / f"{name}_he_imagealignment.csv"
            _place(he_alignment, placed, kept=bool(given["he_alignment"]))
        on_disk = {part: _places(paths) for part, paths in given.items() if paths}
        receipt = {"sample": name, "on_disk": on_disk, "he_image_retiled": retiled}
        for part in sources.PARTS:
            url = "" if part in on_disk else sample.get(f"{part}_url", "")
            receipt[f"{part}_url"] = downloads.without_query(url)
        files.write_json(folder / RECEIPT, {**receipt, "files": _files_of(folder)})
    files.remove(waiting)
    parts = [f"{len(made)} files of the bundle"]
    parts += ["H&E image" + " (retiled)" * retiled] if he_image else ["no H&E image"]
    parts += ["alignment"] if he_alignment else ["no alignment"]
    how = f"; from {args.downloads}: {', '.join(on_disk)}" if on_disk else ""
    logs.log.info("%s: fetched to %s (%s%s)", name, target, ", ".join(parts), how)


def _places(paths):
    """Where a part lies on the disk; of single files each by its name in the bundle."""
    if isinstance(paths, Path):
        return str(paths.resolve())
    return {name: str(path.resolve()) for name, (path,) in paths.items()}


def _refuse_unknown(given: dict, sample: dict, name: str, target: Path, folder) -> None:
    """Before anything long is fetched: what has neither an address nor lies on the disk."""
    for part in sources.PARTS:
        url = sample.get(f"{part}_url")
        if given[part]:
            continue
        if url:
            downloads.check_address(url)
        elif part in sources.needed(sample):
            found = "no known address" + (f" and nothing of it in {folder}" if folder else "")
            remedy = _by_hand(sample, name, target, folder, part)
            raise InputError("--options", f"sample {name}, {part}_url", found, remedy)


def _is_made(target: Path, sample: dict) -> bool:
    """Whether the folder was fetched, whole, from the addresses of the sample."""
    if not (target / RECEIPT).is_file():
        return False
    receipt = files.read_json(target / RECEIPT)
    urls = {f"{part}_url": sample.get(f"{part}_url") or "" for part in sources.PARTS}
    return all(receipt.get(key) == downloads.without_query(url) for key, url in urls.items())


def _unpack(archive: Path, name: str, target: Path) -> None:
    """Make the folder from a zip that the user has; its H&E and alignment stay where they are."""
    if not archive.is_file():
        remedy = "put the published zip there or correct column bundle of the sample table"
        raise InputError(archive, f"sample {name}, bundle", "nothing", remedy)
    _refuse_foreign_files(target)
    with files.atomic_path(target) as folder:
        unpacked = archives.extract_bundle(archive, folder, _is_wanted)
        files.write_json(
            folder / RECEIPT, {"sample": name, "archive": str(archive), "files": unpacked}
        )
    logs.log.info("%s: %d files unpacked to %s", name, len(unpacked), target)


def _files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _refuse_foreign_files(target: Path) -> None:
    """The folder will be replaced: refuse it where it holds what this program didn't fetch."""
    found = _files_of(target) if target.is_dir() else []
    ours = files.read_json(target / RECEIPT)["files"] if RECEIPT in found else []
    foreign = [file for file in found if file not in (RECEIPT, *ours)]
    if foreign:
        remedy = "complete it by hand, or move it away so that all of it can be fetched"
        raise InputError(target, "folder", f"files that weren't fetched ({foreign[0]})", remedy)


def _is_wanted(path: str) -> bool:
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in by_hand.WANTED)


def _by_hand(sample: dict, name: str, target: Path, folder, part: str = "bundle") -> str:
    """What to download from where, and where to put it."""
    page = _page(sample)
    bundle = sample.get("bundle_name") or name
    where = f"{folder} (key downloads)" if folder else "the folder that key downloads names"
    standard = target / f"{name}_he_image"
    if part == "he_image":
        file = f"{bundle}_he_image.ome.tif"
        return f"download the H&E of sample {name} from {page} into {where} as {file}"
    if part == "he_alignment":
        return (
            f"get the alignment of sample {name} from {page}, or save it in Xenium Explorer, and "
            f"put it into {where} as {bundle}_he_imagealignment.csv; or name the file or word in "
            "column he_alignment"
        )
    return (
        f"download {bundle} of sample {name} from {page} and put it into {where} as "
        f"{bundle}_outs.zip, as the folder {bundle} or as GEO's single files "
        f"(docs/downloads.md names them), or unpack it as {target} (with "
        f"{standard.name}.ome.tif and {standard.name}alignment.csv in it)"
    )


def _page(sample: dict) -> str:
    """Where a sample is published, in words."""
    page = (sample.get("landing_page") or "").strip()
    return " or ".join(filter(None, [page, sample.get("geo_accession")])) or "its publisher"


def _link(source: Path, target: Path, kept: bool = True) -> None:
    """A second name for a file; across disks a symbolic link, or a copy of what isn't kept."""
    source = source.resolve()
    try:
        os.link(source, target)
    except OSError:
        if kept:
            os.symlink(source, target)
        else:
            shutil.copyfile(source, target)


def _link_folder(source: Path, folder: Path) -> list[str]:
    made = []
    for path in sorted(source.rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and _is_wanted(name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _link(path, folder / name)
            made.append(name)
    return made


def _link_loose(loose: Mapping[str, list[Path]], folder: Path, name: str) -> list[str]:
    """A bundle of single files; one of our own says so where there is no experiment.xenium."""
    folder.mkdir()
    for file, (path,) in loose.items():
        _place(path, folder / file, kept=True)
    if "experiment.xenium" not in loose:
        note = f"pairscape: the single files of sample {name} came without this one"
        experiment = {"pixel_size": MORPHOLOGY_PIXEL_UM, "written_by": note}
        files.write_json(folder / "experiment.xenium", experiment)
    return sorted(loose)


def _retile(path: Path) -> bool:
    """Retile an image that can't be read as it is; what else is wrong is left to check_bundle."""
    from pairscape.images.retiling import retile
    from pairscape.images.tiff import TiffImage

    try:
        with TiffImage(path, any_layout=True) as slide:
            needed = slide.needs_retiling
    except InputError:
        return False
    if needed:
        logs.log.info("%s: its strips are too large to be read one by one: retiling", path.name)
        retile(path, path)
    return needed


def _place(source: Path, target: Path, kept: bool) -> None:
    """A second name for a file; a gzip is unpacked, as far as it is in proportion."""
    if source.suffix != ".gz" or target.suffix == ".gz":
        return _link(source, target, kept)
    most = archives.MAX_EXPANSION * source.stat().st_size + downloads.CHUNK
    try:
        with gzip.open(source) as packed, open(target, "xb") as handle:
            while chunk := packed.read(downloads.CHUNK):
                handle.write(chunk)
                if handle.tell() > most:
                    remedy = "don't trust it: get it elsewhere"
                    raise InputError(source, "size", f"over {most} bytes unpacked", remedy)
    except (EOFError, gzip.BadGzipFile, gzip.zlib.error) as error:
        raise InputError(source, "gzip", str(error), "delete it and fetch it again") from None


if __name__ == "__main__":
    program.run(main)
