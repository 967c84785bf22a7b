"""The transformer that turns the patches of a slide into one logit, and what it attends to.

HistoBistro's aggregator (peng-lab/HistoBistro 52313bb, ``models/aggregators/transformer.py``;
Wagner et al., Cancer Cell 2023), entry by entry, so that its published files load. Nothing tells
where a patch lies: the order of a bag changes nothing.

In the last block only the class token is computed: the others can't reach the logit.
"""

import torch
from torch import nn
from torch.nn import functional

ATTENTION_BYTES = 64 << 20  # of one block of attention weights, when they are looked at


class Attention(nn.Module):
    """Self-attention of many heads: q, k, v without bias, the output with one."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * head_dim, dim), nn.Dropout(0.0))

    def project(self, tokens, queries) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """q of ``queries``, k and v of ``tokens``: (B, heads, tokens, head_dim) each."""
        to_q, to_kv = self.to_qkv.weight.tensor_split([len(self.to_qkv.weight) // 3])
        k, v = functional.linear(tokens, to_kv).chunk(2, dim=-1)
        parts = functional.linear(queries, to_q), k, v
        return tuple(x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)

    def forward(self, tokens, queries) -> torch.Tensor:
        mixed = functional.scaled_dot_product_attention(*self.project(tokens, queries))
        return self.to_out(mixed.transpose(1, 2).flatten(2))


def _normed(dim: int, layer: nn.Module) -> nn.ModuleDict:
    """A layer behind its LayerNorm; this and what follows by the names that published files hold."""
    return nn.ModuleDict({"norm": nn.LayerNorm(dim), "fn": layer})


def _blocks(dim: int, depth: int, heads: int, head_dim: int) -> nn.ModuleDict:
    """Pre-norm blocks of attention and of feed-forward layers: linear, GELU, linear."""
    layers = nn.ModuleList()
    for _ in range(depth):
        attention = _normed(dim, Attention(dim, heads, head_dim))
        net = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), nn.Dropout(0.0), nn.Linear(dim, dim), nn.Dropout(0.0)
        )
        layers.append(nn.ModuleList([attention, _normed(dim, nn.ModuleDict({"net": net}))]))
    return nn.ModuleDict({"layers": layers})


class Aggregator(nn.Module):
    """Bags of patch embeddings (B, N, width) to logits (B, classes), through a class token.

    ``dim``, ``depth``, ``heads`` and ``head_dim`` are the width of the tokens, the blocks, attention
    heads in each and their width. The published code has no room for other widths than ``dim`` =
    ``heads`` x ``head_dim``.
    """

    def __init__(
        self,
        width: int,
        classes: int = 1,
        dim: int = 512,
        depth: int = 2,
        heads: int = 8,
        head_dim: int = 64,
    ):
        super().__init__()
        self.projection = nn.Sequential(nn.Linear(width, dim), nn.ReLU())
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.transformer = _blocks(dim, depth, heads, head_dim)
        self.norm = nn.LayerNorm(dim)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, classes))

    def class_token(self, bag: torch.Tensor, attended: list | None = None) -> torch.Tensor:
        """The class token after the blocks, (B, dim).

        ``attended`` takes each block's attention layer with its normalised tokens, in order.
        """
        tokens = self.projection(bag)
        tokens = torch.cat([self.cls_token.expand(len(bag), -1, -1), tokens], dim=1)
        last = len(self.transformer.layers) - 1
        for number, (attention, feed_forward) in enumerate(self.transformer.layers):
            normed = attention.norm(tokens)
            if attended is not None:
                attended.append((attention.fn, normed))
            if number == last:
                tokens = tokens[:, :1]
            tokens = attention.fn(normed, normed[:, : tokens.shape[1]]) + tokens
            tokens = feed_forward.fn.net(feed_forward.norm(tokens)) + tokens
        return tokens[:, 0]

    def forward(self, bag: torch.Tensor) -> torch.Tensor:
        return self.mlp_head(self.norm(self.class_token(bag)))


@torch.inference_mode()
def patch_attention(aggregator: Aggregator, bag: torch.Tensor) -> torch.Tensor:
    """How much of the class token comes from each patch: attention rollout.

    Abnar and Zuidema, ACL 2020: a block passes on half of what stands there (the residual) and
    half of what its attention, as the mean over heads, gathers; blocks multiply. Rows of the
    attention are made some at a time, so that a slide of 20,000 patches fits into memory.

    ``bag`` (N, width) gives (N,) float32 that sums to 1; 1 / N each is attention that doesn't choose.
    """
    attended = []
    aggregator.class_token(bag[None], attended)
    weights = None  # of the tokens of the block at hand in the class token at the end
    for layer, normed in reversed(attended):
        queries = normed if weights is not None else normed[:, :1]
        q, k, _ = layer.project(normed, queries)
        weights = torch.ones(1, device=bag.device) if weights is None else weights
        gathered = torch.zeros(normed.shape[1], device=bag.device)
        rows = max(1, ATTENTION_BYTES // (4 * layer.heads * normed.shape[1]))
        for at in range(0, len(weights), rows):
            block = q[0, :, at : at + rows] @ k[0].transpose(-1, -2) / k.shape[-1] ** 0.5
            gathered += weights[at : at + rows] @ block.softmax(dim=-1).mean(dim=0)
        gathered /= 2
        gathered[: len(weights)] += weights / 2
        weights = gathered
    patches = weights[1:]
    return patches / patches.sum()
