"""What each query retrieves: its nearest partners in order, and how far they lie from the right one.

In the whole split, where row i of the images and row i of the genes are partners. What is more similar,
and what is as similar, is counted as for the ranks of retrieval (``ranks``).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError, missing_file
from pairscape.core.files import atomic_path
from pairscape.evaluate import ranks, retrieval

RUN = ("experiment", "dataset", "image_encoder", "gene_encoder", "seed")
COLUMNS = (
    *RUN,
    "direction",  # i2g: images look for genes
    "sample",  # of the query
    "spot",
    "rank",  # of the right partner: 1 + the more similar + half of the as similar
    "gallery_size",
    "hit_samples",  # the nearest partners, nearest first
    "hit_spots",
    "similarities",
    "distances_um",  # from the right partner, within its sample; null elsewhere
)
_BLOCK_NUMBERS = 1 << 22  # similarities held at once (16 MB)


class Nearest(NamedTuple):
    """Per query: its nearest rows (N, top), their similarities, and its partner's rank (N,)."""

    rows: np.ndarray
    similarities: np.ndarray
    rank: np.ndarray


def nearest(
    queries: np.ndarray, gallery: np.ndarray, top: int, block: int | None = None
) -> Nearest:
    """The nearest rows of a gallery to each query, by blocked products: never an N x N matrix.

    ``queries`` and ``gallery`` are (N, D), float32 and finite. What is as similar comes in the order
    of the gallery's rows. ``block``: queries per product; by default so many that it takes 16 MB.
    """
    count, top = len(gallery), min(top, len(gallery))
    # Equal rows share a column of the product, or its last bits would tell them apart.
    distinct, place = ranks.distinct_rows(gallery)
    block = block or max(32, _BLOCK_NUMBERS // max(count, 1))
    rows = np.empty((len(queries), top), np.int32)
    similarities = np.empty((len(queries), top), np.float32)
    rank = np.empty(len(queries))
    for start in range(0, len(queries), block):
        product = queries[start : start + block] @ distinct.T
        product = product if place is None else product[:, place]
        lines = np.arange(len(product))
        right = product[lines, start + lines][:, None]
        above, level = (product > right).sum(1), (product == right).sum(1) - 1
        rank[start + lines] = 1 + above + level / 2
        # Those above the last that is in, and of those level with it the first rows.
        last = -np.partition(-product, top - 1, axis=1)[:, top - 1]
        for line, bound in enumerate(last):
            inside = np.flatnonzero(product[line] >= bound)
            order = np.argsort(-product[line, inside], kind="stable")[:top]
            rows[start + line] = inside[order]
            similarities[start + line] = product[line, inside[order]]
    return Nearest(rows, similarities, rank)


def distances_um(samples: np.ndarray, xy_um: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How far each query's hits (N, top) lie from its partner; NaN for hits in other samples."""
    away = np.hypot(*np.moveaxis(xy_um[rows] - xy_um[:, None], -1, 0))
    return np.where(samples[rows] == samples[:, None], away, np.nan)


def write_hits(path, runs: Iterable[tuple[Mapping, Mapping]], top: int) -> int:
    """Write what the queries of runs retrieve, as Parquet, one run and direction after the other.

    Parameters
    ----------
    runs
        What names each run (``RUN``), and its embedded pairs, of ``runs.read_scorable``.
    top
        How many partners are told of each query.

    Returns
    -------
    How many rows were written.
    """
    import pyarrow.parquet as pq

    count = 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, _schema()) as writer:
        for names, embedded in runs:
            for direction in retrieval.DIRECTIONS:
                table = _table(names, embedded, direction, top)
                writer.write_table(table)
                count += len(table)
    return count


def _schema():
    import pyarrow as pa

    numbers = {"rank": pa.float64(), "gallery_size": pa.int32(), "seed": pa.int64()}
    lists = {name: pa.list_(pa.string()) for name in ("hit_samples", "hit_spots")}
    lists |= {name: pa.list_(pa.float32()) for name in ("similarities", "distances_um")}
    kinds = numbers | lists
    return pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])


def _table(names: Mapping, embedded: Mapping, direction: str, top: int):
    import pyarrow as pa

    index = embedded["index"]
    samples, spots = (index[name].to_numpy(str) for name in ("sample", "spot"))
    images, genes = (ranks.finite(embedded[name]) for name in ("images", "genes"))
    queries, gallery = (images, genes) if direction == "i2g" else (genes, images)
    near = nearest(queries, gallery, top)
    away = distances_um(samples, index[["x_um", "y_um"]].to_numpy(np.float64), near.rows)
    flat = near.rows.ravel()
    starts = np.arange(len(index) + 1, dtype=np.int32) * near.rows.shape[1]

    def lists(values):
        return pa.ListArray.from_arrays(starts, values)

    columns = {name: [names[name]] * len(index) for name in RUN}
    columns |= {
        "direction": [direction] * len(index),
        "sample": samples,
        "spot": spots,
        "rank": near.rank,
        "gallery_size": np.full(len(index), len(gallery), np.int32),
        "hit_samples": lists(pa.array(samples[flat])),
        "hit_spots": lists(pa.array(spots[flat])),
        "similarities": lists(pa.array(near.similarities.ravel())),
        "distances_um": lists(pa.array(away.ravel().astype(np.float32), from_pandas=True)),
    }
    return pa.table(columns, schema=_schema())


def read_hits(path):
    """Yield what ``write_hits`` wrote by run and direction, as data frames of ``COLUMNS``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "delete it and score the hits again"
    try:
        with pq.ParquetFile(path) as file:
            for column in COLUMNS:
                if column not in file.schema_arrow.names:
                    raise InputError(path, f"column {column}", "nothing", remedy)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=list(COLUMNS)).to_pandas()
    except FileNotFoundError:
        raise missing_file(path) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(path, "table", str(error), remedy) from None
