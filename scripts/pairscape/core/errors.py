"""The one way in which Pairscape refuses an input."""


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
