"""Rows of tables, sorted into groups, and their means."""

import statistics
from collections.abc import Iterable, Mapping, Sequence


def split_by(rows: Iterable[Mapping], *names: str) -> dict:
    """Rows by the values of columns (of one column by the value itself), as they first come."""
    groups: dict = {}
    for row in rows:
        key = row[names[0]] if len(names) == 1 else tuple(row[name] for name in names)
        groups.setdefault(key, []).append(row)
    return groups


def mean_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean of values, if any, and from two on their standard deviation."""
    if not values:
        return None, None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
