"""Train an image-gene pair contrastively on a dataset, then embed its validation and test pairs.

A side that is frozen is read as stored features and its encoder isn't built; a side that is tuned
runs its encoder here. Several devices: see the training options `devices` and `nodes`.

IN   the dataset's shards, splits.tsv and genes.tsv; stored features, or weights, of each encoder
OUT  model.ckpt, options.json, metrics.csv, curve.png; embeddings/<split>* beside them;
     where the memory ran out: failed.json
"""

import csv
import importlib.metadata
import platform
from pathlib import Path

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError, one_each
from pairscape.encoders import specs
from pairscape.jobs import program
from pairscape.jobs.records import git_commit
from pairscape.pretrain import experiment, failures

RESULT_VERSION = 4
PACKAGES = ("torch", "lightning", "open_clip_torch", "peft", "timm", "numpy", "pyarrow")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        splits="the dataset's splits.tsv",
        genes="the dataset's genes.tsv",
        image_features="optional: the image features (.npy), for a frozen image encoder",
        image_index="optional: their index (.json)",
        gene_features="optional: the gene features (.npy), for a frozen gene encoder",
        gene_index="optional: their index (.json)",
        image_weights="optional: the image encoder's fetched weights, where it is tuned",
        gene_weights="optional: the gene encoder's weights, fetched or fitted, where it is tuned",
        model=program.Output("the trained pair to write (model.ckpt)"),
        run_options=program.Output("the resolved options to write (options.json)"),
        metrics=program.Output("the training metrics to write (.csv)"),
        curve=program.Output("the training curve to write (.png)"),
    )
    options = args.options
    check_options(options, args.shards)

    import torch

    from pairscape.dataset import expression_counts, gene_lists
    from pairscape.dataset.shards import Shards
    from pairscape.pretrain import processes, stored_sides, training_loop

    torch.set_num_threads(args.threads)
    training = training_loop.resolve_training(options["training"])
    genes = gene_lists.read_genes(args.genes)
    splits = tsv.read_tsv(args.splits, ["sample", "split", "organ", "disease_state"])
    opened = Shards.open(args.shards, options["samples"])
    shards = opened.described()
    if (
        is_closed_form(options)
        and not experiment.runs_once(training, options["gene_encoder"])["image"]
    ):
        raise InputError(
            "--options",
            "training.image_tuning",
            training["image_tuning"],
            "a closed form needs stored features: choose frozen, and no tokens",
        )
    stored = stored_sides.read(
        {
            "image": (args.image_features, args.image_index),
            "gene": (args.gene_features, args.gene_index),
        },
        {kind: options[f"{kind}_encoder"] for kind in specs.KINDS},
        training,
        shards,
        args.shards,
        splits,
    )
    rows = expression_counts.split_rows(opened, splits, args.splits)
    check_rows(args.splits, rows, training, is_closed_form(options))
    counts = expression_counts.Counts(opened, [gene["gene_symbol"] for gene in genes])
    train_facts = expression_counts.train_facts(counts, rows["train"], args.splits)
    data = {
        "genes": genes,
        "splits": splits,
        "shards": shards,
        "rows": rows,
        "counts": counts,
        "train_facts": train_facts,
        "stored": stored,
    }
    identity = files.sha256_json(
        {
            "result_version": RESULT_VERSION,
            "options": {key: value for key, value in options.items() if key != "training"},
            "training": {
                key: value
                for key, value in training.items()
                if key not in training_loop.MACHINE_OPTIONS
            },
            "shards": shards,
            "stored": {side: index["sha256"] for side, index in stored.items()},
            "weights": {
                name: files.sha256_file(path)
                for name in ("image_weights", "gene_weights")
                if (path := getattr(args, name)) is not None
            },
            "splits": files.sha256_file(args.splits),
            "genes": files.sha256_file(args.genes),
        }
    )
    if is_closed_form(options):
        fit_closed_form(args, data, training, identity)
        return
    trained = build(args, data, training)
    world = processes.start(training["devices"], training["nodes"])
    try:
        selected, metrics = training_loop.train(
            trained["pair"],
            trained["rows"],
            rows,
            Path(args.model).parent,
            identity,
            options["seed"],
            world,
            experiment.stored_views(training) if "images" in stored else 1,
        )
        world.leave()
        if world.is_first:
            write_run(args, data, training, identity, trained, selected, metrics, world)
    except Exception as error:
        record_failure(args, error)
        raise


