"""Cutting patches: tiles decoded once in slide order, against openslide's read_region and a resize.

The H&E is made: a JPEG-tiled pyramid-less OME-TIFF, 0.2738 µm per pixel, spots 55 µm apart, each
patch 112 µm (409 px) wide and stored with 224 px. Ours is the mean of exactly the area that a pixel
covers, at the exact place; theirs is at whole pixels, resized by Pillow (bilinear).
"""

import math
import tempfile
from pathlib import Path

import numpy as np
from measure import arguments, compare, finish, need_space, repeat

SIDE_PX = 409
PATCH_PX = 224
PITCH_PX = 200.88
TILE_PX = 256


def main(argv=None):
    args = arguments(__doc__, scratch="folder for the image").parse_args(argv)
    side = 1500 if args.quick else 12_000
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        need_space(scratch, side * side)
        path = write_slide(Path(scratch) / "he.ome.tif", side)
        steps = np.arange(SIDE_PX / 2 + 1, side - SIDE_PX / 2 - 1, PITCH_PX)
        centres = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
        apart = np.abs(ours(path, centres[:40]) - theirs(path, centres[:40])).mean()
        if apart > 8:  # grey levels; whole pixels and another kernel make 3
            raise SystemExit(f"the patches are {apart:.1f} grey levels apart")
        spent = repeat(
            {"ours": lambda: ours(path, centres), "theirs": lambda: theirs(path, centres)},
            1 if args.quick else 3,
        )
    size = f"{len(centres)} patches, {SIDE_PX} to {PATCH_PX} px, of {side} x {side} px"
    row = compare("patches, openslide and a resize", spent["ours"], spent["theirs"], ">= 2.5", size)
    finish(args.results, "patches", [row])


def write_slide(path: Path, side: int) -> Path:
    """Write a stained-looking image of ``side`` pixels a side, a tile at a time."""
    import tifffile

    texture = tissue(2048 if side > 2048 else 512)
    rng = np.random.default_rng(1)
    count = math.ceil(side / TILE_PX) ** 2

    def tiles():
        for _ in range(count):
            y, x = rng.integers(0, len(texture) - TILE_PX, 2)
            yield np.ascontiguousarray(texture[y : y + TILE_PX, x : x + TILE_PX])

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        tile=(TILE_PX, TILE_PX),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 85},
        ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.2738, "PhysicalSizeY": 0.2738},
    )
    return path


def tissue(side: int, seed: int = 0) -> np.ndarray:
    """uint8 (side, side, 3): eosin of several scales, nuclei in haematoxylin, grain."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    stroma = sum(
        weight
        * ndimage.gaussian_filter(rng.standard_normal((side, side)), sigma, mode="wrap")
        * sigma
        for sigma, weight in ((2, 1.0), (8, 1.5), (40, 2.0))
    )
    nuclei = np.zeros((side, side))
    nuclei[tuple(rng.integers(0, side, (2, side * side // 900)))] = 1
    nuclei = ndimage.gaussian_filter(nuclei, 5, mode="wrap") > 0.003
    stroma = np.clip(0.55 + 0.12 * stroma, 0, 1)[..., None]
    image = 245 - stroma * np.array([30, 110, 60]) - nuclei[..., None] * np.array([90, 70, 20])
    return np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)


def ours(path, centres) -> np.ndarray | None:
    from pairscape.images.tiff import TiffImage

    with TiffImage(path) as slide:
        patches = slide.iter_patches(centres, SIDE_PX, PATCH_PX)
        return _few(centres, patches)


def theirs(path, centres) -> np.ndarray | None:
    import openslide
    from PIL import Image

    def cut():
        for index, (x, y) in enumerate(np.round(centres - SIDE_PX / 2).astype(int)):
            region = slide.read_region((int(x), int(y)), 0, (SIDE_PX, SIDE_PX)).convert("RGB")
            yield index, np.asarray(region.resize((PATCH_PX, PATCH_PX), Image.Resampling.BILINEAR))

    with openslide.OpenSlide(path) as slide:
        return _few(centres, cut())


def _few(centres, patches) -> np.ndarray | None:
    """The patches in their order where they are few; many are only cut."""
    kept = [None] * len(centres) if len(centres) <= 40 else None
    for index, patch in patches:
        if kept is not None:
            kept[index] = patch.astype(np.int16)
    return np.stack(kept) if kept is not None else None


if __name__ == "__main__":
    main()
