"""Build gene encoders from their files, bring counts to their input, run them over a dataset."""

import collections
import importlib
import itertools
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pairscape.core import devices
from pairscape.core.errors import InputError
from pairscape.encoders import user_code
from pairscape.encoders.towers import GeneTower
from pairscape.encoders.weights import one_thread

FINGERPRINT_NUMBERS = 16
BATCH = 64
# Tokens, pads included, that run at a time where an encoder has lengths: it bounds the memory.
BATCH_TOKENS = 1 << 14
_BLOCK_ROWS = 1024

# Builder -> module of pairscape.encoders.architectures, which holds
# build(spec, weights, genes, train) -> GeneTower (the parameters of build below).
BUILDERS: dict[str, str] = {
    "mlp": "gene_mlp",
    "nicheformer": "nicheformer",
    "scfoundation": "scfoundation",
    "drvi": "drvi",
}


def build(spec: Mapping, weights, genes: Sequence[Mapping], train=None) -> GeneTower:
    """Build a gene encoder.

    Parameters
    ----------
    spec
        The encoder (``specs.read_encoder``).
    weights
        The main file of its weights, extra files beside it. ``None`` leaves it at random: for
        encoders that learn with the pair (from torch's seed, so that the run's seed decides), and
        for tests, costs and controls (from a fixed seed).
    genes
        The rows of genes.tsv: mappings with ``gene_symbol`` and ``gene_id``.
    train
        ``expression_counts.TrainFacts`` where ``specs.uses_train_facts(spec)``; else not looked at.

    Returns
    -------
    The tower. One that learns with the pair is ready to train; any other is frozen, in eval mode.
    """
    own = spec["builder"] == user_code.BUILDER
    if spec["builder"] not in BUILDERS and not own:
        names = ", ".join((*BUILDERS, user_code.BUILDER))
        raise InputError(spec["title"], "builder", repr(spec["builder"]), f"allowed: {names}")
    learns = spec["learned_from"] == "pair"
    if weights is not None and learns:
        raise InputError(
            weights, "weights", "a file", f"{spec['title']} learns with the pair: give none"
        )
    architecture = (
        user_code.load(spec)
        if own
        else importlib.import_module(
            f"pairscape.encoders.architectures.{BUILDERS[spec['builder']]}"
        )
    )
    with torch.random.fork_rng(devices=[], enabled=not learns):
        if not learns:
            torch.default_generator.manual_seed(0)
        tower = architecture.build(spec, weights, genes, train)
    found = sum(parameter.numel() for parameter in tower.parameters())
    declared = spec["parameters"] + spec["parameters_per_gene"] * len(genes)
    if found != declared:
        fault = f"{found:,} in the model that its arguments build for {len(genes)} genes"
        remedy = f"its file declares {declared:,}: correct the arguments or the counts"
        raise InputError(spec["title"], "parameters", fault, remedy)
    return tower if learns else tower.eval().requires_grad_(False)


def prepare_counts(spec: Mapping, counts: torch.Tensor, library_size: torch.Tensor) -> torch.Tensor:
    """Scale raw counts and take log1p.

    Parameters
    ----------
    spec
        The encoder; ``input.library_size`` is what each spot's sum is brought to: ``none``, a
        number, ``train_median``, or ``batch_median``, the (lower) median of the spots at hand, as
        HESCAPE does: then a spot's input depends on its batch mates.
    counts
        (B, genes), raw, of any number type.
    library_size
        The median sum of the train split; looked at for ``train_median`` only.

    Returns
    -------
    (B, genes) float32. A spot without counts stays all zero.
    """
    target, counts = spec["input"]["library_size"], counts.float()
    if target != "none":
        sums = counts.sum(1, keepdim=True)
        if target == "train_median":
            target = library_size
        elif target == "batch_median":
            target = sums.median()
        else:
            target = float(target)
        counts = counts * (target / torch.where(sums > 0, sums, 1))
    return torch.log1p(counts)


