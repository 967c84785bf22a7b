"""Build gene encoders from their files, and bring counts to their input."""

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import nn

from pairscape.errors import InputError


def build(spec: Mapping, weights, gene_count: int) -> nn.Module:
    """Build a gene encoder: (B, genes) prepared by ``prepare_counts`` -> (B, width).

    Parameters
    ----------
    spec
        The encoder (``encoders.read_encoder``).
    weights
        The file of its weights; ``None`` for encoders that learn with the pair.
    gene_count
        Genes of the dataset.

    Raises
    ------
    InputError
        Its builder isn't known, or it isn't what its file declares.
    """
    if spec["builder"] not in BUILDERS:
        raise InputError(
            spec["title"], "builder", repr(spec["builder"]), f"allowed: {', '.join(BUILDERS)}"
        )
    if weights is not None and spec["learned_from"] == "pair":
        raise InputError(
            weights, "weights", "a file", f"{spec['title']} learns with the pair: give none"
        )
    encoder = BUILDERS[spec["builder"]](spec, gene_count)
    found = sum(parameter.numel() for parameter in encoder.parameters())
    declared = spec["parameters"] + spec["parameters_per_gene"] * gene_count
    if found != declared:
        raise InputError(
            spec["title"],
            "parameters",
            f"{found:,} in the model that its arguments build for {gene_count} genes",
            f"its file declares {declared:,}: correct the arguments or the counts",
        )
    return encoder


def prepare_counts(spec: Mapping, counts: torch.Tensor, library_size: torch.Tensor) -> torch.Tensor:
    """Bring raw counts to the input of an encoder.

    Parameters
    ----------
    spec
        The encoder.
    counts
        (B, genes), raw, of any number type.
    library_size
        What each spot's sum is brought to where the encoder asks for ``train_median``: the median
        sum of the train split, so that a spot's input depends on no other spot at hand.

    Returns
    -------
    (B, genes) float32. A spot without counts stays all zero.
    """
    options = spec["input"]
    if options["transform"] != "log1p":
        raise InputError(
            spec["title"], "input.transform", repr(options["transform"]), "allowed so far: log1p"
        )
    counts = counts.float()
    if options["library_size"] == "train_median":
        counts = counts * (library_size / counts.sum(1, keepdim=True).clamp(min=1))
    elif options["library_size"] != "none":
        target = float(options["library_size"])
        counts = counts * (target / counts.sum(1, keepdim=True).clamp(min=1))
    return torch.log1p(counts)


def _build_mlp(spec: Mapping, gene_count: int) -> nn.Module:
    """HESCAPE's generic encoder: Linear, then blocks of BatchNorm, ReLU, Dropout, Linear, then
    BatchNorm and ReLU, so that the embedding is never negative."""
    width, options = spec["width"], spec["arguments"]
    hidden = options["hidden"]
    layers = OrderedDict(input=nn.Linear(gene_count, hidden))
    for i in range(options["blocks"]):
        layers[f"batchnorm_{i}"] = nn.BatchNorm1d(hidden)
        layers[f"relu_{i}"] = nn.ReLU()
        layers[f"dropout_{i}"] = nn.Dropout(options["dropout"])
        layers[f"linear_{i}"] = nn.Linear(hidden, width if i + 1 == options["blocks"] else hidden)
    layers["batchnorm_out"] = nn.BatchNorm1d(width)
    layers["relu_out"] = nn.ReLU()
    return nn.Sequential(layers)


BUILDERS: dict[str, Callable[[Mapping, int], nn.Module]] = {"mlp": _build_mlp}
