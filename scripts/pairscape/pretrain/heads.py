"""Projection heads: from an encoder's width to the space that images and genes share."""

from collections import OrderedDict

import torch
from torch import nn

from pairscape.core.errors import InputError

TRANSFORMER_LAYERS = 4
TRANSFORMER_HEADS = 8
TRANSFORMER_DROPOUT = 0.1


class TransformerHead(nn.Module):
    """Transformer layers over the tokens of a trunk, then one linear layer on the first token.

    ``forward`` takes (B, T, width) and returns (B, embedding_dim): the class token's where the trunk
    has one (it comes first), else that of the patch in the upper left, which has attended to all.

    Parameters
    ----------
    width, embedding_dim
        Numbers per token and per embedding; the layers' feed-forward width is ``embedding_dim``.
    published
        As HESCAPE has it: tokens and images of the batch are mistaken for each other, so that an
        image attends to the other images of its batch and not to its own tokens.
    """

    def __init__(self, width: int, embedding_dim: int, published: bool = False):
        super().__init__()
        sizes = (width, TRANSFORMER_HEADS, embedding_dim, TRANSFORMER_DROPOUT)
        layer = nn.TransformerEncoderLayer(*sizes, batch_first=not published)
        self.transformer = nn.TransformerEncoder(
            layer, TRANSFORMER_LAYERS, enable_nested_tensor=False
        )
        self.linear = nn.Linear(width, embedding_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.linear(self.transformer(tokens)[:, 0])


def projection(
    kind: str, width: int, embedding_dim: int, dropout: float, published: bool = False
) -> nn.Module:
    """A projection head, (B, width) -> (B, embedding_dim).

    ``mlp`` is timm's Mlp as HESCAPE uses it: hidden width twice the embedding's, GELU, dropout,
    LayerNorm before the second layer, and dropout on the output too. ``transformer`` takes tokens,
    see ``TransformerHead``.
    """
    if kind == "linear":
        return nn.Linear(width, embedding_dim)
    if kind == "identity":
        if width != embedding_dim:
            other = f"identity for an encoder of width {width}"
            remedy = f"choose linear, or embedding_dim: {width}"
            raise InputError("--options", "training.gene_projection", other, remedy)
        return nn.Identity()
    if kind == "transformer":
        if width % TRANSFORMER_HEADS:
            other = f"transformer for tokens of {width} numbers"
            remedy = f"choose mlp: its {TRANSFORMER_HEADS} attention heads don't divide them"
            raise InputError("--options", "training.image_projection", other, remedy)
        return TransformerHead(width, embedding_dim, published)
    hidden = 2 * embedding_dim
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(width, hidden),
            act=nn.GELU(),
            drop1=nn.Dropout(dropout),
            norm=nn.LayerNorm(hidden),
            fc2=nn.Linear(hidden, embedding_dim),
            drop2=nn.Dropout(dropout),
        )
    )
