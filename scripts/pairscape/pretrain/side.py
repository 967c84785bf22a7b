"""One side of a pair: a tower or stored features, and the head on them."""

from collections.abc import Mapping

import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.pretrain.heads import projection
from pairscape.pretrain.options import Training

SIDES = ("images", "genes")
# What a frozen trunk in training mode still learns: the running statistics of batch normalisation.
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class Side(nn.Module):
    """One side of a pair: inputs -> embeddings (B, embedding_dim), of unit length unless asked.

    Parameters
    ----------
    tower
        The encoder, or None where the inputs are stored features.
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
        whole = self.tower is None or self.tuning == "learned" or self.trunk_mode == "train"
        if whole or not mode:
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
        from pairscape.images import encoding

        mean, std = self.image_input["mean"], self.image_input["std"]
        if inputs.is_floating_point():
            images = inputs
        elif inputs.device.type == "cpu":
            images = encoding.normalise(inputs.numpy(), mean, std)
        else:
            images = encoding.normalise_on_device(inputs, mean, std)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.tower.tokens(images) if self.takes_tokens else self.tower(images)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Features (or tokens) of the encoder -> embeddings, float32."""
        embedded = self.head(features.float()).float()
        return nn.functional.normalize(embedded, dim=1) if self.unit_length else embedded

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.project(self.encode(inputs))

    def is_kept(self, name: str) -> bool:
        """Whether an entry of the state is saved with the pair: what isn't lies in the weights."""
        if not name.startswith("tower.") or self.tuning in ("full", "learned"):
            return True
        if self.trunk_mode == "train" and name.endswith(_STATISTICS):
            return True
        return self.tuning == "lora" and "lora_" in name


def image_side(description: Mapping, tower: nn.Module | None) -> Side:
    training, image = Training(**description["training"]), description["image_encoder"]
    takes_tokens = training.image_projection == "transformer"
    across_batch = takes_tokens and training.transformer_attends == "batch"
    width = description["stored_width"]["images"]
    if tower is not None:
        width = tower.token_width if takes_tokens else tower.width
    sizes = (width, training.embedding_dim, training.projection_dropout)
    return Side(
        tuned(tower, image, training.image_tuning, training),
        projection(training.image_projection, *sizes, across_batch),
        training.image_tuning,
        image["input"],
        takes_tokens,
        not across_batch,
        training.unit_length,
        training.frozen_trunks,
    )


def tuned(tower: nn.Module | None, spec: Mapping, tuning: str, training: Training):
    """Make of a frozen tower what is trained; adapters go to the modules that the file names."""
    option = f"training.{spec['kind']}_tuning"
    if tower is None and tuning in ("lora", "full"):
        remedy = "leave the features out, or choose frozen"
        raise InputError("--options", option, f"{tuning} on stored features", remedy)
    if tower is None or tuning == "learned":
        return tower
    tower.requires_grad_(tuning == "full")
    if tuning == "lora":
        from peft import LoraConfig, inject_adapter_in_model

        targets = spec["finetuning"]["lora_targets"]
        if not targets:
            remedy = f"name modules in the encoder's file, or set {option} to full or frozen"
            raise InputError(spec["title"], "finetuning.lora_targets", "none", remedy)
        inject_adapter_in_model(
            LoraConfig(
                r=training.lora_rank,
                lora_alpha=training.lora_alpha,
                lora_dropout=training.lora_dropout,
                target_modules=list(targets),
                bias="none",
            ),
            tower.model,
        )
        for name, parameter in tower.named_parameters():
            parameter.requires_grad_("lora_" in name)
    return tower
