"""The audit: what each quirk of the published code does to recall, one at a time.

There are two starts. From ``corrected`` one flag is switched on; from ``published`` one is repaired.
Every run is set against the base of its start, with the same encoder pair and seeds.

Intervals. Values of queries are averaged over the seeds and then resampled, by donors or by blocks of
tissue (``intervals``). Where a run and its base test on the same spots, the differences of the
queries are resampled: *paired*. Elsewhere the two are drawn independently of each other, and a
difference of the galleries' sizes is part of the difference of recalls. How much a training differs
from its repetition is in neither interval: the range over single seeds stands beside them.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pairscape.audit.options import ROW_KEYS, Run, runs_of
from pairscape.audit.protocols import PROTOCOLS as STARTS
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.evaluate import intervals, ranks, retrieval

BOTH = "both"
DIRECTIONS = (BOTH, *retrieval.DIRECTIONS)
KEYS = ("start", "flag", "image_encoder", "gene_encoder", "gallery", "direction", "recall_at")
TABLE = tsv.Table(
    "scores/audit/<name>.tsv",
    "score_audit",
    (
        *tsv.text(
            audit="the audit's name",
            start="the protocol that the change starts from",
            flag="the flag that is changed; none for the base",
            findings="its H numbers",
            meaning="what the published code does",
            dataset="dataset",
            image_encoder="image encoder",
            gene_encoder="gene encoder",
            gallery="gallery",
            direction="i2g, g2i, or both: their mean",
        ),
        *tsv.numbers(
            recall_at="k",
            value="recall, mean over seeds",
            ci_low="its interval over spots",
            ci_high="its interval over spots",
            chance="chance of recall",
            difference="less the base, mean over seeds",
            difference_low="its interval",
            difference_high="its interval",
            seed_low="least of single seeds",
            seed_high="greatest of single seeds",
            difference_seed_low="least of single seeds",
            difference_seed_high="greatest of single seeds",
        ),
        *tsv.text(
            paired="whether both test on the same spots", ci_over="what the intervals are over"
        ),
        *tsv.numbers(queries="queries", seeds="seeds scored"),
        *tsv.text(
            status="scored, missing, failed or not tried",
            why_not="why the flag can't be tried",
            options_sha256="of the runs' options",
        ),
    ),
)
SCORED, MISSING, NOT_TRIED = "scored", "not run", "not tried"
PUBLISHED_PROCESSES = 4  # the published numbers are those of batches of 64 of each of 4 processes
_SAME_PLACE_UM = 1.0


class Loaded(NamedTuple):
    """A run's embedded test split: of ``runs.read_scorable``.

    ``placeholders``: donors that no source names; ``path``: what told of the run, for messages.
    """

    embedded: Mapping
    placeholders: set[str]
    options_sha256: str
    path: str


class Scored(NamedTuple):
    """One setting and encoder pair, S seeds.

    ``hits`` by seed and by gallery, direction and k: (M,) in [0, 1]. ``rows`` and ``sizes`` by
    gallery: the query's row, and the entries of its gallery (M,). M is N, and some more where batches
    are dealt out to processes (``ranks.rank_in_batches``).
    """

    hits: dict
    rows: dict
    sizes: dict
    index: object
    placeholders: set
    sums: list


def score(
    options: Mapping,
    failures: Mapping[Run, str],
    load: Callable[[Run], Loaded],
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[dict]:
    """Score every row of an audit.

    ``options``: as ``check_options`` returns them. ``failures``: by run why it failed, empty for one
    that can be loaded; expected runs that aren't in it are missing. ``load`` reads a run, ``progress``
    wraps the rows.

    Returns rows of ``TABLE``: by row of the audit, encoder pair, gallery, k and direction. One that
    can't be tried has a single row, which says why.
    """
    table, bases = [], {}
    for row in progress(options["rows"]):
        head = {"audit": options["audit"]}
        head |= {key: row[key] for key in ROW_KEYS if key != "experiment"}
        if row["why_not"]:
            table.append(head | {"status": NOT_TRIED})
            continue
        for pair in row["pairs"]:
            names = {key: pair[key] for key in ("image_encoder", "gene_encoder")}
            whose = (row["start"], *names.values())
            planned = runs_of(row, pair)
            scored = _score_seeds(
                [run for run in planned if failures.get(run) == ""], load, options
            )
            if not row["flag"]:
                bases[whose] = scored
            base = bases.get(whose) if row["flag"] else None
            status = _status(planned, failures, scored, base, has_base=bool(row["flag"]))
            cells = _cells(scored, base, options)
            table += [{**head, **names, **cell, "status": status} for cell in cells]
    return table


def galleries(options: Mapping) -> tuple[str, str]:
    """The galleries of an audit: that of the published numbers, and the whole split."""
    processes = options["in_batch_ranks"]
    dealt = PUBLISHED_PROCESSES if PUBLISHED_PROCESSES in processes else processes[0]
    return retrieval.gallery_name(options["in_batch"], dealt), "split"


def _score_seeds(runs: Sequence[Run], load, options: Mapping) -> Scored | None:
    """The per-query hits of one setting and pair; None where no seed can be loaded."""
    scored = None
    for run in runs:
        loaded = load(run)
        hits, rows, sizes = _hits(loaded.embedded, options)
        index = loaded.embedded["index"]
        if scored is None:
            scored = Scored({}, rows, sizes, index, loaded.placeholders, [])
        elif not same_spots(scored.index, index):
            fault = f"other spots than those of seed {runs[0].seed}"
            remedy = "delete the run and pretrain it again: seeds of one dataset share its splits"
            raise InputError(loaded.path, "test split", fault, remedy)
        scored.hits[run.seed] = hits
        scored.sums.append(loaded.options_sha256)
    return scored


def _hits(embedded: Mapping, options: Mapping) -> tuple[dict, dict, dict]:
    """Expected hits by gallery, direction and k; the queries' rows and galleries' sizes."""
    index = embedded["index"]
    donors, samples = (index[name].to_numpy(str) for name in ("donor", "sample"))
    images, genes = (ranks.finite(embedded[name]) for name in ("images", "genes"))
    in_batch, whole = galleries(options)
    processes = int(in_batch.partition("_ranks_")[2] or 1)
    device = ranks.choose_device(options["device"], len(index))
    hits, rows, sizes = {}, {}, {}
    for direction in retrieval.DIRECTIONS:
        queries, gallery = (images, genes) if direction == "i2g" else (genes, images)
        (batches,) = ranks.rank_in_batches(queries, gallery, options["in_batch"], processes)
        (split,) = ranks.rank_pairs(queries, gallery, donors, samples, (), device)["split"]
        for name, ranked in ((in_batch, batches), (whole, split)):
            rows[name] = np.arange(len(index)) if ranked.rows is None else ranked.rows
            sizes[name] = ranked.size
            for k in options["recall_at"]:
                counts = (ranked.better, ranked.ties, k, ranked.level)
                hits[name, direction, k] = retrieval.recall_at(*counts)
    for name in rows:
        for k in options["recall_at"]:
            each = [hits[name, direction, k] for direction in retrieval.DIRECTIONS]
            hits[name, BOTH, k] = np.mean(each, axis=0)  # both deal the queries out alike
    return hits, rows, sizes


def _status(planned, failures, scored, base, *, has_base: bool) -> str:
    """Which seeds are missing or failed, and what that means for the difference."""
    reasons: dict[str, list[str]] = {}
    for run in planned:
        if why := failures.get(run, MISSING):
            reasons.setdefault(why, []).append(str(run.seed))
    parts = [] if scored is None else [SCORED]
    parts += [f"{why}: seed {', '.join(seeds)}" for why, seeds in reasons.items()]
    if scored and has_base:
        common = _common(scored, base)
        if not common:
            parts.append("no difference: the base has none of these seeds")
        elif len(common) < len(scored.hits):
            parts.append(f"difference: seed {', '.join(map(str, common))}")
    return "; ".join(parts)


def _common(scored: Scored, base: Scored | None) -> list:
    return [] if base is None else [seed for seed in scored.hits if seed in base.hits]


def _cells(scored: Scored | None, base: Scored | None, options: Mapping) -> list[dict]:
    """The numbers of one setting and pair: a row per gallery, k and direction."""
    cells = [
        {"gallery": gallery, "recall_at": k, "direction": direction}
        for gallery in galleries(options)
        for k in options["recall_at"]
        for direction in DIRECTIONS
    ]
    if scored is None:
        return cells
    units, over = draw_units(scored.index, scored.placeholders, options, options["seed"])
    common = _common(scored, base)
    paired = bool(common) and same_spots(scored.index, base.index)
    base_units = None
    if common and not paired:
        # Samples that both have would be drawn alike from one seed.
        drawn = draw_units(base.index, base.placeholders, options, options["seed"] + 1)
        base_units, base_over = drawn
        over += "" if base_over == over else f"; base: {base_over}"
    for cell in cells:
        gallery, k = cell["gallery"], cell["recall_at"]
        key = (gallery, cell["direction"], k)
        rows = scored.rows[gallery]
        seeds = [hits[key] for hits in scored.hits.values()]
        low, high = _interval(_draw(np.mean(seeds, axis=0), units, rows))
        values = [float(np.mean(each)) for each in seeds]
        cell |= {
            "value": statistics.fmean(values),
            "ci_low": low,
            "ci_high": high,
            "chance": retrieval.chance(f"recall@{k}", scored.sizes[gallery]),
            "seed_low": min(values),
            "seed_high": max(values),
            "ci_over": over,
            "queries": len(rows),
            "seeds": len(values),
            "options_sha256": files.sha256_json(scored.sums),
        }
        if not common:
            continue
        changed, unchanged = ([one.hits[seed][key] for seed in common] for one in (scored, base))
        if paired:
            drawn = _draw(np.mean(changed, axis=0) - np.mean(unchanged, axis=0), units, rows)
        else:
            first = _draw(np.mean(changed, axis=0), units, rows)
            second = _draw(np.mean(unchanged, axis=0), base_units, base.rows[gallery])
            drawn = None if first is None or second is None else first - second
        cell |= _difference(changed, unchanged, drawn) | {"paired": "yes" if paired else "no"}
    return cells


def _difference(changed: Sequence, unchanged: Sequence, drawn: np.ndarray | None) -> dict:
    """By how much the seeds' hits differ, on the mean and of single seeds."""
    by_seed = [float(np.mean(a) - np.mean(b)) for a, b in zip(changed, unchanged, strict=True)]
    low, high = _interval(drawn)
    return {
        "difference": statistics.fmean(by_seed),
        "difference_low": low,
        "difference_high": high,
        "difference_seed_low": min(by_seed),
        "difference_seed_high": max(by_seed),
    }


