"""Any H&E image by its file's name: a picture, a TIFF, or what OpenSlide reads."""

from pathlib import Path

from pairscape.core.errors import missing_file
from pairscape.images import pixel_size
from pairscape.images.he_image import HEImage

PICTURES = (".png", ".jpg", ".jpeg")
TIFFS = (".tif", ".tiff", ".btf", ".svs")
_REMEDY = "give the size of its pixels with --um-per-px"


def open_image(path, um_per_px: float | None) -> HEImage:
    """Open a PNG, JPEG, TIFF, OME-TIFF or SVS, or any other slide that OpenSlide reads.

    ``um_per_px`` is the user's word for the pixel size; None takes the file's. PNG and JPEG have none.
    """
    path = Path(path)
    if not path.is_file():
        raise missing_file(path, "give the H&E image")
    if path.suffix.lower() in PICTURES:
        from pairscape.images.plain import PlainImage

        return PlainImage(path, um_per_px, _REMEDY)
    if path.suffix.lower() in TIFFS:
        from pairscape.images.tiff import TiffImage

        image = TiffImage(path)
        stated = image.um_per_px and (image.um_per_px, image.um_per_px)
        try:
            image.um_per_px = pixel_size.settle(path, um_per_px, stated, _REMEDY)
        except BaseException:
            image.close()
            raise
        return image
    from pairscape.images.whole_slide import WholeSlide

    return WholeSlide(path, um_per_px, _REMEDY)
