"""The image-gene pair: two sides, each an encoder with a projection head, and what is learned of them.

A side whose encoder is frozen and has run before takes stored features in the place of patches or
counts; then the encoder isn't built at all.
"""

import contextlib
import math
from collections.abc import Mapping

import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.dataset.expression_counts import TrainFacts
from pairscape.encoders import gene_encoders, specs
from pairscape.encoders.weights import find_weights, state_sha256
from pairscape.pretrain.heads import projection
from pairscape.pretrain.options import Training
from pairscape.pretrain.side import SIDES, Side, image_side, tuned

FORMAT = 3
MAX_LOGIT_SCALE = math.log(100)
SIGLIP_BIAS = -10.0


class Pair(nn.Module):
    """An image side and a gene side with a temperature.

    It is built from ``describe`` and ``build_towers``; adapters are put into the towers here.
    """

    def __init__(self, description: Mapping, towers: Mapping[str, nn.Module | None]):
        super().__init__()
        training = Training(**description["training"])
        self.description, self.training_options = dict(description), training
        self.amp_dtype: torch.dtype | None = None
        gene = description["gene_encoder"]
        width, dropout = training.embedding_dim, training.projection_dropout
        self.images = image_side(description, towers["images"])
        learns = gene["learned_from"] == "pair"
        tuning = "learned" if learns else training.gene_tuning
        gene_width = description["stored_width"]["genes"]
        if towers["genes"] is not None:
            gene_width = towers["genes"].width
        self.genes = Side(
            tuned(towers["genes"], gene, tuning, training),
            projection(training.gene_projection, gene_width, width, dropout),
            tuning,
            is_by_row=gene["input"].get("library_size") != "batch_median",
            unit_length=training.unit_length,
            trunk_mode=training.frozen_trunks,
        )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(training.temperature)))
        self.logit_bias = None
        if training.loss == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(SIGLIP_BIAS))

    def autocast(self, device: torch.device):
        """The scope in which encoders and heads run: ``amp_dtype`` where it is set."""
        if self.amp_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(device.type, dtype=self.amp_dtype)

    def clamp_temperature(self) -> None:
        """Keep the learned scale from 1 to 100."""
        with torch.no_grad():
            self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def kept_state(self) -> dict[str, torch.Tensor]:
        """A copy on the CPU of what is learned: of a frozen trunk nothing, of LoRA the adapters."""
        return {
            name: value.detach().cpu().clone()
            for name, value in self.state_dict().items()
            if self._is_kept(name)
        }

    def load_kept_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Load what ``kept_state`` gave, strictly: ValueError where a name or a shape differs."""
        load_exactly({k: v for k, v in self.state_dict().items() if self._is_kept(k)}, state)

    def parameter_counts(self) -> dict[str, dict[str, int]]:
        """Parameters by part: ``all`` and ``trained``."""
        parts = {
            "image_encoder": self.images.tower,
            "image_head": self.images.head,
            "gene_encoder": self.genes.tower,
            "gene_head": self.genes.head,
        }
        return {
            name: {
                "all": sum(p.numel() for p in part.parameters()),
                "trained": sum(p.numel() for p in part.parameters() if p.requires_grad),
            }
            for name, part in parts.items()
            if part is not None
        }

    def _is_kept(self, name: str) -> bool:
        side, _, rest = name.partition(".")
        return side not in SIDES or getattr(self, side).is_kept(rest)


def describe(
    image_encoder: Mapping,
    gene_encoder: Mapping,
    training: Training,
    genes: list[dict],
    stored_width: Mapping[str, int | None],
    train: TrainFacts | None = None,
) -> dict:
    """All that a pair is built from, but for the weights of its frozen trunks.

    Parameters
    ----------
    image_encoder, gene_encoder, genes
        The encoders' files; the rows of genes.tsv.
    stored_width
        By side: numbers per stored feature; None where the encoder runs in the training.
    train
        Facts of the train split, for a gene encoder that uses them.
    """
    facts = None
    if train is not None and specs.uses_train_facts(gene_encoder):
        facts = {
            "library_size": float(train.library_size),
            "mean_per_10k": torch.as_tensor(train.mean_per_10k),
        }
    return {
        "image_encoder": dict(image_encoder),
        "gene_encoder": dict(gene_encoder),
        "training": training.as_dict(),
        "genes": [dict(gene) for gene in genes],
        "stored_width": {side: stored_width.get(side) for side in SIDES},
        "train_facts": facts,
        "trunk_sha256": {},
    }


def build_towers(
    description: Mapping, image_weights=None, gene_weights=None, with_state: bool = False
) -> dict:
    """Build the encoders that run in the training: by side, None where the features are stored.

    Parameters
    ----------
    image_weights, gene_weights
        The files of their weights; not needed for weights inside a Python package, for a control
        without weights, for a gene encoder that learns with the pair, and for stored features.
    with_state
        Whether a saved state is loaded afterwards: it holds all of an encoder that was trained
        whole, which needs no weights then.
    """
    training = Training(**description["training"])
    towers: dict = dict.fromkeys(SIDES)
    if description["stored_width"]["images"] is None:
        from pairscape.encoders import image_encoders

        spec, tuning = description["image_encoder"], training.image_tuning
        needless = spec["weights"] is None or (with_state and tuning == "full")
        path = None if needless else _weights(spec, image_weights)
        towers["images"] = image_encoders.build(spec, path)
    if description["stored_width"]["genes"] is None:
        spec, facts = description["gene_encoder"], description["train_facts"]
        if facts is not None:
            facts = TrainFacts(facts["library_size"], facts["mean_per_10k"].numpy())
        path = gene_weights
        needless = with_state and training.gene_tuning == "full"
        if needless or spec["learned_from"] == "pair":
            pass
        elif spec["learned_from"] == "weights":
            path = _weights(spec, gene_weights)
        elif path is None:
            remedy = f"give what fitting {spec['title']} has made"
            raise InputError("--gene-weights", "flag", "nothing", remedy)
        towers["genes"] = gene_encoders.build(spec, path, description["genes"], facts)
    return towers


def trunk_checksums(description: Mapping, towers: Mapping) -> dict[str, str]:
    """Checksums of built towers by side, of those that a saved pair is told without.

    Weights from a file have the same on every machine. Random ones of a control have it on all
    processors with AVX2; elsewhere torch's normal numbers differ in their last bits, and a pair over
    such a trunk is refused there.
    """
    training = Training(**description["training"])
    learned = {"images": training.image_tuning == "full"}
    learned["genes"] = (
        training.gene_tuning == "full" or description["gene_encoder"]["learned_from"] == "pair"
    )
    return {
        side: state_sha256(tower)
        for side, tower in towers.items()
        if tower is not None and not learned[side]
    }


def load_exactly(place: Mapping, state: Mapping) -> None:
    """Copy tensors into place; ValueError where a name or a shape differs."""
    for name in sorted(place.keys() ^ state.keys()):
        raise ValueError(f"entry {name} is {'missing' if name in place else 'unknown'}")
    for name, value in place.items():
        if value.shape != state[name].shape:
            raise ValueError(f"entry {name} has the shape {tuple(state[name].shape)}")
        value.copy_(state[name])


def _weights(spec: Mapping, path):
    if path is None and spec["weights"]["source"] != "package":
        remedy = f"fetch the weights of {spec['title']} first and give them"
        raise InputError(f"--{spec['kind']}-weights", "flag", "nothing", remedy)
    return find_weights(spec, path)
