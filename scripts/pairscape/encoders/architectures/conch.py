"""CONCH's image side: a ViT trunk and an attention pooler, and the layout of its official file.

Lu et al., Nature Medicine 2024; mahmoodlab/CONCH (141cc09), ``open_clip_custom``. Written after its
description in the project's facts and checked against golden numbers; no code of it was taken.
"""

from collections.abc import Mapping

import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.encoders import weights

_NOT_THE_IMAGE_SIDE = {
    r"text\..*|text_decoder\..*|logit_scale": "the text side isn't part of an image encoder",
    r"visual\.(attn_pool_caption|ln_caption)\..*": "the pooler for captions feeds the text decoder",
    r"visual\.proj_contrast": "the embedding is taken before the projection to the text's space",
}
_POOLER = {
    r"visual\.(attn_pool_contrast|ln_contrast)\..*": "the embedding is the trunk's class token"
}


class AttentionPooler(nn.Module):
    """Learned queries that attend over tokens: (B, T, context) -> (B, queries, width)."""

    def __init__(self, width: int, context: int, heads: int, queries: int = 1):
        super().__init__()
        self.query = nn.Parameter(torch.randn(queries, width))
        self.attn = nn.MultiheadAttention(
            width, heads, kdim=context, vdim=context, batch_first=True
        )
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0]


class Conch(nn.Module):
    """(B, 3, H, W) -> (B, width) through the pooler; without one, all tokens (B, T, C)."""

    def __init__(self, trunk: nn.Module, pooler: AttentionPooler | None, width: int):
        super().__init__()
        self.trunk = trunk
        self.num_features = trunk.num_features
        self.attn_pool_contrast = pooler
        self.ln_contrast = None if pooler is None else nn.LayerNorm(width)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return self.trunk.forward_features(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.forward_features(images)
        if self.attn_pool_contrast is None:
            return tokens
        return self.ln_contrast(self.attn_pool_contrast(tokens)[:, 0])


def build(spec: Mapping) -> nn.Module:
    """The trunk from the encoder's ``arguments``; the pooler too where ``output`` is ``pooled``."""
    import timm

    arguments = dict(spec["arguments"])
    heads = arguments.pop("pooler_heads")
    trunk = timm.create_model(arguments.pop("architecture"), pretrained=False, **arguments)
    pooler = None
    if spec["output"] == "pooled":
        pooler = AttentionPooler(spec["width"], trunk.num_features, heads)
    return Conch(trunk, pooler, spec["width"])


def official_layout(entries: Mapping, path, model: nn.Module) -> dict:
    """Take the image side out of the official file, by its names.

    The file is a state dict, or holds one under ``state_dict``; names may begin with ``module.``.
    """
    if isinstance(entries.get("state_dict"), Mapping):
        entries = entries["state_dict"]
    entries = {name.removeprefix("module."): value for name, value in entries.items()}
    if not any(name.startswith("visual.") for name in entries):
        fault = f"none among {len(entries)} (such as {next(iter(entries), None)})"
        raise InputError(path, "entries visual.*", fault, "give the official file of CONCH")
    without_pooler = getattr(model, "attn_pool_contrast", None) is None
    reasons = _NOT_THE_IMAGE_SIDE | (_POOLER if without_pooler else {})
    kept = weights.leave_out(entries, reasons, path)
    return {name.removeprefix("visual."): value for name, value in kept.items()}
