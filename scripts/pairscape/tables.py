"""Tables of scores: one row per encoder pair, direction and gallery; as TSV, Markdown and LaTeX."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence

from pairscape import files
from pairscape.errors import InputError

KEYS = ("dataset", "image_encoder", "gene_encoder")
HEAD = (*KEYS, "direction", "gallery")
SEEDS = ("seeds_run", "seeds_planned", "seeds_missing")
TAIL = ("queries", "gallery_size", "ci_over", "p_value", "p_test", "donors_shared")
PARTS = ("", "_sd", "_ci_low", "_ci_high", "_chance")
NOT_RUN = "\N{EM DASH}"
DIRECTIONS = {"i2g": "I2G", "g2i": "G2I"}
MINUS_TO = "\N{EN DASH}"


# ---------------------------------------------------------------------------------------- the table


def tabulate_retrieval(scores: Iterable[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """Bring tidy retrieval scores of all queries to one row per pair, direction and gallery.

    A metric is the mean over seeds, ``_sd`` their standard deviation (from two seeds on); the
    bounds of its interval are the means of the seeds' bounds, so that the interval is that of a
    typical run; ``p_value`` is the largest of the seeds', from the galleries within samples.

    Parameters
    ----------
    scores
        Rows of ``retrieval.read_scores``, of one experiment.
    expected
        The planned runs: ``dataset``, ``image_encoder``, ``gene_encoder``, ``seed``. What isn't
        among the scores gets a row without values, or its seed is listed as missing.
    """
    scores = [row for row in scores if row["group"] == "all"]
    metrics = metric_names(row["metric"] for row in scores)
    planned: dict[tuple, list[str]] = {}
    for run in expected:
        planned.setdefault(tuple(str(run[key]) for key in KEYS), []).append(str(run["seed"]))
    found: dict[tuple, dict] = {}
    for row in scores:
        seeds = found.setdefault(tuple(row[key] for key in HEAD), {})
        seeds.setdefault(str(row["seed"]), {})[row["metric"]] = row
    galleries = list(dict.fromkeys(row["gallery"] for row in scores)) or ["split"]
    order = list(dict.fromkeys([*planned, *(key[:3] for key in found)]))

    table = []
    for pair in order:
        tests = _largest_p(found, pair)
        for gallery in galleries:
            for direction in DIRECTIONS:
                seeds = found.get((*pair, direction, gallery), {})
                wanted = planned.get(pair, []) or list(seeds)
                row = dict(zip(HEAD, (*pair, direction, gallery), strict=True))
                row["seeds_run"] = len(seeds)
                row["seeds_planned"] = len(set(wanted) | set(seeds))
                row["seeds_missing"] = " ".join(s for s in wanted if s not in seeds)
                for metric in metrics:
                    row |= _over_seeds(metric, [s[metric] for s in seeds.values() if metric in s])
                first = next((next(iter(s.values())) for s in seeds.values()), {})
                row |= {name: first.get(name) for name in TAIL}
                row["p_value"], row["p_test"] = tests.get(direction, (None, ""))
                table.append(row)
    return table


def metric_names(names: Iterable[str]) -> list[str]:
    """The metrics among ``names``, in the order of the tables."""
    names = set(names)
    recall = sorted(int(match[1]) for n in names if (match := re.fullmatch(r"recall@(\d+)", n)))
    return [f"recall@{k}" for k in recall] + [
        name for name in ("mean_rank", "median_rank") if name in names
    ]


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
    values = (mean("value"), deviation, mean("ci_low"), mean("ci_high"), mean("chance"))
    return {metric + part: value for part, value in zip(PARTS, values, strict=True)}


def table_columns(rows: Sequence[Mapping]) -> list[str]:
    """The columns of ``tabulate_retrieval``'s rows, in the order in which they are written."""
    fixed = {*HEAD, *SEEDS, *TAIL}
    return [*HEAD, *SEEDS, *(name for name in rows[0] if name not in fixed), *TAIL]


