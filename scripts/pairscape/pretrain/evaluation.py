"""A pair in evaluation mode: its validation, and embedding the pairs of a split."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pairscape.core import logs
from pairscape.pretrain import batches, contrastive
from pairscape.pretrain.batches import PairRows
from pairscape.pretrain.pair import Pair
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import SIDES

EMBED_ROWS = 4096
EMBED_PATCHES = 64


def validate(
    pair: Pair, data: PairRows, rows: np.ndarray, seed: int, world: World
) -> tuple[float, float, int]:
    """Loss and in-batch Recall@5 of a split, means over its pairs, and the size of a batch."""
    pair.eval()
    size = pair.training_options.batch_size
    sums = np.zeros(2)
    parts = batches.validation_batches(rows, size, seed)
    shares = [part[world.share(len(part))] for part in parts]
    workers = pair.training_options.loader_workers
    for part, batch in zip(parts, batches.plain_batches(data, shares, workers, world), strict=True):
        embedded = embed_batch(pair, batches.to_device(batch, world.device))
        images, genes = (world.gather(mine, len(part)) for mine in embedded)
        with torch.inference_mode():
            loss = contrastive.pair_loss(pair, images, genes)
            recall = contrastive.batch_recall(images, genes)
        sums += len(part) * np.array([float(loss), float(recall)])
    pair.train()
    loss, recall = sums / len(rows)
    return float(loss), float(recall), round(len(rows) / len(parts))


def embed_batch(pair: Pair, batch: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Embed both sides of pairs, ``micro_batch`` of them at a time, in evaluation mode."""
    rows = _rows_at_a_time(pair)
    return [_embed_side(pair, name, batch[name], rows)[0] for name in SIDES]


def embed_pairs(
    pair: Pair,
    data: PairRows,
    rows: np.ndarray,
    world: World | None = None,
    sides: Sequence[str] = SIDES,
    trunk_path=None,
) -> dict[str, np.ndarray]:
    """Embed rows of the dataset, in one pass over their inputs.

    ``trunk_path`` is a scratch file for what the image encoder gives before the projection; None keeps
    none, and neither does a head that takes tokens.

    Returns
    -------
    By side (len(rows), embedding_dim) float32, as ``Side`` gives them; and ``trunk``, (len(rows), W)
    float32, memory-mapped, if it is kept.
    """
    width = pair.training_options.embedding_dim
    arrays = {name: np.empty((len(rows), width), np.float32) for name in sides}
    tower = pair.images.tower
    if trunk_path is not None and tower is not None and not pair.images.takes_tokens:
        arrays["trunk"] = np.lib.format.open_memmap(
            trunk_path, mode="w+", dtype=np.float32, shape=(len(rows), tower.width)
        )
    chunk_rows = _rows_at_a_time(pair)  # by the mode that the pair comes in
    for at, batch in _evaluated(pair, data, rows, world):
        for name in sides:
            embedded, parts = _embed_side(pair, name, batch[name], chunk_rows)
            arrays[name][at : at + len(embedded)] = embedded.cpu().numpy()
            if name == "images" and "trunk" in arrays:
                arrays["trunk"][at : at + len(embedded)] = torch.cat(parts).float().cpu().numpy()
    return arrays


@torch.inference_mode()
def _embed_side(pair: Pair, name: str, inputs: torch.Tensor, rows: int):
    """The embeddings of one side's inputs, and what its encoder gives of each chunk of rows."""
    side = getattr(pair, name)
    with pair.autocast(inputs.device):
        parts = [side.encode(chunk) for chunk in inputs.split(rows)]
        return torch.cat([side.project(part) for part in parts]), parts


def _evaluated(pair: Pair, data: PairRows, rows: np.ndarray, world: World | None):
    """Yield (start, batch on the device) of all rows, the pair in evaluation mode."""
    world = world or World(0, 1, torch.device("cpu"))
    pair.eval().to(world.device)
    block = EMBED_PATCHES if data.reads_patches else EMBED_ROWS
    starts = range(0, len(rows), block)
    workers = pair.training_options.loader_workers
    reader = batches.plain_batches(data, [rows[at : at + block] for at in starts], workers, world)
    for at, batch in zip(logs.progress(starts, "embed", unit="block"), reader, strict=True):
        yield at, batches.to_device(batch, world.device)


def _rows_at_a_time(pair: Pair) -> int:
    if not (pair.images.is_by_row and pair.genes.is_by_row):
        return EMBED_PATCHES  # what an embedding depends on: batches of 64, as published
    rows = pair.training_options.micro_batch or EMBED_ROWS
    return rows if pair.images.tower is None else min(rows, EMBED_PATCHES)
