"""The chapters of the report in their order, and which file belongs to which."""

from collections.abc import Sequence
from pathlib import Path

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.report import (
    audit_table,
    batch_effect_table,
    calibration_table,
    expression_table,
    headline,
    hits_table,
    layout,
    mutation_table,
    published_sections,
    retrieval_sections,
)
from pairscape.report.chapter import Chapter, Shown

ABLATIONS = Chapter(
    name="ablations",
    heading="Ablations",
    about="Experiments that change one choice of the pretraining: the projection head, the loss, which "
    "encoder is tuned. Their retrieval, read as in the chapter before, and the published "
    "ablations beside it where there are any.",
    tables=(retrieval_sections.RETRIEVAL, hits_table.HITS, published_sections.GAP),
    caption=retrieval_sections.CHAPTER.caption,
    experiments="ablation_",
)
# In the order of the page, behind the data.
CHAPTERS = {
    chapter.name: chapter
    for chapter in (
        retrieval_sections.CHAPTER,
        calibration_table.CHAPTER,
        batch_effect_table.CHAPTER,
        expression_table.CHAPTER,
        mutation_table.CHAPTER,
        ABLATIONS,
        audit_table.CHAPTER,
        published_sections.CHAPTER,
    )
}
_OTHERS = retrieval_sections.CHAPTER  # where a table stands that no chapter declares


def chapter_of(path) -> tuple[Chapter, Shown | None]:
    """The chapter that a table or figure belongs to by its name, and the kind of table that it is."""
    stem = Path(path).stem
    fitting = [
        (f"{kind.stem}_{chapter.experiments}", chapter, kind)
        for chapter in CHAPTERS.values()
        for kind in chapter.tables
        if stem.startswith(f"{kind.stem}_{chapter.experiments}")
        or (stem == kind.stem and not chapter.experiments)
    ]
    if not fitting:
        return _OTHERS, None
    _, chapter, kind = max(fitting, key=lambda entry: len(entry[0]))
    return chapter, kind


def name_in_words(path) -> str:
    """What a file shows: ``retrieval_<experiment>.tsv`` is "Retrieval, experiment ..."."""
    _, kind = chapter_of(path)
    stem = Path(path).stem
    start, _, name = stem.partition("_")
    if kind is None:
        return start.capitalize() + (f", experiment {name}" if name else "")
    name = stem.removeprefix(kind.stem)[1:]
    return kind.title + (f"{kind.named}{name}" if name else "")


def caption(path) -> str:
    """The caption of a figure of scores."""
    chapter, kind = chapter_of(path)
    words = (kind and kind.caption) or chapter.caption
    return words.format(name=name_in_words(path), stem=Path(path).stem)


def read_tables(paths: Sequence) -> list[dict]:
    """Tables for the page: ``title``, ``kind`` (their chapter's name), ``sections``, ``missing``,
    ``says`` (their result in a sentence), and of retrieval ``found`` (see ``headline``).

    A table that no chapter declares stands as it is.
    """
    read = []
    for path in paths:
        if Path(path).suffix != ".tsv":
            raise InputError(path, "name", Path(path).name, "give the tables as .tsv")
        chapter, kind = chapter_of(path)
        title, lacking, says = name_in_words(path), [], ""
        rows = tsv.read_tsv(path) if kind is None else kind.table.read(path)
        if kind is None or not rows:
            header = list(rows[0]) if rows else []
            sections = [layout.section("", header, [list(row.values()) for row in rows])]
        else:
            sections, says = kind.sections(rows), kind.says(rows)
            lacking = dict.fromkeys(f"{title}: {words}" for words in kind.missing(rows))
        found = headline.sentences(rows) if kind is retrieval_sections.RETRIEVAL else []
        entry = {"title": title, "kind": chapter.name, "sections": sections, "found": found}
        read.append({**entry, "missing": list(lacking), "says": says})
    return read
