"""A run that is trained: the pair before training, what reads its rows, what is told of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from pairscape.encoders import specs
from pairscape.pretrain import batches, pair
from pairscape.pretrain.augmentation import Augmentation
from pairscape.pretrain.processes import World
from pairscape.pretrain.run_inputs import Run
from pairscape.pretrain.training_loop import resolve_precision


@dataclass(frozen=True)
class Built:
    """A pair before training, what reads its rows, and what its encoders make of a fixed input."""

    pair: pair.Pair
    rows: batches.PairRows
    fingerprints: dict

    def results(self, selected: Mapping, steps: int, world: World) -> dict:
        """What options.json says of the training: ``selected`` of ``Record``, steps taken, device."""
        training = self.pair.training_options
        return {
            "precision": resolve_precision(training.precision),
            "parameters": self.pair.parameter_counts(),
            "selected_val_loss": selected["loss"],
            "logit_scale": float(self.pair.logit_scale.detach().exp()),
            "steps": steps,
            "device": world.device.type,
            "micro_batch": training.micro_batch,
            "fingerprints": self.fingerprints,
            "trunk_sha256": self.pair.description["trunk_sha256"],
        }


def build(run: Run) -> Built:
    """Build the pair of a run."""
    options, stored, weights = run.options, run.stored, run.inputs.weights
    image, gene, seed = options["image_encoder"], options["gene_encoder"], options["seed"]
    if "genes" not in stored and gene["learned_from"] == "dataset" and weights["gene"] is not None:
        from pairscape.encoders.architectures import drvi

        drvi.check_fitted_on(weights["gene"], run.splits, run.inputs.splits, run.shards)
    torch.manual_seed(seed)
    description = pair.describe(
        image,
        gene,
        run.training,
        run.genes,
        {side: index["width"] for side, index in stored.items()},
        run.train_facts,
    )
    towers = pair.build_towers(description, weights["image"], weights["gene"])
    description["trunk_sha256"] = {
        side: index["weights_sha256"] for side, index in stored.items()
    } | pair.trunk_checksums(description, towers)
    torch.manual_seed(seed)  # the heads don't depend on which towers were built
    rows = read_rows(run)
    prints = fingerprints(run, towers)
    return Built(pair.Pair(description, towers), rows, prints)


def read_rows(run: Run) -> batches.PairRows:
    """What reads both sides of the run's pairs."""
    training, stored, image = run.training, run.stored, run.options["image_encoder"]
    if "images" in stored:
        images = batches.Stored(stored["images"]["path"])
    else:
        from pairscape.dataset.patch_reader import PatchReader

        images = PatchReader(run.inputs.shards, image["input"])
    pairs, seed, dealt = len(run.counts), run.options["seed"], None
    if image.get("shuffle_pairs"):
        dealt = batches.deal(run.rows["train"], pairs, seed)
    normalisation = None
    if training.sharpen == "after_normalisation":
        normalisation = (image["input"]["mean"], image["input"]["std"])
    return batches.PairRows(
        images,
        batches.Stored(stored["genes"]["path"]) if "genes" in stored else run.counts,
        pairs,
        seed,
        Augmentation(
            specs.augmentation_kind(training.as_dict()),
            training.augmentation_draws == "per_batch",
            normalisation,
            training.evaluation_crop == "random",
        ),
        dealt,
    )


def fingerprints(run: Run, towers: Mapping) -> dict:
    """What each encoder makes of a fixed input, by side; null for one that starts from nothing."""
    image, gene = run.options["image_encoder"], run.options["gene_encoder"]
    prints = {side: index["fingerprint"] for side, index in run.stored.items()}
    if towers["images"] is not None:
        from pairscape.encoders import image_encoders

        prints["images"] = image_encoders.fingerprint(towers["images"], image)
    if towers["genes"] is not None:
        from pairscape.encoders import gene_encoders

        learns = gene["learned_from"] == "pair"
        tower = towers["genes"]
        prints["genes"] = None if learns else gene_encoders.fingerprint(tower, gene, run.genes)
    return prints
