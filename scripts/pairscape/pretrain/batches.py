"""Which pairs make a batch, and reading them: stored features, patches or counts, side by side.

The order of the train split, the views, the augmentation: all is a function of the seed and the
step, so that a resumed run reads what an unbroken one would.
"""

import collections
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from pairscape.pretrain import augmentation, processes
from pairscape.pretrain.processes import World

if TYPE_CHECKING:
    from pairscape.dataset.expression_counts import Counts
    from pairscape.dataset.patch_reader import PatchReader

_MOST_WORKERS = 8
# Where patches are augmented together; on a CPU by their readers, one by one, which is no slower.
AUGMENTED_ON = ("cuda",)


class Stored:
    """A stored ``.npy``, mapped: ``stored[rows]``. Only its path is pickled, for workers."""

    def __init__(self, path):
        self.path, self._array = str(path), None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_array": None}

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        if self._array is None:
            self._array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._array[rows]


class PairRows(torch.utils.data.Dataset):
    """Both sides of pairs, read by ``(step, rows, views)``; ``step`` None reads without augmentation.

    Parameters
    ----------
    images, genes
        Stored features (images: view v of pair r in row v x pairs + r), or ``PatchReader``, ``Counts``.
    pairs
        Number of pairs of the dataset.
    seed, augmented
        Of the augmentation of patches.
    dealt
        Where images are dealt to other pairs of the train split: the row of the image by pair.
    """

    def __init__(
        self,
        images: "Stored | np.ndarray | PatchReader",
        genes: "Stored | np.ndarray | Counts",
        pairs: int,
        seed: int = 0,
        augmented: augmentation.Augmentation = augmentation.PLAIN,
        dealt: np.ndarray | None = None,
    ):
        self.images, self.genes, self.pairs = images, genes, pairs
        self.seed, self.augmented, self.dealt = seed, augmented, dealt
        self.leaves_augmentation = False  # to who has the batch, on its device

    @property
    def reads_patches(self) -> bool:
        """Whether images are decoded, not read as features."""
        return hasattr(self.images, "read")

    def __getitem__(self, key: tuple) -> dict[str, torch.Tensor]:
        step, rows, views = key
        image_rows = rows if step is None or self.dealt is None else self.dealt[rows]
        if self.reads_patches:
            images, how = self.images.read(image_rows), self.augmented
            if step is not None and how.kind is not None:
                draws = (self.seed, step, image_rows)
                if self.leaves_augmentation:
                    drawn = torch.from_numpy(augmentation.draw(*draws, how.per_batch))
                    genes = torch.from_numpy(self.genes[rows])
                    return {"images": torch.from_numpy(images), "genes": genes, "drawn": drawn}
                images = augmentation.augment(
                    images, *draws, how.kind, how.per_batch, how.normalisation
                )
            elif step is None and how.crops_evaluation:
                images = augmentation.crop_at_random(images, self.seed, image_rows, how.per_batch)
        else:
            images = self.images[image_rows if views is None else views * self.pairs + image_rows]
        return {"images": torch.from_numpy(images), "genes": torch.from_numpy(self.genes[rows])}


def deal(rows: np.ndarray, pairs: int, seed: int) -> np.ndarray:
    """Deal the images of rows to other pairs of them: the image's row by pair, (pairs,).

    Every image goes to one pair and none stays: the control of pairs that don't belong together.
    """
    dealt = np.arange(pairs)
    order = np.random.default_rng([seed, 5]).permutation(rows)
    dealt[order] = np.roll(order, 1)
    return dealt


