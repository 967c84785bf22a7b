"""Spots as points, their graph of neighbours, and Leiden clusters of it: scanpy's standard steps."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pairscape.core.options import resolve_part


@dataclass(frozen=True)
class BatchEffectOptions:
    """The configuration's part ``batch_effect``, which says what each means."""

    score: bool
    target_sum: float
    variable_genes: int
    components: int
    neighbours: int
    resolution: float
    resolutions: Sequence[float]
    ilisi_neighbours: int
    ilisi_queries: int
    seed: int
    recall_at: int
    pair: Mapping | None

    @classmethod
    def of(cls, options: Mapping) -> "BatchEffectOptions":
        """The options, checked, with the schema's defaults."""
        return cls(**resolve_part("batch_effect", options))


class Space(NamedTuple):
    """Spots as points: ``points`` (N, D) float32, ``graph`` (N, N) of their neighbours, in words."""

    points: np.ndarray
    graph: object
    representation: str
    clustering: str


def embed_counts(blocks: Iterable[np.ndarray], genes: int, options: BatchEffectOptions) -> Space:
    """Standard scanpy preprocessing: counts per 10,000, log1p, variable genes, PCA, neighbours.

    ``blocks`` are the counts in blocks of (n, genes), every spot with a count.
    """
    import scanpy
    from anndata import AnnData
    from scipy import sparse

    parts = [sparse.csr_matrix(block.astype(np.float32)) for block in blocks]
    table = AnnData(sparse.vstack(parts, format="csr"))
    del parts
    words = [f"normalize_total {options.target_sum:g}", "log1p"]
    scanpy.pp.normalize_total(table, target_sum=options.target_sum)
    scanpy.pp.log1p(table)
    if genes > options.variable_genes:
        scanpy.pp.highly_variable_genes(table, n_top_genes=options.variable_genes, flavor="seurat")
        table = table[:, table.var["highly_variable"]].copy()
        words.append(f"{table.n_vars} of {genes} genes (highly variable, flavor seurat)")
    else:
        words.append(f"all {genes} genes")
    components = max(1, min(options.components, table.n_vars - 1, table.n_obs - 1))
    # The covariance of single-precision counts would lose the last components.
    table.X = table.X.astype(np.float64)
    scanpy.pp.pca(table, n_comps=components, svd_solver="covariance_eigh", dtype="float32")
    words += ["not scaled", f"PCA {components} (covariance_eigh)"]
    neighbours = min(options.neighbours, table.n_obs - 1)
    # scikit-learn's are exact, and the same whatever the number of threads.
    scanpy.pp.neighbors(
        table,
        n_neighbors=neighbours,
        use_rep="X_pca",
        transformer="sklearn",
        random_state=options.seed,
    )
    clustering = (
        f"{neighbours} exact neighbours in X_pca, umap weights, Leiden igraph, n_iterations 2, "
        f"seed {options.seed}"
    )
    graph = table.obsp["connectivities"]
    return Space(np.asarray(table.obsm["X_pca"]), graph, ", ".join(words), clustering)


def cluster(space: Space, resolution: float, seed: int) -> np.ndarray:
    """Leiden clusters (N,) of the spots, named 0, 1, ... from the largest down."""
    import scanpy
    from anndata import AnnData

    table = AnnData(obs={"spot": np.arange(len(space.points)).astype(str)})
    scanpy.tl.leiden(
        table,
        resolution=resolution,
        adjacency=space.graph,
        flavor="igraph",
        n_iterations=2,
        directed=False,
        random_state=seed,
    )
    return table.obs["leiden"].to_numpy(str)
