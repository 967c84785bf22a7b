"""Which sample stands in which split.

Imports nothing heavy: the workflow calls it while Snakemake parses.
"""

import itertools
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pairscape.core.errors import InputError, one_of
from pairscape.core.splits import ONE_SECTION, SPLITS
from pairscape.core.tsv import Table, counts, text
from pairscape.dataset.leakage import (
    describe_leaks,
    donor_group,
    find_leaks,
    read_leaks,
    refuse_leaks,
    split_order,
)

SPLITS_TABLE = Table(
    "splits.tsv",
    "split_donors",
    (
        *text(
            sample="the sample",
            donor="its donor, or a placeholder where no source names one",
            donor_known="False for a placeholder",
            organ="its organ",
            disease_state="its disease state",
            split="train, val or test",
        ),
        *counts(spots="its spots, where they are counted"),
        *text(shared_donors="in words why its donor may stand in two splits, where it does"),
    ),
)
# Of a table that isn't as split_donors made it.
EDITED = (
    "delete splits.tsv and leakage.tsv and run split_donors again; a split of your own, and its "
    '`shared_donors: "<reason>"`, go in by `split: {method: file}` of the configuration'
)
ORDERS = 8  # seeded orders of donors that are tried
SWAPS_UP_TO = 60  # donors; with more of them single moves balance well enough


@dataclass(frozen=True)
class _Task:
    """The samples of a dataset by name, how to split them, and where that is written."""

    by_name: Mapping[str, Mapping]
    split: Mapping
    published: Iterable[Mapping]
    spots: Mapping[str, int] | None
    place: str
    source: str

    def refusal(self, key: str, found: str, remedy: str) -> InputError:
        return InputError(self.source, f"{self.place}{key}", found, remedy)


def make_splits(
    samples: Sequence[Mapping],
    split: Mapping,
    published: Iterable[Mapping] = (),
    spots: Mapping[str, int] | None = None,
    *,
    place: str = "split",
    source: str = "--options",
) -> list[dict]:
    """Put each sample of a dataset into its split.

    Parameters
    ----------
    samples
        Rows of the sample table: ``sample``, ``donor``, and what else stands in splits.tsv.
    split
        ``method``: ``published`` or ``file`` (the given rows), ``listed`` (the lists ``train``,
        ``val`` and ``test``), ``donor`` (donors dealt by ``seed`` so that the splits hold about
        ``fractions`` of the spots and of each disease and organ) or ``leave_one_donor_out``
        (``fold`` k tests the k-th donor by name, a donor drawn by ``seed`` validates), or
        ``within_sample`` (samples are blocks of sections, whose rows name their ``part``).
        ``shared_donors``: None, or in words why a donor may stand in two splits. Both donor methods
        keep donors together that may be one (see ``leakage.donor_group``).
    published
        Rows of ``sample`` and ``split``, for ``published`` and ``file``; those of other samples are
        passed over in the former and refused in the latter.
    spots
        Number of spots of each sample. Without it each counts as one, and the column is empty.
    place, source
        Where ``split`` stands, for messages.

    Returns
    -------
    Rows of ``SPLITS_TABLE``, one per sample and split: train, val, test, then by sample.
    """
    by_name = {row["sample"]: row for row in samples}
    for name, row in by_name.items():
        if not row.get("donor"):
            raise InputError(source, f"sample {name}, donor", "nothing", "name its donor")
    words = str(split.get("shared_donors") or "").strip()
    if split["method"] == "within_sample":
        words = words or ONE_SECTION
    one_of(split["method"], METHODS, source, f"{place}.method")
    pairs = METHODS[split["method"]](_Task(by_name, split, published, spots, place, source))
    rows = [
        {
            **{column: by_name[sample].get(column, "") for column in SPLITS_TABLE.names},
            "split": name,
            "spots": "" if spots is None else spots[sample],
            "shared_donors": words,
        }
        for sample, name in sorted(pairs, key=lambda pair: (split_order(pair[1]), pair[0]))
    ]
    leaks = find_leaks(rows, by_name)
    refuse_leaks(leaks, place, source)
    shared = {
        sample
        for leak in leaks
        if leak["level"] == "acknowledged"
        for sample in (leak["sample"], leak["other_sample"])
    }
    donors = {row["donor"] for row in rows if row["sample"] in shared}
    for row in rows:
        if row["donor"] not in donors:
            row["shared_donors"] = ""
    return rows


