"""Train an image-gene pair contrastively on a dataset, then embed its validation and test pairs.

A side that is frozen is read as stored features and its encoder isn't built; a side that is tuned
runs its encoder here. Several devices: see the training options `devices` and `nodes`.

IN   the dataset's shards, splits.tsv and genes.tsv; stored features, or weights, of each encoder
OUT  model.ckpt, options.json, metrics.csv, curve.png; embeddings/<split>* beside them;
     where the memory ran out: failed.json, and the others tell of it
"""

from pathlib import Path

from pairscape.core import files, logs
from pairscape.core.errors import InputError, one_each, one_of
from pairscape.core.splits import SPLITS
from pairscape.encoders import specs, user_code
from pairscape.jobs import program
from pairscape.jobs.records import git_commit
from pairscape.pretrain import experiment, failures
from pairscape.pretrain.options import MACHINE_OPTIONS, SHARING_OPTIONS, resolve_training

RESULT_VERSION = 5


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
        machine="optional: training options that say where and how fast, as JSON",
        run_options=program.Output("the resolved options to write (options.json)"),
        metrics=program.Output("the training metrics to write (.csv)"),
        curve=program.Output("the training curve to write (.png)"),
    )
    args.options["training"] = args.options["training"] | read_machine(args.machine)
    check_options(args.options, args.shards)
    user_code.allow(args.options["gene_encoder"])

    import torch

    from pairscape.pretrain import card_memory, processes, run_inputs, trained_run, training_loop

    torch.set_num_threads(args.threads)
    training = resolve_training(args.options["training"])
    inputs = run_inputs.Inputs(
        shards=args.shards,
        splits=args.splits,
        genes=args.genes,
        features={
            "image": (args.image_features, args.image_index),
            "gene": (args.gene_features, args.gene_index),
        },
        weights={"image": args.image_weights, "gene": args.gene_weights},
    )
    run = run_inputs.read(args.options, training, inputs, RESULT_VERSION)
    if run_inputs.is_closed_form(args.options):
        fit_closed_form(args, run)
        return
    built = trained_run.build(run)
    world = processes.start(training.devices, training.nodes)
    try:
        selected, metrics = training_loop.train(
            built.pair,
            built.rows,
            run.rows,
            Path(args.model).parent,
            run.identity,
            args.options["seed"],
            world,
            experiment.stored_views(training.as_dict()) if "images" in run.stored else 1,
        )
        world.leave()
        if world.is_first:
            write_run(args, run, built, selected, metrics, world)
    except Exception as error:
        why = failures.reason(error)
        if why is None:
            raise
        if world.size > 1 and not isinstance(error, card_memory.TooSmallError):
            raise out_of_memory(args, why) from error  # the others wait for this one
        if world.is_first:
            write_failed_run(args, run, why, str(error))


def check_options(options, shards) -> None:
    """Refuse what can be seen without reading anything."""
    for kind in specs.KINDS:
        file = f"config/encoders/{kind}/{options[f'{kind}_name']}.yaml"
        specs.require_built(options[f"{kind}_encoder"], file)
    one_each(shards, options["samples"], "--shards")


def read_machine(text: str | None) -> dict:
    """The options of ``--machine``, which aren't of those that a rerun is decided by."""
    machine = program.read_json_flag("--machine", text or "{}")
    known = (*MACHINE_OPTIONS, *SHARING_OPTIONS)
    for key in machine:
        one_of(key, known, "--machine", "key", "training options of the machine")
    return machine


def out_of_memory(args, why: str) -> InputError:
    return InputError(
        args.model, "memory", why, "set training.micro_batch lower, or devices higher"
    )


def write_failed_run(args, run, why: str, message: str) -> None:
    """Write why a run can't be made in the place of all that it would have written.

    Then the tables of the same call of Snakemake can say it beside a dash, and no second attempt is
    made. Nothing that reads one of these files takes it for a run.
    """
    from pairscape.pretrain import run_embeddings, run_inputs, training_curve

    folder = Path(args.model).parent
    record = failures.write(folder, run_inputs.names(args.options), why, message)
    files.write_json(args.run_options, files.read_json(record), sealed=True)
    training_curve.plot_words(args.curve, f"no run: {why}", run.title)
    for split in SPLITS:
        for path in run_embeddings.run_files(folder, split).values():
            path.unlink(missing_ok=True)
    test = run_embeddings.run_files(folder, "test")
    for path in (args.model, args.metrics, *(test[what] for what in failures.DECLARED)):
        with files.atomic_path(path) as temporary:
            temporary.write_text(f"no run: {why}, see {failures.FILE}\n", encoding="utf-8")
    program.also_made(record)
    told = "its rows of the tables say so; delete it to try again"
    logs.log.warning("%s: no run: %s; %s", args.model, why, told)


