"""A run in closed form: a linear alignment in the place of a training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pairscape.core.errors import InputError
from pairscape.pretrain import batches, contrastive, linear_alignment
from pairscape.pretrain.run_inputs import Run
from pairscape.pretrain.side import SIDES


@dataclass(frozen=True)
class ClosedForm:
    """A fitted alignment over the rows of its run."""

    run: Run
    alignment: linear_alignment.Alignment
    features: np.ndarray

    def embed(self, rows: np.ndarray, sides: Sequence[str] = SIDES, path=None) -> dict:
        """By side the embeddings of rows; there is no trunk to write to ``path``."""
        embeddings = {
            "images": lambda: self.alignment.embed_images(np.asarray(self.features[rows])),
            "genes": lambda: self.alignment.embed_genes(self.run.counts[rows]),
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
        alignment, images = self.alignment, self.run.stored["images"]
        return {
            "precision": "float64",
            "parameters": {
                "image_head": alignment.image_mean.size + alignment.image_map.size,
                "gene_head": alignment.gene_mean.size + alignment.gene_map.size,
            },
            "closed_form": alignment.about,
            "logit_scale": 1.0,
            "fingerprints": {"images": images["fingerprint"]},
            "trunk_sha256": {"images": images["weights_sha256"]},
        }


def fit(run: Run) -> ClosedForm:
    """Fit the alignment of a run to its train split."""
    options = run.options
    if options["image_encoder"].get("shuffle_pairs"):
        remedy = "shuffled pairs need a trained pair"
        raise InputError("--options", "gene_name", options["gene_name"], remedy)
    features = batches.Stored(run.stored["images"]["path"])[: len(run.counts)]
    donor_of = {row["sample"]: row.get("donor", "") for row in run.splits}
    donors = [donor_of.get(shard["sample"], "") for shard in run.shards]
    settings = {
        **options["gene_encoder"]["arguments"],
        "embedding_dim": run.training.embedding_dim,
        "donors": np.repeat(donors, [shard["rows"] for shard in run.shards]),
        "seed": options["seed"],
    }
    alignment = linear_alignment.fit(features, run.counts, run.rows, run.train_facts, settings)
    return ClosedForm(run, alignment, features)
