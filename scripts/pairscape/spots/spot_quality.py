"""Quality numbers of a sample's spots: what was read, and how spots compare with cells.

The paper pools cells into spots of 55 µm because both have distributions alike. Here is how much
alike, for transcripts and for genes: the Kolmogorov-Smirnov distance and the Wasserstein distance
of log2(1 + x) (so in doublings), as they are (a spot holds many cells, so this mostly tells how
many) and with both medians moved to 0 (the shape alone).
"""

import numpy as np

from pairscape.acquire import bundle as xenium
from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.hdf5 import open_hdf5
from pairscape.core.tsv import Table, numbers, text

QUALITY = Table(
    "qc.tsv",
    "pool_spots",
    (
        *text(
            sample="the sample",
            spots="the spot preset",
            of="rows, spots, cells or spots_vs_cells",
            measure="what was measured",
        ),
        *numbers(value="its value"),
    ),
)


def read_cell_sums(bundle, genes: list[str], block: int = 1 << 24):
    """Transcripts and detected genes of each cell, from ``cell_feature_matrix.h5``.

    In bounded memory; only ``genes`` count. (10x counts transcripts of quality 20 or more there.)
    Arrays of int64: transcripts (C,) and genes (C,) of the cells, and transcripts (G,) of the genes
    over all cells.
    """
    path = xenium.find_file(bundle, "cell_feature_matrix.h5")
    column_of = {gene: index for index, gene in enumerate(genes)}
    per_gene = np.zeros(len(genes), np.int64)
    try:
        with open_hdf5(path) as file:
            matrix = file["matrix"]
            names = matrix["features/name"].asstr("utf-8")[:]
            column = np.array([column_of.get(name, -1) for name in names], np.int64)
            ends = matrix["indptr"][:].astype(np.int64)
            transcripts = np.zeros(len(ends) - 1, np.int64)
            detected = np.zeros(len(ends) - 1, np.int64)
            first = 0
            while first < len(transcripts):
                # Whole cells, as many as fit a block, but at least one.
                last = max(
                    int(np.searchsorted(ends, ends[first] + block, side="right")) - 1, first + 1
                )
                part = slice(ends[first], ends[last])
                gene = column[matrix["indices"][part]]
                values = np.where(gene >= 0, matrix["data"][part], 0).astype(np.int64)
                per_gene += np.bincount(
                    gene[gene >= 0], values[gene >= 0], minlength=len(genes)
                ).astype(np.int64)
                places = ends[first : last + 1] - ends[first]
                for sums, terms in ((transcripts, values), (detected, values > 0)):
                    sums[first:last] = np.diff(
                        np.concatenate([[0], np.cumsum(terms, dtype=np.int64)])[places]
                    )
                first = last
    except (OSError, KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(path, "matrix", str(error), xenium.DAMAGED) from None
    return transcripts, detected, per_gene


def cell_sums(bundle, genes: list[str]):
    """The sums of ``read_cell_sums``; None where the bundle has no usable cell matrix."""
    try:
        return read_cell_sums(bundle, genes)
    except InputError as error:
        logs.log.info("spots aren't compared with cells (%s)", error)
        return None


def distances(per_spot: np.ndarray, per_cell: np.ndarray) -> dict[str, float]:
    """How far two distributions of counts lie apart (see the head of this module).

    ``ks`` and ``wasserstein_log2``, and the same ``_centred`` at the medians.
    """
    from scipy.stats import ks_2samp, wasserstein_distance

    spots, cells = (np.log2(1 + np.asarray(values, float)) for values in (per_spot, per_cell))
    centred = spots - np.median(spots), cells - np.median(cells)
    apart = {}
    for word, (a, b) in {"": (spots, cells), "_centred": centred}.items():
        apart["ks" + word] = float(ks_2samp(a, b, method="asymp").statistic)
        apart["wasserstein_log2" + word] = float(wasserstein_distance(a, b))
    return apart


def profile_correlation(spot_sums: np.ndarray, cell_sums: np.ndarray) -> float | None:
    """Pearson correlation of log2(1 + transcripts) of the genes; None where one doesn't vary."""
    a, b = (np.log2(1 + np.asarray(values, float)) for values in (spot_sums, cell_sums))
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def summarise(audit: dict, counts, cells) -> list[dict]:
    """The rows of ``QUALITY``.

    ``audit`` is that of pool_spots, ``counts`` (S, G) CSR, ``cells`` as ``read_cell_sums`` gives it,
    or None. Medians and quantiles are of transcripts and of genes; cells without a transcript of the
    genes count in ``number`` alone. Values have the six digits of the table.
    """
    measured = [("rows", "read", audit["rows_read"]), ("rows", "pooled", audit["pooled"])]
    measured += [("rows", reason, rows) for reason, rows in audit["dropped"].items()]
    measured += [
        ("spots", "number", audit["spots"]),
        ("spots", "dropped", audit["spots_dropped"]),
        ("spots", "without_tissue", audit["spots_without_tissue"]),
        ("spots", "genes_detected", audit["genes_detected"]),
    ]
    sums = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
    per_spot = {"transcripts": sums, "genes": np.diff(counts.indptr)}
    measured += _quantiles("spots", {name: values[sums > 0] for name, values in per_spot.items()})
    if cells is not None and (cells[0] > 0).any():
        transcripts, genes, per_gene = cells
        filled = transcripts > 0
        measured.append(("cells", "number", len(transcripts)))
        measured.append(("cells", "empty", int((~filled).sum())))
        per_cell = {"transcripts": transcripts[filled], "genes": genes[filled]}
        measured += _quantiles("cells", per_cell)
        for name, values in per_spot.items():
            for measure, value in distances(values[sums > 0], per_cell[name]).items():
                measured.append(("spots_vs_cells", f"{name}_{measure}", value))
        in_spots = np.asarray(counts.sum(axis=0, dtype=np.int64)).ravel()
        correlation = profile_correlation(in_spots, per_gene)
        measured.append(("spots_vs_cells", "gene_profile_pearson", correlation))
    return [
        {
            "sample": audit["sample"],
            "spots": audit["spots_name"],
            "of": group,
            "measure": measure,
            "value": float(f"{value:.6g}") if isinstance(value, float) else value,
        }
        for group, measure, value in measured
    ]


def _quantiles(group: str, values: dict[str, np.ndarray]) -> list[tuple]:
    return [
        (group, f"{name}_{word}", float(np.quantile(array, share)))
        for name, array in values.items()
        for word, share in (("q05", 0.05), ("median", 0.5), ("q95", 0.95))
    ]
