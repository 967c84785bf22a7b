"""Nicheformer: genes in the order of their expression as tokens, a transformer, a mean over genes.

Facts: theislab/nicheformer @ 485cadb; the mirror of its weights at Hugging Face has the same names
under ``nicheformer.``. What HESCAPE does otherwise stands in nicheformer_published.yaml.
"""

import itertools
import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from pairscape.core.errors import InputError
from pairscape.encoders import towers
from pairscape.encoders import weights as weight_files
from pairscape.encoders.architectures.transformer import Encoder

log = logging.getLogger("pairscape")

RESERVED_TOKENS = 30
NO_TOKEN = 0  # fills a sequence up; the embedding table keeps its pad in row 1
PAD_ROW = 1
TECHNOLOGY_MEANS = ("official", "official_rounded", "train_split")
LEFT_OUT = {
    r"encoder_layer\..*": "the template that the layers were copied from, never run",
    r"(classifier|pooler|cls)_head\..*": "a head of the pretraining",
    r"pos": "the positions 0, 1, 2, ...",
}


class Network(nn.Module):
    """Token ids (B, T), 0 where there is none -> (B, T, dim). Entry names as published."""

    def __init__(self, arguments: Mapping):
        super().__init__()
        dim = arguments["dim"]
        # The published table has five rows more than tokens.
        self.embeddings = nn.Embedding(arguments["n_tokens"] + 5, dim, padding_idx=PAD_ROW)
        self.positional_embedding = nn.Embedding(arguments["context_length"], dim)
        self.encoder = Encoder(
            arguments["layers"],
            dim,
            arguments["heads"],
            arguments["feed_forward"],
            arguments["layer_norm_eps"],
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        real = tokens != NO_TOKEN
        x = self.embeddings(torch.where(real, tokens, PAD_ROW))
        x = x + self.positional_embedding.weight[: tokens.shape[1]]
        return self.encoder(x, None if bool(real.all()) else real)


class Nicheformer(towers.GeneTower):
    """Tokens of the panel's genes, then the network, then the mean over its tokens.

    Parameters
    ----------
    columns, gene_tokens
        Columns of the counts and their token ids, by rising id; then, with the token 0, the columns
        that the vocabulary lacks: so a saved state fits whatever vocabulary the tower was built by.
    divisor
        float64, the technology mean of each of them.
    """

    def __init__(self, model: nn.Module, spec: Mapping, columns, gene_tokens, divisor):
        super().__init__(model, spec["width"])
        arguments, options = spec["arguments"], spec["input"]
        self.context_length = arguments["context_length"]
        self.skip_first, self.mean_over_pads = arguments["skip_first"], arguments["mean_over_pads"]
        self.zero_counts = options["zero_counts"]
        self.library_size = float(options["library_size"])
        self.register_buffer("context", torch.tensor(options["context_tokens"], dtype=torch.int64))
        self.register_buffer("columns", torch.as_tensor(columns, dtype=torch.int64))
        self.register_buffer("gene_tokens", torch.as_tensor(gene_tokens, dtype=torch.int64))
        self.register_buffer("divisor", torch.as_tensor(divisor, dtype=torch.float64))

    def prepare(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, genes) raw counts -> (B, T) token ids, the pads cut off that no spot needs.

        In front the context tokens; then the genes by falling count per technology mean, equal ones
        by rising id. Cut at ``context_length``.
        """
        if bool(self.divisor.isnan().any()):
            raise ValueError("technology means of the train split are wanted, none were given")
        known = self.gene_tokens != NO_TOKEN
        counts = counts[:, self.columns[known]].double()
        sums = counts.sum(1, keepdim=True)
        values = counts * (self.library_size / torch.where(sums > 0, sums, 1))
        values = values / self.divisor[known]
        order = torch.argsort(values, dim=1, descending=True, stable=True)
        tokens = self.gene_tokens[known][order]
        if not self.zero_counts:
            ranks = torch.arange(tokens.shape[1], device=tokens.device)
            tokens = torch.where(ranks < (counts > 0).sum(1, keepdim=True), tokens, NO_TOKEN)
        tokens = torch.cat([self.context.expand(len(tokens), -1), tokens], 1)
        tokens = tokens[:, : self.context_length]
        if self.mean_over_pads:
            missing = self.context_length - tokens.shape[1]
            return nn.functional.pad(tokens, (0, missing), value=NO_TOKEN)
        longest = int((tokens != NO_TOKEN).sum(1).max()) if len(tokens) else 0
        return tokens[:, : max(1, longest)]

    def lengths(self, counts: torch.Tensor) -> torch.Tensor:
        """The tokens that each spot takes."""
        if self.mean_over_pads:
            return torch.full((len(counts),), self.context_length, device=counts.device)
        mine = counts[:, self.columns[self.gene_tokens != NO_TOKEN]]
        genes = torch.full_like(mine[:, 0], mine.shape[1], dtype=torch.int64)
        if not self.zero_counts:
            genes = (mine > 0).sum(1)
        return (genes + len(self.context)).clamp(max=self.context_length)

    def pool(self, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """(B, T) token ids, (B, T, dim) -> (B, dim). A spot without any gene is all zero."""
        counted = torch.ones_like(tokens, dtype=torch.bool)
        if not self.mean_over_pads:
            counted = tokens != NO_TOKEN
        counted[:, : self.skip_first] = False
        return (x * counted[..., None]).sum(1) / counted.sum(1, keepdim=True).clamp(min=1)

    def forward(self, counts: torch.Tensor) -> torch.Tensor:
        tokens = self.prepare(counts)
        return self.pool(tokens, self.model(tokens))


def build(spec: Mapping, weights, genes: Sequence[Mapping], train=None) -> Nicheformer:
    """Parameters and errors as in ``gene_encoders.build``.

    Beside the weights lie the vocabulary (``.h5ad``: its variables are the genes, in the order of
    their tokens) and, for ``input.technology_mean: official``, the technology's means (``.npy``).
    Without weights the panel's genes are the vocabulary, and all means are 1.
    """
    kind = spec["input"]["technology_mean"]
    if kind not in TECHNOLOGY_MEANS:
        remedy = f"allowed: {', '.join(TECHNOLOGY_MEANS)}"
        raise InputError(spec["title"], "input.technology_mean", repr(kind), remedy)
    model = Network(spec["arguments"])
    ids = [gene["gene_id"].split(".")[0] for gene in genes]
    extra = {}
    if weights is None:
        vocabulary = {name: i for i, name in enumerate(ids)}
    else:
        extra = {path.suffix: path for path in weight_files.find_extra(spec, weights).values()}
        vocabulary = read_vocabulary(spec, _one_of(spec, extra, ".h5ad", weights))
    columns, gene_tokens = match_genes(spec, genes, ids, vocabulary)
    if kind == "train_split":
        divisor = np.full(len(columns), np.nan)
        if train is not None:
            divisor = np.asarray(train.mean_per_10k, np.float64)[columns]
            # A gene that the train split never shows counts as its rarest, not as a common one.
            divisor = np.where(divisor > 0, divisor, divisor[divisor > 0].min(initial=1.0))
    elif weights is None:
        divisor = np.ones(len(columns))
    else:
        path = _one_of(spec, extra, ".npy", weights)
        divisor, known = official_means(spec, path, kind)
        places = gene_tokens - RESERVED_TOKENS
        if not known[places].all():
            log.info(
                "%s: %d of %d genes have no mean in %s and rank as if it were 1, so in front of the "
                "others; technology_mean: train_split takes the panel's own",
                spec["title"],
                int((~known[places]).sum()),
                len(places),
                path,
            )
        divisor = divisor[places]
    if weights is not None:
        entries = named_entries(spec, weight_files.read_entries(spec, weights), weights)
        weight_files.load_strictly(model, entries, weights)
    unknown = np.setdiff1d(np.arange(len(genes)), columns)
    return Nicheformer(
        model,
        spec,
        np.concatenate([columns, unknown]),
        np.pad(gene_tokens, (0, len(unknown)), constant_values=NO_TOKEN),
        np.pad(divisor, (0, len(unknown)), constant_values=1.0),
    )


def named_entries(spec: Mapping, entries: Mapping, path) -> dict:
    """The entries of a weights file under the names of ``Network``."""
    layout = spec["weights"]["layout"]
    if layout == "nicheformer":  # a checkpoint of Lightning: the entries are in its state_dict
        inner = entries.get("state_dict")
        if not isinstance(inner, Mapping):
            fault = "nothing" if inner is None else type(inner).__name__
            remedy = "give the checkpoint as published: its entries stand under state_dict"
            raise InputError(path, "entry state_dict", fault, remedy)
        entries = dict(inner)
    elif layout == "nicheformer_huggingface":
        entries = {re.sub(r"^nicheformer\.", "", name): v for name, v in entries.items()}
    else:
        remedy = "allowed in the encoder's file: nicheformer, nicheformer_huggingface"
        raise InputError(path, "layout", repr(layout), remedy)
    return weight_files.leave_out(entries, LEFT_OUT, path)


def read_vocabulary(spec: Mapping, path) -> dict[str, int]:
    """Ensembl gene id -> its place among the vocabulary's genes."""
    import anndata

    try:
        names = [str(name) for name in anndata.read_h5ad(path).var_names]
    except (OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(path, "vocabulary", str(error), "fetch the file again") from None
    expected = spec["arguments"]["n_tokens"] - RESERVED_TOKENS
    if len(names) != expected or len(set(names)) != expected:
        fault = f"{len(names):,} genes, {len(set(names)):,} of them different"
        remedy = f"{spec['title']} has tokens for {expected:,}: give its own vocabulary"
        raise InputError(path, "variables", fault, remedy)
    return {name: i for i, name in enumerate(names)}


def match_genes(spec: Mapping, genes: Sequence[Mapping], ids, vocabulary: Mapping) -> tuple:
    """The columns of the counts whose genes are in the vocabulary, and their tokens, by token."""
    known = sorted(
        (vocabulary[name], column) for column, name in enumerate(ids) if name in vocabulary
    )
    places = [place for place, _ in known]
    if not known:
        fault = f"{ids[0]!r} and others, none of them in the vocabulary of {spec['title']}"
        remedy = "give Ensembl gene ids, or choose another gene encoder"
        raise InputError("genes.tsv", "gene_id", fault, remedy)
    for (place, column), (after, other) in itertools.pairwise(known):
        if place == after:
            raise InputError(
                "genes.tsv",
                "gene_id",
                f"{ids[column]} for {genes[column]['gene_symbol']} and {genes[other]['gene_symbol']}",
                "give each gene an id of its own",
            )
    log.info("%s: %d of %d genes are in its vocabulary", spec["title"], len(known), len(genes))
    columns = np.array([column for _, column in known], np.int64)
    return columns, np.array(places, np.int64) + RESERVED_TOKENS


def official_means(spec: Mapping, path, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The technology's means, float64, one per gene of the vocabulary; unknown and 0 become 1.
    And, as bool, which are known.

    ``kind`` official_rounded rounds them (half up) first, as the authors' notebooks do and their
    package doesn't.
    """
    try:
        found = np.load(path, allow_pickle=False).astype(np.float64).reshape(-1)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, "means", str(error), "fetch the file again") from None
    expected = spec["arguments"]["n_tokens"] - RESERVED_TOKENS
    known = np.nan_to_num(found, nan=0.0)
    if len(known) != expected or known.min() < 0 or np.isinf(found).any():
        raise InputError(
            path,
            "means",
            f"{len(known):,} numbers from {known.min(initial=0):g} to {known.max(initial=0):g}",
            f"{expected:,} finite ones are wanted, none negative: give the technology's own file",
        )
    if kind == "official_rounded":
        known = np.floor(known + 0.5)
    return np.where(known == 0, 1.0, known), known > 0


def _one_of(spec: Mapping, extra: Mapping, suffix: str, weights):
    if suffix not in extra:
        fault = ", ".join(path.name for path in extra.values()) or "none"
        remedy = f"name its file that ends in {suffix}; it must lie beside {weights}"
        raise InputError(spec["title"], "weights.extra_files", fault, remedy)
    return extra[suffix]
