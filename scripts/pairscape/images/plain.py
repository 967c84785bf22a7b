"""PNG and JPEG pictures, decoded whole."""

from pathlib import Path

import numpy as np

from pairscape.core.errors import InputError
from pairscape.images import pixel_size
from pairscape.images.tiled import Level, TiledImage


class PlainImage(TiledImage):
    """A decoded picture, an image of one tile; its pixel size is the user's word."""

    def __init__(self, path, um_per_px: float | None, remedy: str):
        self.path = Path(path)
        self.pixels = _read_pixels(self.path)
        super().__init__(self.pixels.nbytes)
        height, width = self.pixels.shape[:2]
        self.set_levels([Level(width, height, width, height)])
        self.um_per_px = pixel_size.settle(path, um_per_px, None, remedy)

    def decode(self, *_) -> np.ndarray:
        """See ``TiledImage``."""
        return self.pixels


def _read_pixels(path: Path) -> np.ndarray:
    """uint8 (height, width, 3), what is transparent on white."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            if opened.mode not in ("RGB", "RGBA", "P"):
                remedy = "save it as 8-bit RGB: H&E has colours"
                raise InputError(path, "colours", f"mode {opened.mode}", remedy)
            pixels = opened.convert("RGBA")
            white = Image.new("RGBA", pixels.size, "white")
            white.alpha_composite(pixels)
            return np.asarray(white.convert("RGB"))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InputError(path, "image", str(error), "save or fetch it again") from None
    except Image.DecompressionBombError:
        found = "more than Pillow reads at once"
        raise InputError(path, "size", found, "save it as a tiled TIFF") from None