def record_failure(args, error: Exception) -> None:
    """Leave a record where the same run would fail again, so that tables can say why."""
    options, why = args.options, failures.reason(error)
    if why is None:
        return
    names = {"image_encoder": options["image_name"], "gene_encoder": options["gene_name"]}
    run = {**{key: options[key] for key in ("experiment", "dataset", "seed")}, **names}
    failures.write(Path(args.model).parent, run, why, str(error))
    raise InputError(
        args.model,
        "memory",
        why,
        f"set training.micro_batch lower; its row of the tables says so: delete {failures.FILE}"
        " beside it to try again",
    ) from error


def check_options(options, shards) -> None:
    """Refuse what can be seen without reading anything."""
    for kind in specs.KINDS:
        file = f"config/encoders/{kind}/{options[f'{kind}_name']}.yaml"
        specs.require_built(options[f"{kind}_encoder"], file)
    one_each(shards, options["samples"], "--shards")


def is_closed_form(options) -> bool:
    """Whether nothing is trained: the pair is two matrices (``linear_alignment``)."""
    return options["gene_encoder"]["builder"] == "linear_alignment"


def check_rows(path, rows, training, closed_form: bool) -> None:
    """Refuse or tell what the sizes of the splits don't go with; ``path`` is splits.tsv."""
    if closed_form:
        return
    if training["select"] == "best_val_loss" and not len(rows["val"]):
        raise InputError(
            path,
            "split val",
            "no pairs",
            "set training.select to last, or put a sample into val",
        )
    if len(rows["train"]) < training["batch_size"]:
        logs.log.info(
            "the train split has %d pairs, fewer than batch_size %d: each batch is all of them",
            len(rows["train"]),
            training["batch_size"],
        )


def build(args, data, training) -> dict:
    """The pair before training, and what reads its rows."""
    import torch

    from pairscape.pretrain import batches, pair

    options, stored, pairs_number = args.options, data["stored"], len(data["counts"])
    image, gene, seed = options["image_encoder"], options["gene_encoder"], options["seed"]
    if "genes" not in stored and gene["learned_from"] == "dataset":
        from pairscape.encoders.architectures import drvi

        if args.gene_weights is not None:
            drvi.check_fitted_on(args.gene_weights, data["splits"], args.splits, data["shards"])
    torch.manual_seed(seed)
    description = pair.describe(
        image,
        gene,
        training,
        data["genes"],
        {side: index["width"] for side, index in stored.items()},
        data["train_facts"],
    )
    towers = pair.build_towers(description, args.image_weights, args.gene_weights)
    description["trunk_sha256"] = {
        side: index["weights_sha256"] for side, index in stored.items()
    } | pair.trunk_checksums(description, towers)
    torch.manual_seed(seed)  # the heads don't depend on which towers were built
    if "images" in stored:
        images = batches.Stored(stored["images"]["path"])
    else:
        from pairscape.dataset.patch_reader import PatchReader

        images = PatchReader(args.shards, image["input"])
    dealt = None
    if image.get("shuffle_pairs"):
        dealt = batches.deal(data["rows"]["train"], pairs_number, seed)
    return {
        "fingerprints": fingerprints(stored, towers, image, gene, data["genes"]),
        "pair": pair.Pair(description, towers),
        "rows": batches.PairRows(
            images,
            batches.Stored(stored["genes"]["path"]) if "genes" in stored else data["counts"],
            pairs_number,
            seed,
            specs.augmentation_kind(training),
            dealt,
            training["augmentation_draws"] == "per_batch",
            (image["input"]["mean"], image["input"]["std"])
            if training["sharpen"] == "after_normalisation"
            else None,
            training["evaluation_crop"] == "random",
        ),
    }