def read_splits(path) -> list[dict]:
    """Read splits.tsv: its splits checked, and refused where a donor stands in two without words.

    Whoever reads the table runs the leak rule by this: it may have been edited since it was made.
    """
    rows = SPLITS_TABLE.read(path)
    for number, row in enumerate(rows, start=2):
        one_of(row["split"], SPLITS, path, f"line {number}, split")
    refuse_leaks(find_leaks(rows), "column split", path, EDITED)
    return rows


def read_with_leaks(path, leakage_path) -> tuple[list[dict], list[dict]]:
    """Read splits.tsv and the leakage.tsv that was made with it; one that is of others is refused."""
    rows, told = read_splits(path), read_leaks(leakage_path)
    known = {_place(leak) for leak in told}
    for leak in find_leaks(rows):
        if _place(leak) not in known:
            fault = f"nothing of {describe_leaks([leak])[0]}, which stands in {path}"
            raise InputError(leakage_path, "finding", fault, EDITED)
    return rows, told


def as_text(rows: Iterable[Mapping]) -> list[dict[str, str]]:
    """Rows of splits.tsv as the words that stand in it, for the record of a run."""
    return [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]


def refuse_recorded(rows: Iterable[Mapping], path) -> None:
    """Run the leak rule over the splits that the record of a run holds, as ``as_text`` gave them."""
    blank = dict.fromkeys(SPLITS_TABLE.names, "")
    remedy = "delete the run and pretrain it again, on splits that hold each donor once"
    leaks = find_leaks([{**blank, **row, "spots": ""} for row in rows])
    refuse_leaks(leaks, "splits", path, remedy)


def _place(leak: Mapping) -> frozenset:
    """The two samples of a finding, each with its split."""
    return frozenset([(leak["sample"], leak["split"]), (leak["other_sample"], leak["other_split"])])


def _published(task: _Task) -> set:
    pairs = {
        (row["sample"], row["split"]) for row in task.published if row["sample"] in task.by_name
    }
    for name in sorted({split for _, split in pairs}):
        one_of(name, SPLITS, task.source, "published split")
    return _all_placed(task, pairs, ".method published")


def _listed(task: _Task) -> set:
    pairs = {(sample, name) for name in SPLITS for sample in task.split.get(name) or ()}
    for sample, name in sorted(pairs):
        what = "samples of this dataset"
        one_of(sample, sorted(task.by_name), task.source, f"{task.place}.{name}", what)
    return _all_placed(task, pairs)


def _from_file(task: _Task) -> set:
    file = task.split.get("file") or f"{task.place}.file"
    pairs = set()
    for row in task.published:
        one_of(row["sample"], sorted(task.by_name), file, "column sample")
        one_of(row["split"], SPLITS, file, "column split")
        pairs.add((row["sample"], row["split"]))
    return _all_placed(task, pairs, ".file")


def _all_placed(task: _Task, pairs: set, key: str = "") -> set:
    unplaced = sorted(set(task.by_name) - {sample for sample, _ in pairs})
    if unplaced:
        remedy = "list each sample under train, val or test, or take it out of the dataset"
        raise task.refusal(key, f"no split for {', '.join(unplaced)}", remedy)
    return pairs


def _by_donor(task: _Task) -> set:
    fractions = {name: float(task.split["fractions"].get(name, 0)) for name in SPLITS}
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        shares = ", ".join(f"{name} {value:g}" for name, value in fractions.items())
        raise task.refusal(".fractions", shares, "give shares that add up to 1")
    wanted = {name: value for name, value in fractions.items() if value > 0}
    group = _enough_donors(task, len(wanted))
    # Spots of each donor in each stratum; a donor's diseases and organs may differ.
    strata: dict[str, Counter] = {}
    for name, row in task.by_name.items():
        stratum = (row.get("disease_state", ""), row.get("organ", ""))
        spots = 1 if task.spots is None else task.spots[name]
        strata.setdefault(group[name], Counter())[stratum] += spots
    # One generator and sorted donors: the outcome depends on the seed and the donors alone.
    generator = random.Random(task.split.get("seed", 0))
    deals = []
    for _ in range(ORDERS):
        donors = sorted(strata)
        generator.shuffle(donors)
        deals.append(_improve(_deal(donors, strata, wanted), donors, strata, wanted))
    deal = min(deals, key=lambda deal: _imbalance(deal, strata, wanted))
    return {(name, deal[group[name]]) for name in task.by_name}


def _leave_one_out(task: _Task) -> set:
    group = _enough_donors(task, len(SPLITS))
    donors, fold = sorted(set(group.values())), task.split.get("fold", 0)
    if not 0 <= fold < len(donors):
        remedy = f"allowed: 0 to {len(donors) - 1}, one for each donor ({', '.join(donors)})"
        raise task.refusal(".fold", str(fold), remedy)
    # A ring in seeded order: over all folds each donor tests once and validates once.
    ring = list(donors)
    random.Random(task.split.get("seed", 0)).shuffle(ring)
    place_of = {donors[fold]: "test"}
    place_of[ring[(ring.index(donors[fold]) + 1) % len(ring)]] = "val"
    return {(name, place_of.get(group[name], "train")) for name in task.by_name}