def same_spots(first, second) -> bool:
    """Whether two indices hold the same spots in the same order: sample, name and place."""
    if len(first) != len(second):
        return False
    alike = all(
        (first[name].to_numpy(str) == second[name].to_numpy(str)).all()
        for name in ("sample", "spot")
    )
    # Grids laid in another frame use the same names for other tissue.
    moved = first[["x_um", "y_um"]].to_numpy() - second[["x_um", "y_um"]].to_numpy()
    return alike and bool((np.abs(moved) <= _SAME_PLACE_UM).all())


def draw_units(index, placeholders: set, options: Mapping, seed: int):
    """What is resampled of a test split, as in ``retrieval.score_run``, and that in words."""
    samples, donors = (index[name].to_numpy(str) for name in ("sample", "donor"))
    xy_um = index[["x_um", "y_um"]].to_numpy(np.float64)
    drawn = options["bootstrap"], seed
    blocks = intervals.draw_blocks(samples, xy_um, options["block_um"], *drawn)
    everyone = np.ones(len(samples), bool)
    return intervals.choose_units(
        everyone, samples, donors, blocks, placeholders, options["block_um"], seed
    )


def _draw(values: np.ndarray, units, rows: np.ndarray) -> np.ndarray | None:
    """Means (draws,) of values (M,), the units of the queries ``rows`` drawn; None if none varies."""
    chosen = intervals.select(units, rows)
    if chosen is None:
        return None
    unit, weights = chosen
    count = weights.shape[1]
    sums = np.column_stack([np.bincount(unit, values, count), np.bincount(unit, minlength=count)])
    total, size = (weights.astype(np.float64) @ sums).T
    return total / size


def _interval(drawn: np.ndarray | None) -> tuple[float | None, float | None]:
    if drawn is None:
        return None, None
    tail = (1 - intervals.LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


# ------------------------------------------------------------------------------------------- format


def read_scores(path, audit: str | None = None) -> list[dict]:
    """Read the scores of an audit; numbers as float, empty ones as None."""
    again = "delete it and score the audit again"
    seen, rows = set(), TABLE.read(path)
    for line, row in enumerate(rows, start=2):
        refuse = partial(InputError, path)
        if audit is not None and row["audit"] != audit:
            raise refuse(f"line {line}, audit", row["audit"], f"give scores of {audit}")
        for name, allowed in (("start", STARTS), ("direction", ("", *DIRECTIONS))):
            if row[name] not in allowed:
                raise refuse(f"line {line}, {name}", repr(row[name]), again)
        key = tuple(row[name] for name in KEYS)
        if key in seen:
            raise refuse(
                f"line {line}", f"{row['flag'] or 'the base'} of {row['start']} twice", again
            )
        seen.add(key)
    if not rows:
        raise InputError(path, "rows", "no score", again)
    return rows
