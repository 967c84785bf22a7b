"""scFoundation's encoder: tokens of expressed genes and of two depths, attention by SDPA.

Architecture and names follow biomap-research/scFoundation (d09626a, ``model/pretrainmodels``); its
decoder isn't needed for an embedding and is left out.
"""

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn import functional

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.encoders import gene_encoders, towers
from pairscape.encoders import weights as weight_files
from pairscape.encoders.architectures import transformer

log = logging.getLogger("pairscape")

MASK_VALUE, PAD_VALUE = 102.0, 103.0
# The published inference pads positions with the id that it pads values with: another gene's.
_PUBLISHED_PAD_POSITION = 103
# Entries of the checkpoint that aren't loaded, by pattern, and why.
LEFT_OUT = {
    r"decoder\..*": "the decoder, which reconstructs values",
    r"decoder_embed\.(weight|bias)": "it leads from the encoder to the decoder",
    r"norm\.(weight|bias)": "it follows the decoder",
    r"to_final\.(weight|bias)": "it leads from the decoder to values",
}
_FEWEST_KNOWN = 0.5


class ValueEmbedding(nn.Module):
    """A value's embedding: a softmax over bins mixes the rows of a table.

    (…) float -> (…, dim). ``MASK_VALUE`` and ``PAD_VALUE`` have vectors of their own.
    """

    def __init__(self, dim: int, bins: int, bin_alpha: float):
        super().__init__()
        self.mlp = nn.Linear(1, bins)
        self.mlp2 = nn.Linear(bins, bins)
        self.emb = nn.Embedding(bins, dim)
        self.emb_mask = nn.Embedding(1, dim)
        self.emb_pad = nn.Embedding(1, dim)
        self.bin_alpha = bin_alpha

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        first = functional.leaky_relu(self.mlp(values[..., None]), 0.1)
        mixed = (self.bin_alpha * first + self.mlp2(first)).softmax(-1) @ self.emb.weight
        mixed = torch.where((values == MASK_VALUE)[..., None], self.emb_mask.weight[0], mixed)
        return torch.where((values == PAD_VALUE)[..., None], self.emb_pad.weight[0], mixed)


class Encoder(nn.Module):
    """Values and positions of tokens -> their embeddings.

    Positions are the genes of the vocabulary, then T (target depth), then S (source depth), then
    padding: a table of genes + 3 rows.
    """

    def __init__(self, arguments: Mapping):
        super().__init__()
        dim = arguments["dim"]
        self.token_emb = ValueEmbedding(dim, arguments["bins"], arguments["bin_alpha"])
        self.pos_emb = nn.Embedding(arguments["genes"] + 3, dim)
        self.encoder = nn.Module()
        self.encoder.transformer_encoder = nn.ModuleList(
            transformer.EncoderLayer(
                dim, arguments["heads"], arguments["feed_forward"], 1e-5, arguments["dropout"]
            )
            for _ in range(arguments["layers"])
        )
        self.encoder.norm = nn.LayerNorm(dim)

    def forward(
        self, values: torch.Tensor, positions: torch.Tensor, real: torch.Tensor
    ) -> torch.Tensor:
        """(B, T) values, positions and whether a token is real -> (B, T, dim).

        Nothing attends to what isn't real.
        """
        # Without padding no mask is given, so that a GPU may take its fastest kernel.
        mask = None if bool(real.all()) else real[:, None, None, :]
        tokens = self.token_emb(values) + self.pos_emb(positions)
        for layer in self.encoder.transformer_encoder:
            tokens = layer(tokens, mask)
        return self.encoder.norm(tokens)


