"""What the records of jobs tell where Snakemake has forgotten them, as in results that were copied."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.jobs import records


def is_of_another(log, inputs: Mapping[str, str | Iterable[str]], options: str | None) -> bool:
    """Whether the record beside a job's log tells of other inputs or options than are planned.

    ``inputs`` are files by flag, ``options`` the argument of ``--options``; what either side lacks
    isn't compared. A job without a record, or with a damaged one (verify_results names it), is left
    to Snakemake.
    """
    path = records.path_beside(log)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        read: dict[str, set] = {}
        for one in record["inputs"]:
            read.setdefault(one["flag"], set()).add(os.path.realpath(path.parent / one["path"]))
        if options and "options" in record:
            made = {**record["options"], "result_version": record["result_version"]}
            if records.without_secrets(_values(options)) != made:
                return True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    planned = {flag: inputs.get(flag) for flag in read}
    return any(files is not None and _real(files) != read[flag] for flag, files in planned.items())


def _real(paths: str | Iterable[str]) -> set[str]:
    return {*map(os.path.realpath, [paths] if isinstance(paths, str) else paths)}


def _values(options: str) -> dict:
    if options.startswith("@"):
        options = Path(options[1:]).read_text(encoding="utf-8")
    return json.loads(options)
