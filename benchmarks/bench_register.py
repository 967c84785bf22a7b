"""Registration of H&E images that came without an alignment, on simulated tissue whose truth is known.

Each try turns, mirrors, scales and moves the H&E of a simulated sample at random; half of the tries
know the pixel size of the H&E, the others don't. How many were registered, how many of them wrongly,
and how far off they are (medians over the tissue).
"""

import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from measure import ROOT, arguments, compare, finish

from pairscape.acquire import alignment
from pairscape.images.tiff import TiffImage
from pairscape.spots import registration, registration_fit, registration_maps

PIXEL_SIZE_UM = 0.2125
SIDE_UM = 1200
WRONG_UM = 5


def simulated(folder: Path, seed: int, **knobs):
    """A simulated sample: its bundle, the thumbnail of its H&E with scale and size, its alignment."""
    import simulate_bundle

    bundle = folder / str(seed)
    options = {
        "sample": {"sample": "S", "donor": "D", "panel": "p", "organ": "Breast"},
        "seed": seed,
        "simulation": {"width_um": SIDE_UM, "height_um": SIDE_UM} | knobs,
    }
    panel = ROOT / "config/published/panels/human-breast-panel.tsv"
    argv = ["--panel", str(panel), "--bundle", str(bundle), "--options", json.dumps(options)]
    simulate_bundle.main(argv)
    with TiffImage(bundle / "S_he_image.ome.tif") as image:
        thumbnail, scale = image.thumbnail(registration_maps.THUMBNAIL_PX)
    return bundle, thumbnail, scale, alignment.read_alignment(bundle / "S_he_imagealignment.csv")


def changed(thumbnail: np.ndarray, rng):
    """An H&E after a random similarity: the image, the similarity, and its scale."""
    from skimage.transform import AffineTransform, warp

    growth, turn = float(np.exp(rng.uniform(-0.3, 0.3))), rng.uniform(0, 2 * np.pi)
    mirror = np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0, 1.0])
    height, width = thumbnail.shape[:2]
    middle = AffineTransform(translation=(-width / 2, -height / 2)).params
    side = int(np.hypot(width, height) * growth * 1.05)
    shift = side / 2 + rng.uniform(-0.02, 0.02, 2) * side
    placed = AffineTransform(scale=growth, rotation=turn, translation=shift).params
    matrix = placed @ mirror @ middle
    made = warp(
        thumbnail, np.linalg.inv(matrix), output_shape=(side, side), cval=240 / 255, order=1
    )
    # skimage numbers pixels by their middles, alignments by their corners.
    half = AffineTransform(translation=(0.5, 0.5)).params
    return (made * 255).astype(np.uint8), half @ matrix @ np.linalg.inv(half), growth


def reduced(image: np.ndarray, most_px: int):
    """An image of at most so many pixels a side, and how many of its pixels make one."""
    step = max(1, -(-max(image.shape) // most_px))
    rows, columns = (side // step * step for side in image.shape[:2])
    parts = image[:rows, :columns].reshape(rows // step, step, columns // step, step, 3)
    return parts.mean(axis=(1, 3)).astype(np.uint8), step


def error_um(found: np.ndarray, right: np.ndarray, region) -> float:
    """The median distance over the tissue between where two alignments put the H&E (µm)."""
    points = region.centres_um[region.tissue.ravel()] / PIXEL_SIZE_UM
    there = alignment.apply(found @ np.linalg.inv(right), points)
    return float(np.median(np.hypot(*(there - points).T))) * PIXEL_SIZE_UM


def register(image, he_um_per_px, region):
    """A fit and why it is refused (None where it isn't) for an H&E at hand."""
    size_px = (image.shape[1], image.shape[0])
    small = registration_maps.read_picture(*reduced(image, 2048), size_px)
    close = registration_maps.read_close_picture(*reduced(image, 6144), size_px)
    fitted = registration_fit.fit(small, close, region, PIXEL_SIZE_UM, he_um_per_px=he_um_per_px)
    judged = registration.judge(fitted.matrix, small, region, PIXEL_SIZE_UM, he_um_per_px, 0)
    return fitted, registration_fit.refusal(fitted, judged)


def real(section: Path):
    """The same of a section with an alignment that is known to be right."""
    with TiffImage(section / f"{section.name}_he_image.ome.tif") as image:
        thumbnail, scale = image.thumbnail(registration_maps.THUMBNAIL_PX)
    right = alignment.read_alignment(section / f"{section.name}_he_imagealignment.csv")
    return section / "outs", thumbnail, scale, right


def tries(number: int, samples: list, scratch=None):
    """Yield what became of each try; ``samples`` are seeds of simulated tissues, or folders."""
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for place, sample in enumerate(samples):
            rng = np.random.default_rng([place if isinstance(sample, Path) else sample, 7])
            made = real(sample) if isinstance(sample, Path) else simulated(Path(folder), sample)
            bundle, thumbnail, scale, right = made
            region = registration_maps.read_region(bundle)
            right = right @ np.diag([scale, scale, 1.0])
            um_per_px = alignment.decompose(right, PIXEL_SIZE_UM)["um_per_px"]
            for i in range(number // len(samples)):
                image, matrix, growth = changed(thumbnail, rng)
                known = um_per_px / growth if i % 2 else None
                began = time.perf_counter()
                fitted, refused = register(image, known, region)
                yield {
                    "knows_size": known is not None,
                    "error_um": error_um(fitted.matrix, right @ np.linalg.inv(matrix), region),
                    "residual_um": fitted.residual_um,
                    "contrast": (fitted.contrast, fitted.rival_contrast),
                    "refused": refused,
                    "seconds": time.perf_counter() - began,
                }


def main(argv=None):
    parser = arguments(__doc__, scratch="folder for the tissues")
    parser.add_argument("--tries", type=int, default=40)
    parser.add_argument("--tissues", type=int, nargs="+", default=[1, 2, 3, 4], help="seeds")
    parser.add_argument(
        "--sections", type=Path, nargs="+", help="in their place: <section>/outs, ..."
    )
    args = parser.parse_args(argv)
    number, samples = args.tries, args.sections or args.tissues
    if args.quick:
        number, samples = 2, samples[:1]
    rows = []
    made = list(tries(number, samples, args.scratch))
    for knows, word in ((True, "known"), (False, "unknown")):
        chosen = [one for one in made if one["knows_size"] == knows]
        used = [one["error_um"] for one in chosen if one["refused"] is None]
        wrong = sum(error > WRONG_UM for error in used)
        size = f"{len(chosen)} tries on {len(samples)} sections, pixel size {word}"
        seconds = statistics.mean(one["seconds"] for one in chosen)
        took = f"{size}; {seconds:.0f} s each"
        rows += [
            compare("tries that are registered", len(chosen), len(used), ">= 0.9", took, "tries"),
            compare("wrong matrices / tries", wrong, len(chosen), "<= 0", size, "tries"),
        ]
        for share in (0.5, 0.95):
            error = float(np.quantile(used, share)) if used else math.inf
            what = f"error at {share:.0%} / {WRONG_UM} µm"
            rows.append(compare(what, error, WRONG_UM, "<= 1", size, "µm"))
    finish(args.results, "register", rows)


if __name__ == "__main__":
    main()