class Tower(towers.GeneTower):
    """Raw counts of a dataset's genes -> embeddings of spots, (B, genes) -> (B, width).

    Tokens are T, S, then the expressed genes that the vocabulary knows. Padding is never attended
    to, and pooled over only where ``pool_over`` is ``padded``, as published. A spot that expresses
    none of the genes is pooled over T and S.

    Parameters
    ----------
    spec
        The encoder. ``arguments.pool``: ``max``, or ``all`` (the authors' cell embedding: token S,
        token T, maximum and mean). ``arguments.pool_over``: ``genes``, ``tokens`` (T and S too) or
        ``padded``. ``input.library_size``: see ``gene_encoders.prepare_counts``.
        ``input.target_depth``: T, log10 of a sum of counts, or ``source`` (T = S).
    places
        The vocabulary's index of each gene of the dataset; -1 where it doesn't know it.
    library_size
        The train split's median sum of counts, for ``train_median``.
    """

    def __init__(self, spec: Mapping, places: Sequence[int], library_size: float):
        arguments = spec["arguments"]
        super().__init__(
            Encoder(arguments), arguments["dim"] * (4 if arguments["pool"] == "all" else 1)
        )
        self.spec = spec
        self.norm = (
            nn.BatchNorm1d(self.width, eps=1e-6, affine=False) if arguments["batch_norm"] else None
        )
        self.register_buffer("places", torch.tensor(places, dtype=torch.int64))
        self.register_buffer("library_size", torch.tensor(float(library_size)))

    def prepare(self, counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, genes) raw counts -> values, positions and realness of tokens, each (B, T).

        Depths are of the genes that the vocabulary knows; a spot without any counts as one count.
        """
        genes = self.spec["arguments"]["genes"]
        counts = torch.where(self.places >= 0, counts.float(), 0)
        values = gene_encoders.prepare_counts(self.spec, counts, self.library_size)
        source = counts.sum(1, keepdim=True).clamp(min=1).log10()
        target = self.spec["input"]["target_depth"]
        target = source if target == "source" else torch.full_like(source, target)
        expressed = counts > 0
        lengths = expressed.sum(1, keepdim=True)
        longest = int(lengths.max()) if len(lengths) else 0
        order = expressed.byte().sort(dim=1, descending=True, stable=True).indices[:, :longest]
        real = torch.arange(longest, device=counts.device) < lengths
        pad = (
            _PUBLISHED_PAD_POSITION
            if self.spec["arguments"]["pool_over"] == "padded"
            else genes + 2
        )
        depth_places = self.places.new_tensor([genes, genes + 1]).expand(len(counts), 2)
        return (
            torch.cat([target, source, torch.where(real, values.gather(1, order), PAD_VALUE)], 1),
            torch.cat([depth_places, torch.where(real, self.places[order], pad)], 1),
            torch.cat([torch.ones_like(depth_places, dtype=torch.bool), real], 1),
        )

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, genes) raw counts of any number type -> (B, width)."""
        values, positions, real = self.prepare(counts)
        tokens = self.model(values, positions, real)
        if self.spec["arguments"]["pool_over"] == "padded":
            pooled = torch.ones_like(real)
        else:
            pooled = real.clone()
            if self.spec["arguments"]["pool_over"] == "genes":
                pooled[:, :2] = real.sum(1, keepdim=True) == 2
        embedding = tokens.masked_fill(~pooled[..., None], -torch.inf).amax(1)
        if self.spec["arguments"]["pool"] == "all":
            share = (pooled / pooled.sum(1, keepdim=True)).to(tokens.dtype)
            mean = (share[:, None] @ tokens)[:, 0]
            embedding = torch.cat([tokens[:, 1], tokens[:, 0], embedding, mean], 1)
        return embedding if self.norm is None else self.norm(embedding)


class SpotTower(Tower):
    """A tower that embeds each spot by itself, so that batches may be made by length."""

    def lengths(self, counts: torch.Tensor) -> torch.Tensor:
        """(B,) tokens that each spot takes."""
        return ((counts > 0) & (self.places >= 0)).sum(1) + 2


def build(spec: Mapping, weights, genes: Sequence[Mapping], train=None) -> Tower:
    """Build the tower, and load the checkpoint where one is given.

    Parameters
    ----------
    spec
        The encoder (``specs.read_encoder``).
    weights
        The authors' ``models.ckpt``, with the vocabulary beside it; ``None`` (tests and controls)
        leaves the weights at random and takes the genes in order for the vocabulary.
    genes
        Rows of genes.tsv.
    train
        Facts of the train split (``expression_counts.TrainFacts``), for ``library_size: train_median``.
    """
    for part, key, allowed in (
        ("arguments", "pool", ("max", "all")),
        ("arguments", "pool_over", ("genes", "tokens", "padded")),
        ("input", "transform", ("log1p_depth_tokens",)),
        ("weights", "layout", ("scfoundation",)),
    ):
        if spec[part][key] not in allowed:
            remedy = f"allowed: {', '.join(allowed)}"
            raise InputError(spec["title"], f"{part}.{key}", repr(spec[part][key]), remedy)
    if weights is None:
        places = [i if i < spec["arguments"]["genes"] else -1 for i in range(len(genes))]
    else:
        (vocabulary,) = weight_files.find_extra(spec, weights).values()
        known = read_vocabulary(vocabulary, spec["arguments"]["genes"])
        places = find_genes(known, genes, vocabulary)
    # As published, what a spot becomes depends on its batch: batches must stay as they come.
    mixes = (
        spec["arguments"]["pool_over"] == "padded"
        or spec["input"]["library_size"] == "batch_median"
    )
    library_size = float("nan") if train is None else train.library_size
    tower = (Tower if mixes else SpotTower)(spec, places, library_size)
    if weights is not None:
        weight_files.load_strictly(tower.model, read_checkpoint(spec, weights), weights)
    return tower


