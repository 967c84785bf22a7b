"""Dropout whose draws are a function of the row: the same in any chunk, process or device.

Torch draws one mask for a whole tensor, so that with another ``micro_batch`` or number of devices
other numbers fall out. Here each row of the global batch has a key, and the mask of a row is a hash of
its key, the layer and the place: it costs some integer operations and keeps nothing but the mask.
"""

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

# The finaliser of MurmurHash3, whose outcomes are uniform: shifts and factors.
_MIX = ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1))


class RowDropout(nn.Module):
    """``nn.Dropout`` with draws by row; ``keys`` (rows, 2) int32 are set before it runs."""

    def __init__(self, p: float, name: str):
        super().__init__()
        self.p, self.keys = p, None
        self._layer = zlib.crc32(name.encode())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.keys is None or len(x) % len(self.keys):
            raise ValueError(f"{len(x)} rows and the keys of {self.keys}")
        # Windows of an image stand side by side: they belong to one row.
        rows = x.reshape(len(self.keys), -1)
        kept = uniform_bits(self.keys, rows.shape[1], self._layer) >= _bits(self.p * 2**32)
        return torch.where(kept.view(x.shape), x / (1 - self.p), 0)


def uniform_bits(keys: torch.Tensor, count: int, layer: int) -> torch.Tensor:
    """(rows, count) int32, uniform from the least to the greatest, by (rows, 2) keys and a layer."""
    place = torch.arange(count, dtype=torch.int32, device=keys.device)
    layer_bits = _signed(layer)
    step, start = (keys[:, :1] ^ layer_bits) | 1, keys[:, 1:] ^ layer_bits
    bits = place * step + start  # an odd step of its own for each row: no two walk the same way
    for shift, factor in _MIX:
        bits ^= (bits >> shift) & ((1 << (32 - shift)) - 1)  # a shift that brings in zeros
        bits *= _signed(factor)
    return bits


def row_keys(seed: int, step: int, side: int, count: int) -> np.ndarray:
    """The keys of the rows of a global batch, (count, 2) int32."""
    sequence = np.random.SeedSequence([seed, 3, step, side])
    return sequence.generate_state(2 * count, np.uint32).view(np.int32).reshape(count, 2)


def install(side: nn.Module) -> None:
    """Put ``RowDropout`` in the place of every ``nn.Dropout`` of a side; names of entries stay."""
    for name, parent in list(side.named_modules()):
        for child_name, child in parent.named_children():
            if isinstance(child, nn.Dropout) and child.p:
                made = RowDropout(child.p, f"{name}.{child_name}")
                setattr(parent, child_name, made.train(child.training))


def installed(side: nn.Module) -> list[RowDropout]:
    """The layers of a side that draw by row."""
    return [module for module in side.modules() if isinstance(module, RowDropout)]


def set_keys(layers: Iterable[RowDropout], keys: torch.Tensor) -> None:
    """Tell layers which rows run next."""
    for layer in layers:
        layer.keys = keys


def _signed(bits: int) -> int:
    """The int32 of the same 32 bits."""
    return bits - 2**32 if bits >= 2**31 else bits


def _bits(share: float) -> int:
    """Of uniform int32 numbers, that below which ``share`` of 2**32 lie."""
    return int(share) - 2**31
