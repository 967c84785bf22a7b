"""Write a sample to look at: its spots over its H&E, in one offline page, and as GeoJSON for QuPath.

IN   the spots of pool_spots; the H&E, where there is one; where a dataset of a plain run holds the
     sample: its splits, the sample's shards there, and hits.parquet of the experiments on it
OUT  viewer.html, spots.geojson (in pixels of the H&E, in µm without one)

Options: sample (its name), parts (its blocks in that dataset, if it is split into some).
"""

from pathlib import Path

import numpy as np

from pairscape.acquire import alignment
from pairscape.core import files, logs
from pairscape.jobs import program
from pairscape.report import viewer, viewer_hits
from pairscape.spots import lattice, spots_zarr
from pairscape.spots.preset import read_preset

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots="spots.zarr of the sample",
        he_image="optional: H&E image; its alignment stands in the spots",
        splits="optional: splits.tsv of a dataset with the sample",
        shards=program.Many("optional: the sample's shards in that dataset"),
        hits=program.Many("optional: hits.parquet of experiments on that dataset"),
        viewer=program.Output("viewer.html to write"),
        geojson=program.Output("spots.geojson to write"),
    )
    table = spots_zarr.read_spots(args.spots)
    attrs = table.uns[spots_zarr.ATTRS]
    name = args.options.get("sample") or attrs["sample"]
    xy_um = table.obs[["x_um", "y_um"]].to_numpy()
    layout = lattice.layout_of(read_preset(attrs["preset"]), attrs)
    corners_um = lattice.outline_um(layout)
    if corners_um is None:
        corners_um = viewer.circle(layout.size_um / 2)
    picture, scale, um_per_px = None, 1.0, 1.0
    placed = xy_um, corners_um
    if args.he_image and attrs["he_matrix"] is not None:
        from pairscape.images.tiff import TiffImage

        matrix, pixel_size_um = np.array(attrs["he_matrix"]), attrs["pixel_size_um"]
        with TiffImage(args.he_image, cache_bytes=0) as image:
            picture, scale = image.thumbnail(viewer.PICTURE_PX)
        um_per_px = alignment.decompose(matrix, pixel_size_um)["um_per_px"] * scale
        linear = alignment.um_to_he_matrix(matrix, pixel_size_um)[:2, :2]
        placed = (
            alignment.um_to_he_px(matrix, pixel_size_um, xy_um) / scale,
            corners_um @ linear.T / scale,
        )
    names = table.obs_names.tolist()
    parts = [name, *args.options.get("parts", [])]
    splits = viewer_hits.splits_of(names, args.splits, args.shards or ())
    best = viewer_hits.best_run(args.hits or (), names, parts)
    shown = viewer.Shown(name, table, *placed, picture, um_per_px, splits, **best)
    with files.atomic_path(args.geojson) as temporary:
        temporary.write_text(viewer.geojson(shown, scale), encoding="utf-8")
    with files.atomic_path(args.viewer) as temporary:
        temporary.write_text(viewer.render(shown), encoding="utf-8")
    size_mb = Path(args.viewer).stat().st_size / 1e6
    logs.log.info("%s: %d spots, %.1f MB; see %s", name, len(names), size_mb, args.viewer)


if __name__ == "__main__":
    program.run(main)
