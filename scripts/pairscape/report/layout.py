"""Tables for reading: Markdown and LaTeX, and how their cells say numbers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pairscape.core import files

NOT_RUN = "\N{EM DASH}"
MINUS_TO = "\N{EN DASH}"
BEST, SECOND = "best", "second"


# ----------------------------------------------------------------------------------------- sections


def templates():
    """Where pages are made of the templates of this folder (a ``jinja2.Environment``)."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def section(title: str, header: Sequence[str], rows: Sequence, notes: Iterable[str] = (), **more):
    """A table laid out for a reader.

    Returns
    -------
    A mapping with ``title``, ``header`` (texts), ``rows`` (lists of texts), ``notes`` (texts),
    ``chance`` (the numbers of rows with a rule above them: those of chance, or of a base) and, where
    given, ``marks`` (``best`` and ``second`` by row and column).
    """
    laid_out = {"title": title, "header": list(header), "rows": rows, "notes": list(notes)}
    return {"chance": [], **laid_out, **more}


def number(value: float | None, form: str = ".3f") -> str:
    """A number, or that there is none."""
    return NOT_RUN if value is None else f"{value:{form}}"


def interval(low: float | None, high: float | None, form: str = ".3f", to: str = MINUS_TO) -> str:
    """An interval in brackets behind its number; empty where there is none."""
    return "" if low is None else f" [{low:{form}}{to}{high:{form}}]"


def deviation(value: float | None, form: str = ".3f") -> str:
    """A standard deviation in brackets behind its mean; empty where there is none."""
    return "" if value is None else f" ({value:{form}})"


def seeds(row: Mapping) -> str:
    """How many of the planned seeds were run, and which are missing."""
    missing = f", without {row['seeds_missing']}" if row["seeds_missing"] else ""
    return f"{row['seeds_run']:.0f} of {row['seeds_planned']:.0f}{missing}"


def mark_two_best(values: Mapping, highest_first: bool = True) -> dict:
    """``best`` and ``second`` of values by their keys; what is equal is marked alike.

    Nothing is marked where no two differ.
    """
    order = sorted(set(values.values()), reverse=highest_first)[:2]
    if len(order) < 2:
        return {}
    marks = dict(zip(order, (BEST, SECOND), strict=True))
    return {key: marks[value] for key, value in values.items() if value in marks}


# ------------------------------------------------------------------------------- Markdown and LaTeX


def write(
    table,
    paths: Sequence,
    title: str,
    rows: Sequence[Mapping],
    sections: Sequence,
    options: Mapping = MappingProxyType({}),
) -> None:
    """Write a table in its three forms: as TSV the rows, as Markdown and LaTeX their sections.

    ``options`` are the program's: what ``left_out`` tells of lost samples stands in both.
    """
    table.write(paths[0], rows)
    for path, form in zip(paths[1:], (to_markdown, to_latex), strict=True):
        with files.atomic_path(path) as temporary:
            text = form(title, sections, options.get("left_out", ()))
            temporary.write_text(text, encoding="utf-8")


def to_markdown(title: str, sections: Iterable[Mapping], left_out: Sequence[str] = ()) -> str:
    """Sections as Markdown, below what was left out of them."""
    parts = [f"# {_escape_markdown(title)}\n"]
    parts += [*(f"- {_escape_markdown(line)}" for line in left_out), ""] if left_out else []
    sections = list(sections)
    parts += [] if sections else ["Nothing to tabulate.\n"]
    for section, following in zip(sections, [*sections[1:], None], strict=False):
        parts.append(f"## {_escape_markdown(section['title'])}\n")
        right = _numeric_columns(section)
        lines = [
            map(_escape_markdown, section["header"]),
            ["---:" if column in right else "---" for column in range(len(section["header"]))],
            *_marked_rows(section, _escape_markdown, {BEST: "**{}**", SECOND: "*{}*"}),
        ]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
        if following is None or following["notes"] != section["notes"]:
            parts += [*(f"- {_escape_markdown(note)}" for note in section["notes"]), ""]
    return "\n".join(parts)


def _escape_markdown(text: str) -> str:
    """A text that shows as it stands, on one line: no markup, no HTML, no link."""
    return re.sub(r"([\\`*_{}<>|#]|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))


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
    """A text that LaTeX sets as it stands, on one line."""
    text = " ".join(text.split())
    # Behind the end of a row a bracket would be an option of it.
    start = "{[}" if text.startswith("[") else text[:1] and _LATEX.get(text[0], text[0])
    return start + "".join(_LATEX.get(character, character) for character in text[1:])


def to_latex(title: str, sections: Iterable[Mapping], left_out: Sequence[str] = ()) -> str:
    """Sections as LaTeX tables; needs ``\\usepackage{booktabs}``. Captions tell what was left out."""
    parts = [r"% needs \usepackage{booktabs} and, for quotation marks, \usepackage[T1]{fontenc}"]
    for section in sections:
        right = _numeric_columns(section)
        columns = "".join("r" if i in right else "l" for i in range(len(section["header"])))
        lines = [
            r"\begin{table}",
            r"\centering\small",
            f"\\caption{{{escape_latex(title)}. {escape_latex(section['title'])}. "
            + escape_latex(" ".join([*section["notes"], *(f"{line}." for line in left_out)]))
            + "}",
            f"\\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(escape_latex(cell) for cell in section["header"]) + r" \\",
        ]
        marked = _marked_rows(
            section, escape_latex, {BEST: r"\textbf{{{}}}", SECOND: r"\underline{{{}}}"}
        )
        for number, row in enumerate(marked):
            if number == 0 or number in section["chance"]:
                lines.append(r"\midrule")
            lines.append(" & ".join(row) + r" \\")
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _marked_rows(section: Mapping, escape, styles: Mapping[str, str]) -> list[list[str]]:
    """The rows of a section, escaped, the value of a marked cell in its style."""
    marks = section.get("marks", {})
    rows = []
    for number, row in enumerate(section["rows"]):
        cells = []
        for column, cell in enumerate(row):
            value, space, rest = cell.partition(" ")
            style = styles.get(marks.get((number, column)), "{}")
            cells.append(style.format(escape(value)) + space + escape(rest))
        rows.append(cells)
    return rows


def _numeric_columns(section: Mapping) -> set[int]:
    """Columns whose cells are all numbers, empty or not run."""
    return {
        column
        for column in range(len(section["header"]))
        if all(
            not row[column] or row[column] == NOT_RUN or row[column].lstrip("+-")[:1].isdigit()
            for row in section["rows"]
        )
        and any(row[column] for row in section["rows"])
    }
