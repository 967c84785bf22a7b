"""Comparisons of encoder pairs, donor by donor."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pairscape.evaluate.intervals import DONORS_NEEDED

TOO_FEW = "too few donors"
_EXACT_DONORS = 16  # 65,536 patterns of signs
_DRAWS = 99_999
_PAIR = ("image_encoder", "gene_encoder")


def compare(scores: Iterable[Mapping], metric: str, galleries: Sequence[str]) -> list[dict]:
    """Compare encoder pairs that share one of their encoders, on the same data of one experiment.

    Returns
    -------
    Rows with the columns of ``comparisons``, one per dataset, gallery, direction and two pairs.
    ``effect``: first minus second, the mean over donors, each donor weighing the same, of the means
    over the seeds that both pairs have. ``seed_low`` and ``seed_high``: the range of that mean
    between single seeds. ``p_value``: two-sided, from the signs of the donors' effects, from six
    donors on; ``p_holm``: the same, corrected for all comparisons of its dataset, gallery and
    direction.
    """
    values, controls = _donor_values(scores, metric, galleries)
    rows = []
    for key, pairs in values.items():
        compared = [
            _compare_two(first, second, pairs, controls)
            for first, second in itertools.combinations(pairs, 2)
            if (first[0] == second[0]) != (first[1] == second[1])
        ]
        compared = [row for row in compared if row]
        _correct(compared)
        head = dict(zip(("dataset", "gallery", "direction"), key, strict=True))
        rows += [{**head, "metric": metric, **row} for row in compared]
    return sorted(rows, key=lambda row: galleries.index(row["gallery"]))


def _donor_values(scores, metric: str, galleries: Sequence[str]) -> tuple[dict, dict]:
    """By dataset, gallery and direction, by pair, by seed: the value of each donor. And controls."""
    values: dict[tuple, dict] = {}
    controls = {}
    for row in scores:
        if row["group_by"] != "donor" or row["metric"] != metric or row["value"] is None:
            continue
        if row["gallery"] not in galleries:
            continue
        pair = tuple(row[name] for name in _PAIR)
        by_pair = values.setdefault((row["dataset"], row["gallery"], row["direction"]), {})
        by_donor = by_pair.setdefault(pair, {}).setdefault(str(row["seed"]), {})
        by_donor[row["group"]] = row["value"]
        controls[pair] = row["control"]
    return values, controls


def _compare_two(first: tuple, second: tuple, pairs: Mapping, controls: Mapping) -> dict | None:
    common = [seed for seed in pairs[first] if seed in pairs[second]]
    if not common:
        return None
    donors = set.intersection(*(set(pairs[p][s]) for p in (first, second) for s in common))
    by_seed = {
        seed: {d: pairs[first][seed][d] - pairs[second][seed][d] for d in sorted(donors)}
        for seed in common
    }
    effects = {d: statistics.fmean(one[d] for one in by_seed.values()) for d in sorted(donors)}
    seeds = [statistics.fmean(one.values()) for one in by_seed.values()]
    p_value, test = sign_flip(list(effects.values()))
    place = 0 if first[0] != second[0] else 1
    left_out = sorted({*pairs[first], *pairs[second]} - set(common))
    return {
        "shared": first[1 - place],
        "first": first[place],
        "second": second[place],
        "effect": statistics.fmean(effects.values()),
        "donors": len(effects),
        "donors_above": sum(value > 0 for value in effects.values()),
        "donors_below": sum(value < 0 for value in effects.values()),
        "donor_low": min(effects.values()),
        "donor_high": max(effects.values()),
        "donor_effects": "; ".join(f"{donor} {value:+.4g}" for donor, value in effects.items()),
        "p_value": p_value,
        "p_holm": None,
        "p_test": test,
        "seeds": len(common),
        "seed_low": min(seeds),
        "seed_high": max(seeds),
        "seeds_left_out": " ".join(left_out),
        "control": "; ".join(
            f"{pair[place]} is a control ({controls[pair]})"
            for pair in (first, second)
            if controls[pair]
        ),
    }


def sign_flip(effects: Sequence[float]) -> tuple[float | None, str]:
    """Two-sided p-value that the donors' effects are as often above as below zero, and how.

    Every pattern of signs is as likely under the null hypothesis; the statistic is the mean effect.
    With five donors the smallest p-value would be 2 / 32, above 0.05 whatever the effects.
    """
    if len(effects) < DONORS_NEEDED:
        return None, TOO_FEW
    import numpy as np
    from scipy.stats import permutation_test

    exact = len(effects) <= _EXACT_DONORS
    result = permutation_test(
        (np.asarray(effects, np.float64),),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if exact else _DRAWS,
        batch=4096,
        rng=np.random.default_rng(6),
    )
    patterns = f"all {2 ** len(effects)}" if exact else f"{_DRAWS} random"
    return float(result.pvalue), f"{patterns} patterns of signs of {len(effects)} donors"


def _correct(rows: Sequence[dict]) -> None:
    """Holm's correction of the p-values of one family, in place."""
    tested = sorted((r for r in rows if r["p_value"] is not None), key=lambda row: row["p_value"])
    reached = 0.0
    for place, row in enumerate(tested):
        reached = max(reached, min(1.0, row["p_value"] * (len(tested) - place)))
        row["p_holm"] = reached
