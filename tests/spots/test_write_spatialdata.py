"""A sample as SpatialData: where its H&E and its cells lie, and that others' programs draw it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import spatialdata
import tifffile
import tiny_bundle
from spatialdata.transformations import get_transformation

import pool_spots
import write_spatialdata
from pairscape.acquire import alignment
from pairscape.core.errors import InputError

MARK_PX = (300, 500)  # x, y of the H&E: the corner of a black square
MARK_SIDE = 20


def make(tmp_path, he=True, outlines=True):
    """A bundle with its spots; its H&E, turned by 90 degrees, has a black square at ``MARK_PX``."""
    bundle = tiny_bundle.write_bundle(tmp_path / "bundle")
    if outlines:
        centres = pd.read_parquet(bundle / "cells.parquet")
        corners = np.array([[-5, -5], [5, -5], [5, 5], [-5, 5], [-5, -5]], np.float32)
        rows = [
            {"cell_id": cell, "vertex_x": x + dx, "vertex_y": y + dy}
            for cell, x, y in centres[["cell_id", "x_centroid", "y_centroid"]].to_numpy()
            for dx, dy in corners
        ]
        pd.DataFrame(rows).to_parquet(bundle / "cell_boundaries.parquet")
    else:
        (bundle / "cell_boundaries.parquet").unlink()
    flags = {"--bundle": bundle}
    if he:
        image, matrix = tiny_bundle.write_he(tmp_path)
        pixels = tifffile.imread(image)
        x, y = MARK_PX
        pixels[y : y + MARK_SIDE, x : x + MARK_SIDE] = 0
        tifffile.imwrite(image, pixels, tile=(256, 256), photometric="rgb", compression="zlib")
        flags |= {"--he-image": image, "--he-alignment": matrix}
    options = json.dumps({"sample": {"sample": "S1"}, "spots": {"shape": "square", "size_um": 55}})
    made = {f"--{name}": tmp_path / name for name in ("audit", "table")}
    made["--spots"] = tmp_path / "spots.zarr"
    call(pool_spots, flags | made | {"--options": options})
    return {"--spots": tmp_path / "spots.zarr"} | {
        name: path for name, path in flags.items() if name != "--he-alignment"
    }


def call(program, flags):
    program.main([str(word) for pair in flags.items() for word in pair])


def write(tmp_path, flags, **options):
    path = tmp_path / "sample.zarr"
    shutil.rmtree(path, ignore_errors=True)
    call(write_spatialdata, flags | {"--spatialdata": path, "--options": json.dumps(options)})
    return spatialdata.read_zarr(path)


def mark_um(data, system, level):
    """The middle of the black square in a coordinate system, by the transformation of a level."""
    image = data.images["he"][f"scale{level}"].image
    rows, columns = np.nonzero(image.sum("c").to_numpy() < 60)
    matrix = get_transformation(image, system).to_affine_matrix(("x", "y"), ("x", "y"))
    middle = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    return alignment.apply(matrix, middle)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def flags(folder):
    return make(folder)


@pytest.mark.parametrize("he", ["thumbnail", "full"])
def test_a_mark_of_the_he_lies_where_its_alignment_says(folder, flags, monkeypatch, he):
    """On each level of either picture, in micrometres, morphology pixels and H&E pixels."""
    monkeypatch.setattr("pairscape.spots.spatial_elements.THUMBNAIL_PX", 512)
    monkeypatch.setattr("pairscape.spots.spatial_elements.CHUNK_PX", 300)
    monkeypatch.setattr("pairscape.spots.spatial_elements.LAST_PX", 256)
    data = write(folder, flags, he=he)
    sides = [data.images["he"][level].image.sizes["x"] for level in data.images["he"]]
    assert sides == {"thumbnail": [512, 256], "full": [930, 465]}[he]
    matrix = alignment.read_alignment(folder / "he.csv")
    middle = np.array(MARK_PX) + MARK_SIDE / 2
    size = tiny_bundle.PIXEL_SIZE_UM
    expected = {
        "he_px": middle,
        "xenium_um": alignment.he_px_to_um(matrix, size, middle),
        "global": alignment.apply(matrix, middle),
    }
    for level in range(len(sides)):
        one_px = 930 / sides[level]
        for system, place in expected.items():
            unit = {"he_px": 1, "xenium_um": 0.5, "global": 0.5 / size}[system]
            found = mark_um(data, system, level)
            np.testing.assert_allclose(found, place, atol=0.5 * one_px * unit, rtol=0)


def test_scanpy_draws_the_spots_and_the_picture_lies_below_them(folder, flags):
    """Scanpy and squidpy lay the picture by a scale alone."""
    import matplotlib

    matplotlib.use("Agg")
    import scanpy

    table = write(folder, flags, sample="S1").tables["counts"]
    assert np.array_equal(table.obsm["spatial"], table.obs[["x_um", "y_um"]])
    axes = scanpy.pl.embedding(table, basis="spatial", color="ALPHA", show=False)
    (points,) = [one for one in axes.collections if len(one.get_offsets()) == table.n_obs]
    drawn = points.get_offsets()[np.lexsort(points.get_offsets().T)]
    places = table.obsm["spatial"][np.lexsort(table.obsm["spatial"].T)]
    np.testing.assert_allclose(drawn, places)
    library = table.uns["spatial"]["S1"]
    scale = library["scalefactors"]["tissue_hires_scalef"]
    rows, columns = np.nonzero(library["images"]["hires"].sum(axis=2) < 60)
    found = (np.array([columns.mean(), rows.mean()]) + 0.5) / scale
    matrix = alignment.read_alignment(folder / "he.csv")
    middle = np.array(MARK_PX) + MARK_SIDE / 2
    place = alignment.he_px_to_um(matrix, tiny_bundle.PIXEL_SIZE_UM, middle)
    np.testing.assert_allclose(found, place, atol=0.3, rtol=0)
    assert library["scalefactors"]["spot_diameter_fullres"] == 55
    assert np.array_equal(table.obsm["spatial"], table.obs[["x_um", "y_um"]])


def test_cells_lie_in_micrometres_by_their_ids(tmp_path):
    cells = write(tmp_path, make(tmp_path, he=False)).shapes["cells"]
    assert cells.index.tolist() == [f"aaaaaaa{letter}-1" for letter in "abcd"]
    assert cells.geometry.centroid.x.tolist() == [50, 150, 250, 350]
    np.testing.assert_allclose(cells.geometry.area, 100)
    moved = spatialdata.transform(cells, to_coordinate_system="global").geometry.iloc[0].centroid
    size = tiny_bundle.PIXEL_SIZE_UM
    np.testing.assert_allclose([moved.x, moved.y], [50 / size, 60 / size])


def test_real_cells_are_those_that_spatialdata_io_reads(shared, tmp_path):
    from spatialdata_io import xenium

    from pairscape.spots.spatial_elements import cell_element

    bundle = shared / "data" / "xenium-mouse-ileum-tiny"
    without = ("nucleus_boundaries", "cells_labels", "nucleus_labels", "transcripts")
    without += ("morphology_mip", "morphology_focus", "aligned_images")
    theirs = xenium(bundle, **dict.fromkeys(without, False)).shapes["cell_boundaries"]
    ours = cell_element(bundle, 0.2125, None)
    assert ours.index.tolist() == theirs.index.tolist()
    assert ours.geometry.geom_equals(theirs.geometry, align=False).all()
    assert len(ours) == 23


def test_a_sample_without_he_or_outlines_is_its_spots(tmp_path):
    flags = make(tmp_path, he=False, outlines=False)
    data = write(tmp_path, flags)
    assert [element for _, element, _ in data.gen_elements()] == ["spots", "counts"]
    pd.DataFrame({"cell_id": ["a"]}).to_parquet(flags["--bundle"] / "cell_boundaries.parquet")
    with pytest.raises(InputError, match=r"cell_boundaries.parquet: column vertex_x: found only"):
        write(tmp_path, flags)