def write_run(args, run, built, selected, metrics, world) -> None:
    """Embed the held-out pairs with the selected weights and write everything."""
    from pairscape.pretrain import evaluation, stored_pair, training_curve

    module, folder, step = built.pair, Path(args.model).parent, selected["step"]
    module.load_kept_state(selected["state"])
    results = built.results(selected, metrics[-1]["step"], world)
    facts = {"logit_scale": results["logit_scale"], "unit_length": run.training.unit_length}
    write_embeddings(
        args,
        run,
        run.facts(step) | facts,
        lambda rows, sides, path: evaluation.embed_pairs(
            module, built.rows, rows, world, sides, path
        ),
        keeps_trunk=not module.images.is_frozen,
    )
    training_curve.plot_curve(args.curve, metrics, step, run.training.loss, run.title)
    write_tables(args, run, step, metrics, results)
    meta = {**run.facts(step), "genes": run.symbols}
    stored_pair.save_pair(args.model, module, selected["state"], meta)
    (folder / "last.ckpt").unlink(missing_ok=True)
    failures.clear(folder)
    names = (args.options[key] for key in ("image_name", "gene_name", "seed"))
    loss = "" if selected["loss"] is None else f", validation loss {selected['loss']:.3f}"
    steps = run.training.max_steps
    logs.log.info("%s-%s, seed %d: step %d of %d selected%s", *names, step, steps, loss)


def fit_closed_form(args, run) -> None:
    """Fit a linear alignment in the place of a training, and write what a training writes."""
    from pairscape.pretrain import closed_form, training_curve

    fitted = closed_form.fit(run)
    alignment, metrics = fitted.alignment, fitted.metrics()
    write_embeddings(args, run, run.facts(0) | {"logit_scale": 1.0}, fitted.embed)
    training_curve.plot_penalties(args.curve, alignment.about, run.title)
    write_tables(args, run, 0, metrics, fitted.results())
    alignment.save(args.model)
    names = args.options["image_name"], args.options["gene_name"]
    size, about = alignment.image_map.shape[1], alignment.about
    penalty = "no" if about["penalty"] is None else f"{about['penalty']:g}"
    words = "%s-%s: nothing to train, %s, %d dimensions, penalty %s"
    logs.log.info(words, *names, about["method"], size, penalty)


def write_embeddings(args, run, meta, embed, *, keeps_trunk: bool = False) -> None:
    """Embed and write the validation and test pairs; an absent split has no files.

    With the option ``embed_train`` also the image side of the train pairs, and what a tuned image
    encoder gives before the projection (``keeps_trunk``), for what is predicted from images.
    ``embed`` takes rows, sides and a scratch file or None, and gives by side the embeddings, and
    ``trunk``, the image encoder's output, if there is a file.
    """
    from pairscape.dataset import expression_counts
    from pairscape.pretrain import run_embeddings
    from pairscape.pretrain.side import SIDES

    folder = Path(args.model).parent
    folder.mkdir(parents=True, exist_ok=True)
    wanted = args.options.get("embed_train", False)
    scratch = folder / ".part-trunk.npy" if wanted and keeps_trunk else None
    for split in ("train", "val", "test"):
        rows, paths = run.rows[split], run_embeddings.run_files(folder, split).values()
        if not len(rows) or (split == "train" and not wanted):
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        embedded = embed(rows, ("images",) if split == "train" else SIDES, scratch)
        run_embeddings.write_run_embeddings(
            folder,
            split,
            embedded["images"],
            embedded.get("genes"),
            expression_counts.run_index(args.shards, run.splits, rows),
            meta,
            embedded.get("trunk"),
        )
        program.also_made(*paths)
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def write_tables(args, run, step: int, metrics, results) -> None:
    """Write metrics.csv, and options.json: all that the run was made of and has come to."""
    from pairscape.pretrain import run_inputs, training_record

    training_record.write_metrics(args.metrics, metrics)
    made_by = {"versions": run_inputs.versions(), "git_commit": git_commit()}
    described = run.description(step) | results | made_by
    files.write_json(args.run_options, described, sealed=True)


if __name__ == "__main__":
    program.run(main)
