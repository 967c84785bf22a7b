"""Names as people and spreadsheets write them: which are one name, and what Excel makes of genes."""

import re
import unicodedata
from collections.abc import Iterable

from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv

_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
# Excel turns MARCH1 into 1-Mar or 2024-03-01, SEPT2 into 2-Sep, RIKEN's 2310009E13 into 2.31E+13.
_EXCEL = re.compile(
    rf"\d{{1,2}}-({_MONTHS})[a-z]*|({_MONTHS})[a-z]*-\d{{1,4}}|\d{{4}}-\d\d-\d\d.*"
    r"|\d{1,2}[./]\d{1,2}[./]\d{2,4}|\d+([.,]\d+)?e\+\d+|\d{5}|#\w+[!?]",
    re.IGNORECASE,
)


def refuse_alike(names: Iterable[str], file, field: str) -> None:
    """Refuse names that differ only in case, blanks or Unicode form: they are one thing, or will be
    taken for one by a reader or a file system.
    """
    seen = {}
    for name in names:
        form = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        if seen.setdefault(form, name) != name:
            found = (
                f"{seen[form]!r} and {name!r}, which differ only in case, blanks or Unicode form"
            )
            raise InputError(file, field, found, "write one name one way, or make the names differ")


def bare_gene_id(text: str) -> str:
    """An Ensembl id without its version: ENSG00000139618.18 is ENSG00000139618."""
    return re.sub(r"^(ENS[A-Z]*G\d{11})\.\d+$", r"\1", text.strip())


def check_gene_symbols(symbols: Iterable[str], file, field: str = "gene_symbol") -> None:
    """Refuse an empty symbol, one that Excel has made a date or a number of, and one twice."""
    seen, made = set(), []
    for number, symbol in enumerate(symbols, start=1):
        if not symbol:
            fault = f"an empty name, of gene {number}"
            raise InputError(file, field, fault, "name each gene")
        if _EXCEL.fullmatch(symbol):
            made.append(symbol)
        if symbol in seen:
            remedy = "give each gene of the panel one line"
            raise InputError(file, field, f"{symbol} twice", remedy)
        seen.add(symbol)
    if made:
        found = (
            f"{', '.join(made[:5])}{', ...' if len(made) > 5 else ''}, as Excel writes gene names"
        )
        remedy = (
            "take the list as it came, such as MARCHF1 for 1-Mar, and import it into Excel as text"
        )
        raise InputError(file, field, found, remedy)


def read_panel_list(path) -> dict[str, str]:
    """A panel's list (gene_symbol, ensembl_id), symbol to id without version."""
    rows = read_tsv(path, ["gene_symbol", "ensembl_id"])
    if not rows:
        raise InputError(path, "gene_symbol", "no genes", "give each gene of the panel one line")
    check_gene_symbols((row["gene_symbol"] for row in rows), path)
    return {row["gene_symbol"]: bare_gene_id(row["ensembl_id"]) for row in rows}
