"""The released data set on the Hugging Face Hub: one panel of it, brought to a folder and verified."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pairscape.acquire import downloads, hub
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.logs import log, progress

SUFFIXES = (".arrow", ".parquet")


@dataclass(frozen=True)
class HostedFile:
    """A file of the data set: its path in the repository, its bytes, its checksum where it is known."""

    path: str
    size: int | None
    sha256: str | None

    def is_in(self, path: Path) -> bool:
        """Whether ``path`` holds this file."""
        if self.size not in (None, path.stat().st_size):
            return False
        return self.sha256 in (None, files.sha256_file(path))


def fetch(
    repo: str, revision: str, panel: str, folder, sleep: Callable[[float], None] = time.sleep
) -> dict:
    """Bring the files of a panel into ``folder``; those that are there are verified and kept.

    All are of one commit. The record that is given back names repository, commit and files.
    """
    folder, page = Path(folder), f"{hub.endpoint()}/datasets/{repo}"
    commit, listed = _list(repo, revision, panel, page, sleep)
    there = _verified(folder, listed, page)
    missing = {name: file for name, file in listed.items() if name not in there}
    size = sum(file.size or 0 for file in missing.values())
    words = "%s: %d files of %s, %d of them here; %.2f GB to fetch into %s"
    log.info(words, page, len(listed), panel, len(there), size / 1e9, folder)
    folder.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(folder).free - downloads.FREE_BYTES:
        raise downloads.no_space(
            folder, size, ", or name a folder of another disk in hosted.folder"
        )
    from huggingface_hub import hf_hub_url

    by_hand = f"ask for access at {page} and set HF_TOKEN to a token that may read it, or "
    by_hand += f"download its folder {panel} and name that in published_data"
    for name, file in progress(missing.items(), f"fetching {panel}", len(missing), "file"):
        url = hf_hub_url(
            repo, file.path, repo_type="dataset", revision=commit, endpoint=hub.endpoint()
        )
        downloads.download(
            url,
            folder / name,
            by_hand=by_hand,
            size=file.size,
            checksum=f"sha256:{file.sha256}" if file.sha256 else "",
            secret_headers=hub.headers(),
            sleep=sleep,
        )
    facts = {
        name: {"path": file.path, "bytes": (folder / name).stat().st_size, "sha256": file.sha256}
        for name, file in listed.items()
    }
    return {"repo": repo, "commit": commit, "panel": panel, "from": page, "files": facts}


def _list(repo, revision, panel, page, sleep) -> tuple[str, dict[str, HostedFile]]:
    """The commit of a revision, and a panel's files by their paths in its folder."""
    from huggingface_hub import HfApi, errors

    def question(token):
        api = HfApi(endpoint=hub.endpoint(), token=token)
        return api.dataset_info(repo, revision=revision, files_metadata=True, timeout=60)

    def refusal(error, status, token):
        if isinstance(error, errors.HFValidationError):
            return InputError(page, "hosted.repo", repr(repo), "name it as <owner>/<name>")
        if isinstance(error, errors.RevisionNotFoundError):
            return InputError(page, "hosted.revision", f"no {revision}", "correct hosted.revision")
        if isinstance(error, errors.GatedRepoError):
            return hub.no_access(page, "", status, token)
        if status in (401, 403, 404):
            remedy = "correct hosted.repo, or set a valid HF_TOKEN"
            return InputError(page, "repository", f"status {status}", remedy)
        return None

    info = hub.ask(question, page, refusal, sleep)
    listed, folders = {}, set()
    for file in info.siblings or ():
        parts = PurePosixPath(file.rfilename).parts
        if not file.rfilename.endswith(SUFFIXES) or ".." in parts or len(parts) < 2:
            continue
        folders.add(parts[-2])
        if panel in parts[:-1]:
            name = str(PurePosixPath(*parts[parts.index(panel) + 1 :]))
            sha256 = file.lfs.sha256 if file.lfs else None
            listed[name] = HostedFile(file.rfilename, file.size, sha256)
    if not listed:
        found = f"no Arrow or Parquet file in a folder of that name, only in {sorted(folders)[:8]}"
        remedy = "correct hosted.repo or hosted.revision, or name a copy in published_data"
        raise InputError(page, f"panel {panel}", found, remedy)
    return info.sha or revision, dict(sorted(listed.items()))


def _verified(folder: Path, listed: dict[str, HostedFile], page: str) -> set[str]:
    """Those of the files that are there; others of these kinds, and other bytes, are refused."""
    found = [path for path in sorted(folder.rglob("*")) if path.suffix in SUFFIXES]
    for path in progress(found, "verifying", len(found), "file"):
        name = path.relative_to(folder).as_posix()
        if name not in listed:
            remedy = "move it away: all files of this folder are read as the data set's"
            raise InputError(path, "file", f"what {page} doesn't have", remedy)
        if not listed[name].is_in(path):
            remedy = "delete it to have it fetched, or move the folder away to fetch all of it"
            raise InputError(path, "content", f"other bytes than {page} has now", remedy)
    return {path.relative_to(folder).as_posix() for path in found}
