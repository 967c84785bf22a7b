"""Whether two results folders hold the same, by the records of the jobs that made them.

It tells whether other code makes the same results. Outputs are compared by their path below the
results folder, whatever the program that made them is called; logs and records are no outputs. What
states by which code it was made is compared without that: ``PROVENANCE`` in JSON, ``tsv.ORIGIN`` in
tables, and both in pages.
"""

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from pairscape.core import files, tsv
from pairscape.core.errors import InputError

PROVENANCE = ("git_commit", "versions", files.SEAL, "finished", "seconds")
_IN_PAGES = re.compile(
    r"\b[0-9a-f]{40}(-dirty)?\b"  # a commit
    r"|(&#34;|\")versions\2: \{[^}]*\}|<li>Versions \([^<]*"
    rf"|(?<={files.SEAL}&#34;: &#34;)[0-9a-f]{{64}}"
)


def by_place(outputs: Mapping[str, Mapping], folder) -> dict[str, tuple[str, str]]:
    """Path and recorded SHA-256 of every file of the outputs (``records.newest_outputs``), by its
    path seen from the results folder.
    """
    sums = {}
    for path, entry in outputs.items():
        inside = {
            os.path.join(path, name): facts[1] for name, facts in entry.get("files", {}).items()
        }
        for file, checksum in (inside if "files" in entry else {path: entry["sha256"]}).items():
            sums[os.path.relpath(file, folder)] = (file, checksum)
    return sums


def compare(
    ours: Mapping[str, tuple[str, str]], theirs: Mapping[str, tuple[str, str]]
) -> Iterator[tuple[str, InputError | None]]:
    """Yield each place (as ``by_place`` names them) whose checksums differ, with what is wrong.

    None stands for files that are the same but for what says which code made them.
    """
    for place in sorted({*ours, *theirs}):
        if place not in theirs:
            path = ours[place][0]
            yield place, InputError(path, "file", "one that the other results lack", "find out why")
        elif place not in ours:
            path = theirs[place][0]
            yield place, InputError(path, "file", "it in the other results alone", "find out why")
        elif ours[place][1] != theirs[place][1]:
            (path, _), (other, _) = ours[place], theirs[place]
            yield place, _difference(path, other)


def _difference(path: str, other: str) -> InputError | None:
    """What is wrong with two files of unlike bytes; None where only their provenance differs."""
    try:
        contents = [_without_provenance(Path(one)) for one in (path, other)]
    except (OSError, ValueError, InputError) as error:
        return InputError(path, "content", f"what can't be compared ({error})", "mend that first")
    if contents[0] is not None and contents[0] == contents[1]:
        return None
    return InputError(path, "checksum", f"other bytes than {other} has", "find out why")


def _without_provenance(path: Path):
    """The content of a file that says what made it, without that; None for other kinds of files."""
    if path.suffix == ".json":
        return _pruned(json.loads(path.read_text(encoding="utf-8")))
    if path.suffix == ".tsv":
        tsv.read_tsv(path)  # refuses what is no table
        with open(path, newline="", encoding="utf-8") as handle:
            header, *rows = csv.reader(handle, delimiter="\t")
        kept = [index for index, name in enumerate(header) if name not in tsv.ORIGIN]
        return [[row[index] for index in kept] for row in (header, *rows)]
    if path.suffix == ".html":
        return _IN_PAGES.sub("", path.read_text(encoding="utf-8"))
    return None


def _pruned(value):
    if isinstance(value, dict):
        return {key: _pruned(item) for key, item in value.items() if key not in PROVENANCE}
    if isinstance(value, list):
        return [_pruned(item) for item in value]
    return json.dumps(value)  # 1, 1.0 and True are equal for Python, and 0 and -0.0
