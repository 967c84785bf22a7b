"""A post-norm transformer encoder with the entry names of ``torch.nn.TransformerEncoder``.

Torch's own reads the weight of ``out_proj`` past the module, so that an adapter put on it does
nothing, and its inference path holds all attention weights at once. This one calls the modules and
attends by ``scaled_dot_product_attention``.
"""

import torch
from torch import nn


class SelfAttention(nn.Module):
    """Multi-head self-attention; entries as in ``torch.nn.MultiheadAttention``."""

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        batch, length, dim = x.shape
        projected = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = projected.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(batch, length, dim))


class EncoderLayer(nn.Module):
    """Attention, add, norm, feed-forward with ReLU, add, norm."""

    def __init__(self, dim: int, heads: int, feed_forward: int, eps: float, dropout: float = 0.0):
        super().__init__()
        self.self_attn = SelfAttention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, feed_forward)
        self.linear2 = nn.Linear(feed_forward, dim)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x, mask)))
        inner = self.dropout(torch.relu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(inner)))


class Encoder(nn.Module):
    """Layers one after the other, without a last norm.

    ``forward(x, real)``: x (B, T, dim); ``real`` (B, T) bool is False for pads, which no token
    attends to, or None where there is none.
    """

    def __init__(
        self, layers: int, dim: int, heads: int, feed_forward: int, eps: float, dropout: float = 0.0
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, feed_forward, eps, dropout) for _ in range(layers)
        )

    def forward(self, x: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
        mask = None if real is None else real[:, None, None, :]
        for layer in self.layers:
            x = layer(x, mask)
        return x
