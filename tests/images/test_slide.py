"""Slides: what is read is what the file holds, where it holds it."""

import os

import numpy as np
import pytest
import tifffile
from small_pairs import tissue_image, write_slide

from pairscape.acquire import image_checks
from pairscape.core.errors import InputError
from pairscape.images import retiling, tiff_layout
from pairscape.images import tiff as slides
from pairscape.images.retiling import retile
from pairscape.images.tiff import TiffImage, um_per_px


def thumbnail_of(path, max_px):
    with TiffImage(path, cache_bytes=0) as slide:
        return slide.thumbnail(max_px)


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
    with TiffImage(tmp_path / "he.ome.tif") as slide:
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
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        patches = dict(slide.iter_patches(centres, side, patch_px))
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
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        ((_, patch),) = slide.iter_patches([centre], side, patch_px)
    offset = side * (np.arange(patch_px) + 0.5) / patch_px - side / 2
    # Pixel i is the point i + 0.5.
    assert np.abs(patch[..., 0] - 0.8 * (centre[0] + offset - 0.5)).max() < 1.2
    assert np.abs(patch[..., 1] - 1.2 * (centre[1] + offset - 0.5)[:, None]).max() < 1.2


def test_patches_come_in_tile_order_and_each_tile_is_decoded_once(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image, tile=(64, 64))
    centres = np.array([(x, y) for x in range(40, 370, 11) for y in range(40, 260, 13)], float)
    np.random.default_rng(1).shuffle(centres)
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        seen = [index for index, _ in slide.iter_patches(centres, 60.0, 30)]
        tiles = -(-300 // 64) * -(-410 // 64)
        assert slide.tiles_decoded == tiles
    assert sorted(seen) == list(range(len(centres)))


def test_a_small_cache_gives_the_same_patches_and_few_tiles_twice(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image, tile=(32, 32))
    centres = np.array([(x, y) for y in range(30, 270, 9) for x in range(30, 380, 9)], float)
    small = 40 * 32 * 32 * 3
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        patches = dict(slide.iter_patches(centres, 50.0, 25))
    with TiffImage(tmp_path / "he.ome.tif", cache_bytes=small) as slide:
        for index, patch in slide.iter_patches(centres, 50.0, 25):
            assert np.array_equal(patch, patches[index])
            assert slide.kept_bytes <= small
        assert slide.tiles_decoded < 1.6 * (10 * 13)


def test_only_patches_wholly_on_the_slide_are_inside(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image)
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        inside = slide.holds([[25, 25], [24.9, 25], [385, 275], [385, 275.1], [200, -3]], 50.0)
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
    small, scale = thumbnail_of(path, 250)
    assert max(small.shape) == 250
    assert scale == pytest.approx(2003 / 250)
    y, x = np.nonzero(small[..., 0] < 130)
    assert (x.mean() + 0.5) * scale == pytest.approx(1360, abs=scale / 2)
    assert (y.mean() + 0.5) * scale == pytest.approx(950, abs=scale / 2)


def test_a_thumbnail_is_never_larger_than_the_slide(tmp_path, image):
    write_slide(tmp_path / "he.ome.tif", image)
    small, scale = thumbnail_of(tmp_path / "he.ome.tif", 5000)
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
    with TiffImage(path) as slide:
        assert (slide.width, slide.height) == (2220, 2967)
        assert slide.um_per_px == pytest.approx(0.499, abs=1e-3)
        region = slide.read_region(500, 700, 300, 300)
    assert np.array_equal(region, tifffile.imread(path, key=0)[700:1000, 500:800])


def test_a_missing_slide_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"he\.ome\.tif: file: found nothing; put the H&E"):
        TiffImage(tmp_path / "he.ome.tif")


