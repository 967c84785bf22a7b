"""Embedding patches: reading, decoding and the encoder, against timm's forward of ready images.

Both run EfficientNet-Lite0 in one thread, in batches of the same size; ours is what ``embed_images``
does with a shard of JPEG patches, timm's is its model as it comes, on float images in memory.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from bench_shards import GENES, LABELS, make_pairs
from measure import ROOT, compare, finish, need_space, repeat

ENCODER = "tf_efficientnet_lite0"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", default="results/bench", help="folder of the table")
    parser.add_argument("--scratch", default=None, help="folder for the shard")
    parser.add_argument("--quick", action="store_true", help="small sizes: it runs, no more")
    args = parser.parse_args(argv)
    import timm
    import torch

    from pairscape.dataset.patch_reader import PatchReader
    from pairscape.encoders import image_encoders, specs, weights

    torch.set_num_threads(1)
    spec = specs.read_encoder(ROOT / "config" / "encoders", "image", ENCODER)
    tower = image_encoders.build(spec, weights.find_weights(spec, None))
    model = timm.create_model(ENCODER, num_classes=0).eval()
    size = image_encoders.batch_size()
    batches = np.array_split(np.arange(size * (1 if args.quick else 8)), 1 if args.quick else 8)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        shard = Path(scratch) / "S1.arrow"
        need_space(scratch, 200_000 * len(batches) * size)
        write_shard(shard, len(batches) * size)
        reader = PatchReader([shard], spec["input"])
        side = spec["input"]["crop_px"]
        images = torch.rand(size, 3, side, side)

        def theirs() -> None:
            with torch.inference_mode():
                for _ in batches:
                    model(images)

        spent = repeat(
            {
                "ours": lambda: list(image_encoders.embed(tower, spec, reader.read, batches)),
                "theirs": theirs,
            },
            1 if args.quick else 3,
        )
    patches = len(batches) * size
    what = f"{patches} patches of {side} px, batches of {size}: {patches / spent['ours']:.0f} per CPU s"
    row = compare("embedding, forward by timm", spent["ours"], spent["theirs"], "<= 1.11", what)
    finish(args.results, "embedding", [row])


def write_shard(path: Path, rows: int) -> None:
    """A shard of so many pairs, its patches as JPEG."""
    from pairscape.dataset import cutting, pair_shards
    from pairscape.images import encoding

    pairs = ({**p, "image": encoding.encode_patch(p["image"], "jpeg")} for p in make_pairs(rows))
    metadata = dict.fromkeys(pair_shards.METADATA_KEYS, "")
    pair_shards.write_shard(path, pairs, cutting.pair_features(GENES, LABELS), metadata)


if __name__ == "__main__":
    main()
