"""Draw a sample's pseudo-spots: a gene per cell and per spot, and the distributions of both.

IN   the spots and quality numbers of pool_spots; their bundle, and its H&E where it has one
OUT  the figure (PNG)

Options: sample; overlay_gene, of the panel (none: the gene that varies most between spots).
"""

import math

import numpy as np

from pairscape.acquire import alignment
from pairscape.acquire import bundle as xenium
from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.jobs import program
from pairscape.spots import lattice, spot_figure, spot_quality, spots_zarr
from pairscape.spots.preset import SpotPreset, read_preset

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle, for its cells",
        he_image="optional: H&E image; its alignment stands in the spots",
        spots="spots.zarr of pool_spots",
        table="qc.tsv of pool_spots",
        figure=program.Output("qc.png to write"),
    )
    table = spots_zarr.read_spots(args.spots)
    attrs, genes = table.uns[spots_zarr.ATTRS], table.var_names.tolist()
    gene = args.options.get("overlay_gene")
    if gene and gene not in genes:
        remedy = f"name a gene of the panel, such as {genes[0]}, or none"
        raise InputError("--options", "overlay_gene", gene, remedy)
    gene = gene or spot_figure.choose_gene(table.X, genes)
    rows = spot_quality.QUALITY.read(args.table)
    number = {(row["of"], row["measure"]): row["value"] for row in rows}
    for measure in ("read", "pooled"):
        if number.get(("rows", measure)) is None:
            remedy = "delete it and let pool_spots make it again"
            raise InputError(args.table, f"rows, {measure}", "no number", remedy)
    median = np.median(table.obs["transcripts"])
    title = (
        f"{attrs['sample']}: {number['rows', 'pooled']:,.0f} of {number['rows', 'read']:,.0f} rows of "
        f"transcripts counted in {table.n_obs:,} spots, median {median:,.0f} a spot"
    )
    preset, he_matrix = read_preset(attrs["preset"]), attrs["he_matrix"]
    he = None
    if args.he_image and he_matrix is not None:
        he = _read_he(args.he_image, preset, np.array(he_matrix), attrs["pixel_size_um"])
    distances = {
        measure: value
        for (group, measure), value in number.items()
        if group == "spots_vs_cells" and value is not None
    }
    cells = _read_cells(args.bundle, gene, genes, distances)
    with files.atomic_path(args.figure) as path:
        spot_figure.draw_spots(
            path, title, gene, table, lattice.layout_of(preset, attrs), cells, he
        )
    name = attrs["sample"] or args.bundle
    logs.log.info("%s: %d spots, %s shown; see %s", name, table.n_obs, gene, args.figure)


def _read_he(path, preset: SpotPreset, matrix, pixel_size_um: float) -> spot_figure.He:
    """The H&E for the figure; where spots were chosen by tissue, from what the mask was made of."""
    from PIL import Image

    from pairscape.images import tissue
    from pairscape.images.tiff import TiffImage

    if preset.min_tissue is None:
        with TiffImage(path, cache_bytes=0) as image:
            picture, scale = image.thumbnail(spot_figure.THUMBNAIL_PX)
        return spot_figure.He(picture, scale, matrix, pixel_size_um)
    um_per_px = alignment.decompose(matrix, pixel_size_um)["um_per_px"]
    picture, scale = tissue.picture(path, um_per_px)
    step = math.ceil(max(picture.shape[:2]) / spot_figure.THUMBNAIL_PX)
    smaller = np.asarray(Image.fromarray(picture).reduce(step))
    return spot_figure.He(smaller, scale * step, matrix, pixel_size_um)


def _read_cells(bundle, gene: str, genes: list[str], distances: dict) -> spot_figure.Cells:
    """What the figure shows of the cells; their places are None where the bundle has none of use."""
    sums = spot_quality.cell_sums(bundle, genes)
    try:
        cells = xenium.read_cells(bundle)
        counts = xenium.read_cell_counts(bundle, gene)
    except InputError as error:
        logs.log.info("the figure has no cells (%s)", error)
        return spot_figure.Cells(sums=sums, distances=distances)
    counts = counts.reindex(cells["cell_id"]).fillna(0).to_numpy()
    xy_um = cells[["x_centroid", "y_centroid"]].to_numpy(float)
    return spot_figure.Cells(xy_um, counts, sums, distances)


if __name__ == "__main__":
    program.run(main)
