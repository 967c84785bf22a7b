"""Sums over rows from which means and covariances follow; those of parts add up to those of all."""

import operator
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Moments:
    """Sums of two inputs' rows and of their products, each input less its shift.

    ``shifts`` are points near the data, the same in what is added or taken away: they keep inputs
    with a large mean and a small spread from cancelling. ``sums``: x, y, x x, x y, y y.
    """

    shifts: tuple
    rows: int
    sums: tuple[np.ndarray, ...]

    def __add__(self, other: "Moments") -> "Moments":
        return self._with(other, operator.add)

    def __sub__(self, other: "Moments") -> "Moments":
        return self._with(other, operator.sub)

    def _with(self, other: "Moments", combine: Callable) -> "Moments":
        sums = tuple(combine(a, b) for a, b in zip(self.sums, other.sums, strict=True))
        return Moments(self.shifts, combine(self.rows, other.rows), sums)