def read_vocabulary(path, size: int) -> dict[str, int]:
    """The vocabulary: gene symbols and their index, 0 to ``size`` - 1, each once."""
    rows = tsv.read_tsv(path, ("gene_name", "index"))
    found = {row["gene_name"]: row["index"] for row in rows}
    indices = sorted(int(index) for index in found.values() if index.isdecimal())
    if len(rows) != size or indices != list(range(size)):
        fault = f"{len(rows):,} rows, {len(found):,} names, {len(set(indices)):,} numbers"
        remedy = f"{size:,} genes, numbered from 0, are needed: fetch the file again"
        raise InputError(path, "gene_name, index", fault, remedy)
    return {name: int(index) for name, index in found.items()}


def find_genes(vocabulary: Mapping[str, int], genes: Sequence[Mapping], path) -> list[int]:
    """The vocabulary's index of each gene of a dataset by its symbol, -1 where it has none.

    ``path`` is the vocabulary's file, for messages.
    """
    found = [vocabulary.get(gene["gene_symbol"], -1) for gene in genes]
    unknown = [g["gene_symbol"] for g, i in zip(genes, found, strict=True) if i < 0]
    if len(unknown) > _FEWEST_KNOWN * len(genes):
        fault = (
            f"only {len(genes) - len(unknown)} of the dataset's {len(genes)} genes "
            f"(not {', '.join(unknown[:3])})"
        )
        remedy = "scFoundation knows human genes by symbol: take another gene encoder"
        raise InputError(path, "gene_name", fault, remedy)
    if unknown:
        log.info(
            "%s: %d of %d genes aren't in the vocabulary and are left out: %s",
            path,
            len(unknown),
            len(genes),
            ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else ""),
        )
    return found


def read_checkpoint(spec: Mapping, path) -> dict[str, torch.Tensor]:
    """The encoder's entries of one of the models in the authors' file.

    Their configuration must be the one that the encoder's file declares: numbers such as
    ``bin_alpha`` leave no trace in names and shapes.
    """
    entries, key = weight_files.read_entries(spec, path), spec["arguments"]["checkpoint_key"]
    part = entries.get(key)
    if not isinstance(part, Mapping) or not isinstance(part.get("state_dict"), Mapping):
        raise InputError(
            path,
            f"entry {key}",
            "nothing" if part is None else "no state_dict in it",
            "give the authors' file whole: it holds cell, gene and rde, each with its state_dict",
        )
    _check_configuration(spec, part.get("config"), f"{key}, config", path)
    named = {name.removeprefix("model."): value for name, value in part["state_dict"].items()}
    return weight_files.leave_out(named, LEFT_OUT, path)


def _check_configuration(spec: Mapping, config, field: str, path) -> None:
    arguments = spec["arguments"]
    try:
        flat = {
            **config["model_config"][config["model"]],
            **config["dataset_config"]["rnaseq"],
        }
        found = {
            "encoder.hidden_dim": flat["encoder"]["hidden_dim"],
            "encoder.depth": flat["encoder"]["depth"],
            "encoder.heads": flat["encoder"]["heads"],
            "seq_len": flat["seq_len"],
            "bin_num": flat["bin_num"],
            "bin_alpha": flat["bin_alpha"],
            "mask_token_id": flat["mask_token_id"],
            "pad_token_id": flat["pad_token_id"],
        }
    except (KeyError, TypeError) as error:
        raise InputError(
            path, field, f"no {error}", "give the authors' file whole, unchanged"
        ) from None
    declared = (
        arguments["dim"],
        arguments["layers"],
        arguments["heads"],
        arguments["genes"] + 2,
        arguments["bins"],
        arguments["bin_alpha"],
        MASK_VALUE,
        PAD_VALUE,
    )
    for (name, value), wanted in zip(found.items(), declared, strict=True):
        if value != wanted:
            raise InputError(
                path,
                f"{field}, {name}",
                repr(value),
                f"{wanted:g} is declared for {spec['title']}: correct its file or give the other",
            )
