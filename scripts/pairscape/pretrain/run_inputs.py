"""What a pretraining is made of: its inputs, read and held against each other."""

import importlib.metadata
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts, gene_lists
from pairscape.dataset.shards import Shards
from pairscape.dataset.splits import as_text, read_splits
from pairscape.encoders import specs
from pairscape.pretrain import experiment, failures, stored_sides
from pairscape.pretrain.options import Training, machine_options

log = logging.getLogger("pairscape")

PACKAGES = ("torch", "lightning", "open_clip_torch", "peft", "timm", "numpy", "pyarrow")


@dataclass(frozen=True)
class Inputs:
    """Where a run's inputs lie; features (.npy, index) and weights by kind of encoder (image, gene)."""

    shards: Sequence[str]
    splits: str
    genes: str
    features: Mapping[str, tuple[str | None, str | None]]
    weights: Mapping[str, str | None]


@dataclass(frozen=True)
class Run:
    """A run before it is made: the program's ``options``, and what was read.

    ``genes`` and ``splits`` are rows of genes.tsv and splits.tsv; each of ``shards`` has ``sample``,
    ``rows`` and ``sha256``; ``rows`` are row numbers of the dataset by split; ``stored`` has by side
    (images, genes) the index of its stored features (``stored_sides.read``).
    """

    options: Mapping
    training: Training
    inputs: Inputs
    genes: list[dict]
    splits: list[dict]
    shards: list[dict]
    rows: dict[str, np.ndarray]
    counts: expression_counts.Counts
    train_facts: expression_counts.TrainFacts
    stored: dict[str, dict]
    result_version: int

    @cached_property
    def identity(self) -> str:
        """Checksum of everything that decides the run."""
        training = self.training.as_dict()
        machine = machine_options(training)
        return files.sha256_json(
            {
                "result_version": self.result_version,
                "options": {k: value for k, value in self.options.items() if k != "training"},
                "training": {k: v for k, v in training.items() if k not in machine},
                "shards": self.shards,
                "stored": {side: index["sha256"] for side, index in self.stored.items()},
                "weights": {
                    f"{kind}_weights": files.sha256_file(path)
                    for kind, path in self.inputs.weights.items()
                    if path is not None
                },
                "splits": files.sha256_file(self.inputs.splits),
                "genes": files.sha256_file(self.inputs.genes),
            }
        )

    @property
    def symbols(self) -> list[str]:
        return [gene["gene_symbol"] for gene in self.genes]

    @property
    def title(self) -> str:
        """The heading of the run's figure."""
        image, gene, dataset, seed = map(
            self.options.get, ("image_name", "gene_name", "dataset", "seed")
        )
        return f"{image} – {gene}, {dataset}, seed {seed}"

    def facts(self, step: int) -> dict:
        """What names the run in each of its files; ``step`` is the selected one."""
        return names(self.options) | {"options_sha256": self.identity, "selected_step": step}

    def description(self, step: int) -> dict:
        """What options.json says of the run beside its results and the versions."""
        return {
            **self.facts(step),
            "options": {**self.options, "training": self.training.as_dict()},
            "result_version": self.result_version,
            "splits": as_text(self.splits),
            "pairs": {split: len(rows) for split, rows in self.rows.items()},
            "genes": len(self.genes),
            "library_size": self.train_facts.library_size,
            "shards": self.shards,
            "features_sha256": {side: index["sha256"] for side, index in self.stored.items()},
        }


def names(options: Mapping) -> dict:
    """What names a run: the ``failures.RUN_KEYS``."""
    encoders = {"image_encoder": options["image_name"], "gene_encoder": options["gene_name"]}
    return {key: encoders.get(key) or options[key] for key in failures.RUN_KEYS}


def is_closed_form(options: Mapping) -> bool:
    """Whether nothing is trained: a ``linear_alignment``, or embeddings given as pairs."""
    gene = options["gene_encoder"]
    return gene["builder"] == "linear_alignment" or specs.is_paired(gene)


def read(options: Mapping, training: Training, inputs: Inputs, result_version: int) -> Run:
    """Read and check the inputs of a run; ``result_version`` is its program's."""
    genes = gene_lists.read_genes(inputs.genes)
    splits = read_splits(inputs.splits)
    opened = Shards.open(inputs.shards, options["samples"])
    shards = opened.described()
    encoders = {kind: options[f"{kind}_encoder"] for kind in specs.KINDS}
    once = experiment.runs_once(training.as_dict(), encoders["gene"])
    if is_closed_form(options) and not once["image"]:
        remedy = "a closed form needs stored features: choose frozen, and no tokens"
        raise InputError("--options", "training.image_tuning", training.image_tuning, remedy)
    stored = stored_sides.read(inputs.features, encoders, training, shards, inputs.shards, splits)
    rows = expression_counts.split_rows(opened, splits, inputs.splits)
    if not len(rows["test"]):
        remedy = "put a sample with pairs into test: every run is scored on it"
        raise InputError(inputs.splits, "split test", "no pairs", remedy)
    if not is_closed_form(options):
        _check_rows(inputs.splits, rows, training)
    counts = expression_counts.Counts(opened, [gene["gene_symbol"] for gene in genes])
    return Run(
        options=options,
        training=training,
        inputs=inputs,
        genes=genes,
        splits=splits,
        shards=shards,
        rows=rows,
        counts=counts,
        train_facts=expression_counts.train_facts(counts, rows["train"], inputs.splits),
        stored=stored,
        result_version=result_version,
    )


def _check_rows(path, rows: Mapping[str, np.ndarray], training: Training) -> None:
    """Refuse or tell what the sizes of the splits don't go with; ``path`` is splits.tsv."""
    if training.select == "best_val_loss" and not len(rows["val"]):
        remedy = "set training.select to last, or put a sample into val"
        raise InputError(path, "split val", "no pairs", remedy)
    if len(rows["train"]) < training.batch_size:
        log.info(
            "the train split has %d pairs, fewer than batch_size %d: each batch is all of them",
            len(rows["train"]),
            training.batch_size,
        )


def versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages}
