"""Embedding patches: reading, decoding and the encoder, against timm's forward of ready images.

Both run EfficientNet-Lite0 in one thread, in batches of the same size; ours is what ``embed_images``
does with a shard of JPEG patches, timm's is its model as it comes, on float images in memory.
"""

import tempfile
from pathlib import Path

import bench_shards
import numpy as np
from measure import ROOT, arguments, compare, finish, need_space, repeat

ENCODER = "tf_efficientnet_lite0"


def main(argv=None):
    args = arguments(__doc__, scratch="folder for the shard").parse_args(argv)
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
        bench_shards.ours(bench_shards.make_pairs(len(batches) * size), shard)
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


if __name__ == "__main__":
    main()
