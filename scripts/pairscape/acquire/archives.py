"""Unpacking archives of bundles without trusting them."""

import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pairscape.acquire import downloads
from pairscape.core.errors import InputError
from pairscape.core.logs import progress

MAX_EXPANSION = 50  # unpacked over packed bytes; images and tables in bundles stay far below


def extract_bundle(archive, folder, wanted: Callable[[str], bool]) -> list[str]:
    """Unpack what is wanted of a bundle's zip into ``folder``; gives the paths made, relative to it.

    The bundle's root is where ``experiment.xenium`` lies, so a top folder is stripped.
    """
    archive, folder = Path(archive), Path(folder)
    again = "delete it and fetch it again"
    try:
        with zipfile.ZipFile(archive) as packed:
            members = [member for member in packed.infolist() if not member.is_dir()]
            for member in members:
                _refuse_unsafe(archive, member)
            roots = [
                PurePosixPath(member.filename).parent
                for member in members
                if PurePosixPath(member.filename).name == "experiment.xenium"
            ]
            if len(roots) != 1:
                found = "none" if not roots else f"{len(roots)} times"
                raise InputError(
                    archive, "experiment.xenium", found, "use the archive of one Xenium bundle"
                )
            chosen = {}
            for member in members:
                path = PurePosixPath(member.filename)
                if not path.is_relative_to(roots[0]):
                    continue
                name = str(path.relative_to(roots[0]))
                if not wanted(name):
                    continue
                if name in chosen:
                    raise InputError(archive, name, "it twice", again)
                chosen[name] = member
            size = sum(member.file_size for member in chosen.values())
            if size > MAX_EXPANSION * archive.stat().st_size + downloads.CHUNK:
                raise InputError(
                    archive, "size", f"{size} bytes unpacked", "don't trust it: get it elsewhere"
                )
            folder.mkdir(parents=True, exist_ok=True)
            if size > shutil.disk_usage(folder).free:
                raise downloads.no_space(folder, size)
            for name, member in progress(chosen.items(), "unpacking", len(chosen), "file"):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, open(target, "xb") as handle:
                    shutil.copyfileobj(source, handle, downloads.CHUNK)
            return sorted(chosen)
    except (
        *(zipfile.BadZipFile, zipfile.LargeZipFile, zipfile.zlib.error),
        *(EOFError, NotImplementedError),
    ) as error:
        raise InputError(archive, "zip", str(error), again) from None


def _refuse_unsafe(archive: Path, member: zipfile.ZipInfo) -> None:
    path, remedy = PurePosixPath(member.filename), "don't trust it: get it elsewhere"
    if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
        raise InputError(archive, member.filename, "a path that leaves the folder", remedy)
    mode = member.external_attr >> 16
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise InputError(archive, member.filename, "a link or device", remedy)
    if member.flag_bits & 1:
        raise InputError(archive, member.filename, "an encrypted file", remedy)
