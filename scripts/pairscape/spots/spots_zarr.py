"""The format of pooled spots: a SpatialData Zarr, written and read here alone.

``shapes/spots`` holds the outlines in Xenium micrometres (squares and hexagons as polygons, circles
as points with a radius), ``tables/counts`` the counts (an AnnData: int32 CSR, spots x genes).
Coordinate systems: ``xenium_um``; ``global``, which is pixels of the morphology image, as in
spatialdata-io; and ``he_px``, pixels of the full-resolution H&E, where an alignment is given.
"""

import functools
import json
import warnings
from pathlib import Path

import numpy as np

from pairscape.acquire.alignment import um_to_he_matrix
from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path, check_sums, sums_path, write_sums

OBS = ("array_row", "array_col", "x_um", "y_um", "transcripts", "genes")
ATTRS = "pairscape"
REMAKE = "delete it and let pool_spots make it again"


def write_spots(
    path,
    pooled,
    genes: list[dict],
    *,
    size_um: float,
    corners_um: np.ndarray | None,
    pixel_size_um: float,
    he_matrix: np.ndarray | None,
    attrs: dict,
) -> None:
    """Write a ``spots.zarr``, atomically, and the checksums of its files to ``spots.zarr.sha256``.

    A chunk that is missing from a Zarr reads as zeros, and one that is damaged as other numbers.

    ``pooled`` is a ``pooling.Pooled``; ``genes`` have ``gene_symbol`` and ``gene_id``. Spots are
    circles of ``size_um``, or have (K, 2) corners from their centre. A morphology pixel has
    ``pixel_size_um``; without an H&E ``he_matrix`` is None. What else a reader must know stands in
    ``attrs`` (JSON), read back as ``adata.uns["pairscape"]``.
    """
    import spatialdata
    from spatialdata.models import ShapesModel, TableModel

    placed = transformations(pixel_size_um, he_matrix)
    outlines = _outlines(pooled.layout, size_um, corners_um)
    table = _table(pooled.counts, pooled.layout, genes)
    # One JSON text: what comes out is what went in, None and nested lists included.
    table.uns[ATTRS] = json.dumps(attrs, sort_keys=True, allow_nan=False)
    keys = {"region": "spots", "region_key": "region", "instance_key": "spot_id"}
    data = spatialdata.SpatialData(
        shapes={"spots": ShapesModel.parse(outlines, transformations=placed)},
        tables={"counts": TableModel.parse(table, **keys)},
    )
    write_data(data, path)


def write_data(data, path) -> None:
    """Write a SpatialData, atomically, and the checksums of its files beside it."""
    sums_path(path).unlink(missing_ok=True)
    with atomic_path(path) as temporary, warnings.catch_warnings():
        # Said once for each array, of a default of zarr's that we leave to zarr.
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        data.write(temporary)
    write_sums(path)


def transformations(pixel_size_um: float, he_matrix: np.ndarray | None) -> dict:
    """The coordinate systems of what lies in Xenium micrometres, as spatialdata's transformations."""
    from spatialdata.transformations import Affine, Identity, Scale

    placed = {
        "xenium_um": Identity(),
        "global": Scale([1 / pixel_size_um] * 2, axes=("x", "y")),
    }
    if he_matrix is not None:
        to_he = um_to_he_matrix(he_matrix, pixel_size_um)
        placed["he_px"] = Affine(to_he, input_axes=("x", "y"), output_axes=("x", "y"))
    return placed


def _outlines(layout: dict, size_um: float, corners_um: np.ndarray | None):
    """The spots as shapes: circles by their radius, the others as polygons."""
    import geopandas
    import shapely

    names = np.asarray(layout["spot"], object)
    centres = np.column_stack([layout["x_um"], layout["y_um"]])
    if corners_um is None:
        radius = {"radius": np.full(len(names), size_um / 2)}
        return geopandas.GeoDataFrame(radius, geometry=shapely.points(centres), index=names)
    rings = shapely.polygons(centres[:, None] + np.asarray(corners_um, float))
    return geopandas.GeoDataFrame(geometry=rings, index=names)


def _table(counts, layout: dict, genes: list[dict]):
    """The counts as an AnnData; arrays of the layout beside those of ``OBS`` become columns, too."""
    import anndata
    import pandas as pd

    names = pd.Index(np.asarray(layout["spot"], object))
    obs = pd.DataFrame({name: layout[name] for name in OBS[:4]}, index=names)
    obs["transcripts"] = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
    obs["genes"] = np.diff(counts.indptr).astype(np.int32)
    for name in layout:
        if name not in (*OBS, "spot"):
            obs[name] = layout[name]
    obs["region"] = pd.Categorical(["spots"] * len(names))
    obs["spot_id"] = names.to_numpy()
    var = pd.DataFrame(
        {"gene_id": np.array([gene["gene_id"] for gene in genes], object)},
        index=pd.Index([gene["gene_symbol"] for gene in genes], name="gene_symbol", dtype=object),
    )
    spatial = obs[["x_um", "y_um"]].to_numpy()  # where scanpy and squidpy look
    return anndata.AnnData(X=counts, obs=obs, var=var, obsm={"spatial": spatial})


def read_spots(path):
    """The table of a ``spots.zarr``: an AnnData of spots x genes.

    ``X`` is CSR int32; obs (index: spot) has array_row, array_col, x_um, y_um, transcripts and
    genes; var (index: gene_symbol) has gene_id; ``uns["pairscape"]`` is the ``attrs`` dictionary.
    """
    import anndata
    from scipy import sparse

    path, refuse = Path(path), functools.partial(InputError, path)
    if not path.is_dir():
        raise refuse("spots", "nothing", "let pool_spots make it")
    check_sums(path, REMAKE)
    try:
        table = anndata.read_zarr(path / "tables" / "counts")
    except Exception as error:  # zarr and anndata raise whatever the damaged part makes them raise
        raise refuse("tables/counts", f"{type(error).__name__} {error}", REMAKE) from None
    for column in OBS:
        if column not in table.obs:
            raise refuse(f"tables/counts/obs/{column}", "nothing", REMAKE)
    if "gene_id" not in table.var or not isinstance(table.uns.get(ATTRS), str):
        raise refuse("tables/counts", "a table that isn't ours", REMAKE)
    counts = table.X
    if not sparse.issparse(counts) or counts.format != "csr" or counts.dtype != np.int32:
        raise refuse("tables/counts/X", "no int32 CSR matrix", REMAKE)
    sums = np.asarray(counts.sum(axis=1, dtype=np.int64)).ravel()
    if (counts.data < 0).any() or not np.array_equal(sums, table.obs["transcripts"]):
        raise refuse("tables/counts/X", "counts that don't add up", REMAKE)
    if not table.obs_names.is_unique or not table.var_names.is_unique:
        raise refuse("tables/counts", "a spot or gene twice", REMAKE)
    try:
        table.uns[ATTRS] = json.loads(table.uns[ATTRS])
    except json.JSONDecodeError as error:
        raise refuse(f"tables/counts/uns/{ATTRS}", str(error), REMAKE) from None
    return table