def write_table(path, rows: Sequence[Mapping]) -> None:
    """Write the table as TSV, numbers with 6 significant digits, ``None`` as an empty field."""
    files.write_tsv(
        path,
        ({n: f"{v:.6g}" if isinstance(v, float) else v for n, v in row.items()} for row in rows),
        table_columns(rows),
    )


def is_retrieval_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return {*HEAD, *SEEDS, *TAIL} <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    rows = files.read_tsv(path, (*HEAD, *SEEDS, *TAIL))
    text = {*HEAD, "seeds_missing", "ci_over", "p_test", "donors_shared"}
    for line, row in enumerate(rows, start=2):
        for name in row:
            if name in text:
                continue
            try:
                row[name] = float(row[name]) if row[name] else None
            except ValueError:
                raise InputError(
                    path, f"line {line}, {name}", repr(row[name]), "delete it and tabulate again"
                ) from None
    return rows


# ----------------------------------------------------------------------------------- for the reader


def retrieval_sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay a retrieval table out for a reader: one section per gallery, a chance row per dataset.

    Returns
    -------
    Mappings with ``title``, ``header`` (texts), ``rows`` (lists of texts), ``chance`` (the numbers
    of the rows that hold chance) and ``notes`` (texts).
    """
    marks = _marks(row["donors_shared"] for row in rows)
    metrics = [name for name in metric_names(rows[0]) if name != "mean_rank"]  # to keep it narrow
    sections = []
    for gallery in sorted({row["gallery"] for row in rows}, key=_gallery_order):
        body, chance_rows = [], []
        of_gallery = [row for row in rows if row["gallery"] == gallery]
        for dataset in dict.fromkeys(row["dataset"] for row in of_gallery):
            of_dataset = [row for row in of_gallery if row["dataset"] == dataset]
            scored = next((row for row in of_dataset if row["queries"]), None)
            if scored:
                chance_rows.append(len(body))
                body.append(
                    [dataset, "", "chance", "", ""]
                    + [_number(metric, scored[metric + "_chance"]) for metric in metrics]
                    + ["", "", _pairs(scored)]
                )
            body += [
                [dataset, marks.get(row["donors_shared"], "")]
                + [row["image_encoder"], row["gene_encoder"], DIRECTIONS[row["direction"]]]
                + [_cell(metric, row) for metric in metrics]
                + [_p(row), _seeds(row), _pairs(row)]
                for row in of_dataset
            ]
        sections.append(
            {
                "title": f"Gallery: {gallery_words(gallery)}",
                "header": [
                    *("Dataset", "Note", "Image encoder", "Gene encoder", "Direction"),
                    *(_metric_words(metric) for metric in metrics),
                    *("p", "Seeds", "Queries (gallery)"),
                ],
                "rows": body,
                "chance": chance_rows,
                "notes": _notes(of_gallery, marks),
            }
        )
    return sections


def gallery_words(gallery: str) -> str:
    """A gallery's name in words."""
    if match := re.fullmatch(r"in_batch_(\d+)", gallery):
        return f"in batches of {match[1]}, in data set order"
    return {"split": "the whole split", "sample": "within each sample"}.get(gallery, gallery)


def _gallery_order(gallery: str) -> tuple:
    order = ("split", "sample")
    return (order.index(gallery) if gallery in order else len(order), gallery)


def _metric_words(metric: str) -> str:
    return metric.replace("_", " ").capitalize()


def _marks(words: Iterable[str | None]) -> dict[str, str]:
    """A letter for each distinct text."""
    distinct = [text for text in dict.fromkeys(words) if text]
    return {text: chr(ord("a") + place % 26) for place, text in enumerate(distinct)}


def _number(metric: str, value: float | None) -> str:
    if value is None:
        return NOT_RUN
    return f"{value:.3f}" if metric.startswith("recall@") else f"{value:.1f}"


def _cell(metric: str, row: Mapping) -> str:
    value, deviation, low, high, _ = (row[metric + part] for part in PARTS)
    text = _number(metric, value)
    if deviation is not None:
        text += f" ({_number(metric, deviation)})"
    if low is not None:
        text += f" [{_number(metric, low)}{MINUS_TO}{_number(metric, high)}]"
    return text


def _pairs(row: Mapping) -> str:
    return f"{row['queries']:.0f} ({row['gallery_size']:.3g})" if row["queries"] else NOT_RUN


