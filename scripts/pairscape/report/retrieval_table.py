"""Tables of scores, one per question, as TSV (numbers), Markdown and LaTeX (for reading)."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import tsv
from pairscape.report.layout import BEST, MINUS_TO, NOT_RUN, SECOND
from pairscape.report.words import DIRECTIONS, KEYS, gallery_words, metric_words, word_letters

HEAD = (*KEYS, "direction", "gallery")
GROUP_HEAD = (*HEAD, "group_by", "group")
SEEDS = ("seeds_run", "seeds_planned", "seeds_missing", "seeds_failed")
TAIL = (
    "queries",
    "gallery_size",
    "donors",
    "ci_over",
    "p_value",
    "p_test",
    "control",
    "donors_shared",
)
PARTS = {
    "": "value",
    "_sd": None,
    "_ci_low": "ci_low",
    "_ci_high": "ci_high",
    "_donor_low": "donor_low",
    "_donor_high": "donor_high",
    "_pessimistic": "pessimistic",
    "_chance": "chance",
}
TEXTS = {
    *GROUP_HEAD,
    "seeds_missing",
    "seeds_failed",
    "ci_over",
    "p_test",
    "control",
    "donors_shared",
}
SCORED = "scored"
HEADLINE = "recall@5"
GROUP_WORDS = {
    "donor": "donor",
    "organ": "organ",
    "disease_state": "disease state",
    "sample": "sample",
}


# ---------------------------------------------------------------------------------------- the table


def tabulate_retrieval(
    scores: Iterable[Mapping], expected: Iterable[Mapping], nearby: bool = False
) -> list[dict]:
    """Bring tidy retrieval scores of all queries to one row per pair, direction and gallery.

    A metric is the mean over seeds, ``_sd`` their standard deviation (from two seeds on); the
    bounds of its interval, and the least and greatest of the donors' values, are the means over the
    seeds' bounds, so that they are those of a typical run; ``p_value`` is the largest of the seeds',
    from the galleries within samples.

    Parameters
    ----------
    scores
        Rows of ``retrieval.read_scores``, of one experiment.
    expected
        The planned runs: ``dataset``, ``image_encoder``, ``gene_encoder``, ``seed``, and perhaps
        ``control``. What isn't among the scores gets a row without values, or its seed is listed as
        missing, or as failed, with the reason that the run gave.
    nearby
        Whether the metrics are those that count spots nearby as hits, in place of the exact ones.
    """
    scores, failed, controls = _read_status(scores)
    scored = dict.fromkeys(tuple(row[key] for key in KEYS) for row in scores)
    scores = [row for row in scores if row["group_by"] == "all"]
    names = nearby_names if nearby else metric_names
    metrics = names(row["metric"] for row in scores)
    planned, planned_controls = _planned(expected)
    controls = planned_controls | controls
    found: dict[tuple, dict] = {}
    for row in scores:
        seeds = found.setdefault(tuple(row[key] for key in HEAD), {})
        seeds.setdefault(str(row["seed"]), {})[row["metric"]] = row
    if nearby:
        found = {
            head: seeds
            for head, seeds in found.items()
            if any(metric in of for of in seeds.values() for metric in metrics)
        }
    galleries = list(dict.fromkeys(head[4] for head in found)) or ["split"]
    order = list(dict.fromkeys([*planned, *scored, *failed]))

    table = []
    for pair in order:
        tests = {} if nearby else _largest_p(found, pair)
        for gallery in galleries:
            for direction in DIRECTIONS:
                seeds = found.get((*pair, direction, gallery), {})
                row = dict(zip(HEAD, (*pair, direction, gallery), strict=True))
                row |= _of_seeds(seeds, planned.get(pair, []), failed.get(pair, {}))
                for metric in metrics:
                    row |= _over_seeds(metric, [s[metric] for s in seeds.values() if metric in s])
                first = next((next(iter(s.values())) for s in seeds.values()), {})
                row |= {name: first.get(name) for name in TAIL}
                row["p_value"], row["p_test"] = tests.get(direction, (None, ""))
                row["control"] = controls.get(pair, "")
                table.append(row)
    return table


def tabulate_groups(scores: Iterable[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """The same by donor, organ, disease state and sample: one row per group as well.

    Takes and returns what ``tabulate_retrieval`` does, with the columns ``group_by`` and ``group``.
    """
    scores, failed, _ = _read_status(scores)
    metrics = metric_names(row["metric"] for row in scores)
    planned, _ = _planned(expected)
    found: dict[tuple, dict] = {}
    for row in scores:
        if row["group_by"] in GROUP_WORDS and row["metric"] in metrics:
            seeds = found.setdefault(tuple(row[key] for key in GROUP_HEAD), {})
            seeds.setdefault(str(row["seed"]), {})[row["metric"]] = row
    table = []
    for head, seeds in found.items():
        row = dict(zip(GROUP_HEAD, head, strict=True))
        row |= _of_seeds(seeds, planned.get(head[:3], []), failed.get(head[:3], {}))
        for metric in metrics:
            row |= _over_seeds(metric, [s[metric] for s in seeds.values() if metric in s])
        first = next(iter(next(iter(seeds.values())).values()))
        row |= {name: first[name] for name in TAIL}
        p_values = [of["p_value"] for s in seeds.values() for of in s.values()]
        row["p_value"] = max((p for p in p_values if p is not None), default=None)
        table.append(row)
    return table


def _read_status(scores: Iterable[Mapping]) -> tuple[list, dict, dict]:
    """The scored rows; by pair and seed why runs failed; by pair what it stands for as a control."""
    scored, failed, controls = [], {}, {}
    for row in scores:
        pair = tuple(row[key] for key in KEYS)
        if row["status"] in (SCORED, ""):
            scored.append(row)
        else:
            failed.setdefault(pair, {})[str(row["seed"])] = row["status"]
        if row["control"]:
            controls[pair] = row["control"]
    return scored, failed, controls


def _planned(expected: Iterable[Mapping]) -> tuple[dict, dict]:
    planned: dict[tuple, list[str]] = {}
    controls = {}
    for run in expected:
        pair = tuple(str(run[key]) for key in KEYS)
        planned.setdefault(pair, []).append(str(run["seed"]))
        if run.get("control"):
            controls[pair] = run["control"]
    return planned, controls


def _of_seeds(seeds: Mapping, wanted: Sequence[str], failed: Mapping[str, str]) -> dict:
    """Which seeds were run, planned, missing and failed: none is averaged away unsaid."""
    reasons: dict[str, list[str]] = {}
    for seed, why in failed.items():
        reasons.setdefault(why, []).append(seed)
    return {
        "seeds_run": len(seeds),
        "seeds_planned": len({*(wanted or seeds), *seeds, *failed}),
        "seeds_missing": " ".join(s for s in wanted if s not in seeds and s not in failed),
        "seeds_failed": "; ".join(f"{why}: {' '.join(of)}" for why, of in reasons.items()),
    }


def metric_names(names: Iterable[str]) -> list[str]:
    """The metrics for the partner alone among ``names``, in the order of the tables."""
    names = set(names)
    recall = sorted(int(match[1]) for n in names if (match := re.fullmatch(r"recall@(\d+)", n)))
    return [f"recall@{k}" for k in recall] + [
        name for name in ("mean_rank", "median_rank") if name in names
    ]


def nearby_names(names: Iterable[str]) -> list[str]:
    """The metrics that count spots nearby as hits among ``names``, by radius and k."""
    pattern = re.compile(r"recall@(\d+)_within_([\d.e+]+)um")
    found = {name: match for name in names if (match := pattern.fullmatch(name))}
    return sorted(found, key=lambda name: (float(found[name][2]), int(found[name][1])))


def headline(metrics: Sequence[str]) -> str | None:
    """The one recall that is shown where there is room for one: that of the paper's figures."""
    recall = [name for name in metrics if name.startswith("recall@")]
    wanted = [name for name in recall if name.split("_")[0] == HEADLINE]
    return (wanted or recall[-1:] or [None])[0]