def test_a_file_that_is_no_tiff_is_refused(tmp_path):
    (tmp_path / "he.ome.tif").write_text("<html>403 Forbidden</html>")
    with pytest.raises(InputError, match="TIFF header"):
        TiffImage(tmp_path / "he.ome.tif")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("grey", "no RGB page"),
        ("16 bit", "uint16 samples"),
        ("16 bit planes", "uint16 samples"),
        ("depth", "no RGB page"),
        ("two channels", "no RGB page"),
        ("fluorescence", "DAPI, a, b; give the H&E image"),
    ],
)
def test_an_image_that_is_not_8_bit_rgb_is_refused_in_one_line(tmp_path, image, kind, told):
    path, planes = tmp_path / "he.ome.tif", np.moveaxis(image, -1, 0).copy()
    write = {
        "grey": lambda: tifffile.imwrite(path, image[..., 0]),
        "16 bit": lambda: tifffile.imwrite(path, image.astype(np.uint16), photometric="rgb"),
        "16 bit planes": lambda: write_planes(path, planes.astype(np.uint16)),
        "depth": lambda: tifffile.imwrite(
            path, planes, photometric="minisblack", metadata={"axes": "ZYX"}, ome=True
        ),
        "two channels": lambda: write_planes(path, planes[:2]),
        "fluorescence": lambda: write_planes(path, planes, Channel={"Name": ["DAPI", "a", "b"]}),
    }
    write[kind]()
    with pytest.raises(InputError) as refusal:
        TiffImage(path)
    assert told in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("compression", ["deflate", "jpeg"])
def test_a_damaged_tile_is_named(tmp_path, image, compression):
    path = tmp_path / "he.ome.tif"
    write_slide(path, image, compression=compression)
    with tifffile.TiffFile(path) as tiff:
        offset, size = tiff.pages[0].dataoffsets[5], tiff.pages[0].databytecounts[5]
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = b"\x55" * size
    path.write_bytes(data)
    with TiffImage(path) as slide:
        slide.read_region(0, 0, 100, 100)
        with pytest.raises(InputError, match="tile in row 1, column 1 of level 0"):
            slide.read_region(0, 0, 410, 300)


def write_planes(path, planes, **metadata):
    """The channels as pages of their own, as in the breast samples of 10x."""
    options = {"photometric": "minisblack", "tile": (128, 128), "compression": "deflate"}
    tifffile.imwrite(path, planes, metadata={"axes": "CYX", **metadata}, ome=True, **options)


def write_reordered(path, image):
    names = ["Blue", "Red", "Green"]
    write_planes(path, np.moveaxis(image, -1, 0)[[2, 0, 1]].copy(), Channel={"Name": names})


def write_three_images(path, image):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for channel in np.moveaxis(image, -1, 0):
            tiff.write(channel.copy(), photometric="minisblack", tile=(64, 64), compression="lzw")


def write_rgba(path, image):
    alpha = np.random.default_rng(0).integers(0, 255, (*image.shape[:2], 1), np.uint8)
    pixels = np.concatenate([image, alpha], -1)
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"], tile=(128, 128))


def write_aperio(path, image, compression: int):
    """JPEG-2000 as Aperio writes it: 33003 holds YCbCr without saying so, 33005 holds RGB."""
    import imagecodecs
    from PIL import Image

    if compression == 33003:
        image = np.asarray(Image.fromarray(image).convert("YCbCr"))

    def encoded():
        padded = np.pad(image, ((0, -len(image) % 64), (0, -image.shape[1] % 64), (0, 0)))
        for top in range(0, len(padded), 64):
            for left in range(0, padded.shape[1], 64):
                tile = np.ascontiguousarray(padded[top : top + 64, left : left + 64])
                yield imagecodecs.jpeg2k_encode(
                    tile, mct=compression == 33005, codecformat="j2k", reversible=True
                )

    tifffile.imwrite(
        path,
        encoded(),
        shape=image.shape,
        dtype=np.uint8,
        tile=(64, 64),
        photometric="rgb",
        compression=compression,
        description="Aperio Image Library v11|AppMag = 40|MPP = 0.2520",
        metadata=None,
    )


def write_with_pillow(path, image, **options):
    from PIL import Image

    Image.fromarray(image).save(path, format="TIFF", **options)


