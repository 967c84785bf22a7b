"""The image-gene pair: two sides, each an encoder with a projection head, and what is learned of them.

A side whose encoder is frozen and has run before takes stored features in the place of patches or
counts; then the encoder isn't built at all.
"""

import contextlib
import io
import math
from collections.abc import Mapping

import torch
from torch import nn

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset.expression_counts import TrainFacts
from pairscape.encoders import gene_encoders, specs
from pairscape.encoders.weights import find_weights, state_sha256
from pairscape.pretrain.heads import projection

FORMAT = 3
SIDES = ("images", "genes")
MAX_LOGIT_SCALE = math.log(100)
SIGLIP_BIAS = -10.0
# What a frozen trunk in training mode still learns: the running statistics of batch normalisation.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Side(nn.Module):
    """One side of a pair: inputs -> embeddings (B, embedding_dim), of unit length unless asked.

    Parameters
    ----------
    tower
        The encoder, or None where the inputs are stored features.
    head
        The projection head.
    tuning
        What of the tower is trained: ``frozen``, ``lora``, ``full``, or ``learned`` for one that
        starts from nothing.
    image_input
        For images: the encoder's ``input``; then the tower's inputs are patches, (B, H, W, 3) uint8, or
        (B, 3, H, W) floats that are normalised already.
    takes_tokens
        Whether the head takes the tower's tokens.
    is_by_row
        False where a row's embedding depends on the others of the batch by the tower's preparation or
        by the head.
    unit_length
        Whether embeddings are brought to unit length.
    trunk_mode
        ``eval``, or ``train``: what isn't trained of the tower is in training mode in training, too.
    """

    def __init__(
        self,
        tower: nn.Module | None,
        head: nn.Module,
        tuning: str,
        image_input: Mapping | None = None,
        takes_tokens: bool = False,
        is_by_row: bool = True,
        unit_length: bool = True,
        trunk_mode: str = "eval",
    ):
        super().__init__()
        self.unit_length, self.trunk_mode = unit_length, trunk_mode
        self.tower, self.head, self.tuning = tower, head, tuning
        self.image_input, self.takes_tokens, self._by_row = image_input, takes_tokens, is_by_row

    @property
    def is_frozen(self) -> bool:
        """Whether nothing but the head is trained."""
        return self.tower is None or self.tuning == "frozen"

    @property
    def is_by_row(self) -> bool:
        """Whether a row's embedding is a function of that row alone, in the present mode."""
        batchnorms = (m for m in self.modules() if hasattr(m, "running_mean"))
        return self._by_row and not any(norm.training for norm in batchnorms)

    def train(self, mode: bool = True):
        """Training mode for what is trained: a frozen trunk stays in eval mode.

        So do the batch normalisations of a trunk that was trained before: their statistics are
        kept, and an embedding depends on no batch. With ``trunk_mode`` train all is in training mode.
        """
        super().train(mode)
        if self.tower is None or self.tuning == "learned" or not mode:
            return self
        if self.trunk_mode == "train":
            return self
        if self.tuning != "full":
            self.tower.eval()
        for name, module in self.tower.named_modules():
            if hasattr(module, "running_mean"):
                module.eval()
            elif self.tuning == "lora" and "lora_" in name:
                module.train()
        return self

    def encode(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the head takes: inputs through the tower, or stored features as they are."""
        if self.tower is None:
            return inputs.float()
        if self.image_input is None:
            return self.tower(inputs)
        from pairscape.dataset import (
            patch_reader,  # seconds of numba, which stored features don't need
        )

        mean, std = self.image_input["mean"], self.image_input["std"]
        if inputs.is_floating_point():
            images = inputs
        elif inputs.device.type == "cpu":
            images = patch_reader.normalise(inputs.numpy(), mean, std)
        else:
            images = patch_reader.normalise_on_device(inputs, mean, std)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.tower.tokens(images) if self.takes_tokens else self.tower(images)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (or tokens) of the encoder -> embeddings, float32."""
        found = self.head(features.float()).float()
        return nn.functional.normalize(found, dim=1) if self.unit_length else found

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.project(self.encode(inputs))

    def is_kept(self, name: str) -> bool:
        """Whether an entry of the state is saved with the pair: what isn't lies in the weights."""
        if not name.startswith("tower.") or self.tuning in ("full", "learned"):
            return True
        if self.trunk_mode == "train" and name.endswith(_STATISTICS):
            return True
        return self.tuning == "lora" and "lora_" in name


class Pair(nn.Module):
    """An image side and a gene side with a temperature.

    Parameters
    ----------
    description
        See ``describe``.
    towers
        By side: the encoder, or None where its features are stored (see ``build_towers``). Adapters
        are put into it here.
    """

    def __init__(self, description: Mapping, towers: Mapping[str, nn.Module | None]):
        super().__init__()
        training = description["training"]
        self.description, self.training_options = dict(description), training
        self.amp_dtype: torch.dtype | None = None
        gene = description["gene_encoder"]
        width, dropout = training["embedding_dim"], training["projection_dropout"]
        self.images = _image_side(description, towers["images"])
        learns = gene["learned_from"] == "pair"
        tuning = "learned" if learns else training["gene_tuning"]
        gene_width = description["stored_width"]["genes"]
        if towers["genes"] is not None:
            gene_width = towers["genes"].width
        self.genes = Side(
            _tuned(towers["genes"], gene, tuning, training),
            projection(training["gene_projection"], gene_width, width, dropout),
            tuning,
            is_by_row=gene["input"].get("library_size") != "batch_median",
            unit_length=training["unit_length"],
            trunk_mode=training["frozen_trunks"],
        )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(training["temperature"])))
        self.logit_bias = None
        if training["loss"] == "siglip":
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
        """Load what ``kept_state`` gave, strictly.

        Raises
        ------
        ValueError
            A name or a shape differs.
        """
        _load_exactly(
            {name: v for name, v in self.state_dict().items() if self._is_kept(name)}, state
        )

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
    training: Mapping,
    genes: list[dict],
    stored_width: Mapping[str, int | None],
    train: TrainFacts | None = None,
    trunk_sha256: Mapping[str, str] | None = None,
) -> dict:
    """All that a pair is built from, but for the weights of its frozen trunks.

    Parameters
    ----------
    image_encoder, gene_encoder
        The encoders' files.
    training
        The resolved training options.
    genes
        The rows of genes.tsv.
    stored_width
        By side: numbers per stored feature; None where the encoder runs in the training.
    train
        Facts of the train split, for a gene encoder that uses them.
    trunk_sha256
        By side: checksum of the trunk that features were stored of, or that was loaded.
    """
    facts = train is not None and specs.uses_train_facts(gene_encoder)
    return {
        "image_encoder": dict(image_encoder),
        "gene_encoder": dict(gene_encoder),
        "training": dict(training),
        "genes": [dict(gene) for gene in genes],
        "stored_width": {side: stored_width.get(side) for side in SIDES},
        "train_facts": None
        if not facts
        else {
            "library_size": float(train.library_size),
            "mean_per_10k": torch.as_tensor(train.mean_per_10k),
        },
        "trunk_sha256": dict(trunk_sha256 or {}),
    }


