"""The towers: encoders with a width, an input and a title."""

from collections.abc import Mapping

import torch
from torch import nn


class GeneTower(nn.Module):
    """A gene encoder with its preparation: (B, genes) raw counts -> (B, width).

    A subclass overrides ``prepare`` and, where the model's output isn't the embedding, ``forward``.
    What the preparation needs are buffers of the tower, saved with it; those that come from the
    train split are NaN where ``build`` got no facts of it, until a saved state is loaded.

    Subclasses whose spots differ in length also have ``lengths(counts) -> (B,) int64``: the tokens
    that each spot takes, which ``embed`` makes its batches by.

    Attributes
    ----------
    model
        The network alone: what the weights are loaded into, and what adapters go to.
    width
        Numbers per embedding.
    """

    def __init__(self, model: nn.Module, width: int):
        super().__init__()
        self.model, self.width = model, width

    def prepare(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, genes) raw counts of any number type -> the input of ``model``."""
        raise NotImplementedError

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        return self.model(self.prepare(counts))


class ImageTower(nn.Module):
    """An image encoder: prepared images (B, 3, H, W) -> embeddings (B, width).

    Attributes
    ----------
    model
        The network, whose names are those of the weights (and of LoRA targets).
    width, token_width
        Numbers per embedding, and per token of ``tokens``.
    """

    def __init__(self, model: nn.Module, spec: Mapping):
        super().__init__()
        self.model = model
        self.width, self.token_width = spec["width"], model.num_features
        self._token_zero = spec["output"] == "token_0"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.model(images)
        return found[:, 0] if self._token_zero else found

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        """All tokens of the trunk after its last norm, (B, T, token_width).

        The class token comes first where there is one, then registers, then patches by row.
        """
        found = self.model.forward_features(images)
        if found.ndim == 4 and getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return found.flatten(1, 2)
        return found.flatten(2).transpose(1, 2) if found.ndim == 4 else found