def _largest_p(found: Mapping, pair: tuple) -> dict[str, tuple]:
    largest = {}
    for direction in DIRECTIONS:
        rows = [
            row
            for seed in found.get((*pair, direction, "sample"), {}).values()
            for row in seed.values()
            if row["p_test"]
        ]
        tested = [row for row in rows if row["p_value"] is not None]
        if tested:
            worst = max(tested, key=lambda row: row["p_value"])
            largest[direction] = (worst["p_value"], worst["p_test"])
        elif rows:
            largest[direction] = (None, rows[0]["p_test"])
    return largest


def _over_seeds(metric: str, rows: Sequence[Mapping]) -> dict:
    def mean(name):
        values = [row[name] for row in rows]
        return statistics.fmean(values) if values and None not in values else None

    deviation = statistics.stdev(row["value"] for row in rows) if len(rows) > 1 else None
    return {
        metric + part: deviation if name is None else mean(name) for part, name in PARTS.items()
    }


def table_columns(rows: Sequence[Mapping]) -> list[str]:
    """The columns of a table of retrieval, in the order in which they are written."""
    fixed = {*GROUP_HEAD, *SEEDS, *TAIL}
    head = [name for name in GROUP_HEAD if name in rows[0]]
    return [*head, *SEEDS, *(name for name in rows[0] if name not in fixed), *TAIL]


