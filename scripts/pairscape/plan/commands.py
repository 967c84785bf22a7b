"""Parts of the command lines of jobs, quoted for the shell; names that a wildcard may take."""

import hashlib
import itertools
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pairscape.core.files import atomic_path

MAX_ARGUMENT = 100_000  # bytes; Linux takes 131,072 for one argument of a process


def flags(files: Mapping[str, str], *names: str) -> str:
    """Flags for those of the named files that there are."""
    return " ".join(f"--{n.replace('_', '-')} {_quoted(files[n])}" for n in names if n in files)


def _quoted(path: str) -> str:
    """Quoted whether it is needed or not: a command that is written otherwise runs its job again."""
    quoted = shlex.quote(path)
    return quoted if quoted != path else f"'{path}'"


def made_flags(output) -> str:
    """Flags of all the files that a job makes, by their names in the rule."""
    return flags(dict(output.items()), *output.keys())


def as_json(values: Mapping) -> str:
    """Options as JSON in which no text looks like one of Snakemake's wildcards, such as {word}.

    (The ${NAME} of an address is left: only functions of wildcards give it, which Snakemake leaves.)
    """
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return re.sub(
        r'"(?:[^"\\]|\\.)*"', lambda found: re.sub(r"(?<!\$)\{", r"\\u007b", found[0]), text
    )


def many(flag: str, files: Sequence[str]) -> str:
    """A flag with its files, or nothing where there are none."""
    return " ".join([flag, *map(shlex.quote, files)]) if files else ""


def read_flags(inputs) -> str:
    """Flags of the lists of files that a job reads, by their names in the rule; none of empty ones."""
    lists = {f"--{name.replace('_', '-')}": files for name, files in inputs.items()}
    return " ".join(filter(None, (many(flag, files) for flag, files in lists.items())))


def first_flag(flag: str, files: Sequence[str]) -> str:
    """A flag with the first file, or nothing: what else is read lies beside it."""
    return many(flag, files[:1])


def short(text: str, start: str) -> str:
    """An argument that a process can be started with: the text, or ``@`` and a file that holds it.

    Options grow with the number of runs. The file is ``<start>-<checksum>.json``: a change of the
    text is one of the argument.
    """
    content = text.encode()
    if len(content) <= MAX_ARGUMENT:
        return text
    path = Path(f"{start}-{hashlib.sha256(content).hexdigest()[:16]}.json")
    if not path.is_file() or path.read_bytes() != content:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
    return f"@{path}"


def any_of(names: Iterable[str]) -> str:
    """A regular expression of exactly these names; none of them where there are none.

    Common beginnings are written once: Snakemake compiles it for each file of each rule, and a list
    of some hundred experiments is most of the time of a plan.
    """
    return _alternatives(sorted(set(names))) or "(?!)"


def _alternatives(names: Sequence[str]) -> str:
    branches = []
    for _, group in itertools.groupby(filter(None, names), key=lambda name: name[0]):
        alike = list(group)
        start = os.path.commonprefix(alike)  # noqa: RUF071  (by characters, as is meant)
        rest = _alternatives([name[len(start) :] for name in alike]) if len(alike) > 1 else ""
        branches.append(re.escape(start) + rest)
    ends = "?" if "" in names else ""
    return (
        "|".join(branches) if len(branches) < 2 and not ends else f"(?:{'|'.join(branches)}){ends}"
    )
