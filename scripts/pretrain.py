"""Train an image-gene pair contrastively on a dataset, then embed its validation and test pairs.

IN   the dataset's shards, splits.tsv and genes.tsv; the stored features of the frozen image encoder
OUT  model.ckpt, options.json, metrics.csv, curve.png; embeddings/<split>* beside them
"""

import csv
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from pairscape import encoders, files, program
from pairscape.errors import InputError

RESULT_VERSION = 1
PACKAGES = ("torch", "lightning", "open_clip_torch", "timm", "numpy", "pyarrow")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        splits="the dataset's splits.tsv",
        genes="the dataset's genes.tsv",
        features="optional: the image features (.npy), for a frozen image encoder",
        features_index="optional: their index (.json)",
        model="the trained pair to write (model.ckpt)",
        run_options="the resolved options to write (options.json)",
        metrics="the training metrics to write (.csv)",
        curve="the training curve to write (.png)",
    )
    options = args.options
    for kind in ("image", "gene"):
        file = f"config/encoders/{kind}/{options[f'{kind}_name']}.yaml"
        encoders.require_built(options[f"{kind}_encoder"], file)
    if options.get("protocol", "corrected") != "corrected":
        raise InputError(
            "--options",
            "protocol",
            options["protocol"],
            "choose corrected: the other isn't built yet",
        )
    if not args.features or not args.features_index:
        raise InputError(
            "--features",
            "flag",
            "nothing",
            "give the features that embed_images made, and their index",
        )
    samples = options["samples"]
    if len(args.shards) != len(samples):
        raise InputError(
            "--shards",
            "number",
            f"{len(args.shards)}",
            f"give one for each of {len(samples)} samples",
        )

    import lightning as L
    import torch

    from pairscape import embeddings, image_encoders, pair_data, pairs, pretraining

    torch.set_num_threads(args.threads)
    training = pretraining.resolve_training(options["training"])
    genes = [gene["gene_symbol"] for gene in pairs.read_genes(args.genes)]
    splits = files.read_tsv(args.splits, ["sample", "split", "organ", "disease_state"])
    features, index = embeddings.read_features(args.features, args.features_index)
    shards = check_features(args, index, image_encoders.spec_sha256(options["image_encoder"]))
    row_counts = [shard["rows"] for shard in shards]
    rows = pair_data.split_rows(samples, row_counts, splits, args.splits)
    if training["select"] == "best_val_loss" and not len(rows["val"]):
        raise InputError(
            args.splits,
            "split val",
            "no pairs",
            "set training.select to last, or put a sample into val",
        )
    if len(rows["train"]) < training["batch_size"]:
        program.log.info(
            "the train split has %d pairs, fewer than batch_size %d: each batch is all of them",
            len(rows["train"]),
            training["batch_size"],
        )
    counts = pair_data.Counts(args.shards, genes)
    library_size = pair_data.train_facts(counts, rows["train"], args.splits).library_size

    identity = files.sha256_json(
        {
            "result_version": RESULT_VERSION,
            "options": options,
            "training": training,
            "shards": shards,
            "features": index["sha256"],
            "splits": files.sha256_file(args.splits),
            "genes": files.sha256_file(args.genes),
        }
    )
    folder = Path(args.model).parent
    seed = options["seed"]
    L.seed_everything(seed, verbose=False)
    module = pretraining.Pair(
        options["gene_encoder"], training, features.shape[1], len(genes), library_size
    )
    data = pretraining.PairData(features, counts, rows, training["batch_size"], seed)
    selected, metrics = pretraining.train(module, data, folder, identity, seed)
    module.load_state_dict(selected["state"], strict=True)

    facts = {
        "experiment": options["experiment"],
        "dataset": options["dataset"],
        "image_encoder": options["image_name"],
        "gene_encoder": options["gene_name"],
        "seed": seed,
        "options_sha256": identity,
        "selected_step": selected["step"],
    }
    scale = float(module.logit_scale.detach().exp())
    for split in ("val", "test"):
        if not len(rows[split]):
            for path in embeddings.run_files(folder, split).values():
                path.unlink(missing_ok=True)
            continue
        images, expression = pretraining.embed_pairs(module, data.pairs, rows[split])
        embeddings.write_run_embeddings(
            folder,
            split,
            images,
            expression,
            pair_data.run_index(args.shards, splits, rows[split]),
            {**facts, "logit_scale": scale},
        )
    with files.atomic_path(args.metrics) as path, open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, pretraining.METRIC_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in metrics:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    pretraining.plot_curve(
        args.curve,
        metrics,
        selected["step"],
        training["loss"],
        f"{options['image_name']} – {options['gene_name']}, {options['dataset']}, seed {seed}",
    )
    files.write_json(
        args.run_options,
        {
            **facts,
            "options": {**options, "training": training},
            "precision": pretraining.resolve_precision(training["precision"]),
            "result_version": RESULT_VERSION,
            "splits": splits,
            "pairs": {split: len(rows[split]) for split in rows},
            "genes": len(genes),
            "library_size": library_size,
            "parameters": {
                name: sum(p.numel() for p in part.parameters())
                for name, part in module.named_children()
            },
            "selected_val_loss": selected["loss"],
            "logit_scale": scale,
            "shards": shards,
            "features_sha256": index["sha256"],
            "image_weights_sha256": index["weights_sha256"],
            "fingerprint": index["fingerprint"],
            "versions": versions(),
            "git_commit": git_commit(),
        },
    )
    pretraining.save_pair(args.model, module, selected["state"], {**facts, "genes": genes})
    (folder / "last.ckpt").unlink(missing_ok=True)
    program.log.info(
        "%s-%s, seed %d: step %d of %d selected%s",
        options["image_name"],
        options["gene_name"],
        seed,
        selected["step"],
        training["max_steps"],
        "" if selected["loss"] is None else f", validation loss {selected['loss']:.3f}",
    )


def check_features(args, index: dict, encoder_sha256: str) -> list[dict]:
    """The shards' samples, sizes and checksums, which must be those the features were made of."""
    if index.get("encoder_sha256") != encoder_sha256:
        raise InputError(
            args.features_index,
            "encoder_sha256",
            "features of another encoder, or of another state of its file",
            "embed the images again",
        )
    found = [
        {"sample": sample, "rows": shard.get("rows"), "sha256": files.sha256_file(path)}
        for sample, path, shard in zip(
            args.options["samples"], args.shards, index["shards"], strict=False
        )
    ]
    for shard, expected, path in zip(found, index["shards"], args.shards, strict=False):
        if shard != expected:
            raise InputError(
                args.features_index,
                f"shards, sample {expected.get('sample')}",
                f"features that weren't made of {path}",
                "embed the images again",
            )
    if len(index["shards"]) != len(args.shards):
        raise InputError(
            args.features_index,
            "shards",
            f"{len(index['shards'])} of them for {len(args.shards)} shards",
            "embed the images again",
        )
    return found


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


def git_commit() -> str | None:
    """The commit this program is of, or None outside a git repository."""
    try:
        done = subprocess.run(
            [
                "git",
                "-C",
                str(Path(__file__).parent),
                "describe",
                "--always",
                "--dirty",
                "--abbrev=40",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    program.run(main)
