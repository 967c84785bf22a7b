"""HESCAPE's generic gene encoder."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, towers


class GeneMlp(towers.GeneTower):
    """log1p of scaled counts, then the layers; see ``build``."""

    def __init__(self, model: nn.Module, spec: Mapping, library_size: float):
        super().__init__(model, spec["width"])
        self.spec = spec
        self.register_buffer("library_size", torch.tensor(library_size))

    def prepare(self, counts: torch.Tensor) -> torch.Tensor:
        return gene_encoders.prepare_counts(self.spec, counts, self.library_size)


def build(spec: Mapping, weights, genes: Sequence[Mapping], train=None) -> GeneMlp:
    """Linear, then blocks of BatchNorm, ReLU, Dropout, Linear, then BatchNorm and ReLU, so that the
    embedding is never negative. Parameters as in ``gene_encoders.build``."""
    if spec["input"]["transform"] != "log1p":
        raise InputError(
            spec["title"], "input.transform", repr(spec["input"]["transform"]), "allowed: log1p"
        )
    width, options = spec["width"], spec["arguments"]
    hidden = options["hidden"]
    layers = OrderedDict(input=nn.Linear(len(genes), hidden))
    for i in range(options["blocks"]):
        layers[f"batchnorm_{i}"] = nn.BatchNorm1d(hidden)
        layers[f"relu_{i}"] = nn.ReLU()
        layers[f"dropout_{i}"] = nn.Dropout(options["dropout"])
        layers[f"linear_{i}"] = nn.Linear(hidden, width if i + 1 == options["blocks"] else hidden)
    layers["batchnorm_out"] = nn.BatchNorm1d(width)
    layers["relu_out"] = nn.ReLU()
    library_size = float("nan") if train is None else float(train.library_size)
    return GeneMlp(nn.Sequential(layers), spec, library_size)
