"""What a job made and of what: a record beside its log, and whether that is still what lies there.

``<log stem>.made.json`` holds the checksums of the outputs when they were made, the options, the
inputs, the commit and the versions of the packages. Its paths are relative to its own folder, so
that results can be moved. It holds no query and no user of an address: tokens may stand there.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pairscape.core import files, tsv
from pairscape.core.errors import InputError

ENDING = ".made.json"
CHEAP_BYTES = 50_000_000  # larger inputs are outputs of another job, whose record has their sum
NOT_OURS = (".snakemake_timestamp", ".nfs")  # what Snakemake and NFS leave in a folder
PACKAGES = {  # by the module that is imported; those decide numbers or formats
    "anndata": "anndata",
    "datasets": "datasets",
    "drvi": "drvi-py",
    "h5py": "h5py",
    "imagecodecs": "imagecodecs",
    "leidenalg": "leidenalg",
    "lightning": "lightning",
    "matplotlib": "matplotlib",
    "numpy": "numpy",
    "open_clip.loss": "open-clip-torch",
    "pandas": "pandas",
    "peft": "peft",
    "pyarrow": "pyarrow",
    "scanpy": "scanpy",
    "scib_metrics": "scib-metrics",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "spatialdata": "spatialdata",
    "tifffile": "tifffile",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "zarr": "zarr",
}
_ADDRESS = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/\s\"?#]*@)?([^\s\"'?#]*)(?:[?#][^\s\"]*)?"
)


def path_beside(log) -> Path:
    """Where the record of the job with this log lies."""
    return Path(log).with_suffix(ENDING)


def without_secrets(value):
    """A JSON value or text whose addresses have lost user, query and fragment."""
    if isinstance(value, str):
        return _ADDRESS.sub(r"\1\2", value)
    if isinstance(value, Mapping):
        return {without_secrets(key): without_secrets(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return value


def git_commit() -> str | None:
    """The commit this code is of (``-dirty`` where it was changed), or None outside a repository."""
    try:
        done = subprocess.run(
            [
                *("git", "-C", str(Path(__file__).parent)),
                *("describe", "--always", "--dirty", "--abbrev=40"),
            ],
            capture_output=True,
            encoding="utf-8",
            check=True,
            # Many jobs ask at once, and none of them may hold the lock of the user's index.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """The versions of Python and of those of ``PACKAGES`` that this process has imported."""
    found = {"python": platform.python_version()}
    for module, package in PACKAGES.items():
        if module in sys.modules:
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = "unknown"
    return found


def program_version(program: str) -> int | None:
    """The ``RESULT_VERSION`` that a program states now, read without importing it; or None."""
    path = Path(__file__).parents[2] / f"{program}.py"
    found = path.is_file() and re.search(
        r"^RESULT_VERSION = (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE
    )
    return int(found.group(1)) if found else None


@dataclass(frozen=True)
class Job:
    """What the record of a job is written from.

    ``options`` is the JSON of ``--options`` as it was given. ``inputs`` and ``outputs`` are paths by
    flag; what isn't there is left out of the record: inputs that are no files, and outputs that a
    program makes only where there is something to say. ``also`` are outputs that no flag names, each
    with its SHA-256 where that is known.
    """

    log: str
    result_version: int
    options: str
    inputs: Mapping[str, Sequence]
    outputs: Mapping[str, Sequence]
    threads: int = 1
    also: dict[str, str | None] = field(default_factory=dict)
    start: float = field(default_factory=time.monotonic)


def write(job: Job, program: str) -> Path | None:
    """Write the record of a job that has ended well; None where it has made no file."""
    path = path_beside(job.log)
    made = [(flag, one) for flag, several in job.outputs.items() for one in several]
    made += [(None, one) for one in job.also]
    made = [(flag, str(one)) for flag, one in made if os.path.exists(one)]
    if not made:
        return None
    given = without_secrets(json.loads(job.options))
    given.pop("result_version", None)  # it has a place of its own
    sums = _describe_outputs(made, job.also, job.threads)
    record = {
        "program": program,
        "result_version": job.result_version,
        "git_commit": git_commit(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(),
        "seconds": round(time.monotonic() - job.start, 3),
        "threads": job.threads,
        "options": given,
        "options_sha256": files.sha256_json(given),
        "versions": versions(),
        "inputs": [
            {"flag": flag, "path": _path_from(path.parent, one), **_describe_input(one)}
            for flag, several in job.inputs.items()
            for one in several
            if os.path.exists(one)
        ],
        "outputs": [
            {"flag": flag, "path": _path_from(path.parent, one), **facts}
            for (flag, one), facts in zip(made, sums, strict=True)
        ],
    }
    files.write_json(path, record)
    return path


def add_origin(tables: Iterable, options: Mapping, scores: Iterable) -> None:
    """Let every row of tables say what made it: a row that is copied elsewhere can be traced.

    Parameters
    ----------
    tables
        TSV files, to which the columns ``tsv.ORIGIN`` are added: the checksum of the scores, that
        of the options, and the commit.
    options
        Of the program, as its record has them.
    scores
        The files that the tables were made from, in the order that they were given.
    """
    origin = (
        files.sha256_json([files.sha256_file(path) for path in scores]),
        files.sha256_json(without_secrets(options)),
        git_commit() or "",
    )
    for path in tables:
        with open(path, newline="", encoding="utf-8") as handle:
            header = handle.readline().rstrip("\n").split("\t")
        columns = [name for name in header if name not in tsv.ORIGIN]
        rows = tsv.read_tsv(path, columns)
        said = dict(zip(tsv.ORIGIN, origin, strict=True))
        tsv.write_tsv(path, [{**row, **said} for row in rows], [*columns, *tsv.ORIGIN])


def read(path) -> dict:
    """Read a record."""
    remedy = "delete it and what its job made, and run the same snakemake command again"
    record = files.read_json(path)
    try:
        for key in ("program", "finished"):
            if not isinstance(record[key], str):
                raise ValueError(f"{key} that is no text")
        if files.sha256_json(record["options"]) != record["options_sha256"]:
            raise ValueError("options that aren't those it has the checksum of")
        for entry in record["outputs"]:
            if not isinstance(entry["path"], str) or not _is_sum(entry["bytes"], entry["sha256"]):
                raise ValueError("an output without path, bytes or checksum")
            if not all(_is_sum(*sums) for sums in entry.get("files", {}).values()):
                raise ValueError(f"a file of {entry['path']} without bytes or checksum")
            if "files" in entry and _sum_of(entry["files"]) != entry["sha256"]:
                raise ValueError(f"files of {entry['path']} that don't go with its checksum")
    except KeyError as error:
        raise InputError(path, error.args[0], "nothing", remedy) from None
    except (TypeError, AttributeError, ValueError) as error:
        raise InputError(path, "record", str(error), remedy) from None
    return record


def find(folder) -> list[Path]:
    """The records below a folder."""
    return sorted(Path(folder).rglob(f"*{ENDING}"))


def newest_outputs(records: Mapping[Path, dict]) -> dict[str, dict]:
    """Of each output what the record says of it that was written last.

    Parameters
    ----------
    records
        By path, as ``read`` gives them.

    Returns
    -------
    By path of the output (a file or a folder) its entry in the record, with ``program``,
    ``result_version``, ``record`` (the record's path) and ``target`` (the output by whose name
    Snakemake makes it again).
    """
    found = {}
    for place, record in sorted(records.items(), key=lambda item: item[1]["finished"]):
        facts = {key: record.get(key) for key in ("program", "result_version")}
        paths = [
            os.path.normpath(os.path.join(place.parent, entry["path"]))
            for entry in record["outputs"]
        ]
        flags = zip(paths, record["outputs"], strict=True)
        named = [path for path, entry in flags if entry.get("flag")] or paths
        for path, entry in zip(paths, record["outputs"], strict=True):
            found.pop(path, None)
            target = path if path in named else named[0]
            found[path] = {**entry, **facts, "record": place, "target": target}
    return found


def _again(target: str) -> str:
    """How a file is made again, also one for which a plain run doesn't ask."""
    return f"`snakemake --force {shlex.quote(target)}` with your other options makes it again"


