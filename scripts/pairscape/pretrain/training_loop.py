"""Training a pair: the steps, the validations, what is kept of them, going on after a kill.

A plain loop. All that a step draws (its batch, its views and augmentation, its dropout) is a function
of the seed, the step and the process, so that a resumed run ends where an unbroken one does.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from pairscape.core import devices, logs
from pairscape.pretrain import batches, card_memory, checkpoints, contrastive, evaluation, processes
from pairscape.pretrain import row_dropout as by_row
from pairscape.pretrain.batches import PairRows
from pairscape.pretrain.metric_loggers import MetricLoggers
from pairscape.pretrain.options import draws_by_row
from pairscape.pretrain.pair import Pair
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import SIDES
from pairscape.pretrain.training_record import Record

log = logging.getLogger("pairscape")
_SAVE_SECONDS = 600


def resolve_precision(precision: str) -> str:
    """``auto`` becomes bf16-mixed on a GPU that has it, and 32-true elsewhere."""
    if precision != "auto":
        return precision
    on_gpu = devices.has_gpu() and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if on_gpu else "32-true"


def learning_rate_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """Linear from 0 to 1 in ``warmup_steps``, then half a cosine down to 0 at ``max_steps``."""
    if step < warmup_steps:
        return step / warmup_steps
    share = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def train(
    pair: Pair,
    data: PairRows,
    rows: Mapping[str, np.ndarray],
    folder,
    identity: str,
    seed: int,
    world: World,
    views: int = 1,
) -> tuple[dict, list[dict]]:
    """Train a pair; go on from ``last.ckpt`` in ``folder`` where it belongs to the same run.

    Every process calls this, and the pair goes to its device. ``logs.Stopped`` says that SIGTERM or
    SIGUSR1 came; ``last.ckpt``, which nothing declares, is then of the step that was under way.

    Parameters
    ----------
    rows, identity, views
        Row numbers by split; the checksum of everything that decides the run; stored views of each
        patch, of which all but the first are trained on (1 for none).

    Returns
    -------
    The selected weights (``Record.selected``) and the metrics, for the first process to write.
    """
    options, folder = pair.training_options, Path(folder)
    set_up(pair, world)
    optimizer = make_optimizer(pair)
    every = options.validate_every
    if every == "epoch":
        every = batches.steps_per_epoch(rows["train"], options.batch_size)
    record = Record(options, every)
    start = checkpoints.resume(folder, identity, pair, optimizer, record, world)
    size = min(options.batch_size, len(rows["train"]))
    keys = batches.train_shares(rows["train"], size, seed, start, world, views)
    reader = batches.train_batches(data, keys, options.loader_workers, world)
    record.waiting = reader.share
    names = options.loggers if world.is_first else ()
    loggers = MetricLoggers(names, folder, identity, options.as_dict(), start)
    saved = time.monotonic()
    steps = range(start, 0 if record.is_over else options.max_steps)
    if world.is_first:
        steps = logs.progress(steps, "pretrain", len(steps), "step")
    pair.train()
    with processes.noted_signals() as arrived:
        question = processes.StopQuestion(world, arrived)
        for step in steps:
            factor = learning_rate_factor(step, options.warmup_steps, options.max_steps)
            rate = optimizer.param_groups[0]["lr"] = options.learning_rate * factor
            is_last = step + 1 == options.max_steps
            is_due = (step + 1) % every == 0 or is_last
            is_told = (step + 1) % record.often == 0 or is_last
            batch = batches.to_device(next(reader), world.device, data.augmented.kind)
            if step == start:
                draw = draws(pair, size, world, seed, step)
                card_memory.fit_micro_batch(pair, batch, size, world, draw)
            scores = train_step(
                pair, optimizer, batch, size, world, seed, step, with_recall=is_told
            )
            row = record.after_step(pair, step + 1, scores, size, rate)
            if row is not None:
                loggers.log(row)
            if is_due and len(rows["val"]):
                held_out = evaluation.validate(pair, data, rows["val"], seed, world)
                loggers.log(record.after_validation(pair, step + 1, *held_out, rate))
            sent = question.ask(is_last or record.is_over)
            if world.is_first and (sent or is_due or time.monotonic() - saved > _SAVE_SECONDS):
                checkpoints.save(folder, identity, pair, optimizer, record, step + 1)
                saved = time.monotonic()
            if sent:
                loggers.close()
                world.leave()
                raise _stopped(sent, step + 1, options.max_steps)
            if record.is_over:
                log.info("stopped early at step %d: the validation loss doesn't fall", step + 1)
                break
    if arrived:  # after the last question: as if it had come now
        signal.raise_signal(arrived[0])
    loggers.close()
    return record.selected(pair), record.metrics


def _stopped(sent: int, step: int, steps: int) -> logs.Stopped:
    return logs.Stopped(
        f"stopped by {signal.Signals(sent).name} at step {step} of {steps}; the same command goes on"
        " from there"
    )


def make_optimizer(pair: Pair) -> torch.optim.Optimizer:
    """AdamW over what is trained."""
    options = pair.training_options
    return torch.optim.AdamW(
        [parameter for parameter in pair.parameters() if parameter.requires_grad],
        lr=options.learning_rate,
        betas=tuple(options.betas),
        weight_decay=options.weight_decay,
        fused=True,
    )


def set_up(pair: Pair, world: World) -> None:
    """Bring a pair to the device and precision of a training, the same in every process."""
    precision = resolve_precision(pair.training_options.precision)
    pair.amp_dtype = torch.bfloat16 if precision == "bf16-mixed" else None
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    if world.device.type == "cuda":
        # Some of cuBLAS is only deterministic with workspaces of its own.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("highest" if pair.amp_dtype is None else "high")
    processes.share_batchnorm(pair, world)
    card_memory.checkpoint_activations(pair)
    if draws_by_row(pair.training_options.as_dict()):
        by_row.install(pair.images)
        by_row.install(pair.genes)
    pair.to(world.device)
    if pair.images.tower is not None:
        pair.images.tower.to(memory_format=torch.channels_last)
    world.equalise(pair)


def train_step(
    pair: Pair,
    optimizer: torch.optim.Optimizer,
    batch: Mapping[str, torch.Tensor],
    count: int,
    world: World,
    seed: int,
    step: int,
    *,
    with_recall: bool = False,
) -> dict[str, torch.Tensor]:
    """One step of the optimiser on the global batch of ``count`` pairs, of which ``batch`` is a share.

    It gives the ``loss``, and ``recall@5`` if wanted.
    """

    optimizer.zero_grad(set_to_none=True)
    draw = draws(pair, count, world, seed, step)
    scores = contrastive.gradients(pair, batch, count, world, draw, with_recall)
    trained = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(trained, pair.training_options.gradient_clip)
    optimizer.step()
    pair.clamp_temperature()
    return scores


def draws(
    pair: Pair, count: int, world: World, seed: int, step: int
) -> Callable[[int, int, slice], None]:
    """What seeds the dropout of a step (``draw`` of ``contrastive.gradients``)."""
    layers = [by_row.installed(getattr(pair, name)) for name in SIDES]
    share = world.share(count)
    keys = [
        torch.from_numpy(by_row.row_keys(seed, step, side, count)[share]).to(world.device)
        for side in range(len(SIDES))
    ]

    def draw(side: int, chunk: int, rows: slice) -> None:
        by_row.set_keys(layers[side], keys[side][rows])
        # What isn't drawn by row must not depend on what ran before: then a resumed run equals an
        # unbroken one, and a chunk that runs a second time is the same.
        sequence = np.random.SeedSequence([seed, 3, step, world.rank, side, chunk])
        number = int(sequence.generate_state(1, np.uint32)[0])
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes 2 ms
        if world.device.type == "cuda":
            torch.cuda.manual_seed(number)

    return draw
