"""Slides: what is read is what the file holds, where it holds it."""

import numpy as np
import pytest
import tifffile
from small_pairs import tissue_image, write_slide

from pairscape import slide as slides
from pairscape.errors import InputError
from pairscape.slide import Slide, iter_patches, patches_inside, thumbnail, um_per_px

LAYOUTS = {
    "tiles, deflate": {},
    "tiles, jpeg": {"compression": "jpeg", "compressionargs": {"level": 90}},
    "tiles, no compression": {"compression": None},
    "strips, deflate": {"tile": None, "rowsperstrip": 37},
    "one strip": {"tile": None, "compression": None},
    "bigtiff": {"bigtiff": True},
}


@pytest.fixture
def image():
    return tissue_image(300, 410)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_region_is_what_the_page_holds_and_white_beyond_it(tmp_path, image, layout):
    write_slide(tmp_path / "he.ome.tif", image, **LAYOUTS[layout])
    page = tifffile.imread(tmp_path / "he.ome.tif")
    with Slide(tmp_path / "he.ome.tif") as slide:
        assert (slide.height, slide.width) == image.shape[:2]
        assert np.array_equal(slide.read_region(100, 110, 200, 150), page[110:260, 100:300])
        corner = slide.read_region(-20, 280, 60, 40)
    assert np.array_equal(corner[:20, 20:], page[280:, :40])
    assert (corner[20:] == 255).all()
    assert (corner[:, :20] == 255).all()


def test_a_patch_is_the_mean_of_exactly_its_box(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image)
    side, patch_px, fine = 70.3, 32, 40
    centres = np.array([[101.37, 88.81], [200.0, 150.5], [260.01, 199.99]])
    with Slide(tmp_path / "he.ome.tif") as slide:
        patches = dict(iter_patches(slide, centres, side, patch_px))
    for index, (x, y) in enumerate(centres):
        # Brute force: many points in each patch pixel, each looked up in the image.
        steps = side * (np.arange(patch_px * fine) + 0.5) / (patch_px * fine) - side / 2
        looked_up = image[np.floor(y + steps).astype(int)][:, np.floor(x + steps).astype(int)]
        mean = looked_up.reshape(patch_px, fine, patch_px, fine, 3).mean((1, 3))
        assert np.abs(patches[index] - mean).max() < 2.5
        assert np.abs(patches[index] - mean).mean() < 0.5


def test_a_finer_patch_than_the_slide_is_interpolated_in_place(tmp_path):
    y, x = np.mgrid[:200, :300]
    ramp = np.stack([x * 0.8, y * 1.2, 0 * x], -1).round().astype(np.uint8)
    write_slide(tmp_path / "he.ome.tif", ramp)
    side, patch_px, centre = 40.4, 64, (133.3, 90.9)
    with Slide(tmp_path / "he.ome.tif") as slide:
        ((_, patch),) = iter_patches(slide, [centre], side, patch_px)
    offset = side * (np.arange(patch_px) + 0.5) / patch_px - side / 2
    # Pixel i is the point i + 0.5.
    assert np.abs(patch[..., 0] - 0.8 * (centre[0] + offset - 0.5)).max() < 1.2
    assert np.abs(patch[..., 1] - 1.2 * (centre[1] + offset - 0.5)[:, None]).max() < 1.2


