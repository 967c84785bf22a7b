"""Embed all patches of a dataset with a frozen image encoder, once.

IN   the shards of a dataset, the encoder's weights
OUT  features.npy, float32 (patches, width), patches in the order of the shards;
     features.json: shards, checksums, the encoder's fingerprint
"""

from pathlib import Path

from pairscape import encoders, program
from pairscape.errors import InputError

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        features="the features to write (.npy)",
        index="their index to write (.json)",
        weights="optional: the encoder's fetched weights; not for those in a Python package",
    )
    options = args.options
    spec, samples = options["encoder"], options["samples"]
    encoders.require_built(spec, f"config/encoders/image/{options['encoder_name']}.yaml")
    if len(args.shards) != len(samples):
        raise InputError(
            "--shards",
            "number",
            f"{len(args.shards)}",
            f"give one for each of {len(samples)} samples",
        )

    from pairscape import embeddings, files, image_encoders, pairs

    weights = image_encoders.find_weights(spec, args.weights)
    shards = []
    for sample, path in zip(samples, args.shards, strict=True):
        found = pairs.shard_metadata(path)["sample"]
        if found != sample:
            raise InputError(path, "sample", found, f"give the shard of {sample} in this place")
        rows = pairs.read_shard_table(path).num_rows
        shards.append({"sample": sample, "rows": rows, "sha256": files.sha256_file(path)})
    tower = image_encoders.build(spec, weights)
    patches = image_encoders.iter_patches(args.shards)
    total = sum(shard["rows"] for shard in shards)
    index = embeddings.write_features(
        Path(args.features),
        Path(args.index),
        image_encoders.embed(
            tower,
            spec,
            program.progress(patches, f"embed {options['encoder_name']}", total, "patch"),
            options.get("batch", image_encoders.BATCH),
            args.threads,
        ),
        shards,
        spec["width"],
        {
            "dataset": options["dataset"],
            "encoder": options["encoder_name"],
            "encoder_sha256": image_encoders.spec_sha256(spec),
            "weights_sha256": image_encoders.tower_sha256(tower),
            "fingerprint": image_encoders.fingerprint(tower, spec),
        },
    )
    program.log.info(
        "%d patches of %d samples embedded by %s into %d numbers each",
        index["rows"],
        len(shards),
        options["encoder_name"],
        index["width"],
    )


if __name__ == "__main__":
    program.run(main)
