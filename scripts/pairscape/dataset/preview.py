"""The picture of a dataset on its card: some patches of each split."""

import io
from collections.abc import Mapping, Sequence

import numpy as np

from pairscape.dataset import pair_shards
from pairscape.dataset.splits import SPLITS

COLUMNS = 8
PATCH_PX = 96
GAP_PX = 4
QUALITY = 85


def draw(paths: Mapping[str, str], splits: Sequence[Mapping]):
    """A row of patches for each split that has pairs, spread evenly over them: a PIL image.

    ``paths`` are the shards by sample, ``splits`` the rows of splits.tsv.
    """
    from PIL import Image

    rows = []
    for split in SPLITS:
        images = [
            pair_shards.read_shard_table(paths[row["sample"]])["image"]
            for row in splits
            if row["split"] == split
        ]
        ends = np.cumsum([len(image) for image in images], dtype=int)
        if not len(ends) or not ends[-1]:
            continue
        chosen = np.unique(np.linspace(0, ends[-1] - 1, COLUMNS + 2).round().astype(int)[1:-1])
        shards = np.searchsorted(ends, chosen, side="right")
        starts = ends - [len(image) for image in images]
        rows.append(
            [
                images[shard][int(at - starts[shard])].as_py()["bytes"]
                for shard, at in zip(shards, chosen, strict=True)
            ]
        )
    step = PATCH_PX + GAP_PX
    size = COLUMNS * step - GAP_PX, max(len(rows) * step - GAP_PX, 1)
    drawn = Image.new("RGB", size, "white")
    for y, patches in enumerate(rows):
        for x, patch in enumerate(patches):
            with Image.open(io.BytesIO(patch)) as opened:
                small = opened.convert("RGB").resize((PATCH_PX, PATCH_PX), Image.Resampling.BOX)
            drawn.paste(small, (x * step, y * step))
    return drawn
