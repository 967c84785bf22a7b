"""Small whole slides: a stained square on glass, for several tests."""

import numpy as np
import tifffile

PINK, GLASS = (200, 90, 150), (246, 246, 246)


def paint(side_px=1024, tissue=(256, 256, 768, 768), seed=0):
    """uint8 (side, side, 3): textured tissue in the box (left, top, right, bottom), glass around."""
    rng = np.random.default_rng(seed)
    pixels = np.full((side_px, side_px, 3), GLASS, np.uint8)
    if tissue:
        left, top, right, bottom = tissue
        noise = rng.integers(-60, 55, (bottom - top, right - left, 3))
        pixels[top:bottom, left:right] = np.clip(np.array(PINK) + noise, 0, 255)
    return pixels


def write_slide(path, pixels, um_per_px=0.25, halvings=0, **more):
    """Write a tiled TIFF as OpenSlide reads it; ``halvings`` levels below the full resolution."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": "deflate", **more}
    if um_per_px:
        x, y = np.broadcast_to(um_per_px, 2)
        options |= {"resolution": (1e4 / x, 1e4 / y), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, **options)
        for _ in range(halvings):
            pixels = pixels.reshape(len(pixels) // 2, 2, -1, 2, 3).mean((1, 3)).round()
            pixels = pixels.astype(np.uint8)
            tiff.write(pixels, subfiletype=1, **{k: v for k, v in options.items()})
    return path
