"""A run without training: a linear alignment in its place, or embeddings that are in one space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pairscape.core.errors import InputError
from pairscape.encoders import specs
from pairscape.pretrain import batches, contrastive, linear_alignment
from pairscape.pretrain.run_inputs import Run
from pairscape.pretrain.side import SIDES


@dataclass(frozen=True)
class ClosedForm:
    """An alignment over a run's rows, of image ``features`` and ``genes`` (counts or features)."""

    run: Run
    alignment: linear_alignment.Alignment
    features: np.ndarray
    genes: Sequence

    def embed(self, rows: np.ndarray, sides: Sequence[str] = SIDES, path=None) -> dict:
        """By side the embeddings of rows; there is no trunk to write to ``path``."""
        embeddings = {
            "images": lambda: self.alignment.embed_images(np.asarray(self.features[rows])),
            "genes": lambda: self.alignment.embed_genes(self.genes[rows]),
        }
        return {side: embeddings[side]() for side in sides}

    def metrics(self) -> list[dict]:
        """The in-batch Recall@5 of the validation split, as a training has it."""
        size, seed = self.run.training.batch_size, self.run.options["seed"]
        parts = batches.validation_batches(self.run.rows["val"], size, seed)
        if not parts:
            return []
        sizes = np.array([len(part) for part in parts], float)
        recalls = np.array([float(self._recall(part)) for part in parts])
        recall = float((sizes * recalls).sum() / sizes.sum())
        return [{"step": 0, "split": "val", "batch": round(sizes.mean()), "recall@5": recall}]

    def _recall(self, rows: np.ndarray) -> torch.Tensor:
        return contrastive.batch_recall(*map(torch.from_numpy, self.embed(rows).values()))

    def results(self) -> dict:
        """What options.json says of the fit."""
        alignment, stored = self.alignment, self.run.stored
        return {
            "precision": "float64",
            "parameters": {
                "image_head": alignment.image_mean.size + alignment.image_map.size,
                "gene_head": alignment.gene_mean.size + alignment.gene_map.size,
            },
            "closed_form": alignment.about,
            "logit_scale": 1.0,
            "fingerprints": {side: one["fingerprint"] for side, one in stored.items()},
            "trunk_sha256": {side: one["weights_sha256"] for side, one in stored.items()},
        }


def fit(run: Run) -> ClosedForm:
    """Fit the alignment of a run to its train split; embeddings in one space stay as they are."""
    options = run.options
    if options["image_encoder"].get("shuffle_pairs"):
        remedy = "shuffled pairs need a trained pair"
        raise InputError("--options", "gene_name", options["gene_name"], remedy)
    features = batches.Stored(run.stored["images"]["path"])[: len(run.counts)]
    if specs.is_paired(options["gene_encoder"]):
        genes = batches.Stored(run.stored["genes"]["path"])
        return ClosedForm(run, _one_space(run), features, genes)
    donor_of = {row["sample"]: row.get("donor", "") for row in run.splits}
    donors = [donor_of.get(shard["sample"], "") for shard in run.shards]
    settings = {
        **options["gene_encoder"]["arguments"],
        "embedding_dim": run.training.embedding_dim,
        "donors": np.repeat(donors, [shard["rows"] for shard in run.shards]),
        "seed": options["seed"],
    }
    alignment = linear_alignment.fit(features, run.counts, run.rows, run.train_facts, settings)
    return ClosedForm(run, alignment, features, run.counts)


def _one_space(run: Run) -> linear_alignment.Alignment:
    options, partner = run.options, run.options["gene_encoder"]["arguments"]["paired_with"]
    if options["image_name"] != partner:
        remedy = f"pair {options['gene_name']} with {partner}, whose space it is in"
        raise InputError("--options", "image_name", options["image_name"], remedy)
    widths = [run.stored[side]["width"] for side in SIDES]
    if len(set(widths)) > 1:
        found = f"{widths[1]} numbers of {options['gene_name']} beside {widths[0]} of {partner}"
        raise InputError("--options", "gene_encoder.width", found, "give both in one space")
    return linear_alignment.identity(widths[0])
