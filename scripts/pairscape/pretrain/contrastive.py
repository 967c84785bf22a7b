"""The contrastive loss over the global batch, and its exact gradient in as little memory as wanted.

The loss needs all embeddings of the batch at once, but it is small beside the encoders. So each
process embeds its share, all embeddings are gathered, every process takes the loss and its gradient
by the embeddings, and sends the part of its own share back through its encoders. Where the share
itself is too large for the memory, it is embedded in chunks without keeping anything, and each chunk
once more, with the same random numbers, when its gradient is there (Gao et al., Scaling Deep
Contrastive Learning Batch Size under Memory Limited Setup, 2021). The gradient is the same for any
number of processes and chunks.
"""

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from pairscape.pretrain.pair import Pair
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import SIDES, Side

_TRUNK = 1 << 20  # keeps a noisy trunk's draws apart from those of the head's chunks


def _open_clip_loss():
    """The module ``open_clip.loss`` alone.

    Importing its package imports timm, torchvision and transformers too, which takes as long as
    importing torch, and a pair that trains on stored features needs none of them.
    """
    name = "open_clip.loss"
    if name not in sys.modules:
        package = Path(importlib.util.find_spec("open_clip").origin)
        spec = importlib.util.spec_from_file_location(name, package.with_name("loss.py"))
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


_losses = _open_clip_loss()
# Of one process: the embeddings they get are those of all.
LOSSES = {"clip": _losses.ClipLoss(), "siglip": _losses.SigLipLoss()}


def pair_loss(pair: Pair, images: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
    """The loss of a batch, (N, D) images and genes, by the pair's own kind, temperature and bias."""
    kind = pair.training_options.loss
    bias = {"logit_bias": pair.logit_bias} if kind == "siglip" else {}
    return LOSSES[kind](images, genes, pair.logit_scale.exp(), **bias)


def batch_recall(images: torch.Tensor, genes: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Recall@k within a batch, mean of both directions: for the training curve, not for scores."""
    similarity = images @ genes.T
    matched = similarity.diagonal()
    image_rank = (similarity > matched[:, None]).sum(1)
    gene_rank = (similarity > matched[None, :]).sum(0)
    return ((image_rank < k).float().mean() + (gene_rank < k).float().mean()) / 2


def gradients(
    pair: Pair,
    batch: dict[str, torch.Tensor],
    count: int,
    world: World,
    draw: Callable[[int, int, slice], None],
    with_recall: bool = False,
) -> dict[str, torch.Tensor]:
    """Add the gradient of the global batch's loss to the parameters' ``grad``.

    Parameters
    ----------
    pair
        In training mode. Its option ``micro_batch`` is the number of rows that run at a time.
    batch
        This process's share (``world.share``) of the ``count`` rows of the global batch, by side.
    draw
        Called with the number of a side, of a chunk, and the chunk's rows in the share, before that
        chunk runs: seeds dropout.
    with_recall
        Whether the batch's Recall@5 is wanted, too.

    Returns
    -------
    ``loss`` of the global batch, and ``recall@5`` if wanted.
    """
    leaves, go_back = [], []
    for number, name in enumerate(SIDES):
        side = getattr(pair, name)
        rows = pair.training_options.micro_batch or len(batch[name])
        embedded, back = embed(pair, side, batch[name], partial(draw, number), rows)
        leaves.append(world.gather(embedded, count).requires_grad_())
        go_back.append(back)
    loss = pair_loss(pair, *leaves)
    loss.backward()
    for parameter in (pair.logit_scale, pair.logit_bias):
        if parameter is not None and parameter.grad is not None:
            parameter.grad /= world.size  # every process has the whole of it
    for leaf, back in zip(leaves, go_back, strict=True):
        back(leaf.grad[world.share(count)])
    world.sum_gradients(pair)
    recall = {"recall@5": batch_recall(*(leaf.detach() for leaf in leaves))} if with_recall else {}
    return {"loss": loss.detach(), **recall}


def embed(
    pair: Pair, side: Side, inputs: torch.Tensor, draw: Callable[[int, slice], None], rows: int
) -> tuple[torch.Tensor, Callable[[torch.Tensor], None]]:
    """Embed a share, ``rows`` at a time; the embeddings without graph, and what takes their gradient
    back."""
    run = side
    if side.tower is not None and side.is_frozen:
        # No gradient goes through it: it runs once, whatever the chunks are.
        features = []
        for number, chunk in enumerate(inputs.split(rows if side.is_by_row else len(inputs))):
            if side.trunk_mode == "train":
                draw(_TRUNK + number, slice(None))
            with torch.no_grad(), pair.autocast(inputs.device):
                features.append(side.encode(chunk))
        inputs, run = torch.cat(features), side.project
    if rows >= len(inputs) or not side.is_by_row:
        draw(0, slice(None))
        with pair.autocast(inputs.device):
            embedded = run(inputs)
        return embedded.detach(), embedded.backward if embedded.requires_grad else _nothing
    chunks = inputs.split(rows)

    def again(gradient: torch.Tensor) -> None:
        for number, (chunk, part) in enumerate(zip(chunks, gradient.split(rows), strict=True)):
            draw(number, slice(number * rows, (number + 1) * rows))
            with pair.autocast(chunk.device):
                embedded = run(chunk)
            if embedded.requires_grad:
                embedded.backward(part)

    parts = []
    for number, chunk in enumerate(chunks):
        draw(number, slice(number * rows, (number + 1) * rows))
        # A scope for each: autocast keeps the weights it has cast, here without their graph.
        with torch.no_grad(), pair.autocast(chunk.device):
            parts.append(run(chunk))
    return torch.cat(parts), again


def _nothing(gradient: torch.Tensor) -> None:
    """Takes the gradient of a side that has nothing to learn."""
