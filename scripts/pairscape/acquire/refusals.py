"""Why a sample was refused, kept beside what would have been made of it: a plan can leave it out."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pairscape.core import files
from pairscape.core.errors import InputError


class UnavailableError(InputError):
    """A file that nobody gives, whenever they are asked: not a broken connection."""


def path_beside(made) -> Path:
    """Where a refusal stands in the place of a file or folder that isn't made."""
    path = Path(made)
    return path.with_name(path.name.removesuffix(".json") + ".refused.json")


@contextlib.contextmanager
def kept(made, sample: Mapping[str, str], kind: type[InputError] = InputError) -> Iterator[None]:
    """Write down a refusal of this kind before it ends the program; forget an earlier one.

    ``sample`` is its row as far as the program knows it: with other facts it isn't refused yet.
    """
    path = path_beside(made)
    files.remove(path)
    try:
        yield
    except kind as error:
        why = f"{error.file}: {error.field}: found {error.found}"
        files.write_json(path, {"sample": dict(sample), "reason": why, "remedy": error.remedy})
        raise


def reason(path, sample: Mapping[str, str]) -> str | None:
    """Why a sample with this row was refused; None where it wasn't, or had other facts then."""
    if not Path(path).is_file():
        return None
    record = files.read_json(path)
    try:
        same = all(sample.get(key, "") == value for key, value in record["sample"].items())
        return str(record["reason"]) if same else None
    except (AttributeError, KeyError, TypeError):
        remedy = "delete it: the sample is then tried again"
        raise InputError(path, "reason", "nothing", remedy) from None
