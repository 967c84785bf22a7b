"""Tables for reading: Markdown and LaTeX."""

import re
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import files

NOT_RUN = "\N{EM DASH}"


MINUS_TO = "\N{EN DASH}"


BEST, SECOND = "best", "second"


def write_for_reading(paths: Sequence, title: str, sections: Sequence[Mapping]) -> None:
    """Write sections as Markdown and as LaTeX, to two paths."""
    for path, text in zip(
        paths, (to_markdown(title, sections), to_latex(title, sections)), strict=True
    ):
        with files.atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def to_markdown(title: str, sections: Iterable[Mapping]) -> str:
    """Sections of ``retrieval_sections`` as Markdown."""
    parts = [f"# {_escape_markdown(title)}\n"]
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
    return re.sub(r"([\\`*_{}<>|#])", r"\\\1", text)


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