def write_table(path, rows: Sequence[Mapping], columns: Sequence[str] | None = None) -> None:
    """Write a table as TSV, numbers with 6 significant digits, ``None`` as an empty field.

    Its columns are those of a table of retrieval, unless they are given.
    """
    if columns is None:
        columns = table_columns(rows) if rows else (*HEAD, *SEEDS, *TAIL)
    tsv.write_numbers(path, rows, columns)


def is_retrieval_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return {*HEAD, *SEEDS, *TAIL} <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    return tsv.read_numbers(
        path, (*HEAD, *SEEDS, *TAIL), "delete it and tabulate again", texts=TEXTS
    )


# ----------------------------------------------------------------------------------- for the reader


def retrieval_sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay a table of retrieval out for a reader: one section per gallery, a chance row per dataset.

    Returns
    -------
    Mappings with ``title``, ``header`` (texts), ``rows`` (lists of texts), ``chance`` (the numbers
    of the rows that hold chance), ``marks`` (``best`` and ``second`` by row and column) and
    ``notes`` (texts).
    """
    letters = word_letters(row["donors_shared"] for row in rows)
    nearby = nearby_names(rows[0])
    metrics = nearby or [name for name in metric_names(rows[0]) if name != "mean_rank"]
    shown = headline(metrics)
    sections = []
    for gallery in sorted({row["gallery"] for row in rows}, key=_gallery_order):
        body, chance_rows, marks = [], [], {}
        of_gallery = [row for row in rows if row["gallery"] == gallery]
        for dataset in dict.fromkeys(row["dataset"] for row in of_gallery):
            of_dataset = [row for row in of_gallery if row["dataset"] == dataset]
            scored = next((row for row in of_dataset if row["queries"]), None)
            if scored:
                chance_rows.append(len(body))
                body.append(
                    [dataset, "", "chance", "", ""]
                    + [_number(metric, scored[metric + "_chance"]) for metric in metrics]
                    + [_donors(scored, None), *([] if nearby else [""]), "", _pairs(scored)]
                )
            for column, metric in enumerate(metrics, start=5):
                for place, mark in mark_best(of_dataset, metric).items():
                    marks[len(body) + place, column] = mark
            body += [
                [dataset, _note_marks(row, letters), row["image_encoder"], row["gene_encoder"]]
                + [DIRECTIONS[row["direction"]]]
                + [_cell(metric, row) for metric in metrics]
                + [_donors(row, shown), *([] if nearby else [_p(row)]), _seeds(row), _pairs(row)]
                for row in of_dataset
            ]
        sections.append(
            {
                "title": f"Gallery: {gallery_words(gallery)}",
                "header": [
                    *("Dataset", "Note", "Image encoder", "Gene encoder", "Direction"),
                    *(metric_words(metric) for metric in metrics),
                    f"Donors ({metric_words(shown)})" if shown else "Donors",
                    *([] if nearby else ["p"]),
                    *("Seeds", "Queries (gallery)"),
                ],
                "rows": body,
                "chance": chance_rows,
                "marks": marks,
                "notes": _gallery_notes(rows, gallery),
            }
        )
    # What holds for all galleries is said once, below the last one.
    marked = any(section["marks"] for section in sections)
    sections[-1]["notes"] = sections[-1]["notes"] + _notes(rows, letters, marked, shown)
    return sections


def mark_best(rows: Sequence[Mapping], metric: str) -> dict[int, str]:
    """Which of the rows are ``best`` and ``second`` in a metric, within each direction.

    Controls are never marked, and nothing is where fewer than two encoder pairs have a value. What
    looks equal in the table is marked alike.
    """
    marks = {}
    for direction in dict.fromkeys(row["direction"] for row in rows):
        values = {
            place: float(_number(metric, row[metric]))
            for place, row in enumerate(rows)
            if row["direction"] == direction and row.get(metric) is not None and not row["control"]
        }
        if len(values) < 2:
            continue
        order = sorted(set(values.values()), reverse=metric.startswith("recall@"))
        for place, value in values.items():
            if value in order[:2] and len(order) > 1:
                marks[place] = (BEST, SECOND)[order.index(value)]
    return marks


def group_sections(rows: Sequence[Mapping], gallery: str = "split") -> list[dict]:
    """Lay a table of groups out for a reader: one section per kind of group, in one gallery."""
    sections = []
    rows = [row for row in rows if row["gallery"] == gallery]
    metrics = [name for name in metric_names(rows[0] if rows else []) if name != "mean_rank"]
    for group_by, words in GROUP_WORDS.items():
        of_kind = [row for row in rows if row["group_by"] == group_by]
        if not of_kind:
            continue
        order = {name: i for i, name in enumerate(dict.fromkeys(row["group"] for row in of_kind))}
        datasets = {name: i for i, name in enumerate(dict.fromkeys(r["dataset"] for r in of_kind))}
        of_kind.sort(key=lambda row: (datasets[row["dataset"]], order[row["group"]]))
        notes = [
            "Queries of the group, against the gallery of all. Numbers of groups compare only where "
            "their chance does.",
            *_interval_notes(of_kind),
        ]
        sections.append(
            {
                "title": f"By {words}; gallery: {gallery_words(gallery)}",
                "header": [
                    *("Dataset", words.capitalize(), "Image encoder", "Gene encoder", "Direction"),
                    *(metric_words(metric) for metric in metrics),
                    *("Donors", "Seeds", "Queries (gallery)"),
                ],
                "rows": [
                    [row["dataset"], row["group"], row["image_encoder"], row["gene_encoder"]]
                    + [DIRECTIONS[row["direction"]]]
                    + [_cell(metric, row) for metric in metrics]
                    + [f"{row['donors']:.0f}", _seeds(row), _pairs(row)]
                    for row in of_kind
                ],
                "chance": [],
                "marks": {},
                "notes": notes,
            }
        )
    return sections


def _gallery_order(gallery: str) -> tuple:
    order = ("split", "other_donors", "sample")
    return (order.index(gallery) if gallery in order else len(order), gallery)


def _note_marks(row: Mapping, letters: Mapping[str, str]) -> str:
    return ", ".join(
        filter(None, [letters.get(row["donors_shared"]), "control" if row["control"] else ""])
    )


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return NOT_RUN
    return f"{value:.3f}" if metric.startswith("recall@") else f"{value:.1f}"


def _cell(metric: str, row: Mapping) -> str:
    value, deviation, low, high = (row[metric + p] for p in ("", "_sd", "_ci_low", "_ci_high"))
    text = _number(metric, value)
    if deviation is not None:
        text += f" ({_number(metric, deviation)})"
    if low is not None:
        text += f" [{_number(metric, low)}{MINUS_TO}{_number(metric, high)}]"
    return text


def _donors(row: Mapping, metric: str | None) -> str:
    if not row["donors"]:
        return NOT_RUN
    low = row.get(f"{metric}_donor_low") if metric else None
    if low is None:
        return f"{row['donors']:.0f}"
    high = row[f"{metric}_donor_high"]
    return f"{row['donors']:.0f}: {_number(metric, low)}{MINUS_TO}{_number(metric, high)}"


def _pairs(row: Mapping) -> str:
    if not row["queries"]:
        return NOT_RUN
    size = row["gallery_size"]
    return (
        f"{row['queries']:.0f} ({size:.0f})"
        if size >= 100
        else f"{row['queries']:.0f} ({size:.3g})"
    )


def _seeds(row: Mapping) -> str:
    text = f"{row['seeds_run']:.0f} of {row['seeds_planned']:.0f}"
    text += f", without {row['seeds_missing']}" if row["seeds_missing"] else ""
    return text + (f"; {row['seeds_failed']}" if row["seeds_failed"] else "")


def _p(row: Mapping) -> str:
    return NOT_RUN if row["p_value"] is None else f"{row['p_value']:.2g}"


def _interval_notes(rows: Sequence[Mapping]) -> list[str]:
    over = [text for text in dict.fromkeys(row["ci_over"] for row in rows) if text]
    notes = []
    for kind, words in (
        ("bootstrap over", "drawing whole donors: it speaks of donors like these"),
        ("spatial blocks", "drawing blocks of tissue: it says nothing about other donors"),
    ):
        of_kind = [text for text in over if kind in text]
        more = f" and {len(of_kind) - 6} more" if len(of_kind) > 6 else ""
        if of_kind:
            notes.append(
                "In brackets the 95 % interval of a run (its bounds averaged over seeds), by "
                f"{words}: {'; '.join(of_kind[:6])}{more}."
            )
    return notes


def _gallery_notes(rows: Sequence[Mapping], gallery: str) -> list[str]:
    """What is to be said of one gallery; ``rows`` are those of all galleries."""
    notes = []
    if gallery.startswith("in_batch"):
        notes.append(
            "The split is dealt out to the processes pair by pair, in data set order. A short last "
            "batch of each process is kept, as published; batches are averaged by their "
            "size, and the median rank is that of each batch. Where the split doesn't divide, its "
            "first pairs are dealt twice, and count twice."
            if "_ranks_" in gallery
            else "A short last batch is kept; batches are averaged by their size, and the median rank "
            "is that of each batch."
        )
    scored = dict.fromkeys(row["dataset"] for row in rows if row["queries"])
    here = {row["dataset"] for row in rows if row["queries"] and row["gallery"] == gallery}
    lacking = [name for name in scored if name not in here]
    if lacking and gallery == "other_donors":
        notes.append(f"No such gallery where the split has one donor: {', '.join(lacking)}.")
    return notes


def _notes(rows, letters: Mapping[str, str], marked: bool, shown: str | None) -> list[str]:
    """What is to be said of all galleries."""
    notes = [
        "I2G: an image looks for its genes; G2I: genes look for their image. Recall@k is the share "
        "of queries whose partner is among the k most similar, ties at their expected value (the "
        "bound at which every tie is lost is in the .tsv). Chance is the same for partners that lie "
        "anywhere in the gallery.",
    ]
    if shown and "within" in shown:
        notes.append(
            "Any spot of the same sample within the radius is a hit as well, and counts in the "
            "chance beside it."
        )
    if any(row["seeds_run"] > 1 for row in rows):
        notes.append("Mean over seeds (standard deviation over seeds).")
    if any(row["donors"] and row["donors"] > 1 for row in rows) and shown:
        notes.append(
            f"Donors: how many, and the least and greatest of their own {metric_words(shown)}."
        )
    if marked:
        notes.append(
            "Bold: best of a dataset and direction; underlined (in Markdown: italic): second. Nothing "
            "says that they differ by more than chance: see the comparisons."
        )
    if any(row["control"] for row in rows):
        controls = dict.fromkeys(
            f"{row['image_encoder']} with {row['gene_encoder']} ({row['control']})"
            for row in rows
            if row["control"]
        )
        notes.append(f"Controls, never marked: {'; '.join(controls)}.")
    notes += _interval_notes(rows)
    tests = list(dict.fromkeys(row["p_test"] for row in rows if row["p_test"]))
    if tests:
        notes.append(
            "p: largest over seeds, from galleries within samples; "
            f"{'; '.join(tests)} (a section moved over itself keeps its autocorrelation)."
        )
    if any(row["seeds_missing"] for row in rows):
        notes.append(
            f"{NOT_RUN}: not run. The seeds that are missing are named, not averaged away."
        )
    failed = dict.fromkeys(
        f"{row['image_encoder']} with {row['gene_encoder']} on {row['dataset']} "
        f"({row['seeds_failed']})"
        for row in rows
        if row["seeds_failed"]
    )
    if failed:
        notes.append(f"{NOT_RUN}: the run says why it failed: {'; '.join(failed)}.")
    notes += [f"{mark}: donors are shared between splits: {text}" for text, mark in letters.items()]
    return notes


# ----------------------------------------------------------------------------------------- Markdown


# -------------------------------------------------------------------------------------------- LaTeX