def verify(
    outputs: Mapping[str, dict],
    threads: int = 1,
    progress: Callable[[Iterable], Iterable] = iter,
) -> Iterator[InputError]:
    """Yield what is changed, missing or too much, one ``InputError`` each.

    Parameters
    ----------
    outputs
        As ``newest_outputs`` gives them.
    progress
        Wraps the list of files whose checksums are computed.
    """
    wanted = {}
    for path, entry in outputs.items():
        maker, again = entry["program"], _again(entry["target"])
        if "files" not in entry:
            wanted[path] = (entry["bytes"], entry["sha256"], maker, again)
        elif os.path.isdir(path):
            for name, sums in entry["files"].items():
                wanted[os.path.join(path, name)] = (*sums, maker, again)
        else:
            number = len(entry["files"])
            yield InputError(path, "folder", f"nothing where {maker} made {number} files", again)
    for path, entry in outputs.items():
        if "files" in entry and os.path.isdir(path):
            for name in _files_below(path):
                if os.path.join(path, name) not in wanted:
                    yield InputError(
                        os.path.join(path, name),
                        "file",
                        f"one that {entry['program']} didn't make",
                        f"take it out of {path}",
                    )
    same_size = []
    for path, (size, _, maker, again) in wanted.items():
        if not os.path.isfile(path):
            yield InputError(path, "file", f"nothing where {maker} made {size} bytes", again)
        elif (found := os.path.getsize(path)) != size:
            yield InputError(path, "size", f"{found} bytes where {maker} made {size}", again)
        else:
            same_size.append(path)
    with ThreadPoolExecutor(threads) as pool:
        sums = progress(pool.map(_sha256_or_error, same_size))
        for path, found in zip(same_size, sums, strict=True):
            _, checksum, maker, again = wanted[path]
            if isinstance(found, OSError):
                yield InputError(path, "file", found.strerror, "make it readable, or delete it")
            elif found != checksum:
                yield InputError(path, "checksum", f"other bytes than {maker} made", again)


