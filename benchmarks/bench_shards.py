"""Writing Arrow shards, against Dataset.from_generator with its default encoding (PNG).

Both get the same patches (224 px, uint8) and counts, and write the same columns; ours stores JPEG
of quality 95 with all colour, the default of a patch preset.
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from bench_patches import tissue
from measure import arguments, compare, finish, need_space, repeat

GENES = 480
PATCH_PX = 224
LABELS = {"name": ["S1"], "source": ["simulated"], "tissue": ["breast"]}


def main(argv=None):
    args = arguments(__doc__, scratch="folder for the shards").parse_args(argv)
    rows = 30 if args.quick else 1500
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        need_space(scratch, rows * PATCH_PX**2 * 3)
        pairs_given = make_pairs(rows)
        number = itertools.count()
        for warm in (ours, theirs):
            warm(pairs_given[:5], Path(scratch) / f"warm{next(number)}")
        spent = repeat(
            {
                "ours": lambda: ours(pairs_given, Path(scratch) / f"run{next(number)}"),
                "theirs": lambda: theirs(pairs_given, Path(scratch) / f"run{next(number)}"),
            },
            1 if args.quick else 3,
        )
    size = f"{rows} pairs of {PATCH_PX} px and {GENES} genes; JPEG / PNG"
    row = compare("shards, Dataset.from_generator", spent["ours"], spent["theirs"], ">= 20", size)
    finish(args.results, "shards", [row])


def make_pairs(rows: int) -> list[dict]:
    """Pairs with their patch as pixels, all other columns as ``pairs.iter_pairs`` makes them."""
    from pairscape.dataset import cutting

    texture = tissue(2048 if rows > 100 else 512)
    rng = np.random.default_rng(0)
    sample = {"sample": "S1", "donor": "D1", "source": "simulated", "organ": "breast"}
    constant = cutting.sample_columns(sample)
    made = []
    for i in range(rows):
        y, x = rng.integers(0, len(texture) - PATCH_PX, 2)
        made.append(
            {
                **constant,
                "image": texture[y : y + PATCH_PX, x : x + PATCH_PX].copy(),
                "gexp": rng.poisson(0.4, GENES).astype(np.int32),
                "cell_coords": rng.random(2).astype(np.float32),
                "spot": f"{i:03d}x000",
                "array_row": i,
                "array_col": 0,
                "x_um": float(i),
                "y_um": 0.0,
                "um_per_px": 0.5,
                "tissue_fraction": 0.9,
            }
        )
    return made


def ours(given: list[dict], path: Path) -> None:
    from pairscape.dataset import cutting, pair_shards
    from pairscape.images import encoding

    features = cutting.pair_features(GENES, LABELS)
    rows = ({**pair, "image": encoding.encode_patch(pair["image"], "jpeg")} for pair in given)
    metadata = dict.fromkeys(pair_shards.METADATA_KEYS, "")
    pair_shards.write_shard(path.with_suffix(".arrow"), rows, features, metadata)


def theirs(given: list[dict], folder: Path) -> None:
    import datasets
    from PIL import Image

    from pairscape.dataset import cutting

    datasets.disable_progress_bars()

    def generate():
        for pair in given:
            image = Image.fromarray(pair["image"])
            yield {**pair, "image": image, "gexp": pair["gexp"][None]}

    features = cutting.pair_features(GENES, LABELS)
    made = datasets.Dataset.from_generator(generate, features=features, cache_dir=str(folder))
    if len(made) != len(given):
        raise SystemExit("Dataset.from_generator made other rows")


if __name__ == "__main__":
    main()
