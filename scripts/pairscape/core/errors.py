"""The one way in which Pairscape refuses an input."""

import difflib
from collections.abc import Iterable, Sequence


class InputError(Exception):
    """A bad input, told in one line: the file, the field, what was found and what to do.

    Programs print it without a traceback and exit with status 1 (see ``program.run``).

    Parameters
    ----------
    file
        The file that holds the fault (or the option, written ``--options``).
    field
        The column, key, row or part of the file that is wrong.
    found
        What stands there.
    remedy
        What the user should do, as an instruction.
    """

    def __init__(self, file, field: str, found: str, remedy: str):
        self.file = str(file)
        self.field = _one_line(field)
        self.found = _one_line(found)
        self.remedy = _one_line(remedy)
        super().__init__(f"{self.file}: {self.field}: found {self.found}; {self.remedy}")


def _one_line(text) -> str:
    return " ".join(str(text).split())


def one_of(value, allowed: Iterable, file, field: str, what: str = "") -> None:
    """Refuse a value that isn't among the allowed ones, with the nearest name where one is near.

    ``what`` says what the allowed ones are, for the message.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(file, field, repr(value), allowed_words(value, allowed, what))


def allowed_words(value, allowed: Iterable, what: str = "") -> str:
    """The remedy for a wrong name: the nearest one, and all that are allowed."""
    allowed = list(map(str, allowed))
    close = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}allowed{f' ({what})' if what else ''}: {', '.join(allowed) or 'none'}"


def one_each(files: Sequence, wanted: Sequence, flag: str, what: str = "samples") -> None:
    """Refuse a flag that gives more or fewer files than there are samples (or other options)."""
    if len(files) != len(wanted):
        remedy = f"give one for each of {len(wanted)} {what}, in the order of options.{what}"
        raise InputError(flag, "files", f"{len(files)} for {len(wanted)} {what}", remedy)


def missing_file(path, remedy: str = "make it or correct the path") -> InputError:
    """The refusal of a file that isn't there."""
    return InputError(path, "file", "nothing", remedy)