def _enough_donors(task: _Task, needed: int) -> dict[str, str]:
    """The donor group of each sample; refuses fewer of them than there are splits."""
    group = donor_group(task.by_name.values())
    donors = sorted(set(group.values()))
    if len(donors) < needed:
        joined = sorted({row["donor"] for row in task.by_name.values()} - set(donors))
        few = f"{len(donors)} donor(s) ({', '.join(donors)}) for {needed} splits"
        if joined:
            few += f"; {', '.join(joined)} may be one of them: same title, donor not known"
        remedy = (
            "add samples of other donors, or use `method: listed` with `shared_donors: <reason>`"
        )
        raise task.refusal(f".method {task.split['method']}", few, remedy)
    return group


def _within_sample(task: _Task) -> set:
    return {(name, row["part"]) for name, row in task.by_name.items()}


METHODS = {
    "published": _published,
    "donor": _by_donor,
    "leave_one_donor_out": _leave_one_out,
    "listed": _listed,
    "file": _from_file,
    "within_sample": _within_sample,
}


def _deal(donors: Sequence[str], strata: Mapping, wanted: Mapping) -> dict[str, str]:
    """Give each donor in turn to the split that lacks most; none may stay empty."""
    sizes = {donor: sum(held.values()) for donor, held in strata.items()}
    lacking = {name: share * sum(sizes.values()) for name, share in wanted.items()}
    deal: dict[str, str] = {}
    for i, donor in enumerate(donors):
        empty = [name for name in wanted if name not in deal.values()]
        choice = empty if len(donors) - i <= len(empty) else list(wanted)
        name = max(choice, key=lacking.get)
        deal[donor] = name
        lacking[name] -= sizes[donor]
    return deal


def _improve(deal: dict, donors: Sequence[str], strata: Mapping, wanted: Mapping) -> dict[str, str]:
    """Move and swap donors as long as that brings the splits nearer to what is wanted."""
    deal, (total, held) = dict(deal), _held(deal, strata)
    best = _distance(total, held, wanted)
    while True:
        moves = [{donor: name} for donor in donors for name in wanted if name != deal[donor]]
        if len(donors) <= SWAPS_UP_TO:
            moves += [
                {one: deal[other], other: deal[one]}
                for one, other in itertools.combinations(donors, 2)
                if deal[one] != deal[other]
            ]
        better, filled = None, Counter(deal.values())
        for move in moves:
            before = {donor: deal[donor] for donor in move}
            filled.update(move.values())
            filled.subtract(before.values())
            if all(filled[name] for name in wanted):
                _shift(held, strata, before, move)
                imbalance = _distance(total, held, wanted)
                _shift(held, strata, move, before)
                if imbalance < best - 1e-9:
                    best, better = imbalance, move
            filled.update(before.values())
            filled.subtract(move.values())
        if better is None:
            return deal
        _shift(held, strata, {donor: deal[donor] for donor in better}, better)
        deal |= better


def _shift(held: Counter, strata: Mapping, before: Mapping, after: Mapping) -> None:
    """Move the spots of donors from one split to another: what a move changes, and no more."""
    for donor in after:
        for stratum, spots in strata[donor].items():
            for key in (None, stratum):
                held[before[donor], key] -= spots
                held[after[donor], key] += spots


def _imbalance(deal: Mapping, strata: Mapping, wanted: Mapping) -> float:
    """How far the splits are from the wanted shares: of all spots, and of those of each stratum."""
    return _distance(*_held(deal, strata), wanted)


def _held(deal: Mapping, strata: Mapping) -> tuple[Counter, Counter]:
    """The spots of each stratum (None for all), and those in each split."""
    total, held = Counter(), Counter()
    for donor, spots_of in strata.items():
        for stratum, spots in spots_of.items():
            for key in (None, stratum):
                total[key] += spots
                held[deal[donor], key] += spots
    return total, held


def _distance(total: Counter, held: Counter, wanted: Mapping) -> float:
    """The distance of all spots counts double. A donor of a stratum of its own can't be split, so what
    it costs is the same wherever it goes but for the balance of all spots.
    """
    return sum(
        (2 if key is None else 1) * abs(share * spots - held[name, key])
        for key, spots in total.items()
        for name, share in wanted.items()
    ) / (total[None] or 1)
