"""Which sample stands in which split.

Imports nothing heavy: the workflow calls it while Snakemake parses.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core.errors import InputError
from pairscape.core.splits import SPLITS
from pairscape.core.tsv import read_tsv, write_tsv
from pairscape.dataset.leakage import donor_group, find_leaks, read_count, refuse_leaks

METHODS = ("published", "donor", "leave_one_donor_out", "listed", "file")
SPLIT_COLUMNS = (
    "sample",
    "donor",
    "donor_known",
    "organ",
    "disease_state",
    "split",
    "spots",
    "shared_donors",
)
ORDERS = 8  # seeded orders of donors that are tried
SWAPS_UP_TO = 60  # donors; with more of them single moves balance well enough


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
        Rows of the sample table: ``sample``, ``donor``, and what else stands in ``SPLIT_COLUMNS``.
    split
        ``method``: ``published`` or ``file`` (the given rows), ``listed`` (the lists ``train``,
        ``val`` and ``test``), ``donor`` (donors dealt by ``seed`` so that the splits hold about
        ``fractions`` of the spots and of each disease and organ) or ``leave_one_donor_out``
        (``fold`` k tests the k-th donor by name, a donor drawn by ``seed`` validates).
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
    One row per sample and split, with ``SPLIT_COLUMNS``, ordered train, val, test, then by sample.
    ``shared_donors`` holds the words where the row's donor does stand in two splits.
    """
    by_name = {row["sample"]: row for row in samples}
    for name, row in by_name.items():
        if not row.get("donor"):
            raise InputError(source, f"sample {name}, donor", "nothing", "name its donor")
    words = str(split.get("shared_donors") or "").strip()
    method = split["method"]
    if method == "published":
        pairs = _published(by_name, published, place, source)
    elif method == "listed":
        pairs = _listed(by_name, split, place, source)
    elif method == "file":
        pairs = _from_file(by_name, split, published, place, source)
    elif method == "donor":
        pairs = _by_donor(by_name, split, spots, place, source)
    elif method == "leave_one_donor_out":
        pairs = _leave_one_out(by_name, split, place, source)
    else:
        raise InputError(source, f"{place}.method", repr(method), f"allowed: {', '.join(METHODS)}")
    rows = [
        {
            **{column: by_name[sample].get(column, "") for column in SPLIT_COLUMNS},
            "split": name,
            "spots": "" if spots is None else spots[sample],
            "shared_donors": words,
        }
        for sample, name in sorted(pairs, key=lambda pair: (SPLITS.index(pair[1]), pair[0]))
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


def donor_folds(samples: Sequence[Mapping]) -> list[str]:
    """The donors of a dataset in the order of its leave-one-donor-out folds.

    Donors that may be one (see ``leakage.donor_group``) are one, under the first of their names.
    """
    return sorted(set(donor_group(samples).values()))


def write_splits(path, rows: Iterable[Mapping]) -> None:
    """Write splits.tsv."""
    write_tsv(path, rows, SPLIT_COLUMNS)


def read_splits(path) -> list[dict]:
    """Read splits.tsv; ``spots`` as an integer (None where it is empty)."""
    rows = read_tsv(path, SPLIT_COLUMNS)
    for number, row in enumerate(rows, start=2):
        if row["split"] not in SPLITS:
            raise InputError(
                path, f"line {number}, split", repr(row["split"]), f"allowed: {', '.join(SPLITS)}"
            )
        row["spots"] = read_count(path, number, row["spots"])
    return rows


def _published(by_name: Mapping, published: Iterable[Mapping], place: str, source: str):
    pairs = {(row["sample"], row["split"]) for row in published if row["sample"] in by_name}
    for name in sorted({split for _, split in pairs} - set(SPLITS)):
        raise InputError(source, "published split", repr(name), f"allowed: {', '.join(SPLITS)}")
    _refuse_unplaced(by_name, pairs, f"{place}.method published", source)
    return pairs


def _listed(by_name: Mapping, split: Mapping, place: str, source: str):
    pairs = set()
    for name in SPLITS:
        for sample in split.get(name) or ():
            if sample not in by_name:
                raise InputError(
                    source,
                    f"{place}.{name}",
                    f"{sample!r}, which isn't a sample of this dataset",
                    f"allowed: {', '.join(sorted(by_name))}",
                )
            pairs.add((sample, name))
    _refuse_unplaced(by_name, pairs, place, source)
    return pairs


def _from_file(by_name: Mapping, split: Mapping, rows: Iterable[Mapping], place: str, source: str):
    file = split.get("file") or f"{place}.file"
    pairs = set()
    for row in rows:
        for column, allowed in (("sample", sorted(by_name)), ("split", SPLITS)):
            if row[column] not in allowed:
                raise InputError(
                    file, f"column {column}", repr(row[column]), f"allowed: {', '.join(allowed)}"
                )
        pairs.add((row["sample"], row["split"]))
    _refuse_unplaced(by_name, pairs, f"{place}.file", source)
    return pairs


def _refuse_unplaced(by_name: Mapping, pairs, place: str, source: str) -> None:
    unplaced = sorted(set(by_name) - {sample for sample, _ in pairs})
    if unplaced:
        raise InputError(
            source,
            place,
            f"no split for {', '.join(unplaced)}",
            "list each sample under train, val or test, or take it out of the dataset",
        )


def _by_donor(by_name: Mapping, split: Mapping, spots: Mapping | None, place: str, source: str):
    fractions = {name: float(split["fractions"].get(name, 0)) for name in SPLITS}
    if min(fractions.values()) < 0 or abs(sum(fractions.values()) - 1) > 1e-6:
        told = ", ".join(f"{name} {value:g}" for name, value in fractions.items())
        raise InputError(source, f"{place}.fractions", told, "give shares that add up to 1")
    wanted = {name: value for name, value in fractions.items() if value > 0}
    group = donor_group(by_name.values())
    _refuse_few_donors(by_name, group, len(wanted), "donor", place, source)
    # Spots of each donor in each stratum; a donor's diseases and organs may differ.
    strata: dict[str, dict[tuple, int]] = {}
    for name, row in by_name.items():
        stratum = (row.get("disease_state", ""), row.get("organ", ""))
        of = strata.setdefault(group[name], {})
        of[stratum] = of.get(stratum, 0) + (1 if spots is None else spots[name])
    # One generator and sorted donors: the outcome depends on the seed and the donors alone.
    generator = random.Random(split.get("seed", 0))
    deals = []
    for _ in range(ORDERS):
        donors = sorted(strata)
        generator.shuffle(donors)
        deals.append(_improve(_deal(donors, strata, wanted), donors, strata, wanted))
    deal = min(deals, key=lambda deal: _imbalance(deal, strata, wanted))
    return {(name, deal[group[name]]) for name in by_name}


def _leave_one_out(by_name: Mapping, split: Mapping, place: str, source: str):
    group = donor_group(by_name.values())
    _refuse_few_donors(by_name, group, len(SPLITS), "leave_one_donor_out", place, source)
    donors, fold = sorted(set(group.values())), split.get("fold", 0)
    if not 0 <= fold < len(donors):
        raise InputError(
            source,
            f"{place}.fold",
            str(fold),
            f"allowed: 0 to {len(donors) - 1}, one for each donor ({', '.join(donors)})",
        )
    # A ring in seeded order: over all folds each donor tests once and validates once.
    ring = list(donors)
    random.Random(split.get("seed", 0)).shuffle(ring)
    place_of = {donors[fold]: "test"}
    place_of[ring[(ring.index(donors[fold]) + 1) % len(ring)]] = "val"
    return {(name, place_of.get(group[name], "train")) for name in by_name}


def _refuse_few_donors(
    by_name: Mapping, group: Mapping, needed: int, method: str, place: str, source: str
) -> None:
    donors = sorted(set(group.values()))
    if len(donors) >= needed:
        return
    joined = sorted({row["donor"] for row in by_name.values()} - set(donors))
    told = f"{len(donors)} donor(s) ({', '.join(donors)}) for {needed} splits"
    if joined:
        told += f"; {', '.join(joined)} may be one of them: same title, donor not known"
    raise InputError(
        source,
        f"{place}.method {method}",
        told,
        "add samples of other donors, or use `method: listed` with `shared_donors: <reason>`",
    )


def _deal(donors: Sequence[str], strata: Mapping, wanted: Mapping) -> dict[str, str]:
    """Give each donor in turn to the split that lacks most; none may stay empty."""
    sizes = {donor: sum(of.values()) for donor, of in strata.items()}
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
    best = _imbalance(deal, strata, wanted)
    while True:
        moves = [{donor: name} for donor in donors for name in wanted if name != deal[donor]]
        if len(donors) <= SWAPS_UP_TO:
            moves += [
                {one: deal[other], other: deal[one]}
                for one, other in itertools.combinations(donors, 2)
                if deal[one] != deal[other]
            ]
        found = None
        for move in moves:
            changed = {**deal, **move}
            if len(set(changed.values())) < len(wanted):
                continue
            imbalance = _imbalance(changed, strata, wanted)
            if imbalance < best - 1e-9:
                best, found = imbalance, changed
        if found is None:
            return deal
        deal = found


def _imbalance(deal: Mapping, strata: Mapping, wanted: Mapping) -> float:
    """How far the splits are from the wanted shares: of all spots, and of those of each stratum.

    The distance of all spots counts double. A donor of a stratum of its own can't be split, so what
    it costs is the same wherever it goes but for the balance of all spots.
    """
    held: dict[tuple, float] = {}
    total: dict = {}
    for donor, of in strata.items():
        for stratum, spots in of.items():
            for key in (None, stratum):
                total[key] = total.get(key, 0) + spots
                held[deal[donor], key] = held.get((deal[donor], key), 0) + spots
    return sum(
        (2 if key is None else 1) * abs(share * spots - held.get((name, key), 0))
        for key, spots in total.items()
        for name, share in wanted.items()
    ) / (total.get(None, 0) or 1)
