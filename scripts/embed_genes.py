"""Embed all spots of a dataset with a frozen gene encoder, once.

IN   the shards of a dataset, its genes.tsv, the encoder's weights; its splits.tsv where the encoder
     was fitted to the train split, or its input depends on that
OUT  features.npy, float32 (spots, width), spots in the order of the shards;
     features.json: shards, checksums, the encoder's fingerprint, what of the train split was used
"""

from pathlib import Path

from pairscape.core import logs
from pairscape.core.errors import InputError, one_each
from pairscape.encoders import specs, user_code
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        splits="optional: the dataset's splits.tsv, for encoders that know of the train split",
        genes="the dataset's genes.tsv",
        weights="optional: the encoder's weights, fetched or fitted, other files of it beside them",
        features=program.Output("the features to write (.npy)"),
        index=program.Output("their index to write (.json)"),
    )
    options = args.options
    spec, name, samples = options["encoder"], options["encoder_name"], options["samples"]
    specs.require_built(spec, f"config/encoders/gene/{name}.yaml")
    user_code.allow(spec)
    one_each(args.shards, samples, "--shards")
    weights = find_weights(spec, name, args.weights)

    from pairscape.core import files
    from pairscape.dataset import expression_counts, gene_lists, plain_features, stored_features
    from pairscape.dataset.shards import Shards
    from pairscape.dataset.splits import read_splits

    shards = Shards.open(args.shards, samples)
    genes = gene_lists.read_genes(args.genes)
    counts = expression_counts.Counts(shards, [gene["gene_symbol"] for gene in genes])
    train, known = None, {}
    if specs.uses_train_facts(spec) or spec["learned_from"] == "dataset":
        if not args.splits:
            remedy = f"{name} knows of the train split: give splits.tsv"
            raise InputError("--splits", "flag", "nothing", remedy)
        splits = read_splits(args.splits)
        if spec["learned_from"] == "dataset":
            from pairscape.encoders.architectures import drvi

            fit = drvi.check_fitted_on(weights, splits, args.splits, shards.described())
            known["fitted_on"] = {key: fit[key] for key in ("samples", "leaked", "sha256")}
        if specs.uses_train_facts(spec):
            rows = expression_counts.split_rows(shards, splits, args.splits)["train"]
            train = expression_counts.train_facts(counts, rows, args.splits)
            known["train_samples"] = sorted(r["sample"] for r in splits if r["split"] == "train")
    if specs.has_network(spec):
        blocks, model = embed_counts(args, weights, counts, genes, train)
    else:
        _, blocks, model = plain_features.read(spec, weights, shards, Path(args.features).parent)
    index = stored_features.write_features(
        Path(args.features),
        Path(args.index),
        blocks,
        shards.described(),
        spec["width"],
        {
            "dataset": options["dataset"],
            "encoder": name,
            "encoder_sha256": specs.spec_sha256(spec),
            "genes_sha256": files.sha256_json(genes),
            **model,
            **known,
        },
    )
    logs.log.info(
        "%d spots of %d samples embedded by %s into %d numbers each",
        index["rows"],
        len(samples),
        name,
        index["width"],
    )


def embed_counts(args, weights, counts, genes, train):
    """The embeddings of all spots, block by block, and what names the encoder that makes them."""
    from pairscape.encoders import gene_encoders
    from pairscape.encoders import weights as weight_files

    spec = args.options["encoder"]
    tower = gene_encoders.build(spec, weights, genes, train)
    rows = logs.progress(range(len(counts)), f"embed {args.options['encoder_name']}", unit="spot")
    size = args.options.get("batch", gene_encoders.BATCH)
    return gene_encoders.embed(tower, counts, rows, size, args.threads), {
        "weights_sha256": weight_files.state_sha256(tower),
        "fingerprint": gene_encoders.fingerprint(tower, spec, genes),
    }


def find_weights(spec, name: str, path):
    """The weights file, or None for a control that has none. Nothing else runs at random."""
    from pairscape.encoders import weights

    if spec["learned_from"] == "pair":
        remedy = "an encoder that learns with the pair has no embeddings before: pretrain it"
        raise InputError(f"config/encoders/gene/{name}.yaml", "learned_from", "pair", remedy)
    if spec["weights"] is not None:
        return weights.find_weights(spec, path)
    if spec.get("control") and path is None:
        return None
    if path is None or not Path(path).is_file():
        raise InputError(
            path or "--weights", "file", "nothing", f"fit {name} to the dataset's train split first"
        )
    return Path(path)


if __name__ == "__main__":
    program.run(main)
