"""Fit a gene encoder (DRVI) to a dataset's train split alone; it is used frozen afterwards.

IN   the dataset's shards, splits.tsv and genes.tsv
OUT  encoder.pt, plain tensors; fit.json beside it: what it was fitted on, with checksums;
     history.csv and curve.png, the fit epoch by epoch
"""

import importlib.metadata
import io
import platform
from pathlib import Path

import numpy as np

from pairscape.core import files, logs
from pairscape.core.errors import InputError, one_each
from pairscape.dataset.splits import read_splits
from pairscape.encoders import specs
from pairscape.jobs import program

RESULT_VERSION = 1
PACKAGES = ("drvi-py", "scvi-tools", "torch", "lightning", "anndata", "numpy", "scipy")


def main(argv=None):
    args = parse(argv)
    options = args.options
    spec, name, samples = options["encoder"], options["encoder_name"], options["samples"]
    encoder_file = f"config/encoders/gene/{name}.yaml"
    specs.require_built(spec, encoder_file)
    if spec["builder"] != "drvi":
        raise InputError(
            encoder_file, "builder", spec["builder"], "fit drvi; others learn elsewhere"
        )
    one_each(args.shards, samples, "--shards")

    from pairscape.dataset import expression_counts, gene_lists
    from pairscape.dataset.shards import Shards
    from pairscape.encoders import drvi_fitting
    from pairscape.encoders.architectures import drvi

    drvi_fitting.check_arguments(spec)
    if Path(args.fit) != Path(args.encoder).with_name(drvi.FIT_FILE):
        raise InputError(
            "--fit", "path", args.fit, f"give {Path(args.encoder).with_name(drvi.FIT_FILE)}"
        )
    arguments = spec["arguments"]
    genes = gene_lists.read_genes(args.genes)
    symbols = [gene["gene_symbol"] for gene in genes]
    splits = read_splits(args.splits)
    shards = Shards.open(args.shards, samples)
    counts, owner = expression_counts.Counts(shards, symbols), shards.owner
    rows = expression_counts.split_rows(shards, splits, args.splits)["train"]
    leaked = leaked_samples(options, arguments, splits)
    if leaked:
        held_out = np.isin(owner, [samples.index(sample) for sample in leaked])
        rows = np.union1d(rows, np.flatnonzero(held_out))
        logs.log.warning("fit_on: published: held-out samples are fitted on: %s", ", ".join(leaked))

    measures = drvi_fitting.measure_spots(counts, rows, symbols)
    kept, left_out = drvi_fitting.judge_spots(measures, owner[rows], arguments["quality"])
    kept_rows = rows[kept]
    entries, history, facts = drvi_fitting.fit(
        drvi_fitting.read_sparse(counts, kept_rows),
        np.array(samples)[owner[kept_rows]],
        arguments,
        options["seed"],
        args.threads,
        spec["title"],
    )
    donors = {row["sample"]: row["donor"] for row in splits}
    save(args.encoder, entries)
    fitted_on = [
        {
            "sample": sample,
            "donor": donors[sample],
            "rows": int((owner[rows] == i).sum()),
            "fitted": int((owner[kept_rows] == i).sum()),
            "sha256": shards.sha256[i],
        }
        for i, sample in enumerate(samples)
        if (owner[rows] == i).any()
    ]
    record = {
        **head(args, spec),
        "leaked": leaked,
        "samples": fitted_on,
        "spots": len(kept_rows),
        "left_out": left_out,
        **facts,
        "last_epoch": history[-1],
        "versions": versions(),
        "genes": symbols,
    }
    drvi_fitting.write_history(args.history, history)
    with files.atomic_path(args.curve) as path:
        drvi_fitting.plot_history(path, history, f"{spec['title']}, {options['dataset']}")
    files.write_json(args.fit, record, sealed=True)
    logs.log.info(
        f"{name} fitted to {len(kept_rows)} spots of {len(fitted_on)} samples"
        f" ({sum(left_out.values())} left out): {facts['epochs']} epochs, negative ELBO"
        f" {history[-1]['elbo']:.1f}, {facts['dimensions_used']} of {arguments['n_latent']}"
        " dimensions in use"
    )


def parse(argv):
    """The flags and options."""
    return program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards, in the order of the option samples"),
        splits="the dataset's splits.tsv",
        genes="the dataset's genes.tsv",
        encoder=program.Output("the fitted encoder to write (encoder.pt)"),
        fit=program.Output(
            "the record of what it was fitted on to write, in the same folder (fit.json)"
        ),
        history=program.Output("the history of the fit to write (.csv)"),
        curve=program.Output("the figure of the history to write (.png)"),
    )


def head(args, spec: dict) -> dict:
    """What the record of a fit begins with: what was asked for, and checksums."""
    from pairscape.encoders.architectures import drvi

    return {
        "format": drvi.FORMAT,
        "dataset": args.options["dataset"],
        "encoder": args.options["encoder_name"],
        "title": spec["title"],
        "arguments": spec["arguments"],
        "seed": args.options["seed"],
        "threads": args.threads,
        "result_version": RESULT_VERSION,
        "sha256": files.sha256_file(args.encoder),
        "splits_sha256": files.sha256_file(args.splits),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that fit."""
    found = {package: importlib.metadata.version(package) for package in PACKAGES}
    return {"python": platform.python_version(), **found}


def leaked_samples(options: dict, arguments: dict, splits: list[dict]) -> list[str]:
    """The samples outside the train split that the published encoder was fitted on all the same."""
    if arguments["fit_on"] == "train":
        return []
    if "also_fit" not in options:
        raise InputError(
            "--options", "also_fit", "nothing", "list what the published encoder was fitted on"
        )
    train = {row["sample"] for row in splits if row["split"] == "train"}
    return sorted((set(options["also_fit"]) & set(options["samples"])) - train)


def save(path, entries: dict) -> None:
    """Write the encoder's tensors. The same tensors make the same bytes."""
    import torch

    # The archive's inner folder takes the file's name: without a file it is always the same.
    buffer = io.BytesIO()
    torch.save(entries, buffer)
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    program.run(main)