def fingerprints(stored, towers, image, gene, genes) -> dict:
    """What each encoder makes of a fixed input, by side; null for one that starts from nothing."""
    from pairscape.encoders import gene_encoders

    found = {side: index["fingerprint"] for side, index in stored.items()}
    if towers["images"] is not None:
        from pairscape.encoders import image_encoders

        found["images"] = image_encoders.fingerprint(towers["images"], image)
    if towers["genes"] is not None:
        learns = gene["learned_from"] == "pair"
        found["genes"] = None if learns else gene_encoders.fingerprint(towers["genes"], gene, genes)
    return found


def write_run(args, data, training, identity, trained, selected, metrics, world) -> None:
    """Embed the held-out pairs with the selected weights and write everything."""
    from pairscape.pretrain import stored_pair, training_curve, training_loop

    module = trained["pair"]
    module.load_kept_state(selected["state"])
    facts = run_facts(args.options, identity, selected["step"])
    scale = float(module.logit_scale.detach().exp())
    write_embeddings(
        args,
        data,
        facts | {"logit_scale": scale, "unit_length": training["unit_length"]},
        lambda rows, sides, path: training_loop.embed_pairs(
            module, trained["rows"], rows, world, sides, path
        ),
        keeps_trunk=not module.images.is_frozen,
    )
    write_metrics(args.metrics, metrics)
    training_curve.plot_curve(
        args.curve, metrics, selected["step"], training["loss"], run_title(args.options)
    )
    write_options(
        args,
        data,
        training,
        facts,
        {
            "precision": training_loop.resolve_precision(training["precision"]),
            "parameters": module.parameter_counts(),
            "selected_val_loss": selected["loss"],
            "logit_scale": scale,
            "steps": metrics[-1]["step"],
            "device": world.device.type,
            "fingerprints": trained["fingerprints"],
            "trunk_sha256": module.description["trunk_sha256"],
        },
    )
    stored_pair.save_pair(args.model, module, selected["state"], {**facts, "genes": symbols(data)})
    (Path(args.model).parent / "last.ckpt").unlink(missing_ok=True)
    failures.clear(Path(args.model).parent)
    logs.log.info(
        "%s-%s, seed %d: step %d of %d selected%s",
        args.options["image_name"],
        args.options["gene_name"],
        args.options["seed"],
        selected["step"],
        training["max_steps"],
        "" if selected["loss"] is None else f", validation loss {selected['loss']:.3f}",
    )


def fit_closed_form(args, data, training, identity) -> None:
    """Fit a linear alignment in the place of a training, and write what a training writes."""
    import numpy as np
    import torch

    from pairscape.pretrain import (
        batches,
        contrastive,
        linear_alignment,
        training_curve,
    )
    from pairscape.pretrain.side import SIDES

    options, rows, counts = args.options, data["rows"], data["counts"]
    if options["image_encoder"].get("shuffle_pairs"):
        raise InputError(
            "--options", "gene_name", options["gene_name"], "shuffled pairs need a trained pair"
        )
    features = batches.Stored(data["stored"]["images"]["path"])[: len(counts)]
    donor_of = {row["sample"]: row.get("donor", "") for row in data["splits"]}
    alignment = linear_alignment.fit(
        features,
        counts,
        rows,
        data["train_facts"],
        {
            **options["gene_encoder"]["arguments"],
            "embedding_dim": training["embedding_dim"],
            "donors": np.repeat(
                [donor_of.get(shard["sample"], "") for shard in data["shards"]],
                [shard["rows"] for shard in data["shards"]],
            ),
            "seed": options["seed"],
        },
    )

    def embed(chosen, sides=SIDES, path=None):
        of = {
            "images": lambda: alignment.embed_images(np.asarray(features[chosen])),
            "genes": lambda: alignment.embed_genes(counts[chosen]),
        }
        return {side: of[side]() for side in sides}

    recalls = [
        (len(part), float(contrastive.batch_recall(*map(torch.from_numpy, embed(part).values()))))
        for part in batches.validation_batches(rows["val"], training["batch_size"], options["seed"])
    ]
    metrics = []
    if recalls:
        sizes, values = np.array(recalls).T
        metrics = [
            {
                "step": 0,
                "split": "val",
                "batch": round(sizes.mean()),
                "recall@5": float((sizes * values).sum() / sizes.sum()),
            }
        ]
    facts = run_facts(options, identity, 0)
    write_embeddings(args, data, facts | {"logit_scale": 1.0}, embed)
    write_metrics(args.metrics, metrics)
    training_curve.plot_penalties(args.curve, alignment.about, run_title(options))
    write_options(
        args,
        data,
        training,
        facts,
        {
            "precision": "float64",
            "parameters": {
                "image_head": alignment.image_mean.size + alignment.image_map.size,
                "gene_head": alignment.gene_mean.size + alignment.gene_map.size,
            },
            "closed_form": alignment.about,
            "logit_scale": 1.0,
            "fingerprints": {"images": data["stored"]["images"]["fingerprint"]},
            "trunk_sha256": {"images": data["stored"]["images"]["weights_sha256"]},
        },
    )
    alignment.save(args.model)
    logs.log.info(
        "%s-%s: closed form, %d dimensions, penalty %g",
        options["image_name"],
        options["gene_name"],
        alignment.image_map.shape[1],
        alignment.about["penalty"],
    )


