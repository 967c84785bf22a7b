"""Tables of tab-separated text: declared once, written, read, checked and documented by it."""

import contextlib
import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path

ORIGIN = ("scores_sha256", "options_sha256", "git_commit")  # what made a row of a table


def write_tsv(
    path, rows: Iterable[Mapping], columns: Iterable[str], *, delimiter: str = "\t"
) -> None:
    """Write a table of text with a header, atomically. ``None`` becomes an empty field."""
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as handle,
    ):
        writer = csv.DictWriter(handle, columns, delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_tsv(path, columns: Sequence[str] = (), remark: str = "") -> list[dict[str, str]]:
    """Read a tab-separated table as a list of rows, all values text without blanks around them.

    A byte order mark does no harm. Lines that begin with ``remark``, if that isn't empty, are passed
    over.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as handle:
            passed = 0

            def lines():
                nonlocal passed
                for line in handle:
                    if remark and line.startswith(remark):
                        passed += 1
                    else:
                        yield line

            reader = csv.DictReader(lines(), delimiter="\t", restkey="", strict=True)
            names = reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
            rows = []
            for row in reader:
                if "" in row or None in row.values():
                    fault = f"a number of fields other than the header's {len(names)}"
                    remedy = "separate the fields by single tabs"
                    raise InputError(path, f"line {reader.line_num + passed}", fault, remedy)
                rows.append({name: value.strip() for name, value in row.items()})
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(path, "table", str(error), "save it as tab-separated UTF-8 text") from None
    for column in columns:
        if column not in names:
            _refuse_separator(path, names, column)
            raise InputError(
                path, f"column {column}", f"only {', '.join(names) or 'nothing'}", "add the column"
            )
    if len(set(names)) != len(names):
        raise InputError(path, "header", "a repeated column", "give each column one name")
    return rows


def _refuse_separator(path, names: Sequence[str], wanted: str) -> None:
    """Refuse a table whose one column is a line of columns that something else than tabs separates."""
    separators = {"commas": ",", "semicolons": ";", "vertical bars": "|", "blanks": None}
    for words, separator in separators.items():
        parts = [part.strip().strip('"') for part in names[0].split(separator)] if names else []
        if len(names) == 1 and len(parts) > 1 and wanted in parts:
            remedy = "save it as tab-separated UTF-8 text"
            raise InputError(path, "table", f"fields separated by {words}", remedy)


def write_numbers(
    path,
    rows: Iterable[Mapping],
    columns: Sequence[str],
    digits: int | None = 6,
    *,
    delimiter: str = "\t",
) -> None:
    """Write a table: floats with so many significant digits, ``None`` as an empty field.

    ``digits`` None writes floats as they are.
    """
    if digits is not None:
        rows = (
            {n: f"{v:.{digits}g}" if isinstance(v, float) else v for n, v in row.items()}
            for row in rows
        )
    write_tsv(path, rows, columns, delimiter=delimiter)


def require_end(path, remedy: str) -> None:
    """Refuse a text file of ours that is cut off in mid-line.

    A row that lacks only an end of its last field looks whole.
    """
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as handle:
        if handle.seek(0, os.SEEK_END):
            handle.seek(-1, os.SEEK_END)
            if handle.read() != b"\n":
                raise InputError(path, "last line", "no end: the file is cut off", remedy)


def read_numbers(
    path,
    columns: Sequence[str],
    remedy: str,
    numbers: Iterable[str] = (),
    texts: Iterable[str] = (),
) -> list[dict]:
    """Read what ``write_numbers`` wrote; numbers as float, empty ones as None.

    Parameters
    ----------
    columns
        Columns that must be there.
    remedy
        What to do with a damaged file, for the message.
    numbers
        The columns of numbers; none given, all but ``texts``.
    """
    rows = read_tsv(path, columns)
    wanted = list(numbers) or [
        name for name in (rows[0] if rows else ()) if name not in {*texts, *ORIGIN}
    ]
    for line, row in enumerate(rows, start=2):
        for name in wanted:
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError:
                raise InputError(path, f"line {line}, {name}", repr(row[name]), remedy) from None
    return rows


@dataclass(frozen=True)
class Column:
    """A column: name, what it holds (text, ``float`` or whole numbers, ``int``) and meaning."""

    name: str
    type: type
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table that passes between programs, declared once: written, read, checked and documented by it.

    ``name`` is the file's, as in the docs; ``made_by`` the program that writes it. ``others`` is the
    meaning of further columns, all of numbers, whose names depend on what is scored; empty where
    there are none. They stand behind the column ``others_after``, else last.
    """

    name: str
    made_by: str
    columns: tuple[Column, ...]
    others: str = ""
    others_after: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the declared columns, in order."""
        return tuple(column.name for column in self.columns)

    def names_of(self, type) -> list[str]:
        """The names of the columns of a type."""
        return [column.name for column in self.columns if column.type is type]

    def write(self, path, rows: Sequence[Mapping], digits: int | None = 6) -> None:
        """Write the table atomically: numbers with so many significant digits, None as nothing.

        ``ValueError``: a row lacks a declared column, or has one that isn't declared.
        """
        further = [] if not rows else [name for name in rows[0] if name not in self.names]
        if further and not self.others:
            raise ValueError(f"{self.name}: {', '.join(further)} aren't declared")
        place = self.names.index(self.others_after) + 1 if self.others_after else len(self.names)
        write_numbers(path, rows, [*self.names[:place], *further, *self.names[place:]], digits)

    def read(self, path) -> list[dict]:
        """Read and check what ``write`` wrote: numbers by their type, empty ones as None."""
        texts = [column.name for column in self.columns if column.type is not float]
        numbers = [column.name for column in self.columns if column.type is float]
        remedy = f"delete it and run {self.made_by} again"
        require_end(path, remedy)
        if self.others:
            rows = read_numbers(path, self.names, remedy, texts=texts)
        elif numbers:
            rows = read_numbers(path, self.names, remedy, numbers=numbers)
        else:
            rows = read_tsv(path, self.names)
        for name in (column.name for column in self.columns if column.type is int):
            for line, row in enumerate(rows, start=2):
                if row[name] and not row[name].isdigit():
                    raise InputError(path, f"line {line}, {name}", repr(row[name]), remedy)
                row[name] = int(row[name]) if row[name] else None
        return rows

    def matches(self, names: Iterable[str]) -> bool:
        """Whether a file with these columns may be this table."""
        return set(self.names) <= set(names)

    def document(self) -> str:
        """The table's columns in Markdown, for the docs."""
        lines = [
            f"`{self.name}`, by `{self.made_by}`",
            "",
            "| column | holds | meaning |",
            "| --- | --- | --- |",
        ]
        kinds = {str: "text", float: "number", int: "whole number"}
        lines += [f"| `{c.name}` | {kinds[c.type]} | {c.meaning} |" for c in self.columns]
        lines += [f"| ... | number | {self.others} |"] if self.others else []
        return "\n".join(lines)


def text(**meanings: str) -> tuple[Column, ...]:
    """Columns of text by their names, with their meanings."""
    return tuple(Column(name, str, meaning) for name, meaning in meanings.items())


def numbers(**meanings: str) -> tuple[Column, ...]:
    """Columns of numbers by their names, with their meanings."""
    return tuple(Column(name, float, meaning) for name, meaning in meanings.items())


def counts(**meanings: str) -> tuple[Column, ...]:
    """Columns of whole numbers, 0 or more, by their names, with their meanings."""
    return tuple(Column(name, int, meaning) for name, meaning in meanings.items())
