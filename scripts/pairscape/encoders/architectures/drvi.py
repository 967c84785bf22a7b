"""DRVI's encoder in plain torch: what a fit leaves behind, used without drvi, scvi or AnnData.

Fitting is ``pairscape.encoders.drvi_fitting``'s part. It leaves the encoder's tensors and, beside
them, a record of what they were fitted on, without which they aren't used.
"""

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, towers, weights

log = logging.getLogger("pairscape")

FORMAT = 1
FIT_FILE = "fit.json"
_FIT_KEYS = ("arguments", "genes", "leaked", "samples", "sha256")


class Drvi(towers.GeneTower):
    """log1p of the counts as they are, then the layers; the embedding is the latent's mean."""

    def __init__(self, model: nn.Module, spec: Mapping):
        super().__init__(model, spec["width"])
        self.spec = spec

    def prepare(self, counts: torch.Tensor) -> torch.Tensor:
        return gene_encoders.prepare_counts(self.spec, counts, torch.nan)


def build(spec: Mapping, path, genes: Sequence[Mapping], train=None) -> Drvi:
    """Parameters and errors as in ``gene_encoders.build``; ``path`` is the fitted encoder.pt."""
    expected = {"library_size": "none", "transform": "log1p"}
    for key, value in expected.items():
        if spec["input"][key] != value:
            raise InputError(
                spec["title"], f"input.{key}", repr(spec["input"][key]), f"write {value}"
            )
    if spec["width"] != spec["arguments"]["n_latent"]:
        remedy = f"write arguments.n_latent, {spec['arguments']['n_latent']}"
        raise InputError(spec["title"], "width", str(spec["width"]), remedy)
    model = network(len(genes), spec["arguments"])
    if path is not None:
        fit = read_fit(path, spec)
        symbols = [gene["gene_symbol"] for gene in genes]
        if fit["genes"] != symbols:
            differing = sorted(set(fit["genes"]) ^ set(symbols))
            raise InputError(
                path,
                "genes",
                f"an encoder of {len(fit['genes'])} genes that aren't those of genes.tsv"
                + (f" (such as {differing[0]})" if differing else ", in another order"),
                "fit it again",
            )
        stored = {"title": spec["title"], "weights": {"sha256": fit["sha256"]}}
        weights.load_strictly(model, weights.read_entries(stored, path), path)
    return Drvi(model, spec)


def network(gene_count: int, arguments: Mapping) -> nn.Sequential:
    """The layers from log1p counts to the mean: Linear, LayerNorm without weights, ELU, Dropout for
    each of ``encoder_dims``, then Linear (drvi-py 0.2.8, its defaults)."""
    layers, width = OrderedDict(), gene_count
    for i, hidden in enumerate(arguments["encoder_dims"]):
        layers[f"linear_{i}"] = nn.Linear(width, hidden)
        layers[f"norm_{i}"] = nn.LayerNorm(hidden, elementwise_affine=False)
        layers[f"elu_{i}"] = nn.ELU()
        layers[f"dropout_{i}"] = nn.Dropout(arguments["dropout"])
        width = hidden
    layers["mean"] = nn.Linear(width, arguments["n_latent"])
    return nn.Sequential(layers)


def entries_of_module(state: Mapping[str, torch.Tensor], layers: int) -> dict[str, torch.Tensor]:
    """The entries of ``network`` in the state of a drvi module with ``layers`` hidden layers.

    Decoder, variance and noise model are left out: an embedding needs none of them.
    """
    names = {f"linear_{i}": f"encoder.fc_layers.Layer {i}.0" for i in range(layers)}
    names["mean"] = "mean_encoder.fc_layers.Layer 0.0"
    return {
        f"{ours}.{part}": state[f"z_encoder.{theirs}.{part}"].detach().cpu().clone()
        for ours, theirs in names.items()
        for part in ("weight", "bias")
    }


def read_fit(path, spec: Mapping | None = None) -> dict:
    """The record of what an encoder was fitted on; it lies beside it.

    Parameters
    ----------
    path
        The encoder.pt.
    spec
        The encoder's file, which must be as it was at the fit.
    """
    record = Path(path).with_name(FIT_FILE)
    if not Path(path).is_file():
        raise InputError(path, "file", "nothing", "run fit_gene_encoder, or correct the path")
    fit = files.read_json(record)
    missing = [key for key in _FIT_KEYS if not isinstance(fit, dict) or key not in fit]
    if missing or fit.get("format") != FORMAT:
        fault = "nothing" if missing else str(fit.get("format"))
        remedy = f"fit the encoder again (format {FORMAT})"
        raise InputError(record, missing[0] if missing else "format", fault, remedy)
    found = files.sha256_file(path)
    if found != fit["sha256"]:
        remedy = f"{fit['sha256'][:12]} is what {FIT_FILE} says: fit the encoder again"
        raise InputError(path, "sha256", found[:12], remedy)
    if spec is not None and fit["arguments"] != spec["arguments"]:
        keys = [*spec["arguments"], *fit["arguments"]]
        changed = next(k for k in keys if fit["arguments"].get(k) != spec["arguments"].get(k))
        fault = (
            f"{fit['arguments'].get(changed)!r}, and {spec['arguments'].get(changed)!r} in "
            f"the file of {spec['title']}"
        )
        raise InputError(record, f"arguments.{changed}", fault, "fit the encoder again")
    return fit


def check_fitted_on(path, splits: Sequence[Mapping], splits_path, shards: Iterable = ()) -> dict:
    """Refuse a fitted encoder that knows of anything but the train split.

    Parameters
    ----------
    path
        The encoder.pt; its record lies beside it.
    splits
        Rows of splits.tsv. A sample may stand in train and, acknowledged there, elsewhere too.
    splits_path
        splits.tsv, for messages.
    shards
        What is at hand: mappings with ``sample`` and ``sha256`` of the shard's file. Samples that
        the encoder was fitted on must be the same files.

    Returns
    -------
    The record. Its ``leaked`` names held-out samples that the encoder saw because its file says
    ``fit_on: published``; that is said as a warning.
    """
    fit = read_fit(path)
    record = Path(path).with_name(FIT_FILE)
    split_of: dict[str, list[str]] = {}
    for row in splits:
        split_of.setdefault(row["sample"], []).append(row["split"])
    now = {shard["sample"]: shard["sha256"] for shard in shards}
    for sample in fit["samples"]:
        name = sample["sample"]
        where = split_of.get(name, [])
        if "train" not in where and name not in fit["leaked"]:
            fault = f"a sample that is in {' and '.join(where) or 'no split'} of {splits_path}"
            remedy = "fit the encoder again, on the train split alone"
            raise InputError(record, f"samples, {name}", fault, remedy)
        if name in now and now[name] != sample["sha256"]:
            fault = "an encoder fitted on another export of its pairs"
            raise InputError(record, f"samples, {name}", fault, "fit the encoder again")
    if fit["leaked"]:
        log.warning("%s was fitted on held-out samples: %s", path, ", ".join(fit["leaked"]))
    return fit