def run_facts(options, identity: str, step: int) -> dict:
    """What names a run in each of its files."""
    return {
        "experiment": options["experiment"],
        "dataset": options["dataset"],
        "image_encoder": options["image_name"],
        "gene_encoder": options["gene_name"],
        "seed": options["seed"],
        "options_sha256": identity,
        "selected_step": step,
    }


def run_title(options) -> str:
    """The heading of a run's figure."""
    return (
        f"{options['image_name']} – {options['gene_name']}, {options['dataset']},"
        f" seed {options['seed']}"
    )


def symbols(data) -> list[str]:
    return [gene["gene_symbol"] for gene in data["genes"]]


def write_embeddings(args, data, meta, embed, keeps_trunk: bool = False) -> None:
    """Embed and write the validation and test pairs; an absent split has no files.

    With the option ``embed_train`` also the image side of the train pairs, and what a tuned image
    encoder gives before the projection, for what is predicted from images.

    Parameters
    ----------
    embed
        Rows, sides and a scratch file or None -> by side the embeddings, and ``trunk``, the image
        encoder's output, if there is a file.
    keeps_trunk
        Whether the image encoder was tuned.
    """
    from pairscape.dataset import expression_counts
    from pairscape.pretrain import run_embeddings
    from pairscape.pretrain.side import SIDES

    folder = Path(args.model).parent
    folder.mkdir(parents=True, exist_ok=True)
    wanted = args.options.get("embed_train", False)
    scratch = folder / ".part-trunk.npy" if wanted and keeps_trunk else None
    for split in ("train", "val", "test"):
        rows = data["rows"][split]
        if not len(rows) or (split == "train" and not wanted):
            for path in run_embeddings.run_files(folder, split).values():
                path.unlink(missing_ok=True)
            continue
        found = embed(rows, ("images",) if split == "train" else SIDES, scratch)
        run_embeddings.write_run_embeddings(
            folder,
            split,
            found["images"],
            found.get("genes"),
            expression_counts.run_index(args.shards, data["splits"], rows),
            meta,
            found.get("trunk"),
        )
        program.also_made(*run_embeddings.run_files(folder, split).values())
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def write_metrics(path, metrics) -> None:
    from pairscape.pretrain import training_loop

    with files.atomic_path(path) as temporary, open(temporary, "w", newline="") as handle:
        writer = csv.DictWriter(handle, training_loop.METRIC_COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in metrics:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})


def write_options(args, data, training, facts, more) -> None:
    """Write options.json: all that the run was made of."""
    files.write_json(
        args.run_options,
        {
            **facts,
            "options": {**args.options, "training": training},
            "result_version": RESULT_VERSION,
            "splits": data["splits"],
            "pairs": {split: len(rows) for split, rows in data["rows"].items()},
            "genes": len(data["genes"]),
            "library_size": data["train_facts"].library_size,
            "shards": data["shards"],
            "features_sha256": {side: index["sha256"] for side, index in data["stored"].items()},
            **more,
            "versions": versions(),
            "git_commit": git_commit(),
        },
        sealed=True,
    )


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    program.run(main)