def _seeds(row: Mapping) -> str:
    text = f"{row['seeds_run']:.0f} of {row['seeds_planned']:.0f}"
    return text + (f", without {row['seeds_missing']}" if row["seeds_missing"] else "")


def _p(row: Mapping) -> str:
    return NOT_RUN if row["p_value"] is None else f"{row['p_value']:.2g}"


def _notes(rows: Sequence[Mapping], marks: Mapping[str, str]) -> list[str]:
    notes = [
        "I2G: an image looks for its genes; G2I: genes look for their image. Recall@k is the share "
        "of queries whose partner is among the k most similar, ties at their expected value. "
        "Chance is the same for partners that lie anywhere in the gallery.",
    ]
    if any(row["seeds_run"] > 1 for row in rows):
        notes.append("Mean over seeds (standard deviation over seeds).")
    over = list(dict.fromkeys(row["ci_over"] for row in rows if row["ci_over"]))
    if over:
        notes.append(
            "In brackets the 95 % interval of a run (its bounds averaged over seeds), over: "
            f"{'; '.join(over)}. It says nothing about other donors."
        )
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
    present = {row["donors_shared"] for row in rows}
    notes += [
        f"{mark}: donors are shared between splits: {text}"
        for text, mark in marks.items()
        if text in present
    ]
    return notes


# ----------------------------------------------------------------------------------------- Markdown


def to_markdown(title: str, sections: Iterable[Mapping]) -> str:
    """Sections of ``retrieval_sections`` as Markdown."""
    parts = [f"# {_escape_markdown(title)}\n"]
    sections = list(sections)
    for section, following in zip(sections, [*sections[1:], None], strict=True):
        parts.append(f"## {_escape_markdown(section['title'])}\n")
        right = _numeric_columns(section)
        lines = [
            section["header"],
            ["---:" if column in right else "---" for column in range(len(section["header"]))],
            *section["rows"],
        ]
        parts.append(
            "\n".join(
                "| "
                + " | ".join(cell if i == 1 else _escape_markdown(cell) for cell in line)
                + " |"
                for i, line in enumerate(lines)
            )
            + "\n"
        )
        if following is None or following["notes"] != section["notes"]:
            parts += [*(f"- {_escape_markdown(note)}" for note in section["notes"]), ""]
    return "\n".join(parts)


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_{}<>|#])", r"\\\1", text)


# -------------------------------------------------------------------------------------------- LaTeX

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    NOT_RUN: "---",
    MINUS_TO: "--",
    "µ": r"\textmu{}",
    "\N{MULTIPLICATION SIGN}": r"\texttimes{}",
}


def escape_latex(text: str) -> str:
    """A text that LaTeX sets as it stands."""
    return "".join(_LATEX.get(character, character) for character in text)


def to_latex(title: str, sections: Iterable[Mapping]) -> str:
    """Sections of ``retrieval_sections`` as LaTeX tables; needs ``\\usepackage{booktabs}``."""
    parts = [r"% needs \usepackage{booktabs} and, for quotation marks, \usepackage[T1]{fontenc}"]
    for section in sections:
        right = _numeric_columns(section)
        columns = "".join("r" if i in right else "l" for i in range(len(section["header"])))
        lines = [
            r"\begin{table}",
            r"\centering\small",
            f"\\caption{{{escape_latex(title)}. {escape_latex(section['title'])}. "
            + escape_latex(" ".join(section["notes"]))
            + "}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(escape_latex(cell) for cell in section["header"]) + r" \\",
        ]
        for number, row in enumerate(section["rows"]):
            if number == 0 or number in section["chance"]:
                lines.append(r"\midrule")
            lines.append(" & ".join(escape_latex(cell) for cell in row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _numeric_columns(section: Mapping) -> set[int]:
    """Columns whose cells are all numbers, empty or not run."""
    return {
        column
        for column in range(len(section["header"]))
        if all(
            not row[column] or row[column] == NOT_RUN or row[column][0].isdigit()
            for row in section["rows"]
        )
        and any(row[column] for row in section["rows"])
    }