WRITERS = {
    "three pages": lambda path, image: write_planes(path, np.moveaxis(image, -1, 0).copy()),
    "three pages in another order": write_reordered,
    "three images": write_three_images,
    "three pages that are no OME": lambda path, image: tifffile.imwrite(
        path, np.moveaxis(image, -1, 0).copy(), photometric="minisblack", rowsperstrip=50
    ),
    "planes in one page": lambda path, image: tifffile.imwrite(
        path,
        np.moveaxis(image, -1, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        tile=(128, 128),
        compression="deflate",
        predictor=True,
    ),
    "planes in strips": lambda path, image: tifffile.imwrite(
        path,
        np.moveaxis(image, -1, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
        rowsperstrip=37,
        compression="lzw",
    ),
    "planes, uncompressed": lambda path, image: tifffile.imwrite(
        path, np.moveaxis(image, -1, 0).copy(), photometric="rgb", planarconfig="separate"
    ),
    "with alpha": write_rgba,
    "lzw with predictor": lambda path, image: write_slide(
        path, image, compression="lzw", predictor=True
    ),
    "jpeg 2000": lambda path, image: write_slide(
        path, image, compression="jpeg2000", compressionargs={"reversible": True}
    ),
    "aperio jpeg 2000 in RGB": lambda path, image: write_aperio(path, image, 33005),
    "big-endian bigtiff": lambda path, image: tifffile.imwrite(
        path, image, photometric="rgb", bigtiff=True, byteorder=">", rowsperstrip=19
    ),
    "packbits strips of libtiff": lambda path, image: write_with_pillow(
        path, image, compression="packbits"
    ),
    "deflated strips of libtiff": lambda path, image: write_with_pillow(
        path, image, compression="tiff_adobe_deflate"
    ),
}
LOSSY = {
    "aperio jpeg 2000 in YCbCr": lambda path, image: write_aperio(path, image, 33003),
    "jpeg of libtiff, with shared tables": lambda path, image: write_with_pillow(
        path, image, compression="jpeg", quality=95
    ),
    "jpeg of YCbCr, subsampled": lambda path, image: write_slide(
        path, image, compression="jpeg", compressionargs={"level": 95, "subsampling": "420"}
    ),
    "jpeg of RGB": lambda path, image: write_slide(
        path, image, compression="jpeg", compressionargs={"level": 95, "outcolorspace": "rgb"}
    ),
}


@pytest.fixture
def smooth():
    """An image that lossy codecs keep well, colours far apart."""
    y, x = np.mgrid[:300, :410]
    channels = (np.sin(x / 40) * 100 + 128, np.cos(y / 30) * 100 + 128, (x + y) / 3.2)
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize("kind", WRITERS)
def test_each_kind_of_file_gives_the_pixels_that_were_saved(tmp_path, image, kind):
    WRITERS[kind](tmp_path / "he.ome.tif", image)
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        assert np.array_equal(slide.read_region(0, 0, 410, 300), image)
        assert np.array_equal(slide.read_region(90, 110, 200, 150), image[110:260, 90:290])


@pytest.mark.parametrize("kind", LOSSY)
def test_each_lossy_kind_of_file_gives_the_colours_that_were_saved(tmp_path, smooth, kind):
    LOSSY[kind](tmp_path / "he.ome.tif", smooth)
    if "tables" in kind:
        assert 347 in tifffile.TiffFile(tmp_path / "he.ome.tif").pages[0].tags
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        off = np.abs(slide.read_region(0, 0, 410, 300).astype(int) - smooth)
    assert off.mean() < 2
    assert np.quantile(off, 0.99) <= 8


def test_the_pixel_size_of_an_aperio_scan_is_its_mpp(tmp_path, image):
    write_aperio(tmp_path / "he.svs", image, 33005)
    assert um_per_px(tmp_path / "he.svs") == 0.252


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "centimeter"}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "inch"}, None),
    ],
)
def test_the_pixel_size_of_a_generic_file_is_a_scanners_or_none(tmp_path, image, options, expected):
    tifffile.imwrite(tmp_path / "he.tif", image, photometric="rgb", metadata=None, **options)
    assert um_per_px(tmp_path / "he.tif") == (expected and pytest.approx(expected))


