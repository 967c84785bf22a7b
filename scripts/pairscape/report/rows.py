"""Rows of tables, sorted into groups."""

from collections.abc import Iterable, Mapping


def split_by(rows: Iterable[Mapping], *names: str) -> dict:
    """Rows by the values of columns (of one column by the value itself), as they first come."""
    groups: dict = {}
    for row in rows:
        key = row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)
        groups.setdefault(key, []).append(row)
    return groups
