"""Spearman's rank correlation, and what it is in other orders."""

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np


def permuted(first: Sequence[float], second: Sequence[float], exact_up_to: int, deal: Callable):
    """Spearman's coefficient, its values in other orders of ``second``, and whether those are all.

    Up to ``exact_up_to`` values every order is gone through; beyond, those (orders, values) that
    ``deal`` makes of one. None three times where one side is constant.
    """
    from scipy.stats import rankdata

    count = len(first)
    one, two = (rankdata(values) - (count + 1) / 2 for values in (first, second))
    length = math.sqrt((one @ one) * (two @ two))
    if not length:
        return None, None, None
    is_exact = count <= exact_up_to
    places = list(itertools.permutations(range(count))) if is_exact else ()
    orders = two[np.array(places, np.int8)] if is_exact else deal(two)
    return float(one @ two / length), orders @ one / length, is_exact
