"""What a chapter of the report declares: its texts, its tables, and how they are read and laid out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pairscape.core import tsv

Rows = Sequence[Mapping]


@dataclass(frozen=True)
class Shown:
    """A kind of table in a chapter, and the figures of the same names.

    Their files are ``<stem>.tsv`` or ``<stem>_<name>.tsv``; in words they are the ``title``, then
    ``named`` and the name. ``sections`` lays the rows out for a reader, ``missing`` says what they
    lack, ``says`` is their result in a sentence, for those who don't see the figure; ``caption`` is
    that of their figures, where it isn't the chapter's.
    """

    stem: str
    title: str
    table: tsv.Table
    sections: Callable[[Rows], list[dict]]
    missing: Callable[[Rows], list[str]] = lambda rows: []
    says: Callable[[Rows], str] = lambda rows: ""
    named: str = ", experiment "
    caption: str = ""


@dataclass(frozen=True)
class Chapter:
    """A chapter of scores.

    It stands where the report was given a table or figure of it. ``about`` says what it shows,
    ``caption`` is that of its figures, with ``{name}`` and ``{stem}``. ``reading`` explains terms
    (HTML). ``experiments``: only the tables of experiments whose names begin so.
    """

    name: str
    heading: str
    about: str
    tables: tuple[Shown, ...]
    caption: str = "{name}"
    reading: tuple[tuple[str, str], ...] = ()
    experiments: str = ""
