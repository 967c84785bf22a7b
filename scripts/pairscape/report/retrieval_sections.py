"""The tables of retrieval for the reader, and their chapter."""

from collections.abc import Mapping, Sequence

from pairscape.report import comparisons, headline, hits_table, layout, retrieval_table
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.layout import NOT_RUN
from pairscape.report.retrieval_table import GROUP_WORDS, metric_names, nearby_names
from pairscape.report.rows import split_by
from pairscape.report.words import (
    DIRECTIONS,
    gallery_words,
    metric_words,
    pair_words,
    seeds_missing_words,
    word_letters,
)


def retrieval_sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay a table of retrieval out for a reader: one section per gallery, a chance row per dataset."""
    letters = word_letters(row["donors_shared"] for row in rows)
    nearby = nearby_names(rows[0])
    metrics = nearby or [name for name in metric_names(rows[0]) if name != "mean_rank"]
    shown = retrieval_table.headline(metrics)
    header = ["Dataset", "Note", "Image encoder", "Gene encoder", "Direction"]
    header += [metric_words(metric) for metric in metrics]
    header += [f"Donors ({metric_words(shown)})" if shown else "Donors"]
    header += [*([] if nearby else ["p"]), "Seeds", "Queries (gallery)"]
    sections = []
    galleries = split_by(rows, "gallery")
    for gallery in sorted(galleries, key=_gallery_order):
        body, chance_rows, marks = [], [], {}
        for dataset, of_dataset in split_by(galleries[gallery], "dataset").items():
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
                + [_donors(row, shown), *([] if nearby else [layout.number(row["p_value"], ".2g")])]
                + [_seeds(row), _pairs(row)]
                for row in of_dataset
            ]
        title, notes = f"Gallery: {gallery_words(gallery)}", _gallery_notes(rows, gallery)
        sections.append(layout.section(title, header, body, notes, chance=chance_rows, marks=marks))
    # What holds for all galleries is said once, below the last one.
    has_marks = any(section["marks"] for section in sections)
    sections[-1]["notes"] += _notes(rows, letters, has_marks, shown)
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
        marks |= layout.mark_two_best(values, metric.startswith("recall@"))
    return marks


def group_sections(rows: Sequence[Mapping], gallery: str = "split") -> list[dict]:
    """Lay a table of groups out for a reader: one section per kind of group, in one gallery."""
    sections = []
    rows = [row for row in rows if row["gallery"] == gallery]
    kinds = split_by(rows, "group_by")
    metrics = [name for name in metric_names(rows[0] if rows else []) if name != "mean_rank"]
    for group_by, words in GROUP_WORDS.items():
        if not (of_kind := kinds.get(group_by)):
            continue
        groups, datasets = (
            list(dict.fromkeys(row[key] for row in of_kind)) for key in ("group", "dataset")
        )
        of_kind.sort(key=lambda row: (datasets.index(row["dataset"]), groups.index(row["group"])))
        header = ["Dataset", words.capitalize(), "Image encoder", "Gene encoder", "Direction"]
        header += [metric_words(metric) for metric in metrics]
        header += ["Donors", "Seeds", "Queries (gallery)"]
        body = [
            [row["dataset"], row["group"], row["image_encoder"], row["gene_encoder"]]
            + [DIRECTIONS[row["direction"]]]
            + [_cell(metric, row) for metric in metrics]
            + [f"{row['donors']:.0f}", _seeds(row), _pairs(row)]
            for row in of_kind
        ]
        notes = [
            "Queries of the group, against the gallery of all. Numbers of groups compare only where "
            "their chance does.",
            *_interval_notes(of_kind),
        ]
        title = f"By {words}; gallery: {gallery_words(gallery)}"
        sections.append(layout.section(title, header, body, notes))
    return sections


def _gallery_order(gallery: str) -> tuple:
    order = ("split", "other_donors", "sample")
    return (order.index(gallery) if gallery in order else len(order), gallery)


def _note_marks(row: Mapping, letters: Mapping[str, str]) -> str:
    return ", ".join(
        filter(None, [letters.get(row["donors_shared"]), "control" if row["control"] else ""])
    )


def _form(metric: str) -> str:
    return ".3f" if metric.startswith("recall@") else ".1f"


def _number(metric: str, value: float | None) -> str:
    return layout.number(value, _form(metric))


def _cell(metric: str, row: Mapping) -> str:
    value, spread, low, high = (row[metric + p] for p in ("", "_sd", "_ci_low", "_ci_high"))
    form = _form(metric)
    return (
        layout.number(value, form)
        + layout.deviation(spread, form)
        + layout.interval(low, high, form)
    )


def _donors(row: Mapping, metric: str | None) -> str:
    if not row["donors"]:
        return NOT_RUN
    low = row.get(f"{metric}_donor_low") if metric else None
    if low is None:
        return f"{row['donors']:.0f}"
    low, high = _number(metric, low), _number(metric, row[f"{metric}_donor_high"])
    return f"{row['donors']:.0f}: {low}{layout.MINUS_TO}{high}"


def _pairs(row: Mapping) -> str:
    if not row["queries"]:
        return NOT_RUN
    size = row["gallery_size"]
    return f"{row['queries']:.0f} ({size:{'.0f' if size >= 100 else '.3g'}})"


def _seeds(row: Mapping) -> str:
    return layout.seeds(row) + (f"; {row['seeds_failed']}" if row["seeds_failed"] else "")


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


def _notes(rows, letters: Mapping[str, str], has_marks: bool, shown: str | None) -> list[str]:
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
    if has_marks:
        notes.append(
            "Bold: best of a dataset and direction; underlined (in Markdown: italic): second. Nothing "
            "says that they differ by more than chance: see the comparisons."
        )
    controls = dict.fromkeys(f"{pair_words(r)} ({r['control']})" for r in rows if r["control"])
    if controls:
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
        f"{pair_words(row)} on {row['dataset']} ({row['seeds_failed']})"
        for row in rows
        if row["seeds_failed"]
    )
    if failed:
        notes.append(f"{NOT_RUN}: the run says why it failed: {'; '.join(failed)}.")
    notes += [f"{mark}: donors are shared between splits: {text}" for text, mark in letters.items()]
    return notes


def missing(rows: Sequence[Mapping]) -> list[str]:
    """The runs that are missing or failed."""
    return [
        f"{row['dataset']}, {pair_words(row)}, {words}"
        for row in rows
        for words in (seeds_missing_words(row), row["seeds_failed"])
        if words
    ]


RETRIEVAL = Shown(
    "retrieval",
    "Retrieval",
    retrieval_table.TABLE,
    retrieval_sections,
    missing,
    headline.says,
)
CHAPTER = Chapter(
    name="retrieval",
    heading="Retrieval",
    about="A query of one modality looks for its partner among a gallery of the other. How to read "
    "the numbers:",
    tables=(
        RETRIEVAL,
        hits_table.HITS,
        Shown(
            "retrieval-nearby",
            "Retrieval, hits nearby",
            retrieval_table.TABLE,
            retrieval_sections,
            missing,
        ),
        Shown("retrieval-groups", "Retrieval by group", retrieval_table.GROUPS, group_sections),
        Shown(
            "retrieval-comparisons", "Encoders compared", comparisons.TABLE, comparisons.sections
        ),
    ),
    caption="{name}: share of test queries whose partner is among the k most similar, for each "
    "encoder pair and direction, in the whole test split and in batches. Bars: mean over "
    "seeds; white dots: seeds; black lines: 95 % interval, over donors or over blocks of tissue "
    "within them, as the table says; red: chance.",
    reading=(
        (
            "Direction",
            "I2G: an image looks for its genes. G2I: genes look for their image.",
        ),
        (
            "Gallery",
            "Recall depends on what the partner competes with. <em>The whole split</em>: all test "
            "pairs. <em>Other donors</em>: the partner among the spots of other donors, so that "
            "telling donors apart is enough. <em>Within each sample</em>: the pairs of the query's own "
            "section, so that knowing the section doesn't help. <em>In batches</em>, in data set "
            "order: what is published (64 pairs, the split dealt out to 4 processes), and far easier; "
            "the last batch may be shorter and every query weighs the same.",
        ),
        (
            "Chance",
            "What the same score gives when the partner lies anywhere in the gallery: k / gallery size "
            "for Recall@k. Numbers of different galleries compare only against their own chance.",
        ),
        (
            "Interval",
            "95 %. From six test donors on, from resampling donors. With fewer, from resampling "
            "spatial blocks of spots within these donors, since neighbouring spots are "
            "near-duplicates: it then covers other spots of these donors, not other donors, whose own "
            "values stand beside it as a range.",
        ),
        (
            "p",
            "The pairs as they are against the same section moved over itself (shifts, and half "
            "turns), which keeps whatever autocorrelation images and genes have on their own.",
        ),
    ),
)