def build_towers(
    description: Mapping, image_weights=None, gene_weights=None, with_state: bool = False
) -> dict:
    """Build the encoders that run in the training.

    Parameters
    ----------
    description
        See ``describe``.
    image_weights, gene_weights
        The files of their weights; not needed for weights inside a Python package, for a control
        without weights, for a gene encoder that learns with the pair, and for stored features.
    with_state
        Whether a saved state is loaded afterwards: it holds all of an encoder that was trained
        whole, which needs no weights then.

    Returns
    -------
    By side the tower, or None where the features are stored.

    Raises
    ------
    InputError
        Weights are missing, damaged, or another encoder's.
    """
    towers: dict = dict.fromkeys(SIDES)
    if description["stored_width"]["images"] is None:
        from pairscape.encoders import image_encoders

        spec, tuning = description["image_encoder"], description["training"]["image_tuning"]
        needless = spec["weights"] is None or (with_state and tuning == "full")
        path = None if needless else _weights(spec, image_weights)
        towers["images"] = image_encoders.build(spec, path)
    if description["stored_width"]["genes"] is None:
        spec, facts = description["gene_encoder"], description["train_facts"]
        if facts is not None:
            facts = TrainFacts(facts["library_size"], facts["mean_per_10k"].numpy())
        path = gene_weights
        needless = with_state and description["training"]["gene_tuning"] == "full"
        if needless or spec["learned_from"] == "pair":
            pass
        elif spec["learned_from"] == "weights":
            path = _weights(spec, gene_weights)
        elif path is None:
            raise InputError(
                "--gene-weights", "flag", "nothing", f"give what fitting {spec['title']} has made"
            )
        towers["genes"] = gene_encoders.build(spec, path, description["genes"], facts)
    return towers