def steps_per_epoch(rows: np.ndarray, batch_size: int) -> int:
    """Whole batches that the rows make; one where they make none."""
    return max(1, len(rows) // batch_size)


def step_batches(rows: np.ndarray, batch_size: int, seed: int, start: int) -> Iterator[np.ndarray]:
    """Yield the train batches from step ``start`` on, without end.

    The order is a function of the seed and the step. An epoch's incomplete last batch is left out;
    other rows are left out in the next epoch.
    """
    batch_size = min(batch_size, len(rows))
    per_epoch = len(rows) // batch_size
    step = start
    while True:
        epoch, first = divmod(step, per_epoch)
        order = rows[np.random.default_rng([seed, 1, epoch]).permutation(len(rows))]
        for i in range(first, per_epoch):
            yield order[i * batch_size : (i + 1) * batch_size]
            step += 1


def validation_batches(rows: np.ndarray, batch_size: int, seed: int) -> list[np.ndarray]:
    """Split rows into batches of nearly the same size, at most ``batch_size``, always the same.

    Shuffled, since neighbouring spots of one slide would make harder batches than training sees.
    """
    if not len(rows):
        return []
    order = rows[np.random.default_rng([seed, 2]).permutation(len(rows))]
    return np.array_split(order, math.ceil(len(rows) / batch_size))


def train_shares(
    rows: np.ndarray, batch_size: int, seed: int, start: int, world: World, views: int = 1
) -> Iterator[tuple]:
    """Yield ``PairRows`` keys of this process's share of each train batch, from ``start`` on.

    Of several stored views, each row takes one of the augmented ones (view 0 is the patch as it is).
    """
    for step, batch in enumerate(step_batches(rows, batch_size, seed, start), start):
        mine = world.share(len(batch))
        drawn = None
        if views > 1:
            drawn = np.random.default_rng([seed, 6, step]).integers(1, views, len(batch))[mine]
        yield step, batch[mine], drawn


class Waited:
    """An iterator that tells how long it was waited for; its first item, and what starts, don't count.

    ``is_ahead``: whether its items are made while others are worked on. Else reading isn't waiting.
    """

    def __init__(self, items: Iterator, is_ahead: bool):
        self._items, self._is_ahead = items, is_ahead
        self._waited, self._since = 0.0, None

    def __iter__(self) -> "Waited":
        return self

    def __next__(self):
        began = time.monotonic()
        item = next(self._items)
        ended = time.monotonic()
        if self._since is None:
            self._since = ended
        else:
            self._waited += ended - began
        return item

    def share(self) -> float | None:
        """The share of the time since the last question; None where nothing is read ahead."""
        now, waited = time.monotonic(), self._waited
        passed, self._since, self._waited = now - (self._since or now), now, 0.0
        return min(1.0, waited / max(passed, 1e-9)) if self._is_ahead else None


def train_batches(
    rows: PairRows, keys: Iterator[tuple], workers: int | None, world: World
) -> Waited:
    """Read the batches of keys (``train_shares``) in order, ahead of time in ``workers`` processes.

    ``workers`` None: up to 8 where a GPU waits for patches, as far as there are CPU cores; else none.
    """
    rows.leaves_augmentation = (
        world.device.type in AUGMENTED_ON and rows.augmented.normalisation is None
    )
    number = _worker_count(rows, workers, world)
    if not number:
        return Waited((rows[key] for key in keys), False)
    loader = torch.utils.data.DataLoader(
        rows,
        sampler=keys,
        batch_size=None,
        num_workers=number,
        multiprocessing_context="spawn",  # a fork of a process with threads or CUDA may hang
        pin_memory=world.device.type == "cuda",
        worker_init_fn=processes.ignore_signals,
    )
    return Waited(iter(loader), True)


def plain_batches(
    rows: PairRows, blocks: Sequence[np.ndarray], workers: int | None, world: World
) -> Iterator[dict[str, torch.Tensor]]:
    """Read blocks of rows as they are, without views or augmentation, ahead of time in threads.

    For validation and embedding, which are too short for processes to start.
    """
    number = _worker_count(rows, workers, world)
    if not number:
        yield from (rows[None, block, None] for block in blocks)
        return
    waiting = collections.deque()
    with ThreadPoolExecutor(number) as pool:
        for block in blocks:
            waiting.append(pool.submit(rows.__getitem__, (None, block, None)))
            if len(waiting) > 2 * number:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def to_device(
    batch: Mapping[str, torch.Tensor], device: torch.device, kind: str | None = None
) -> dict[str, torch.Tensor]:
    """A batch on the device; patches stay uint8, a quarter of the bytes.

    Those whose augmentation, of ``kind``, was left to this device are augmented here.
    """
    moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    if (drawn := moved.pop("drawn", None)) is not None:
        moved["images"] = augmentation.augment_together(moved["images"], drawn, kind)
    return moved


def _worker_count(rows: PairRows, workers: int | None, world: World) -> int:
    if workers is None:
        cores = len(os.sched_getaffinity(0)) // max(1, torch.cuda.device_count())
        waits = rows.reads_patches and world.device.type == "cuda"
        workers = min(_MOST_WORKERS, cores - 1) if waits else 0
    return max(0, workers)
