"""The gene list of a dataset: the genes of its panel that all its samples measured."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, text

GENES = Table(
    "genes.tsv",
    "select_genes",
    text(gene_symbol="the gene's symbol", gene_id="its Ensembl id, where it is known"),
)


def write_genes(path, genes: Iterable[Sequence[str]]) -> None:
    """Write genes.tsv from pairs of symbol and id."""
    GENES.write(path, [dict(zip(GENES.names, gene, strict=True)) for gene in genes])


def read_genes(path) -> list[dict[str, str]]:
    """Read genes.tsv: at least one gene, and none twice."""
    genes = GENES.read(path)
    symbols = [gene["gene_symbol"] for gene in genes]
    if not symbols:
        raise InputError(path, "gene_symbol", "no genes", "run select_genes again")
    if len(set(symbols)) < len(symbols):
        twice = next(symbol for symbol in symbols if symbols.count(symbol) > 1)
        raise InputError(path, "gene_symbol", f"{twice} twice", "run select_genes again")
    return genes


def select_genes(
    genes_of: Mapping[str, Mapping[str, str]],
    panel: Mapping[str, str] | None = None,
    min_share: float = 0.9,
    *,
    place: str,
    source: str = "--options",
) -> list[tuple[str, str]]:
    """The genes of a panel that all samples measured, as (symbol, id), sorted by symbol.

    ``genes_of`` are the genes of each sample and ``panel`` the panel's list, symbol to id. Genes
    added to a sample's panel and controls are out: the list doesn't hold them. Without it a panel is
    what the samples share, controls out. A sample must have measured ``min_share`` of the list;
    ``place`` and ``source`` say where the samples are chosen, for messages.
    """
    from pairscape.acquire.bundle import NON_GENE_PREFIXES

    genes_of = {
        sample: {
            symbol: gene_id
            for symbol, gene_id in genes.items()
            if not symbol.startswith(NON_GENE_PREFIXES)
        }
        for sample, genes in genes_of.items()
    }
    misfit = _misfit_of_list(genes_of, panel, min_share) if panel else _misfit(genes_of)
    if misfit:
        worst, fault = misfit
        kept = ", ".join(sample for sample in genes_of if sample != worst)
        fault = f"{worst}, whose panel of {len(genes_of[worst])} genes {fault}"
        raise InputError(source, place, fault, f"drop it with `{place}: [{kept}]`")
    shared = set.intersection(*(set(genes) for genes in genes_of.values()))
    if panel:
        shared &= set(panel)
    lists = (*genes_of.values(), panel or {})
    return sorted(
        (symbol, next(filter(None, (genes.get(symbol) for genes in lists)), ""))
        for symbol in shared
    )


def _misfit_of_list(genes_of: Mapping, panel: Mapping, min_share: float):
    """The sample that lacks most of the panel's list, and what to say of it, or None."""
    held = {sample: len(genes.keys() & panel.keys()) for sample, genes in genes_of.items()}
    worst = min(reversed(list(held)), key=held.get)
    if held[worst] >= min_share * len(panel):
        return None
    return worst, f"holds {held[worst]} of the panel's {len(panel)}, below {min_share:.0%}"


def _misfit(genes_of: Mapping):
    """The sample that shares fewest genes with the others, and what to say of it, or None."""

    def overlap(one: str, other: str) -> float:
        smaller = min(len(genes_of[one]), len(genes_of[other])) or 1
        return len(genes_of[one].keys() & genes_of[other].keys()) / smaller

    # Of samples that fit equally badly, the last is named.
    fit = {
        one: statistics.median([overlap(one, other) for other in genes_of if other != one] or [1.0])
        for one in genes_of
    }
    worst = min(reversed(list(fit)), key=fit.get)
    if fit[worst] >= 0.5:
        return None
    return worst, f"shares only {fit[worst]:.0%} with the other samples"