def trunk_checksums(description: Mapping, towers: Mapping) -> dict[str, str]:
    """Checksums of built towers by side, of those that a saved pair is told without.

    Weights from a file have the same on every machine. Random ones of a control have it on all
    processors with AVX2; elsewhere torch's normal numbers differ in their last bits, and a pair over
    such a trunk is refused there.
    """
    training = description["training"]
    learned = {"images": training["image_tuning"] == "full"}
    learned["genes"] = (
        training["gene_tuning"] == "full" or description["gene_encoder"]["learned_from"] == "pair"
    )
    return {
        side: state_sha256(tower)
        for side, tower in towers.items()
        if tower is not None and not learned[side]
    }


def save_pair(path, pair: Pair, state: Mapping, meta: Mapping) -> None:
    """Write ``model.ckpt``, all that ``load_pair`` needs. The same input makes the same bytes.

    Parameters
    ----------
    state
        What ``Pair.kept_state`` gave at the selected step: heads, adapters, and encoders that were
        trained whole. Frozen trunks are told by their checksum.
    meta
        More facts, such as names and the selected step.
    """
    # The archive's inner folder takes the file's name: without a file it is always the same.
    buffer = io.BytesIO()
    torch.save(
        {"format": FORMAT, "pair": pair.description, "meta": dict(meta), "state": dict(state)},
        buffer,
    )
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_pair(path, image_weights=None, gene_weights=None) -> tuple[Pair, dict]:
    """Read ``model.ckpt`` strictly.

    Parameters
    ----------
    image_weights, gene_weights
        As for ``build_towers``, for trunks that ran in the training.

    Returns
    -------
    The pair in eval mode, and the metadata it was saved with (names, genes, selected step, ...).

    Raises
    ------
    InputError
        The file is missing, damaged, or of another format, or the trunk's weights are others.
    """
    description, state, meta = read_stored(path)
    towers = build_towers(description, image_weights, gene_weights, with_state=True)
    _require_trunks(path, description, trunk_checksums(description, towers))
    try:
        pair = Pair(description, towers)
        pair.load_kept_state(state)
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None
    return pair.eval(), meta


def load_image_side(path, image_weights=None) -> tuple[Side, dict]:
    """Read the image side alone of a saved pair, strictly; no gene encoder is built.

    Parameters
    ----------
    image_weights
        As for ``build_towers``; not needed where ``encoders.takes_stored_images``.

    Returns
    -------
    The side in eval mode, whose tower is None where ``encoders.takes_stored_images``; and the pair's
    description (see ``describe``), whose ``trunk_sha256`` tells the encoder.

    Raises
    ------
    InputError
        As ``load_pair``.
    """
    description, state, _ = read_stored(path)
    # Genes as if they were stored: their encoder stays unbuilt.
    widths = {"images": None, "genes": 0}
    if specs.takes_stored_images(description["training"]):
        widths["images"] = description["image_encoder"]["width"]
    wanted = {**description, "stored_width": widths}
    towers = build_towers(wanted, image_weights, with_state=True)
    _require_trunks(path, description, trunk_checksums(wanted, towers))
    try:
        side = _image_side(wanted, towers["images"])
        own = {name: value for name, value in side.state_dict().items() if side.is_kept(name)}
        start = "images."
        kept = {name.removeprefix(start): v for name, v in state.items() if name.startswith(start)}
        _load_exactly(own, kept)
    except (ValueError, KeyError, AttributeError) as error:
        raise _damaged(path, error) from None
    return side.eval(), description


