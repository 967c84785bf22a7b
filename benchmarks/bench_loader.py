"""Reading pairs for a model, against datasets' set_transform with torchvision's v2 transforms.

Both read the same shard (224 px, JPEG; 480 genes) in the same shuffled batches and make the same
tensors, by the evaluation transforms of an encoder of 224 px. Theirs transforms each image for
itself, as a transform with random draws must, and reads no other column than it gives out: the
image, or the image and its counts.
"""

import tempfile
from pathlib import Path

import numpy as np
from bench_shards import GENES, LABELS, PATCH_PX, make_pairs
from measure import arguments, compare, finish, need_space, repeat

BATCH = 64
INPUT = {
    "resize_px": PATCH_PX,
    "crop_px": PATCH_PX,
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def main(argv=None):
    args = arguments(__doc__, scratch="folder for the shard").parse_args(argv)
    import torch

    torch.set_num_threads(1)
    rows = 80 if args.quick else 1536
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        need_space(scratch, rows * 40_000)
        shard = write_shard(Path(scratch) / "S1.arrow", rows)
        order = np.random.default_rng(0).permutation(rows)
        batches = [order[at : at + BATCH] for at in range(0, rows, BATCH)]
        table = []
        for what, columns in (("patches", ["image"]), ("pairs", ["image", "gexp"])):
            loaders = {"ours": ours(shard, columns), "theirs": theirs(shard, columns)}
            # The first calls, which pay for what is loaded late, are for the check.
            apart = max(distance(*(load(batch) for load in loaders.values())) for batch in batches)
            if apart > 1e-5:
                raise SystemExit(f"the tensors are {apart:.2g} apart")
            calls = {
                name: lambda load=load: read_all(load, batches) for name, load in loaders.items()
            }
            spent = repeat(calls, 1 if args.quick else 5)
            size = f"{rows} {what}, {PATCH_PX} px JPEG, batches of {BATCH}"
            seconds = spent["ours"], spent["theirs"]
            table.append(compare(f"{what}, set_transform", *seconds, ">= 2", size))
    finish(args.results, "loader", table)


def write_shard(path: Path, rows: int) -> Path:
    from pairscape.dataset import cutting, pair_shards
    from pairscape.images import encoding

    given = ({**p, "image": encoding.encode_patch(p["image"], "jpeg")} for p in make_pairs(rows))
    genes = {"genes": [f"G{i}" for i in range(GENES)]}
    metadata = dict.fromkeys(pair_shards.METADATA_KEYS, "") | genes
    pair_shards.write_shard(path, given, cutting.pair_features(GENES, LABELS), metadata)
    return path


def distance(ours, theirs) -> float:
    """The largest difference between two batches of tensors."""
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))


def read_all(load, batches) -> None:
    for batch in batches:
        load(batch)


def ours(shard: Path, columns):
    import torch

    from pairscape.dataset.expression_counts import Counts
    from pairscape.dataset.patch_reader import PatchReader
    from pairscape.dataset.shards import Shards
    from pairscape.images.encoding import normalise

    reader = PatchReader([shard], INPUT)
    shards = Shards.open([shard])
    counts = Counts(shards, shards.metadata[0]["genes"])

    def load(rows):
        images = normalise(reader.read(rows), INPUT["mean"], INPUT["std"])
        return (images, torch.from_numpy(counts[rows])) if "gexp" in columns else (images,)

    return load


def theirs(shard: Path, columns):
    import datasets
    import torch
    from torchvision.transforms import v2

    prepare = v2.Compose(
        [
            v2.Resize(INPUT["resize_px"], v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(INPUT["crop_px"]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(INPUT["mean"], INPUT["std"]),
        ]
    )

    def transform(batch):
        return {**batch, "image": [prepare(image) for image in batch["image"]]}

    data = datasets.Dataset.from_file(str(shard)).select_columns(columns)
    data.set_transform(transform)

    def load(rows):
        batch = data[rows]
        images = torch.stack(batch["image"])
        return (images, torch.tensor(batch["gexp"])[:, 0]) if "gexp" in columns else (images,)

    return load


if __name__ == "__main__":
    main()