def test_patches_come_in_tile_order_and_each_tile_is_decoded_once(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image, tile=(64, 64))
    centres = np.array([(x, y) for x in range(40, 370, 11) for y in range(40, 260, 13)], float)
    np.random.default_rng(1).shuffle(centres)
    with Slide(tmp_path / "he.ome.tif") as slide:
        seen = [index for index, _ in iter_patches(slide, centres, 60.0, 30)]
        tiles = -(-300 // 64) * -(-410 // 64)
        assert slide.tiles_decoded == tiles
    assert sorted(seen) == list(range(len(centres)))


def test_a_small_cache_gives_the_same_patches_and_few_tiles_twice(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image, tile=(32, 32))
    centres = np.array([(x, y) for y in range(30, 270, 9) for x in range(30, 380, 9)], float)
    small = 40 * 32 * 32 * 3
    with Slide(tmp_path / "he.ome.tif") as slide:
        patches = dict(iter_patches(slide, centres, 50.0, 25))
    with Slide(tmp_path / "he.ome.tif", cache_bytes=small) as slide:
        for index, patch in iter_patches(slide, centres, 50.0, 25):
            assert np.array_equal(patch, patches[index])
            assert slide._kept_bytes <= small
        assert slide.tiles_decoded < 1.6 * (10 * 13)


def test_only_patches_wholly_on_the_slide_are_inside(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image)
    with Slide(tmp_path / "he.ome.tif") as slide:
        inside = patches_inside(
            slide, [[25, 25], [24.9, 25], [385, 275], [385, 275.1], [200, -3]], 50.0
        )
    assert inside.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("levels", [1, 3])
def test_a_thumbnail_shows_things_in_their_place(tmp_path, levels):
    image = np.full((1501, 2003, 3), 240, np.uint8)
    image[900:1000, 1300:1420] = 20, 60, 200
    path = tmp_path / "he.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        options = {"photometric": "rgb", "tile": (256, 256), "compression": "deflate"}
        tiff.write(image, subifds=levels - 1, metadata={"axes": "YXS"}, **options)
        for level in range(1, levels):
            tiff.write(image[:: 2**level, :: 2**level], subfiletype=1, **options)
    small, scale = thumbnail(path, 250)
    assert max(small.shape) == 250
    assert scale == pytest.approx(2003 / 250)
    y, x = np.nonzero(small[..., 0] < 130)
    assert (x.mean() + 0.5) * scale == pytest.approx(1360, abs=scale / 2)
    assert (y.mean() + 0.5) * scale == pytest.approx(950, abs=scale / 2)


def test_a_thumbnail_is_never_larger_than_the_slide(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image)
    small, scale = thumbnail(tmp_path / "he.ome.tif", 5000)
    assert scale == 1
    assert np.array_equal(small, image)


@pytest.mark.parametrize(("size", "unit"), [(0.2738, "µm"), (273.8, "nm"), (0.0002738, "mm")])
def test_the_pixel_size_is_read_in_micrometres(tmp_path, image, size, unit):
    metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeXUnit": unit}
    tifffile.imwrite(
        tmp_path / "he.ome.tif", image, photometric="rgb", metadata=metadata, tile=(64, 64)
    )
    assert um_per_px(tmp_path / "he.ome.tif") == pytest.approx(0.2738)


def test_a_slide_without_pixel_size_says_none(tmp_path, image):
    tifffile.imwrite(tmp_path / "he.tif", image, photometric="rgb")
    assert um_per_px(tmp_path / "he.tif") is None


def test_an_aperio_scan_is_read(shared):
    path = shared / "data" / "wsi" / "CMU-1-Small-Region.svs"
    with Slide(path) as slide:
        assert (slide.width, slide.height) == (2220, 2967)
        assert slide.um_per_px == pytest.approx(0.499, abs=1e-3)
        region = slide.read_region(500, 700, 300, 300)
    assert np.array_equal(region, tifffile.imread(path, key=0)[700:1000, 500:800])


def test_a_missing_slide_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"he\.ome\.tif: file: found nothing; put the H&E"):
        Slide(tmp_path / "he.ome.tif")


def test_a_file_that_is_no_tiff_is_refused(tmp_path):
    (tmp_path / "he.ome.tif").write_text("<html>403 Forbidden</html>")
    with pytest.raises(InputError, match="TIFF header"):
        Slide(tmp_path / "he.ome.tif")


@pytest.mark.parametrize("kind", ["grey", "16 bit", "planes"])
def test_an_image_that_is_not_interleaved_rgb_is_refused(tmp_path, image, kind):
    path = tmp_path / "he.tif"
    if kind == "grey":
        tifffile.imwrite(path, image[..., 0])
    elif kind == "16 bit":
        tifffile.imwrite(path, image.astype(np.uint16), photometric="rgb")
    else:
        planes = np.moveaxis(image, -1, 0)
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(InputError, match="8-bit RGB"):
        Slide(path)


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_a_damaged_tile_is_named(tmp_path, image, compression):
    path = tmp_path / "he.ome.tif"
    write_slide(path, image, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = b"\x55" * size
    path.write_bytes(data)
    with Slide(path) as slide:
        slide.read_region(0, 0, 100, 100)
        with pytest.raises(InputError, match="tile in row 1, column 1 of level 0"):
            slide.read_region(0, 0, 410, 300)


def test_a_slide_of_one_huge_strip_is_refused(tmp_path, image, monkeypatch):
    write_slide(tmp_path / "he.ome.tif", image, tile=None, rowsperstrip=300)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 100_000)
    with pytest.raises(InputError, match="save the H&E as a tiled TIFF"):
        Slide(tmp_path / "he.ome.tif")