def _image_side(description: Mapping, tower: nn.Module | None) -> Side:
    training, image = description["training"], description["image_encoder"]
    takes_tokens = training["image_projection"] == "transformer"
    across_batch = takes_tokens and training["transformer_attends"] == "batch"
    width = description["stored_width"]["images"]
    if tower is not None:
        width = tower.token_width if takes_tokens else tower.width
    return Side(
        _tuned(tower, image, training["image_tuning"], training),
        projection(
            training["image_projection"],
            width,
            training["embedding_dim"],
            training["projection_dropout"],
            across_batch,
        ),
        training["image_tuning"],
        image["input"],
        takes_tokens,
        not across_batch,
        training["unit_length"],
        training["frozen_trunks"],
    )


def read_stored(path) -> tuple[dict, dict, dict]:
    """Description, state and metadata of a saved pair."""
    try:
        if (fault := files.zip_fault(path)) is not None:
            raise ValueError(fault)
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}, not {FORMAT}")
        description, state, meta = stored["pair"], stored["state"], stored["meta"]
        if "trunk_sha256" not in description:
            raise KeyError("trunk_sha256")
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "pretrain first or correct the path") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise _damaged(path, error) from None
    return description, state, meta


def _require_trunks(path, description: Mapping, found: Mapping[str, str]) -> None:
    """Refuse other frozen trunks than those that the pair was trained on."""
    expected = description["trunk_sha256"]
    for side, sha256 in found.items():
        if sha256 != expected.get(side):
            raise InputError(
                path,
                f"weights of the {side}",
                f"others ({sha256[:12]}) than it was trained on ({str(expected.get(side))[:12]})",
                "give the weights of its training, see options.json beside it",
            )


def _load_exactly(own: Mapping, state: Mapping) -> None:
    """Copy tensors into place; ValueError where a name or a shape differs."""
    for name in sorted(own.keys() ^ state.keys()):
        raise ValueError(f"entry {name} is {'missing' if name in own else 'unknown'}")
    for name, value in own.items():
        if value.shape != state[name].shape:
            raise ValueError(f"entry {name} has the shape {tuple(state[name].shape)}")
        value.copy_(state[name])


def _tuned(tower: nn.Module | None, spec: Mapping, tuning: str, training: Mapping):
    """Make of a frozen tower what is trained; adapters go to the modules that the file names."""
    if tower is None and tuning in ("lora", "full"):
        raise InputError(
            "--options",
            f"training.{spec['kind']}_tuning",
            f"{tuning} on stored features",
            "leave the features out, or choose frozen",
        )
    if tower is None or tuning == "learned":
        return tower
    tower.requires_grad_(tuning == "full")
    if tuning == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        targets = spec["finetuning"]["lora_targets"]
        if not targets:
            raise InputError(
                spec["title"],
                "finetuning.lora_targets",
                "none",
                f"name modules in the encoder's file, or set training.{spec['kind']}_tuning to"
                " full or frozen",
            )
        inject_adapter_in_model(
            LoraConfig(
                r=training["lora_rank"],
                lora_alpha=training["lora_alpha"],
                lora_dropout=training["lora_dropout"],
                target_modules=list(targets),
                bias="none",
            ),
            tower.model,
        )
        for name, parameter in tower.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return tower


def _weights(spec: Mapping, path):
    if path is None and spec["weights"]["source"] != "package":
        raise InputError(
            f"--{spec['kind']}-weights",
            "flag",
            "nothing",
            f"fetch the weights of {spec['title']} first and give them",
        )
    return find_weights(spec, path)


def _damaged(path, error) -> InputError:
    return InputError(path, "model", str(error).split("\n")[0], "delete it and pretrain again")
