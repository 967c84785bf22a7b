"""Parts of the command lines of jobs, quoted for the shell."""

import shlex
from collections.abc import Mapping, Sequence


def flags(files: Mapping[str, str], *names: str) -> str:
    """Flags for those of the named files that there are."""
    return " ".join(f"--{n.replace('_', '-')} {_quoted(files[n])}" for n in names if n in files)


def _quoted(path: str) -> str:
    """Quoted whether it is needed or not: a command that is written otherwise runs its job again."""
    return "'" + path.replace("'", "'\"'\"'") + "'"


def many(flag: str, files: Sequence[str]) -> str:
    """A flag with its files, or nothing where there are none."""
    return " ".join([flag, *map(shlex.quote, files)]) if files else ""


def first_flag(flag: str, files: Sequence[str]) -> str:
    """A flag with the first file, or nothing: what else is read lies beside it."""
    return many(flag, files[:1])
