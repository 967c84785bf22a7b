"""Folds of patients that keep sites whole and balance the label.

Slides of one site look alike (stain, scanner), so that a fold which shares sites with the training
may be scored for the site instead of the label. Keeping sites whole while both labels stay
balanced is an integer program (Howard et al., Nat Commun 2021, solve a quadratic one); here what
is minimised is the sum of absolute deviations, which a bound from whole numbers often proves best.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.files import read_json
from pairscape.core.tsv import Table, counts, text

FOLDS = Table(
    "folds/<target>.tsv",
    "split_sites",
    (
        *text(patient="the patient", site="where the slides come from"),
        *counts(label="1 or 0", fold="that the patient is dealt to, from 0"),
    ),
)
BALANCE = (
    *("cohort", "target", "patients", "positives", "sites", "folds", "leaking", "by_fold"),
    *("off_by", "unavoidable", "optimal", "cost", "cost_at_least", "sites_in_two_folds"),
)
MISSING = 100.0  # cost of a label that a fold lacks: more than any deviation can cost
STARTS = 60  # seeded orders of the sites that are tried
NODES = 2000  # of the integer program; a limit in seconds would make folds depend on the machine
PROGRAM_UP_TO = 400  # site-fold choices; beyond that the local search has always balanced better


def deal_folds(
    patients: Sequence[Mapping], folds: int, seed: int, *, leaking: bool = False, source="--options"
) -> tuple[list[dict], dict]:
    """Put each of the patients, by ``patient``, ``site`` and ``label`` (0 or 1), into a fold.

    ``seed`` chooses among equally good dealings; ``leaking`` deals patients whatever their site, as
    is common and as HistoBistro does; ``source`` is the cohort's file, for messages.

    Returned are the rows of ``FOLDS``, by fold and name, and their balance: what ``measure_balance``
    says, and ``folds``, ``seed``, ``leaking``, ``method``, ``cost``, ``cost_at_least`` (no dealing of
    these sites costs less), ``optimal``.
    """
    patients = sorted(patients, key=lambda row: row["patient"])
    names = [row["patient"] for row in patients]
    if len(set(names)) < len(names):
        twice = next(one for one, two in itertools.pairwise(names) if one == two)
        raise InputError(source, f"patient {twice}", "it twice", "give each patient once")
    # Whoever is dealt as one: a site with all of its patients, or each patient for themselves.
    kind = "patient" if leaking else "site"
    units, place = np.unique([row[kind] for row in patients], return_inverse=True)
    if len(units) < folds:
        remedy = "ask for fewer folds" + (
            "" if leaking else ", or set leaking: true to see why not"
        )
        raise InputError(source, f"{kind}s", f"{len(units)} for {folds} folds", remedy)
    label = np.array([row["label"] for row in patients])
    if leaking:
        dealt, how = _deal_patients(label, folds, np.random.default_rng([seed, folds]))
    else:
        sizes = np.zeros((len(units), 2), np.int64)
        np.add.at(sizes, (place, label), 1)
        dealt, how = deal_sites(sizes, folds, seed)
    rows = [
        {**{name: row[name] for name in FOLDS.names[:3]}, "fold": int(dealt[unit])}
        for row, unit in zip(patients, place, strict=True)
    ]
    rows.sort(key=lambda row: (row["fold"], row["patient"]))
    balance = {"folds": folds, "seed": seed, "leaking": leaking, **how}
    return rows, balance | measure_balance(rows, folds)


def deal_sites(sizes: np.ndarray, folds: int, seed: int) -> tuple[np.ndarray, dict]:
    """The fold of each site, so that each fold holds its share of either label.

    The cost is the sum over folds and labels of |patients - even share| / patients of that label,
    and ``MISSING`` for each label that a fold lacks. A local search from seeded orders finds a
    dealing; where its cost isn't the bound from whole numbers, the integer program goes on.

    ``sizes`` (sites, 2) are the patients of each site by label. Returned are the fold of each site
    (sites,), and ``method``, ``cost``, ``cost_at_least``, ``optimal``.
    """
    bound = _least_cost(sizes.sum(0), folds)
    rng = np.random.default_rng([seed, folds])
    best, cost = None, np.inf
    for _ in range(STARTS):
        dealt = _search(sizes, folds, rng)
        reached = _cost(sizes, dealt, folds)
        if reached < cost - 1e-9:
            best, cost = dealt, reached
        if cost <= bound + 1e-9:
            break
    method = "local search"
    if cost > bound + 1e-9 and len(sizes) * folds <= PROGRAM_UP_TO:
        method = "integer program"
        solved, least = _solve(sizes, folds, cost)
        if solved is not None and _cost(sizes, solved, folds) < cost - 1e-9:
            best, cost = solved, _cost(sizes, solved, folds)
        bound = min(max(bound, least), cost)
    return rng.permutation(folds)[best], {
        "method": method,
        "cost": round(float(cost), 6),
        "cost_at_least": round(float(bound), 6),
        "optimal": bool(cost <= bound + 1e-6),
    }


def measure_balance(rows: Sequence[Mapping], folds: int) -> dict:
    """How the folds hold labels and sites.

    ``patients``, ``positives``, ``sites``; ``by_fold`` (``fold``, ``patients``, ``positives``,
    ``sites``, ``lacks``: the labels it hasn't); ``sites_in_two_folds``; ``off_by`` (largest
    deviation from the even share, in patients, of ``positives`` and ``negatives``) and
    ``unavoidable`` (the deviation that whole patients cost anyway).
    """
    by_fold, folds_of = [], {}
    for fold in range(folds):
        held = [row for row in rows if row["fold"] == fold]
        labels = [row["label"] for row in held]
        by_fold.append(
            {
                "fold": fold,
                "patients": len(held),
                "positives": sum(labels),
                "sites": len({row["site"] for row in held}),
                "lacks": sorted({0, 1} - set(labels)),
            }
        )
    for row in rows:
        folds_of.setdefault(row["site"], set()).add(row["fold"])
    by_label = {
        "positives": [held["positives"] for held in by_fold],
        "negatives": [held["patients"] - held["positives"] for held in by_fold],
    }
    totals = {name: sum(each) for name, each in by_label.items()}
    return {
        "patients": len(rows),
        "positives": totals["positives"],
        "sites": len(folds_of),
        "sites_in_two_folds": sum(len(several) > 1 for several in folds_of.values()),
        "by_fold": by_fold,
        "off_by": {
            name: round(max(abs(n - total / folds) for n in by_label[name]), 6)
            for name, total in totals.items()
        },
        "unavoidable": {
            name: round(max(_remainders(total, folds)), 6) for name, total in totals.items()
        },
    }


def balance_words(balance: Mapping) -> str:
    """How far off the folds are, in words for a log line or a footnote."""
    patients, positives = (
        _span([held[name] for held in balance["by_fold"]]) for name in ("patients", "positives")
    )
    words = [
        f"{balance['patients']} patients ({balance['positives']} positive) of "
        f"{balance['sites']} sites in {balance['folds']} folds of {patients} patients with "
        f"{positives} positives"
    ]
    off = [
        f"{balance['off_by'][name]:.3g} {name}"
        for name in ("positives", "negatives")
        if balance["off_by"][name] > balance["unavoidable"][name] + 1e-6
    ]
    if off:
        words.append(f"off an even share by up to {' and '.join(off)}")
        if balance["optimal"] and not balance["leaking"]:
            words[-1] += ", the least cost with sites kept whole"
        elif not balance["leaking"]:
            least = f"no dealing below {balance['cost_at_least']:.3g}"
            words[-1] += f" (cost {balance['cost']:.3g}, {least})"
    lacking = [
        f"fold {held['fold']} has no patient with label {' or '.join(map(str, held['lacks']))}"
        for held in balance["by_fold"]
        if held["lacks"]
    ]
    words += [", ".join(lacking)] if lacking else []
    if balance["sites_in_two_folds"]:
        words.append(f"{balance['sites_in_two_folds']} sites stand in several folds")
    return "; ".join(words)


def read_folds(path) -> list[dict]:
    """Read and check a table of folds: sites whole, unless the balance beside it says ``leaking``.

    Whoever reads the table runs the rule by this: it may have been edited since it was dealt.
    """
    rows, seen, fold_of = FOLDS.read(path), set(), {}
    beside = Path(path).with_suffix(".json")
    leaking = beside.is_file() and read_balance(beside)["leaking"]
    for number, row in enumerate(rows, start=2):
        if row["label"] not in (0, 1) or row["fold"] is None:
            fault = f"label {row['label']}, fold {row['fold']}"
            remedy = "labels are 0 or 1, folds count from 0: delete the file and split again"
            raise InputError(path, f"line {number}", fault, remedy)
        if row["patient"] in seen:
            fault = f"{row['patient']} again"
            raise InputError(path, f"line {number}, patient", fault, "give each patient once")
        seen.add(row["patient"])
        if fold_of.setdefault(row["site"], row["fold"]) != row["fold"] and not leaking:
            fault = f"{row['site']} in folds {fold_of[row['site']]} and {row['fold']}"
            remedy = "delete the table and run split_sites again: a site stands in one fold"
            raise InputError(path, f"line {number}, site", fault, remedy)
    return rows


def read_balance(path) -> dict:
    """Read the balance that stands beside a table of folds."""
    balance = read_json(path)
    for name in BALANCE:
        if not isinstance(balance, dict) or name not in balance:
            raise InputError(path, name, "nothing", "delete the file and split again")
    return balance


def _span(values: Sequence[int]) -> str:
    return str(min(values)) if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _deal_patients(label: np.ndarray, folds: int, rng) -> tuple[np.ndarray, dict]:
    """Patients in random order, one label after the other, dealt round and round."""
    order = np.concatenate([rng.permutation(np.flatnonzero(label == value)) for value in (1, 0)])
    dealt = np.empty(len(label), np.int64)
    dealt[order] = np.arange(len(order)) % folds
    sizes = np.stack([label == 0, label == 1], 1).astype(np.int64)
    cost = round(_cost(sizes, dealt, folds), 6)
    how = {"method": "patients dealt in turn", "cost": cost, "cost_at_least": cost}
    return dealt, how | {"optimal": True}


def _remainders(total: int, folds: int) -> list[float]:
    """How far each fold is off an even share at least: patients come whole."""
    whole, left = divmod(total, folds)
    return [abs(whole + (fold < left) - total / folds) for fold in range(folds)]


def _least_cost(totals: np.ndarray, folds: int) -> float:
    short = sum(max(0, folds - int(total)) for total in totals)
    even = sum(sum(_remainders(int(n), folds)) / max(int(n), 1) for n in totals)
    return even + MISSING * short


def _cost(sizes: np.ndarray, dealt: np.ndarray, folds: int) -> float:
    held = np.zeros((folds, 2))
    np.add.at(held, dealt, sizes)
    return float(_costs(held[None], sizes.sum(0))[0])


def _costs(held: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """The cost of many dealings, from the patients by fold and label (dealings, folds, 2)."""
    off = np.abs(held - totals / held.shape[1]) / np.maximum(totals, 1)
    return off.sum((1, 2)) + MISSING * (held == 0).sum((1, 2))


def _search(sizes: np.ndarray, folds: int, rng) -> np.ndarray:
    """Deal the largest sites first, then move and swap sites while that lowers the cost."""
    totals = sizes.sum(0)
    weight = (sizes / np.maximum(totals, 1)).sum(1)
    # A seeded factor changes the order of sites of like size.
    order = np.argsort(-weight * rng.uniform(0.7, 1.3, len(sizes)), kind="stable")
    dealt, held = np.full(len(sizes), -1), np.zeros((folds, 2))
    for site in order:
        load = np.abs(held + sizes[site] - totals / folds) - np.abs(held - totals / folds)
        load = (load / np.maximum(totals, 1)).sum(1) - 2 * (held.sum(1) == 0)
        dealt[site] = int(np.argmin(load))
        held[dealt[site]] += sizes[site]
    cost = _costs(held[None], totals)[0]
    one, two = np.triu_indices(len(sizes), 1)
    while True:
        sites, to = np.divmod(np.arange(len(sizes) * folds), folds)
        kept = to != dealt[sites]
        sites, to = sites[kept], to[kept]
        kept = dealt[one] != dealt[two]
        left, right = one[kept], two[kept]
        # What the folds would hold after each move of a site, and after each swap of two.
        source = np.concatenate([dealt[sites], dealt[left]])
        target = np.concatenate([to, dealt[right]])
        change = np.concatenate([sizes[sites], sizes[left] - sizes[right]])
        after, rows = np.repeat(held[None], len(source), 0), np.arange(len(source))
        after[rows, source] -= change
        after[rows, target] += change
        costs = _costs(after, totals)
        if costs.min(initial=np.inf) >= cost - 1e-9:
            return dealt
        best = int(np.argmin(costs))
        if best < len(sites):
            dealt[sites[best]] = to[best]
        else:
            pair = [left[best - len(sites)], right[best - len(sites)]]
            dealt[pair] = dealt[pair[::-1]]
        held, cost = after[best], costs[best]


def _solve(sizes: np.ndarray, folds: int, ceiling: float) -> tuple[np.ndarray | None, float]:
    """The integer program: a dealing that costs at most ``ceiling``, and a proven lower bound.

    Variables: x[s, f] (site s in fold f), d[f, c] (deviation), m[f, c] (label c missing in f).
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import lil_matrix

    sites, totals = len(sizes), sizes.sum(0)
    x = np.arange(sites * folds).reshape(sites, folds)
    d = x.size + np.arange(folds * 2).reshape(folds, 2)
    m = d + folds * 2
    count = x.size + folds * 4
    cost = np.zeros(count)
    cost[d] = 1 / np.maximum(totals, 1)
    cost[m] = MISSING
    rows, low, high = [], [], []

    def hold(terms, least=-np.inf, most=np.inf):
        rows.append(terms)
        low.append(least)
        high.append(most)

    for site in range(sites):
        hold([(x[site, fold], 1) for fold in range(folds)], 1, 1)
    for fold in range(folds):
        for label in range(2):
            held = [(x[s, fold], int(sizes[s, label])) for s in range(sites) if sizes[s, label]]
            even = totals[label] / folds
            hold([*held, (d[fold, label], -1)], most=even)
            hold([*held, (d[fold, label], 1)], least=even)
            hold([*held, (m[fold, label], 1)], least=1)
    # Folds are alike, so that their order may be fixed: by their patients.
    patients = sizes.sum(1)
    for fold in range(folds - 1):
        hold(
            [(x[s, fold], int(patients[s])) for s in range(sites)]
            + [(x[s, fold + 1], -int(patients[s])) for s in range(sites)],
            least=0,
        )
    for label in range(2):  # the bound from whole numbers, which the relaxation doesn't see
        least = sum(_remainders(int(totals[label]), folds))
        hold([(d[fold, label], 1) for fold in range(folds)], least=least)
    hold([(i, value) for i, value in enumerate(cost) if value], most=ceiling + 1e-6)

    matrix = lil_matrix((len(rows), count))
    for number, terms in enumerate(rows):
        for column, value in terms:
            matrix[number, column] = value
    whole = np.ones(count)
    whole[d] = 0
    upper = np.ones(count)
    upper[d] = max(totals)
    result = milp(
        cost,
        integrality=whole,
        bounds=Bounds(np.zeros(count), upper),
        constraints=LinearConstraint(matrix.tocsr(), low, high),
        options={"node_limit": NODES, "mip_rel_gap": 1e-9},
    )
    least = result.mip_dual_bound
    if least is None or not math.isfinite(least):
        least = 0.0
    if result.status == 2:  # nothing at or below the ceiling but rounding: it is the least
        least = ceiling
    if result.x is None:
        return None, float(least)
    return np.argmax(np.round(result.x[x]), axis=1), float(least)
