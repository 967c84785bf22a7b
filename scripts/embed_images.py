"""Embed all patches of a dataset with a frozen image encoder, once.

IN   the shards of a dataset, the encoder's weights
OUT  features.npy, float32 (views x patches, width): view 0 holds the patches as they are, in the
     order of the shards; further views hold each of them augmented in its own way;
     features.json: shards, views, checksums, the encoder's fingerprint
"""

from pathlib import Path

import numpy as np

from pairscape.core import logs
from pairscape.core.errors import InputError, one_each
from pairscape.encoders import specs
from pairscape.jobs import program

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        features=program.Output("the features to write (.npy)"),
        index=program.Output("their index to write (.json)"),
        weights="optional: the encoder's fetched weights; not for those in a Python package",
    )
    options = args.options
    spec, samples = options["encoder"], options["samples"]
    specs.require_built(spec, f"config/encoders/image/{options['encoder_name']}.yaml")
    one_each(args.shards, samples, "--shards")
    views = options.get("views", 1)
    augmented = check_augmentation(options) if views > 1 else {}
    weights = find_weights(spec, options["encoder_name"], args.weights)

    from pairscape.dataset import plain_features, stored_features
    from pairscape.dataset.shards import Shards

    shards = Shards.open(args.shards, samples)
    if specs.has_network(spec):
        width, blocks, model = embed_patches(args, weights, views, augmented)
    else:
        width, blocks, model = plain_features.read(
            spec, weights, shards, Path(args.features).parent
        )
    index = stored_features.write_features(
        Path(args.features),
        Path(args.index),
        blocks,
        shards.described(),
        width,
        {
            "dataset": options["dataset"],
            "encoder": options["encoder_name"],
            "encoder_sha256": specs.spec_sha256(spec),
            **model,
            **augmented,
        },
        views,
    )
    logs.log.info(
        "%d patches of %d samples embedded by %s into %d numbers each%s",
        index["rows"] // views,
        len(samples),
        options["encoder_name"],
        index["width"],
        f", in {views} views" if views > 1 else "",
    )


def check_augmentation(options) -> dict:
    """What the views after the first are made by: kind and seed, as the index holds them."""
    from pairscape.pretrain import augmentation

    kind = options.get("augmentation")
    if kind not in augmentation.KINDS:
        remedy = f"views after the first need one of {', '.join(augmentation.KINDS)}"
        raise InputError("--options", "augmentation", repr(kind), remedy)
    if not specs.sees_patches(options["encoder"]):
        remedy = f"{options['encoder_name']} sees no patches: write 1"
        raise InputError("--options", "views", str(options["views"]), remedy)
    return {"augmentation": kind, "augmentation_seed": options.get("seed", 0)}


def find_weights(spec, name: str, path):
    """The weights file, or None for a control that has none. Nothing else runs at random."""
    from pairscape.encoders import weights

    if spec["weights"] is not None:
        return weights.find_weights(spec, path)
    if path is not None:
        raise InputError(path, "weights", "a file", f"{name} has no weights: leave the flag out")
    if not spec.get("control"):
        remedy = "declare its weights; only a control (key `control`) may run without any"
        raise InputError(f"config/encoders/image/{name}.yaml", "weights", "null", remedy)
    return None


def embed_patches(args, weights, views: int, augmented):
    """Build the encoder: its width, the embeddings of all views of all patches, and what names it."""
    from pairscape.dataset import patch_reader
    from pairscape.encoders import image_encoders
    from pairscape.pretrain import augmentation

    options = args.options
    reader = patch_reader.PatchReader(args.shards, options["encoder"]["input"])
    size = options.get("batch") or image_encoders.batch_size()
    batches = [
        (view, np.arange(at, min(at + size, len(reader))))
        for view in range(views)
        for at in range(0, len(reader), size)
    ]

    def read(batch):
        view, rows = batch
        patches = reader.read(rows)
        if view == 0:
            return patches
        kind, seed = augmented["augmentation"], augmented["augmentation_seed"]
        return augmentation.augment(patches, seed, view, rows, kind)

    spec = options["encoder"]
    tower = image_encoders.build(spec, weights)
    steps = logs.progress(batches, f"embed {options['encoder_name']}", unit="batch")
    model = {
        "weights_sha256": image_encoders.tower_sha256(tower),
        "fingerprint": image_encoders.fingerprint(tower, spec),
    }
    return spec["width"], image_encoders.embed(tower, spec, read, steps, args.threads), model


if __name__ == "__main__":
    program.run(main)
