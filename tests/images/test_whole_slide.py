"""Reading whole slides: true pixel size, patches on tissue, slides that can't be read."""

import numpy as np
import pytest
import tifffile
from small_slides import paint, write_slide

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.images import grids, whole_slide
from pairscape.images.whole_slide import WholeSlide


def cut(path, patch_px=64, um_per_px=0.5, min_tissue=0.1, given=None):
    """The grid of a slide and its patches."""
    with WholeSlide(path, given) as slide:
        _, mask = grids.find_tissue(slide)
        grid = grids.lay_on_tissue(slide, mask, patch_px, um_per_px, min_tissue)
        patches = [slide.read_patch(corner, *grid[1:]) for corner in grid.coords]
        return grid, np.stack(patches), grids.trident_attributes(slide, grid, um_per_px)


def test_patches_of_the_slides_own_resolution_are_its_pixels(tmp_path):
    pixels = paint()
    grid, patches, attributes = cut(write_slide(tmp_path / "a.tif", pixels, 0.5))
    assert grid.side_px == 64
    assert attributes["patch_size_level0"] == 64
    for (x, y), patch in zip(grid.coords, patches, strict=True):
        np.testing.assert_array_equal(patch, pixels[y : y + 64, x : x + 64])


def test_patches_of_a_finer_slide_are_the_mean_of_what_they_cover(tmp_path):
    pixels = paint()
    grid, patches, attributes = cut(write_slide(tmp_path / "a.tif", pixels, 0.25))
    assert attributes["patch_size_level0"] == 128
    assert attributes["level0_magnification"] == 40
    for (x, y), patch in zip(grid.coords, patches, strict=True):
        box = pixels[y : y + 128, x : x + 128].reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(patch - box).max() <= 0.5


@pytest.mark.parametrize("um_per_px", [0.265, 0.499, 0.2275])
def test_a_patch_is_as_large_in_um_whatever_the_pixels_are(tmp_path, um_per_px):
    """No rounding to a magnification class: 0.265 isn't 0.25."""
    grid, patches, attributes = cut(write_slide(tmp_path / "a.tif", paint(), um_per_px))
    assert grid.side_px * attributes["um_per_px"] == pytest.approx(32.0, rel=1e-5)
    assert patches.shape[1:] == (64, 64, 3)
    steps = np.unique(np.diff(np.unique(grid.coords[:, 0])))
    assert set(steps) <= {int(32 / um_per_px), int(32 / um_per_px) + 1}
    # Rounded once, not patch by patch: the last corner is off by less than a pixel.
    columns = np.round(grid.coords / grid.side_px)
    assert np.abs(grid.coords - columns * grid.side_px).max() < 1


def test_the_pyramid_gives_the_patches_of_the_full_resolution(tmp_path):
    pixels = paint()
    plain = cut(write_slide(tmp_path / "a.tif", pixels, 0.125))
    pyramid = cut(write_slide(tmp_path / "b.tif", pixels, 0.125, halvings=2))
    np.testing.assert_array_equal(plain[0].coords, pyramid[0].coords)
    with WholeSlide(tmp_path / "b.tif") as slide:
        assert slide.handle.level_count == 3
    assert np.abs(plain[1].astype(int) - pyramid[1]).max() <= 2


def test_a_slightly_coarser_slide_is_interpolated_and_a_coarse_one_refused(tmp_path):
    grid, patches, _ = cut(write_slide(tmp_path / "a.tif", paint(), 0.55))
    assert grid.side_px < 64
    assert patches.shape[1:] == (64, 64, 3)
    with pytest.raises(InputError, match=r"um_per_px: found 1, coarser than the 0.5"):
        cut(write_slide(tmp_path / "b.tif", paint(), 1.0))


def test_patches_lie_on_tissue_alone(tmp_path):
    path = write_slide(tmp_path / "a.tif", paint(tissue=(256, 384, 768, 640)), 0.25)
    expected = {(x, y) for x in range(256, 768, 128) for y in range(384, 640, 128)}
    assert set(map(tuple, cut(path, min_tissue=0.5)[0].coords.tolist())) == expected
    wide = set(map(tuple, cut(path, min_tissue=0.0)[0].coords.tolist()))
    assert expected < wide
    assert len(wide) <= 6 * 4