def test_the_slide_is_read_and_not_its_label_or_overview(tmp_path, image):
    with tifffile.TiffWriter(tmp_path / "he.tif") as tiff:
        for page in (image[:60, :70], image, image[:90, :200]):
            tiff.write(page, photometric="rgb", tile=(64, 64))
    with TiffImage(tmp_path / "he.tif") as slide:
        assert np.array_equal(slide.read_region(0, 0, 410, 300), image)


def test_a_pyramid_of_separate_pages_serves_thumbnails(tmp_path):
    image = tissue_image(1200, 1640)
    with tifffile.TiffWriter(tmp_path / "he.tif") as tiff:
        for step in (1, 2, 4):
            tiff.write(image[::step, ::step], photometric="rgb", tile=(64, 64), metadata=None)
        tiff.write(image[:111, :222], photometric="rgb", tile=(64, 64), metadata=None)
    with TiffImage(tmp_path / "he.tif") as slide:
        assert [level.width for level in slide.levels] == [1640, 820, 410]
    small, scale = thumbnail_of(tmp_path / "he.tif", 410)
    assert scale == 4
    assert np.array_equal(small, image[::4, ::4])


def test_a_turned_page_is_read_as_stored_and_said(tmp_path, image, caplog):
    tifffile.imwrite(
        tmp_path / "he.tif", image, photometric="rgb", extratags=[(274, "H", 1, 6, True)]
    )
    tiff_layout.log.propagate = True
    with TiffImage(tmp_path / "he.tif") as slide:
        assert np.array_equal(slide.read_region(0, 0, 410, 300), image)
    assert "orientation 6" in caplog.text


def test_an_uncompressed_page_of_one_strip_is_read_piece_by_piece(tmp_path, image, monkeypatch):
    write_slide(tmp_path / "he.ome.tif", image, tile=None, compression=None)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 100_000)
    monkeypatch.setattr(tiff_layout, "ROWS_BYTES", 20_000)
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        assert slide.tile_height < 20
        assert np.array_equal(slide.read_region(13, 11, 300, 270), image[11:281, 13:313])


def test_a_slide_of_one_huge_strip_is_refused(tmp_path, image, monkeypatch):
    write_slide(tmp_path / "he.ome.tif", image, tile=None, rowsperstrip=300)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 100_000)
    with pytest.raises(InputError, match="write `untiled` in its column he_layout"):
        TiffImage(tmp_path / "he.ome.tif")
    with TiffImage(tmp_path / "he.ome.tif", any_layout=True) as slide:
        assert slide.needs_retiling
        assert slide.um_per_px == 0.34


HUGE = {
    "deflate": {"compression": "deflate"},
    "deflate with predictor": {"compression": "deflate", "predictor": True},
    "lzw": {"compression": "lzw"},
    "two strips": {"compression": "deflate", "rowsperstrip": 900},
    "uncompressed": {"compression": None},
    "uncompressed, two strips": {"compression": None, "rowsperstrip": 900},
    "planes": {"compression": "deflate", "planarconfig": "separate"},
    "tiles": {"compression": "deflate", "tile": (256, 256), "rowsperstrip": None},
}