def embed(
    tower: GeneTower,
    counts,
    rows: Iterable[int],
    batch: int = BATCH,
    threads: int = 1,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[np.ndarray]:
    """Run a frozen tower over spots.

    Parameters
    ----------
    tower
        What ``build`` returned.
    counts
        Anything that gives (n, genes) for n row numbers in brackets: ``expression_counts.Counts``.
    rows
        Row numbers.
    batch
        Most spots at a time.
    threads
        On a CPU, batches that run side by side, each in one thread: the result is the same for any
        number.
    batch_tokens
        Where the tower has ``lengths``: most tokens at a time, pads included (one spot may have
        more). Spots of like length run together, so that few pads are made.

    Yields
    ------
    (n, width) float32 arrays, in the order of ``rows``.
    """
    device = devices.pick()
    tower = tower.to(device)
    rows = iter(rows)

    def blocks() -> Iterator[np.ndarray]:
        while len(block := np.fromiter(itertools.islice(rows, _BLOCK_ROWS), np.int64)):
            yield block

    def run(block: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return tower(block.to(device)).float().cpu().numpy()

    def submit(pool, block_rows: np.ndarray) -> list[tuple]:
        block = torch.as_tensor(np.asarray(counts[block_rows]))
        return [
            (mine, pool.submit(run, block[torch.from_numpy(mine)]))
            for mine in _groups(tower, block.to(device), batch, batch_tokens)
        ]

    def collect(parts: list[tuple]) -> np.ndarray:
        found = np.empty((sum(len(mine) for mine, _ in parts), tower.width), np.float32)
        for mine, future in parts:
            found[mine] = future.result()
        return found

    one_thread = {"initializer": torch.set_num_threads, "initargs": (1,)}
    if device.type != "cpu":
        threads, one_thread = 1, {}
    else:
        torch.set_num_threads(1)
    waiting = collections.deque()
    with ThreadPoolExecutor(threads, **one_thread) as pool:
        try:
            for block_rows in blocks():
                waiting.append(submit(pool, block_rows))
                if len(waiting) > 1:  # the next block is ready while this one is written
                    yield collect(waiting.popleft())
            while waiting:
                yield collect(waiting.popleft())
        finally:
            for parts in waiting:
                for _, future in parts:
                    future.cancel()


def _groups(tower: GeneTower, block: torch.Tensor, batch: int, batch_tokens: int) -> list:
    """Split the rows of a block into batches, by length where the tower has lengths."""
    if getattr(tower, "lengths", None) is None:
        return [np.arange(at, min(at + batch, len(block))) for at in range(0, len(block), batch)]
    with torch.inference_mode():
        lengths = tower.lengths(block).cpu().numpy()
    order = np.argsort(-lengths, kind="stable")
    groups, at = [], 0
    while at < len(order):  # the first of a group is its longest
        size = max(1, min(batch, batch_tokens // max(1, int(lengths[order[at]]))))
        groups.append(order[at : at + size])
        at += size
    return groups


def fixed_counts(genes: Sequence[Mapping]) -> np.ndarray:
    """The spot that fingerprints are of: (1, genes) int32, each count a formula of the symbol."""
    return np.array(
        [[max(0, zlib.crc32(gene["gene_symbol"].encode()) % 11 - 4) for gene in genes]], np.int32
    )


def fingerprint(tower: GeneTower, spec: Mapping, genes: Sequence[Mapping]) -> list[float]:
    """The embedding of ``fixed_counts``, projected to 16 numbers by a matrix from a formula.

    In one thread and rounded, as ``image_encoders.fingerprint``.
    """
    with torch.inference_mode(), one_thread():
        device = next((p.device for p in tower.parameters()), torch.device("cpu"))
        embedding = tower(torch.from_numpy(fixed_counts(genes)).to(device))[0].double().cpu()
    if embedding.shape != (spec["width"],) or tower.width != spec["width"]:
        fault = f"an embedding of shape {tuple(embedding.shape)}"
        remedy = f"its file declares {spec['width']}: correct width or arguments"
        raise InputError(spec["title"], "width", fault, remedy)
    if not bool(torch.isfinite(embedding).all()):
        raise InputError(
            spec["title"], "embedding", "numbers that aren't finite", "look at its weights"
        )
    generator = np.random.Generator(np.random.PCG64(1234))
    matrix = generator.standard_normal((spec["width"], FINGERPRINT_NUMBERS))
    return [round(float(x), 3) for x in embedding.numpy() @ matrix]
