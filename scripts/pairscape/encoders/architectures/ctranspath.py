"""CTransPath: Swin-Tiny with a convolutional stem, and the layout of its official file.

Wang et al., Medical Image Analysis 2022; Xiyue-Wang/TransPath (26c6194), ``ctran.py``. The file was
written by a modified timm 0.5.4; here timm's own Swin of today gets the stem and the numbers.
"""

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from pairscape.core.errors import InputError

_REPLACED = re.compile(r".*\.(attn_mask|relative_position_index)")


class ConvStem(nn.Module):
    """Three convolutions in the place of Swin's patch embedding: (B, 3, H, W) -> (B, H/4, W/4, C).

    The arguments are those that timm gives a patch embedding.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer=nn.LayerNorm,
        **_ignored,
    ):
        super().__init__()
        if patch_size != 4:
            raise ValueError(f"the stem divides by 4, not by {patch_size}")
        self.grid_size = tuple(int(side) // patch_size for side in np.broadcast_to(img_size, 2))
        layers, inputs = [], in_chans
        for outputs in (embed_dim // 8, embed_dim // 4):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
            inputs = outputs
        self.proj = nn.Sequential(*layers, nn.Conv2d(inputs, embed_dim, 1))
        self.norm = norm_layer(embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


def build(spec: Mapping) -> nn.Module:
    """timm's Swin with the stem, from the encoder's ``arguments``."""
    import timm

    arguments = dict(spec["arguments"])
    return timm.create_model(
        arguments.pop("architecture"), pretrained=False, embed_layer=ConvStem, **arguments
    )


def official_layout(entries: Mapping, path, model: nn.Module) -> dict:
    """Bring the official file's entries to the names of timm's Swin.

    The state dict lies under ``model``. A stage's downsampling stood at its end in timm 0.5.4 and
    stands at the start of the next one today. Attention masks and index tables were stored; today
    they are computed, and what the file holds of them must be equal to that (files that were passed
    on lack some).
    """
    wrapped = entries.get("model")
    if not isinstance(wrapped, Mapping):
        fault = "nothing" if wrapped is None else type(wrapped).__name__
        remedy = "the official file holds its weights under this key: give that file"
        raise InputError(path, "entry model", fault, remedy)
    if len(entries) > 1:
        other = next(name for name in entries if name != "model")
        raise InputError(
            path, f"entry {other}", "an entry beside model", "give the official file, or only model"
        )
    computed, renamed = dict(model.named_buffers()), {}
    for name, value in wrapped.items():
        if _REPLACED.fullmatch(name) and name in computed:
            wanted = computed[name].cpu()
            if not (
                isinstance(value, torch.Tensor)
                and value.shape == wanted.shape
                and torch.equal(value.to(wanted.dtype), wanted)
            ):
                fault = "another table than the one that the model computes"
                raise InputError(path, f"entry {name}", fault, "give the official file")
            continue
        stage = re.fullmatch(r"layers\.(\d+)\.(downsample\..*)", name)
        renamed[f"layers.{int(stage[1]) + 1}.{stage[2]}" if stage else name] = value
    return renamed