@pytest.mark.parametrize("kind", HUGE)
def test_retiling_keeps_every_pixel_and_makes_a_pyramid(tmp_path, monkeypatch, kind):
    image = tissue_image(1301, 2205)
    options = {"photometric": "rgb", "rowsperstrip": 1301, **HUGE[kind]}
    pixels = np.moveaxis(image, -1, 0).copy() if kind == "planes" else image
    metadata = {"axes": "CYX" if kind == "planes" else "YXS", "PhysicalSizeX": 0.2738}
    tifffile.imwrite(tmp_path / "he.ome.tif", pixels, metadata=metadata, ome=True, **options)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 1_000_000)
    monkeypatch.setattr(tiff_layout, "ROWS_BYTES", 10_000)
    monkeypatch.setattr(retiling, "ROWS_BYTES", 10_000)
    retile(tmp_path / "he.ome.tif", tmp_path / "tiled.ome.tif")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["he.ome.tif", "tiled.ome.tif"]
    with tifffile.TiffFile(tmp_path / "tiled.ome.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.pages[0].tile == (512, 512)
        assert [level.shape for level in tiff.series[0].levels] == [
            (1301, 2205, 3),
            (651, 1103, 3),
            (326, 552, 3),
        ]
    with TiffImage(tmp_path / "tiled.ome.tif") as slide:
        assert np.array_equal(slide.read_region(0, 0, 2205, 1301), image)
        assert slide.um_per_px == pytest.approx(0.2738)
        half = slide.read_level(1, 0, 0, 1102, 650).astype(float)
    means = image[:1300, :2204].reshape(650, 2, 1102, 2, 3).mean((1, 3))
    assert np.abs(half - means).max() <= 1


def test_retiling_as_jpeg_keeps_the_look(tmp_path, smooth):
    write_slide(tmp_path / "he.ome.tif", smooth, tile=None, rowsperstrip=300)
    retile(tmp_path / "he.ome.tif", tmp_path / "tiled.ome.tif", compression="jpeg")
    with TiffImage(tmp_path / "tiled.ome.tif") as slide:
        off = np.abs(slide.read_region(0, 0, 410, 300).astype(int) - smooth)
    assert np.quantile(off, 0.99) <= 8


@pytest.mark.slow
def test_retiling_takes_little_memory(tmp_path):
    """A deflated strip of 90 MB goes through without ever standing in memory."""
    import subprocess
    import sys

    def bands():
        band = np.tile(tissue_image(50, 1000).reshape(50, -1), (10, 5))
        for _ in range(12):
            yield band.tobytes()

    import zlib

    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(band) for band in bands()) + packer.flush()
    shape = {"shape": (6000, 5000, 3), "dtype": np.uint8, "rowsperstrip": 6000}
    tifffile.imwrite(
        tmp_path / "he.tif", iter([data]), photometric="rgb", compression="zlib", **shape
    )
    code = (
        "import sys, resource\n"
        "from pairscape.images import retiling, tiff\n"
        "import tifffile, imagecodecs, PIL.Image\n"
        "retiling.MAX_TILE_BYTES = tiff.MAX_TILE_BYTES = 40 << 20\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "retiling.retile(sys.argv[1], sys.argv[2])\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "he.tif", tmp_path / "tiled.ome.tif"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    # The next level's file (22 MB) is mapped, and its pages count.
    assert int(done.stdout) < 75_000
    with TiffImage(tmp_path / "tiled.ome.tif") as slide:
        assert (slide.width, slide.height) == (5000, 6000)


def test_a_huge_strip_that_is_cut_off_is_refused_and_leaves_nothing(tmp_path, image, monkeypatch):
    write_slide(tmp_path / "he.ome.tif", image, tile=None, rowsperstrip=300)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 100_000)
    with tifffile.TiffFile(tmp_path / "he.ome.tif") as tiff:
        offset = tiff.pages[0].dataoffsets[0]
    data = bytearray((tmp_path / "he.ome.tif").read_bytes())
    data[offset + 5000 : offset + 6000] = bytes(1000)
    (tmp_path / "he.ome.tif").write_bytes(data)
    with pytest.raises(InputError, match="strip 0: found bytes that don't decode"):
        retile(tmp_path / "he.ome.tif", tmp_path / "tiled.ome.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["he.ome.tif"]


def test_a_page_without_planar_configuration_is_interleaved(tmp_path, image):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["PlanarConfiguration"]
    with path.open("r+b") as file:  # a private tag in its place
        file.seek(tag.offset)
        file.write((65000).to_bytes(2, "little"))
    with TiffImage(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 64, 64), image[:64, :64])


def test_an_image_that_claims_a_size_and_holds_no_tile_is_refused(tmp_path, image):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(128, 128), compression="deflate")
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
    with path.open("r+b") as file:
        file.seek(tag.valueoffset)
        file.write(bytes(tag.valuebytecount))
    with pytest.raises(InputError, match="of which no tile holds a byte; give the image itself"):
        image_checks.check_he_image([], {}, path, {})
