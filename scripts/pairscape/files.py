"""Whole files or none: atomic writing, checksums, small tables and JSON."""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pairscape.errors import InputError


@contextlib.contextmanager
def atomic_path(path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the place of ``path`` when the block ends well.

    After an error nothing of it stays and an older ``path`` is untouched. The block may create a
    file or a folder there. The temporary name keeps the suffixes of ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".part-{os.getpid()}-{path.name}")
    remove(temporary)
    try:
        yield temporary
        if not temporary.is_dir():
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
        if path.is_dir() and not path.is_symlink():
            remove(path)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path) -> None:
    """Delete a file or a folder with all in it; do nothing where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_file(path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_json(value) -> str:
    """The SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_json(path, value) -> None:
    """Write ``value`` as indented JSON, atomically. NaN and infinity are refused."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path):
    """Read a JSON file.

    Raises
    ------
    InputError
        The file is missing or isn't JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            path, "JSON", str(error), "the file is damaged: delete it and make it again"
        ) from None


def write_tsv(path, rows: Iterable[Mapping], columns: Sequence[str]) -> None:
    """Write a tab-separated table with a header, atomically. ``None`` becomes an empty field."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, columns, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_tsv(path, columns: Sequence[str] = (), remark: str = "") -> list[dict[str, str]]:
    """Read a tab-separated table as a list of rows, all values text.

    Lines that begin with ``remark``, if that isn't empty, are passed over.

    Raises
    ------
    InputError
        The file is missing, lacks one of ``columns``, repeats a column, or has a ragged line.
    """
    try:
        with open(path, newline="") as handle:
            passed = 0

            def lines():
                nonlocal passed
                for line in handle:
                    if remark and line.startswith(remark):
                        passed += 1
                    else:
                        yield line

            reader = csv.DictReader(lines(), delimiter="\t", restkey="", strict=True)
            names = list(reader.fieldnames or [])
            rows = []
            for row in reader:
                if "" in row or None in row.values():
                    raise InputError(
                        path,
                        f"line {reader.line_num + passed}",
                        f"a number of fields other than the header's {len(names)}",
                        "separate the fields by single tabs",
                    )
                rows.append(row)
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "make it or correct the path") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(path, "table", str(error), "save it as tab-separated UTF-8 text") from None
    for column in columns:
        if column not in names:
            raise InputError(
                path, f"column {column}", f"only {', '.join(names) or 'nothing'}", "add the column"
            )
    if len(set(names)) != len(names):
        raise InputError(path, "header", "a repeated column", "give each column one name")
    return rows


def write_numbers(path, rows: Iterable[Mapping], columns: Sequence[str], digits: int = 6) -> None:
    """Write a table as TSV: floats with so many significant digits, ``None`` as an empty field."""
    write_tsv(
        path,
        ({n: f"{v:.{digits}g}" if isinstance(v, float) else v for n, v in r.items()} for r in rows),
        columns,
    )


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

    Raises
    ------
    InputError
        A column is missing, or a field that must be a number isn't one.
    """
    rows = read_tsv(path, columns)
    wanted = list(numbers) or [name for name in (rows[0] if rows else ()) if name not in set(texts)]
    for line, row in enumerate(rows, start=2):
        for name in wanted:
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError:
                raise InputError(path, f"line {line}, {name}", repr(row[name]), remedy) from None
    return rows
