"""What of a batch a card's memory holds: measured before the first step, ``micro_batch`` halved to fit.

What is kept for the way back grows with the pairs that run at a time, by up to half a gigabyte for
each in the largest encoders. The gradient is the same for any number of them (``contrastive``).
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping

import torch

from pairscape.core.errors import InputError
from pairscape.pretrain import contrastive, failures
from pairscape.pretrain.pair import Pair
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import SIDES

log = logging.getLogger("pairscape")
# A CPU's memory isn't asked: what is too much for it ends the process.
MEASURED_ON = ("cuda",)


class TooSmallError(MemoryError):
    """Not even one pair at a time fits, in some process: all of them raise it together."""


def fit_micro_batch(
    pair: Pair,
    batch: Mapping[str, torch.Tensor],
    count: int,
    world: World,
    draw: Callable[[int, int, slice], None],
) -> None:
    """Set the pair's ``micro_batch`` to what fits in all processes; arguments as for ``gradients``."""
    if world.device.type not in MEASURED_ON:
        return
    share = -(-count // world.size)
    given = min(pair.training_options.micro_batch or share, share)
    rows = given
    while world.highest([float(not _fits(pair, batch, rows, draw))])[0]:
        if rows == 1:
            raise TooSmallError("out of memory with one pair at a time")
        rows //= 2
    if rows < given:
        pair.training_options = dataclasses.replace(pair.training_options, micro_batch=rows)
        if world.is_first:
            text = "%d pairs at a time are too many for the card: micro_batch becomes %d"
            log.info(text + "; the gradient is the same", given, rows)


def _fits(pair: Pair, batch: Mapping[str, torch.Tensor], rows: int, draw) -> bool:
    """Whether a step of so many rows at a time fits, with what the optimiser will keep."""
    try:
        trained = [p for p in pair.parameters() if p.requires_grad]
        moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        go_back = []
        for number, name in enumerate(SIDES):
            side = getattr(pair, name)
            if not side.is_by_row:
                continue  # it runs whole, and its batch statistics mustn't count this
            embedded, back = contrastive.embed(
                pair,
                side,
                batch[name][:rows],
                lambda chunk, at, n=number: draw(n, chunk, slice(rows)),
                rows,
            )
            go_back.append((back, torch.ones_like(embedded)))
        for back, gradient in go_back:
            back(gradient)
        del moments
    except Exception as error:
        if failures.reason(error) is None:
            raise
        return False
    finally:
        pair.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
    return True


def checkpoint_activations(pair: Pair) -> None:
    """Have a tuned image encoder keep less: each block runs once more on the way back."""
    side = pair.images
    if not pair.training_options.activation_checkpointing or side.is_frozen:
        return
    if not hasattr(side.tower.model, "set_grad_checkpointing"):
        found = "true, for an image encoder that can't run its blocks twice"
        remedy = "set it to false, and micro_batch lower"
        raise InputError("--options", "training.activation_checkpointing", found, remedy)
    side.tower.model.set_grad_checkpointing(True)
