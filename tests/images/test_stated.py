"""What image files say of themselves, well-formed or not: read, warned of or refused, never a crash."""

import contextlib
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from small_pairs import tissue_image, write_slide

from pairscape.core.errors import InputError
from pairscape.images.tiff import TiffImage


@pytest.fixture
def image():
    return tissue_image(96, 130)


def write_ome(path, image, **changes):
    """An OME-TIFF with texts of its metadata replaced, whatever that makes of them."""
    metadata = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "Name": "scan"}
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=metadata, ome=True)
    xml = tifffile.tiffcomment(path)
    for old, new in changes.items():
        assert old in xml
        xml = xml.replace(old, new)
    tifffile.tiffcomment(path, xml.encode())


SIZE = 'PhysicalSizeX="0.5"'
OME = {
    "a bare &": ({'Name="scan"': 'Name="H&E"'}, 0.5, ""),
    "a comment before the declaration": ({"<?xml": "<!-- ours --><?xml"}, 0.5, ""),
    "a decimal comma": ({SIZE: 'PhysicalSizeX="0,5"'}, 0.5, ""),
    "a unit behind": ({SIZE: 'PhysicalSizeX="0.5 µm"'}, 0.5, ""),
    "another letter for micro": ({'Unit="µm"': 'Unit="μm"'}, 0.5, ""),
    "empty": ({SIZE: 'PhysicalSizeX=""'}, None, "PhysicalSizeX: found ''"),
    "a word": ({SIZE: 'PhysicalSizeX="n/a"'}, None, "PhysicalSizeX: found 'n/a'"),
    "two points": ({SIZE: 'PhysicalSizeX="0.5.1"'}, None, "PhysicalSizeX: found '0.5.1'"),
    "nan": ({SIZE: 'PhysicalSizeX="nan"'}, None, "PhysicalSizeX: found 'nan'"),
    "0": ({SIZE: 'PhysicalSizeX="0"'}, None, ""),
    "a unit of no length": ({'Unit="µm"': 'Unit="pixel"'}, None, ""),
    "no XML": ({"</Image>": "</Imag>"}, None, "OME-XML: found text that isn't XML"),
}


@pytest.mark.parametrize("kind", OME)
def test_ome_metadata_are_read_or_warned_of(tmp_path, image, caplog, kind):
    changes, um_per_px, words = OME[kind]
    write_ome(tmp_path / "he.ome.tif", image, **changes)
    with TiffImage(tmp_path / "he.ome.tif") as slide:
        assert slide.um_per_px == um_per_px
        assert np.array_equal(slide.read_region(0, 0, 130, 96), image)
    assert words in caplog.text
    assert bool(words) == ("as if it said nothing" in caplog.text)


@pytest.mark.parametrize(
    ("text", "um_per_px"), [("0.5", 0.5), ("0,5", 0.5), ("0.5.1", None), ("", None), ("x", None)]
)
def test_an_aperio_mpp_is_read_or_warned_of(tmp_path, image, caplog, text, um_per_px):
    words = f"Aperio Image Library v1\r\n130x96 |AppMag = 20|MPP = {text}|Left = 1"
    tifffile.imwrite(
        tmp_path / "he.svs", image, photometric="rgb", description=words, metadata=None
    )
    with TiffImage(tmp_path / "he.svs") as slide:
        assert slide.um_per_px == um_per_px
    assert ("MPP: found" in caplog.text) == (um_per_px is None)


def edit_tag(path, code, *, new_code=None, kind=None, count=None, value=None):
    """Change an entry of the first page's directory, whatever that makes of it."""
    with tifffile.TiffFile(path) as tiff:
        at = tiff.pages[0].tags[code].offset
    content = bytearray(path.read_bytes())
    for offset, form, number in ((0, "<H", new_code), (2, "<H", kind), (4, "<I", count)):
        if number is not None:
            struct.pack_into(form, content, at + offset, number)
    if value is not None:
        struct.pack_into("<I", content, at + 8, value)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"new_code": 263}, "nothing"), ({"value": 999}, "999"), ({"value": 1}, "MINISBLACK")],
)
def test_three_samples_of_no_stated_colour_are_rgb_with_a_warning(
    tmp_path, image, caplog, change, found
):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=None)
    edit_tag(path, 262, **change)
    with TiffImage(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 130, 96), image)
    assert f"PhotometricInterpretation: found {found} for three samples" in caplog.text


