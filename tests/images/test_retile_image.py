"""An untiled H&E is written anew once; all later steps read that."""

import numpy as np
import pytest
import tifffile
from small_pairs import tissue_image, write_slide

import retile_image
from pairscape.core.errors import InputError
from pairscape.images import tiff as slides


def run(tmp_path):
    target = tmp_path / "out" / "he_tiled.ome.tif"
    retile_image.main([f"--he-image={tmp_path / 'he.tif'}", f"--tiled={target}"])
    return target


@pytest.mark.parametrize("rows", [7, 900])
def test_an_untiled_image_is_tiled_with_the_same_pixels(tmp_path, monkeypatch, rows):
    image = tissue_image(900, 1100)
    options = {"photometric": "rgb", "compression": "deflate", "rowsperstrip": rows}
    tifffile.imwrite(tmp_path / "he.tif", image, **options)
    monkeypatch.setattr(slides, "MAX_TILE_BYTES", 1_000_000)
    with slides.TiffImage(run(tmp_path)) as slide:
        assert slide.is_tiled
        assert np.array_equal(slide.read_region(0, 0, 1100, 900), image)


def test_a_tiled_image_is_only_linked(tmp_path):
    write_slide(tmp_path / "he.tif", tissue_image(300, 200))
    target = run(tmp_path)
    assert target.is_symlink()
    assert target.samefile(tmp_path / "he.tif")


def test_a_damaged_image_is_refused_and_leaves_nothing(tmp_path):
    write_slide(tmp_path / "he.tif", tissue_image(900, 1100), tile=None, rowsperstrip=100)
    data = (tmp_path / "he.tif").read_bytes()
    (tmp_path / "he.tif").write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"he\.tif: "):
        run(tmp_path)
    assert not list((tmp_path / "out").iterdir())
