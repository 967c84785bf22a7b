"""Which sample stands in which split, and which donors and samples stand in two.

Imports nothing heavy: the workflow calls it while Snakemake parses.
"""

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

from pairscape.errors import InputError
from pairscape.files import read_tsv, write_tsv

SPLITS = ("train", "val", "test")
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
LEAK_COLUMNS = (
    "finding",
    "donor",
    "sample",
    "split",
    "other_sample",
    "other_split",
    "spots",
    "acknowledged",
)
ORDERS = 8  # seeded orders of donors that are tried


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
        ``method``: ``published`` (the given rows), ``listed`` (the lists ``train``, ``val`` and
        ``test``) or ``donor`` (donors dealt by ``seed`` so that the splits hold about ``fractions``
        of the spots). ``shared_donors``: None, or in words why a donor may stand in two splits.
    published
        Rows of ``sample`` and ``split``; those of other samples are passed over.
    spots
        Number of spots of each sample. Without it each counts as one, and the column is empty.
    place, source
        Where ``split`` stands, for messages.

    Returns
    -------
    One row per sample and split, with ``SPLIT_COLUMNS``, ordered train, val, test, then by sample.
    ``shared_donors`` holds the words where the row's donor does stand in two splits.

    Raises
    ------
    InputError
        A sample is unknown or in no split, there are fewer donors than splits, or a donor or
        sample stands in two splits and nobody says that it may.
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
    elif method == "donor":
        pairs = _by_donor(by_name, split, spots, place, source)
    else:
        raise InputError(
            source, f"{place}.method", repr(method), "allowed: published, donor, listed"
        )
    rows = [
        {
            **{column: by_name[sample].get(column, "") for column in SPLIT_COLUMNS},
            "split": name,
            "spots": "" if spots is None else spots[sample],
            "shared_donors": words,
        }
        for sample, name in sorted(pairs, key=lambda pair: (SPLITS.index(pair[1]), pair[0]))
    ]
    leaks = find_leaks(rows)
    if not words:
        _refuse_leaks(leaks, place, source)
    shared = {leak["donor"] for leak in leaks}
    for row in rows:
        if row["donor"] not in shared:
            row["shared_donors"] = ""
    return rows


def find_leaks(rows: Sequence[Mapping]) -> list[dict]:
    """Find donors and samples that stand in two splits.

    Parameters
    ----------
    rows
        Rows of ``make_splits`` or ``read_splits``.

    Returns
    -------
    One row per pair of samples, with ``LEAK_COLUMNS``. ``sample`` is the one of the later split
    (test after val after train), whose ``spots`` are the ones touched; ``other_sample`` stands in
    the earlier split. ``finding`` is ``same_sample`` or ``same_donor``; ``acknowledged`` holds the
    words of ``shared_donors``.
    """
    leaks = []
    for first, second in itertools.combinations(rows, 2):
        if first["split"] == second["split"] or first["donor"] != second["donor"]:
            continue
        earlier, later = sorted((first, second), key=lambda row: SPLITS.index(row["split"]))
        leaks.append(
            {
                "finding": f"same_{'sample' if first['sample'] == second['sample'] else 'donor'}",
                "donor": later["donor"],
                "sample": later["sample"],
                "split": later["split"],
                "other_sample": earlier["sample"],
                "other_split": earlier["split"],
                "spots": later["spots"],
                "acknowledged": later["shared_donors"],
            }
        )
    order = {name: -i for i, name in enumerate(SPLITS)}
    return sorted(
        leaks,
        key=lambda leak: (
            order[leak["split"]],
            order[leak["other_split"]],
            leak["donor"],
            leak["sample"],
            leak["other_sample"],
        ),
    )