def test_colours_in_another_space_are_refused(tmp_path, image):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=None)
    edit_tag(path, 262, value=8)  # CIELAB
    with pytest.raises(InputError, match="no RGB page"):
        TiffImage(path)


def test_planes_that_nothing_tells_are_pixel_by_pixel(tmp_path, image):
    path = tmp_path / "he.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=None)
    edit_tag(path, 284, new_code=285)
    with TiffImage(path) as slide:
        assert np.array_equal(slide.read_region(0, 0, 130, 96), image)


JUNK = {
    "another type": {"kind": 2},
    "no type": {"kind": 99},
    "many values": {"count": 1000},
    "no value": {"count": 0},
    "0": {"value": 0},
    "65535": {"value": 65535},
    "absent": {"new_code": 60000},
}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("layout", ["ome", "aperio", "strips"])
def test_junk_in_any_tag_is_read_or_refused_in_one_line(tmp_path, image, layout, junk):
    """Nothing else than an image or an InputError, whichever tag of a page lies."""
    path, good = tmp_path / "he.tif", tmp_path / "good.tif"
    if layout == "ome":
        write_slide(good, image)
    elif layout == "aperio":
        words = "Aperio Image|MPP = 0.5"
        options = {"compression": "jpeg", "tile": (64, 64), "description": words}
        tifffile.imwrite(good, image, photometric="rgb", metadata=None, **options)
    else:
        options = {"resolution": (20_000, 20_000), "resolutionunit": 3, "rowsperstrip": 16}
        tifffile.imwrite(good, image, photometric="rgb", metadata=None, **options)
    with tifffile.TiffFile(good) as tiff:
        codes = [tag.code for tag in tiff.pages[0].tags]
    for code in codes:
        path.write_bytes(good.read_bytes())
        edit_tag(path, code, **JUNK[junk])
        with (
            contextlib.suppress(InputError),
            TiffImage(path, any_layout=True) as slide,
        ):
            if slide.width * slide.height <= 1 << 20:
                slide.read_region(0, 0, 40, 40)


def test_tiles_of_an_ndpi_are_decoded_with_the_pages_own_header(tmp_path):
    """Hamamatsu keeps a page as one JPEG whose restart intervals are the tiles, one header for all."""
    y, x = np.mgrid[:64, :128]
    image = np.stack([x, 2 * y, 255 - x], -1).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(image).save(packed, "jpeg", quality=95, subsampling=0, restart_marker_blocks=4)
    data = packed.getvalue()
    scan = data.index(b"\xff\xda") + 14  # its header has 12 bytes
    marks = [
        i + 2 for i in range(scan, len(data) - 1) if data[i] == 255 and 208 <= data[i + 1] < 216
    ]
    starts = [scan, *marks]
    assert len(starts) == 8 * 4
    path = tmp_path / "he.ndpi"
    extra = [(271, 2, 10, "Hamamatsu", False), (65420, 4, 1, 1, False)]
    extra += [(65426, 4, len(starts), starts, False)]
    tifffile.imwrite(
        path,
        iter([data]),
        shape=image.shape,
        dtype=np.uint8,
        photometric="ycbcr",
        compression="jpeg",
        rowsperstrip=64,
        subsampling=(1, 1),
        extratags=extra,
        metadata=None,
    )
    path = path.rename(tmp_path / "he.tif")
    with TiffImage(path) as slide:
        assert slide.tile_width == 32
        read = slide.read_region(0, 0, 128, 64)
    assert np.abs(read.astype(int) - image).max() < 12
