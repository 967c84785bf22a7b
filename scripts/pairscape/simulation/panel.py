"""A gene panel, and all that the instrument decodes with it."""

import functools
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.names import bare_gene_id, check_gene_symbols
from pairscape.core.tsv import read_tsv
from pairscape.simulation import knobs as knob

# What isn't a gene: category, feature type in cell_feature_matrix.h5, name, and how many. The
# numbers are those of a 280-gene panel of the instrument.
CONTROLS = (
    ("negative_control_probe", "Negative Control Probe", "NegControlProbe_{:05d}", 20),
    ("genomic_control_probe", "Genomic Control", "Intergenic_Region_{}_part_1", 8),
    ("negative_control_codeword", "Negative Control Codeword", "NegControlCodeword_{:04d}", 41),
    ("unassigned_codeword", "Unassigned Codeword", "UnassignedCodeword_{:04d}", 180),
    ("deprecated_codeword", "Deprecated Codeword", "DeprecatedCodeword_{:04d}", 4),
)


class Panel(NamedTuple):
    """The genes of a panel."""

    symbols: list[str]
    ids: list[str]  # Ensembl's, or the symbol again
    means: np.ndarray  # mean count per spot


def read_panel_table(path) -> Panel:
    """Read a table of genes and their mean counts per spot."""
    refuse = functools.partial(InputError, path)
    rows = read_tsv(path, ("gene_symbol", "ensembl_id", "mean_count_per_spot"))
    if len(rows) < 2:
        raise refuse("rows", str(len(rows)), "give a panel of at least two genes")
    symbols = [row["gene_symbol"] for row in rows]
    check_gene_symbols(symbols, path)
    means = np.empty(len(rows))
    for i, row in enumerate(rows):
        symbol, text = row["gene_symbol"], row["mean_count_per_spot"]
        try:
            means[i] = float(text)
        except ValueError:
            means[i] = np.nan
        if not np.isfinite(means[i]) or means[i] < 0:
            field = f"mean_count_per_spot of {symbol}"
            raise refuse(field, repr(text), "give a number of 0 or more")
    if means.sum() == 0:
        raise refuse("mean_count_per_spot", "only zeros", "give one gene a mean above 0")
    ids = [bare_gene_id(row["ensembl_id"]) or row["gene_symbol"] for row in rows]
    return Panel(symbols, ids, means)


def feature_table(panel: Panel, seeds: dict) -> dict:
    """All that the instrument decodes, genes first, as columns.

    Columns: name, id, category (of the codeword), type (of the feature), is_gene, codeword.
    """
    random = knob.rng(seeds["programmes"], "codewords")
    symbols = panel.symbols
    n = len(symbols) + sum(count for *_, count in CONTROLS)
    codewords = random.permutation(n).astype(np.int32)
    names, categories = list(symbols), ["predesigned_gene"] * len(symbols)
    types = ["Gene Expression"] * len(symbols)
    for category, kind, pattern, count in CONTROLS:
        for number in range(count):
            # Codewords without a target are named by their number.
            named = codewords[len(names)] if "codeword" in category else number + 1
            names.append(pattern.format(named))
            categories.append(category)
            types.append(kind)
    return {
        "name": np.array(names, object),
        "id": np.array(panel.ids + names[len(symbols) :], object),
        "category": np.array(categories, object),
        "type": np.array(types, object),
        "is_gene": np.arange(n) < len(symbols),
        "codeword": codewords,
    }