def describe_leaks(leaks: Iterable[Mapping]) -> list[str]:
    """Say for each donor in two splits where it stands: ``donor A (S1 in train, S2 in test)``."""
    places: dict[str, set] = {}
    for leak in leaks:
        places.setdefault(leak["donor"], set()).update(
            {(leak["split"], leak["sample"]), (leak["other_split"], leak["other_sample"])}
        )
    told = []
    for donor, found in places.items():
        ordered = sorted(found, key=lambda place: (SPLITS.index(place[0]), place[1]))
        told.append(f"donor {donor} ({', '.join(f'{s} in {split}' for split, s in ordered)})")
    return told


def write_splits(path, rows: Iterable[Mapping]) -> None:
    """Write splits.tsv."""
    write_tsv(path, rows, SPLIT_COLUMNS)


def read_splits(path) -> list[dict]:
    """Read splits.tsv; ``spots`` as an integer (None where it is empty).

    Raises
    ------
    InputError
        A column is missing, or a value isn't allowed.
    """
    rows = read_tsv(path, SPLIT_COLUMNS)
    for number, row in enumerate(rows, start=2):
        if row["split"] not in SPLITS:
            raise InputError(
                path, f"line {number}, split", repr(row["split"]), f"allowed: {', '.join(SPLITS)}"
            )
        row["spots"] = _count(path, number, row["spots"])
    return rows


def write_leaks(path, leaks: Iterable[Mapping]) -> None:
    """Write leakage.tsv."""
    write_tsv(path, leaks, LEAK_COLUMNS)


def read_leaks(path) -> list[dict]:
    """Read leakage.tsv; ``spots`` as an integer (None where it is empty)."""
    rows = read_tsv(path, LEAK_COLUMNS)
    for number, row in enumerate(rows, start=2):
        row["spots"] = _count(path, number, row["spots"])
    return rows


def _count(path, number: int, text: str) -> int | None:
    if not text:
        return None
    if not text.isdigit():
        raise InputError(path, f"line {number}, spots", repr(text), "give a whole number")
    return int(text)


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
    sizes: dict[str, int] = {}
    for name, row in by_name.items():
        sizes[row["donor"]] = sizes.get(row["donor"], 0) + (1 if spots is None else spots[name])
    if len(sizes) < len(wanted):
        raise InputError(
            source,
            f"{place}.method donor",
            f"{len(sizes)} donor(s) ({', '.join(sorted(sizes))}) for {len(wanted)} splits",
            "add samples of other donors, or use `method: listed` with `shared_donors: <reason>`",
        )
    # One generator and sorted donors: the outcome depends on the seed and the donors alone.
    generator = random.Random(split.get("seed", 0))
    deals = []
    for _ in range(ORDERS):
        donors = sorted(sizes)
        generator.shuffle(donors)
        deals.append(_deal(donors, sizes, wanted))
    deal = min(deals, key=lambda deal: _imbalance(deal, sizes, wanted))
    return {(name, deal[row["donor"]]) for name, row in by_name.items()}


def _deal(donors: Sequence[str], sizes: Mapping, wanted: Mapping) -> dict[str, str]:
    """Give each donor in turn to the split that lacks most; none may stay empty."""
    lacking = {name: share * sum(sizes.values()) for name, share in wanted.items()}
    deal: dict[str, str] = {}
    for i, donor in enumerate(donors):
        empty = [name for name in wanted if name not in deal.values()]
        choice = empty if len(donors) - i <= len(empty) else list(wanted)
        name = max(choice, key=lacking.get)
        deal[donor] = name
        lacking[name] -= sizes[donor]
    return deal


def _imbalance(deal: Mapping, sizes: Mapping, wanted: Mapping) -> float:
    total = sum(sizes.values())
    return sum(
        abs(share * total - sum(sizes[donor] for donor in deal if deal[donor] == name))
        for name, share in wanted.items()
    )


def _refuse_leaks(leaks: Sequence[Mapping], place: str, source: str) -> None:
    if leaks:
        raise InputError(
            source,
            place,
            f"{'; '.join(describe_leaks(leaks))} in more than one split",
            "move the samples so that each donor is in one split, or own up to it: write "
            f'`shared_donors: "<reason>"` under {place}',
        )