def _describe_input(path) -> dict:
    if not os.path.isfile(path):
        return {}
    size = os.path.getsize(path)
    return {"bytes": size} | ({"sha256": files.sha256_file(path)} if size < CHEAP_BYTES else {})


def _describe_outputs(made, also: Mapping[str, str | None], threads: int) -> Iterator[dict]:
    """Bytes and checksum of each output; of a folder those of its files, too."""
    below = {one: _files_below(one) if os.path.isdir(one) else None for _, one in made}
    each = [
        os.path.join(one, name) if name else one
        for one, names in below.items()
        for name in (names if names is not None else [""])
    ]
    unknown = [path for path in each if not also.get(path)]
    with ThreadPoolExecutor(threads) as pool:
        sums = {**also, **dict(zip(unknown, pool.map(files.sha256_file, unknown), strict=True))}
    for _, one in made:
        if below[one] is None:
            yield {"bytes": os.path.getsize(one), "sha256": sums[one]}
        else:
            paths = {name: os.path.join(one, name) for name in below[one]}
            inside = {name: [os.path.getsize(path), sums[path]] for name, path in paths.items()}
            total = sum(size for size, _ in inside.values())
            yield {"bytes": total, "sha256": _sum_of(inside), "files": inside}


def _sum_of(inside: Mapping[str, Sequence]) -> str:
    """The checksum of a folder: of the names of its files with their checksums."""
    return files.sha256_json({name: checksum for name, (_, checksum) in inside.items()})


def _is_sum(size, checksum) -> bool:
    return isinstance(size, int) and isinstance(checksum, str) and len(checksum) == 64


def _files_below(folder) -> list[str]:
    return sorted(
        os.path.relpath(os.path.join(at, name), folder)
        for at, _, names in os.walk(folder)
        for name in names
        if not name.startswith(NOT_OURS)
    )


def _path_from(folder, path) -> str:
    """A path as seen from a folder; absolute where only one of the two was given as absolute."""
    if os.path.isabs(folder) != os.path.isabs(path):
        return os.path.abspath(path)
    return os.path.relpath(path, folder)


def _sha256_or_error(path) -> str | OSError:
    try:
        return files.sha256_file(path)
    except OSError as error:
        return error
