"""Write a sample as one SpatialData: its spots, its H&E below them and its cells.

IN   the spots of pool_spots; the bundle, for the outlines of its cells, and its H&E, where there are
OUT  sample.zarr: shapes/spots, tables/counts as they were; images/he, multiscale; shapes/cells

It opens in spatialdata, napari-spatialdata, spatialdata-plot, squidpy and scanpy. The pipeline goes on
from spots.zarr, so that another choice of the picture makes nothing else anew.

Options: sample (its name), he (thumbnail, or full for the full resolution).
"""

import contextlib

import numpy as np

from pairscape.core import logs
from pairscape.images import tiff
from pairscape.jobs import program
from pairscape.spots import spatial_elements, spots_zarr

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots="spots.zarr of the sample",
        bundle="optional: folder of the bundle, for the outlines of its cells",
        he_image="optional: H&E image; its alignment stands in the spots",
        spatialdata=program.Output("sample.zarr to write"),
    )
    import dask
    import spatialdata

    attrs = spots_zarr.read_spots(args.spots).uns[spots_zarr.ATTRS]
    name = args.options.get("sample") or attrs["sample"]
    data = spatialdata.read_zarr(args.spots)
    placing = np.array(attrs["he_matrix"] or np.eye(3)), attrs["pixel_size_um"]
    with contextlib.ExitStack() as opened, dask.config.set(scheduler="synchronous"):
        if args.he_image and attrs["he_matrix"] is not None:
            image = opened.enter_context(tiff.TiffImage(args.he_image))
            thumbnail = image.thumbnail(spatial_elements.THUMBNAIL_PX)
            shown = None if args.options.get("he") == "full" else thumbnail
            data.images["he"] = spatial_elements.he_element(image, shown, *placing)
            table = data.tables["counts"]
            places = table.obsm["spatial"]
            flat, per_um = spatial_elements.flat_picture(thumbnail, *placing, places)
            # Where squidpy and scanpy look for a picture, in the words of Visium.
            size_um = attrs["preset"]["size_um"]
            scales = {"tissue_hires_scalef": per_um, "spot_diameter_fullres": size_um}
            table.uns["spatial"] = {name: {"images": {"hires": flat}, "scalefactors": scales}}
        if args.bundle:
            matrix = attrs["he_matrix"] and placing[0]
            cells = spatial_elements.cell_element(args.bundle, placing[1], matrix)
            if cells is not None:
                data.shapes["cells"] = cells
        spots_zarr.write_data(data, args.spatialdata)
    elements = ", ".join(f"{kind}/{element}" for kind, element, _ in data.gen_elements())
    logs.log.info("%s: %s; see %s", name, elements, args.spatialdata)


if __name__ == "__main__":
    program.run(main)