def test_a_thumbnail_is_the_mean_of_its_pixels(tmp_path):
    pixels = paint(2304, (300, 300, 2200, 1500))
    path = write_slide(tmp_path / "a.tif", pixels)
    with WholeSlide(path) as slide:
        small, scale = slide.thumbnail(256)
        assert scale == 9
        assert small.shape == (256, 256, 3)
        expected = pixels.reshape(256, 9, 256, 9, 3).mean((1, 3))
        assert np.abs(small - expected).max() <= 1


def test_the_pixel_size_is_the_tables_else_the_files(tmp_path):
    said = []
    path = write_slide(tmp_path / "a.tif", paint(64, None), 0.25)
    with WholeSlide(path) as slide:
        assert slide.um_per_px == pytest.approx(0.25)
    original = log.warning
    log.warning = lambda *words: said.append(words[0] % words[1:])
    try:
        with WholeSlide(path, 0.5) as slide:
            assert slide.um_per_px == 0.5
    finally:
        log.warning = original
    assert "says 0.5 um/px, the file 0.25" in said[0]


@pytest.mark.parametrize(
    ("old", "new", "um_per_px"),
    [
        ("", "", 0.46),
        ("<Image ", '<Image AcquiredBy="H&E" ', 0.46),
        ('SizeX="0.46"', 'SizeX="0,46"', 0.46),
        ('SizeX="0.46"', 'SizeX="about half"', None),
        ("</Image>", "", None),
    ],
)
def test_the_pixel_size_of_an_ome_tiff_is_found(tmp_path, old, new, um_per_px):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.46, "PhysicalSizeY": 0.46}
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        paint(256, None),
        tile=(256, 256),
        photometric="rgb",
        metadata=metadata,
    )
    xml = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    assert old in xml
    tifffile.tiffcomment(tmp_path / "a.ome.tif", xml.replace(old, new).encode())
    if um_per_px is None:  # a cohort skips such a slide
        with pytest.raises(InputError, match="um_per_px: found nothing"):
            WholeSlide(tmp_path / "a.ome.tif")
        return
    with WholeSlide(tmp_path / "a.ome.tif") as slide:
        assert slide.um_per_px == pytest.approx(um_per_px)


def spoil_a_tile(path):
    """Zeros over a tile of the full resolution, which the file opens without."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        middle = len(page.dataoffsets) // 2 + 1
        place, size = page.dataoffsets[middle], page.databytecounts[middle]
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "file: found nothing"),
        (lambda path: path.write_text("not a slide"), "image: found Unsupported"),
        (lambda path: write_slide(path, paint(), None), "um_per_px: found nothing"),
        # Software that knows of no pixel size writes a printer's: 72 dots per inch.
        (lambda path: write_slide(path, paint(), 25400 / 72), "um_per_px: found nothing"),
        (lambda path: write_slide(path, paint(), (0.25, 0.5)), "0.25 along x and 0.5 along y"),
        (lambda path: write_slide(path, paint(tissue=None)), "tissue: found none"),
        (lambda path: write_slide(path, np.full((1024, 1024, 3), 120, np.uint8)), "found none"),
        (lambda path: write_slide(path, paint(64, (0, 0, 64, 64))), "size: found 64 x 64 px"),
        (lambda path: spoil_a_tile(write_slide(path, paint(), 0.5, 2)), "region at .* px"),
    ],
)
def test_slides_that_cant_be_used_are_refused_in_one_line(tmp_path, make, words):
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(InputError, match=words) as error:
        cut(path)
    assert "\n" not in str(error.value)
    assert "a.tif" in str(error.value)


def test_a_slide_that_is_cut_off_is_refused(tmp_path):
    path = write_slide(tmp_path / "a.tif", paint())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"OpenSlide can't read it|damaged or cut off"):
        cut(path)


def test_the_digest_tells_another_file(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 5 << 20, np.uint8)
    path, found = tmp_path / "a.svs", set()
    for place in (None, 0, len(data) // 2 + 5, len(data) - 1):
        changed = data.copy()
        if place is not None:
            changed[place] ^= 1
        path.write_bytes(changed.tobytes())
        found.add(whole_slide.digest(path))
    assert len(found) == 4
