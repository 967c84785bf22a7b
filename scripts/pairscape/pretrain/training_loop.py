"""Training a pair: the steps, the validations, what is kept of them, going on after a kill.

A plain loop. All that a step draws (its batch, its views and augmentation, its dropout) is a function
of the seed, the step and the process, so that a resumed run ends where an unbroken one does.
"""

import logging
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.encoders import specs
from pairscape.pretrain import batches, contrastive, processes
from pairscape.pretrain.batches import PairRows
from pairscape.pretrain.metric_loggers import MetricLoggers
from pairscape.pretrain.pair import Pair
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import SIDES

log = logging.getLogger("pairscape")

METRIC_COLUMNS = (
    "step",
    "split",
    "batch",
    "loss",
    "recall@5",
    "logit_scale",
    "learning_rate",
)
# Options that say where and how fast, not what: a run may be gone on with under others of them.
MACHINE_OPTIONS = ("loader_workers", "loggers")
EMBED_ROWS = 4096
EMBED_PATCHES = 64
_SAVE_SECONDS = 600


def resolve_training(training: Mapping) -> dict:
    """Fill in the defaults of the training options and check them."""
    resolved = resolve_part("training", training)

    def refuse(key: str, found, remedy: str) -> None:
        raise InputError("--options", f"training.{key}", str(found), remedy)

    if resolved["warmup_steps"] >= resolved["max_steps"]:
        refuse(
            "warmup_steps",
            resolved["warmup_steps"],
            f"warm up in fewer steps than max_steps, {resolved['max_steps']}",
        )
    if resolved["batch_size"] < resolved["devices"] * resolved["nodes"]:
        refuse("batch_size", resolved["batch_size"], "give each device a pair at least")
    if resolved["stored_views"]:
        if resolved["image_tuning"] != "frozen":
            refuse("stored_views", "views for an image encoder that is tuned", "set it to 0")
        if specs.augmentation_kind(resolved) is None:
            refuse("stored_views", "views without augmentation", "set augmentation, or this to 0")
        if resolved["image_projection"] == "transformer":
            refuse("stored_views", "views for a head that takes tokens", "set it to 0")
        if not specs.takes_stored_images(resolved) or resolved["evaluation_crop"] == "random":
            refuse("stored_views", "views for a trunk that runs in every step", "set it to 0")
        defaults = resolve_part("training", {})
        for key in ("augmentation_draws", "sharpen"):
            if resolved[key] != defaults[key]:
                refuse(key, f"{resolved[key]}, for stored views", f"set it to {defaults[key]}")
    return resolved


def resolve_precision(precision: str) -> str:
    """``auto`` becomes bf16-mixed on a GPU that has it, and 32-true elsewhere."""
    if precision != "auto":
        return precision
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if on_gpu else "32-true"


def learning_rate_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """Linear from 0 to 1 in ``warmup_steps``, then half a cosine down to 0 at ``max_steps``."""
    if step < warmup_steps:
        return step / warmup_steps
    share = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


class Record:
    """What a training has come to: metrics, the best weights, how long the loss hasn't fallen.

    It is the same in every process, since every process has the loss of the global batch.

    Parameters
    ----------
    training
        The resolved options.
    every
        Steps between validations; training is recorded five times as often.

    Attributes
    ----------
    best
        ``loss``, ``step`` and ``state`` of the validation with the least loss.
    is_over
        Whether training has stopped early.
    """

    def __init__(self, training: Mapping, every: int):
        self.training, self.every, self.often = training, every, max(1, every // 5)
        self.metrics: list[dict] = []
        self.losses: list[torch.Tensor] = []
        self.best: dict = {"loss": math.inf, "step": 0, "state": None}
        self.reference, self.waited, self.is_over = math.inf, 0, False

    def state_dict(self) -> dict:
        return {
            "metrics": self.metrics,
            "losses": [float(loss) for loss in self.losses],
            "best": self.best,
            "stopping": [self.reference, self.waited, self.is_over],
        }

    def load_state_dict(self, state: Mapping) -> None:
        self.metrics, self.best = state["metrics"], state["best"]
        self.losses = [torch.tensor(loss) for loss in state["losses"]]
        self.reference, self.waited, self.is_over = state["stopping"]

    def after_step(self, pair: Pair, step: int, found: Mapping, batch: int, rate: float):
        """Note a step's loss; return a row of the metrics where one is due."""
        self.losses.append(found["loss"])
        if step % self.often and step != self.training["max_steps"]:
            return None
        losses = torch.stack([loss.cpu() for loss in self.losses])
        self.losses = []
        if not bool(torch.isfinite(losses).all()):
            raise InputError(
                "--options",
                "training.learning_rate",
                f"{self.training['learning_rate']:g}, with which the loss isn't finite by step {step}",
                "lower it, or gradient_clip",
            )
        return self._add(
            pair, step, "train", batch, float(losses.mean()), float(found["recall@5"]), rate
        )

    def after_validation(
        self, pair: Pair, step: int, loss: float, recall: float, batch: int, rate: float
    ) -> dict:
        """Note a validation, keep the weights if they are the best, and see whether to stop."""
        log.debug("step %d: validation loss %.4f, in-batch Recall@5 %.3f", step, loss, recall)
        if loss < self.best["loss"]:
            keep = self.training["select"] == "best_val_loss"
            state = pair.kept_state() if keep else None
            self.best = {"loss": loss, "step": step, "state": state}
        stopping = self.training["early_stopping"]
        if stopping is not None:
            if loss < self.reference - stopping["min_delta"]:
                self.reference, self.waited = loss, 0
            else:
                self.waited += 1
            self.is_over = self.waited >= stopping["patience"]
        return self._add(pair, step, "val", batch, loss, recall, rate)

    def _add(self, pair: Pair, step, split, batch, loss, recall, rate) -> dict:
        scale = float(pair.logit_scale.detach().exp())
        row = dict(
            zip(METRIC_COLUMNS, (step, split, batch, loss, recall, scale, rate), strict=True)
        )
        self.metrics.append(row)
        return row


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

    Parameters
    ----------
    pair, data
        What to train, on what; the pair goes to the world's device.
    rows
        Row numbers by split.
    folder
        The run's folder; ``last.ckpt`` is written there while training and is nowhere declared.
    identity
        Checksum of everything that decides the run.
    seed
        The run's seed.
    world
        The processes; each calls this.
    views
        Stored views of each patch, of which all but the first are trained on; 1 for none.

    Returns
    -------
    The selected weights (``state`` as of ``Pair.kept_state``, ``step`` and ``loss``, the validation
    loss or None), and the metrics; in the first process, which alone writes anything.

    Raises
    ------
    program.Stopped
        SIGTERM or SIGUSR1 came; ``last.ckpt`` is of the step that was under way.
    """
    options = pair.training_options
    folder = Path(folder)
    set_up(pair, world)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in pair.parameters() if parameter.requires_grad],
        lr=options["learning_rate"],
        betas=tuple(options["betas"]),
        weight_decay=options["weight_decay"],
        fused=True,
    )
    every = options["validate_every"]
    if every == "epoch":
        every = batches.steps_per_epoch(rows["train"], options["batch_size"])
    record = Record(options, every)
    start = _resume(folder, identity, pair, optimizer, record, world)
    batch_size = min(options["batch_size"], len(rows["train"]))
    reader = batches.train_batches(
        data,
        batches.train_shares(rows["train"], batch_size, seed, start, world, views),
        options["loader_workers"],
        world,
    )
    loggers = MetricLoggers(
        options["loggers"] if world.is_first else (), folder, identity, options, start
    )
    saved = time.monotonic()
    steps = range(start, 0 if record.is_over else options["max_steps"])
    if world.is_first:
        steps = logs.progress(steps, "pretrain", len(steps), "step")
    pair.train()
    with processes.noted_signals() as arrived:
        question = processes.StopQuestion(world, arrived)
        for step in steps:
            rate = options["learning_rate"] * learning_rate_factor(
                step, options["warmup_steps"], options["max_steps"]
            )
            is_last = step + 1 == options["max_steps"]
            found = train_step(
                pair,
                optimizer,
                batches.to_device(next(reader), world.device),
                batch_size,
                world,
                seed,
                step,
                rate,
                (step + 1) % record.often == 0 or is_last,
            )
            is_due = (step + 1) % every == 0 or is_last
            row = record.after_step(pair, step + 1, found, batch_size, rate)
            if row is not None:
                loggers.log(row)
            if is_due and len(rows["val"]):
                loss, recall, batch = validate(pair, data, rows["val"], seed, world)
                loggers.log(record.after_validation(pair, step + 1, loss, recall, batch, rate))
            sent = question.ask(is_last or record.is_over)
            if world.is_first and (sent or is_due or time.monotonic() - saved > _SAVE_SECONDS):
                _save(folder, identity, pair, optimizer, record, step + 1)
                saved = time.monotonic()
            if sent:
                loggers.close()
                world.leave()
                raise logs.Stopped(
                    f"stopped by {signal.Signals(sent).name} at step {step + 1} of"
                    f" {options['max_steps']}; the same command goes on from there"
                )
            if record.is_over:
                log.info("stopped early at step %d: the validation loss doesn't fall", step + 1)
                break
    if arrived:  # after the last question: as if it had come now
        signal.raise_signal(arrived[0])
    loggers.close()
    return selected_state(record, pair), record.metrics


def set_up(pair: Pair, world: World) -> None:
    """Bring a pair to the device and precision of a training, the same in every process."""
    precision = resolve_precision(pair.training_options["precision"])
    pair.amp_dtype = torch.bfloat16 if precision == "bf16-mixed" else None
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    if world.device.type == "cuda":
        # Some of cuBLAS is only deterministic with workspaces of its own.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.set_float32_matmul_precision("highest" if pair.amp_dtype is None else "high")
    processes.share_batchnorm(pair, world)
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
    rate: float,
    with_recall: bool = False,
) -> dict[str, torch.Tensor]:
    """One step of the optimiser on the global batch of ``count`` pairs, of which ``batch`` is a share.

    Returns
    -------
    ``loss``, and ``recall@5`` if wanted.
    """

    def draw(side: int, chunk: int) -> None:
        # Dropout must not depend on what ran before: then a resumed run equals an unbroken one,
        # and a chunk that runs a second time is the same.
        sequence = np.random.SeedSequence([seed, 3, step, world.rank, side, chunk])
        number = int(sequence.generate_state(1, np.uint32)[0])
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes 2 ms
        if world.device.type == "cuda":
            torch.cuda.manual_seed(number)

    optimizer.zero_grad(set_to_none=True)
    found = contrastive.gradients(pair, batch, count, world, draw, with_recall)
    trained = optimizer.param_groups[0]["params"]
    torch.nn.utils.clip_grad_norm_(trained, pair.training_options["gradient_clip"])
    optimizer.param_groups[0]["lr"] = rate
    optimizer.step()
    pair.clamp_temperature()
    return found


def validate(
    pair: Pair, data: PairRows, rows: np.ndarray, seed: int, world: World
) -> tuple[float, float, int]:
    """Loss and in-batch Recall@5 of a split, means over its pairs, and the size of a batch."""
    pair.eval()
    size = pair.training_options["batch_size"]
    sums = np.zeros(2)
    parts = batches.validation_batches(rows, size, seed)
    shares = [part[world.share(len(part))] for part in parts]
    workers = pair.training_options["loader_workers"]
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


@torch.inference_mode()
def embed_batch(pair: Pair, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Embed both sides of pairs, ``micro_batch`` of them at a time, in evaluation mode."""
    rows = _rows_at_a_time(pair)
    found = []
    for name in SIDES:
        inputs, side = batch[name], getattr(pair, name)
        with pair.autocast(inputs.device):
            found.append(torch.cat([side(chunk) for chunk in inputs.split(rows)]))
    return found[0], found[1]


def embed_pairs(
    pair: Pair,
    data: PairRows,
    rows: np.ndarray,
    world: World | None = None,
    sides: Sequence[str] = SIDES,
    trunk_path=None,
) -> dict[str, np.ndarray]:
    """Embed pairs, in one pass over their inputs.

    Parameters
    ----------
    rows
        Rows of the dataset.
    sides
        Which sides.
    trunk_path
        A scratch file for what the image encoder gives before the projection; None keeps none, and
        neither does a head that takes tokens.

    Returns
    -------
    By side (len(rows), embedding_dim) float32, as ``Side`` gives them; and ``trunk``, (len(rows), W)
    float32, memory-mapped, if it is kept.
    """
    width = pair.training_options["embedding_dim"]
    found = {name: np.empty((len(rows), width), np.float32) for name in sides}
    tower = pair.images.tower
    if trunk_path is not None and tower is not None and not pair.images.takes_tokens:
        found["trunk"] = np.lib.format.open_memmap(
            trunk_path, mode="w+", dtype=np.float32, shape=(len(rows), tower.width)
        )
    at_a_time = _rows_at_a_time(pair)
    for at, batch in _evaluated(pair, data, rows, world):
        for name in sides:
            side, inputs = getattr(pair, name), batch[name]
            with torch.inference_mode(), pair.autocast(inputs.device):
                parts = [side.encode(chunk) for chunk in inputs.split(at_a_time)]
                embedded = torch.cat([side.project(part) for part in parts])
            found[name][at : at + len(inputs)] = embedded.cpu().numpy()
            if name == "images" and "trunk" in found:
                found["trunk"][at : at + len(inputs)] = torch.cat(parts).float().cpu().numpy()
    return found


def _evaluated(pair: Pair, data: PairRows, rows: np.ndarray, world: World | None):
    """Yield (start, batch on the device) of all rows, the pair in evaluation mode."""
    world = world or World(0, 1, torch.device("cpu"))
    pair.eval().to(world.device)
    block = EMBED_PATCHES if data.reads_patches else EMBED_ROWS
    starts = range(0, len(rows), block)
    workers = pair.training_options["loader_workers"]
    reader = batches.plain_batches(data, [rows[at : at + block] for at in starts], workers, world)
    for at, batch in zip(logs.progress(starts, "embed", unit="block"), reader, strict=True):
        yield at, batches.to_device(batch, world.device)


def _rows_at_a_time(pair: Pair) -> int:
    if not (pair.images.is_by_row and pair.genes.is_by_row):
        return EMBED_PATCHES  # what an embedding depends on: batches of 64, as published
    rows = pair.training_options["micro_batch"] or EMBED_ROWS
    return rows if pair.images.tower is None else min(rows, EMBED_PATCHES)


def selected_state(record: Record, pair: Pair) -> dict:
    """The weights that become the model, by the option ``select``: ``state``, ``step``, ``loss``."""
    if record.training["select"] == "best_val_loss":
        return record.best
    losses = [row["loss"] for row in record.metrics if row["split"] == "val"]
    return {
        "loss": losses[-1] if losses else None,
        "step": record.metrics[-1]["step"],
        "state": pair.kept_state(),
    }


def resumable(folder, identity: str) -> Path | None:
    """The ``last.ckpt`` of an interrupted run, if it belongs to this one.

    One of other options or data, or that can't be read, is set aside, and that is said.
    """
    path = Path(folder) / "last.ckpt"
    if not path.is_file():
        return None
    try:
        if (fault := files.zip_fault(path)) is not None:
            raise ValueError(fault)
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found, step = stored["identity"], stored["step"]
        why = "it is of other options or data"
    except Exception:  # whatever is in a damaged file
        found, why = None, "it can't be read"
    if found == identity:
        log.info("going on from step %d of %s", step, path)
        return path
    aside = path.with_name(f"last-set-aside-{files.sha256_file(path)[:8]}.ckpt")
    os.replace(path, aside)
    log.info("%s isn't gone on from: %s; set aside as %s", path, why, aside.name)
    return None


def _resume(folder: Path, identity: str, pair: Pair, optimizer, record: Record, world) -> int:
    """Load what an interrupted run has left, in every process; return the step to go on from."""
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
        resumable(folder, identity)
    world.wait()
    path, step = folder / "last.ckpt", 0
    if path.is_file():
        stored = torch.load(path, map_location="cpu", weights_only=True)
        pair.load_kept_state(stored["state"])
        optimizer.load_state_dict(stored["optimizer"])
        record.load_state_dict(stored["record"])
        step = stored["step"]
    world.wait()  # before the first process writes a newer one
    return step


def _save(folder: Path, identity: str, pair: Pair, optimizer, record: Record, step: int) -> None:
    whole = {
        "identity": identity,
        "step": step,
        "state": pair.kept_state(),
        "optimizer": optimizer.state_dict(),
        "record": record.state_dict(),
    }
    path = folder / "last.ckpt"
    with files.atomic_path(path) as temporary, open(temporary, "wb") as handle:
        try:
            torch.save(whole, handle)
        except RuntimeError as error:
            cause = error.__context__
            if isinstance(cause, OSError):  # torch closes its archive even on a full disk
                raise OSError(cause.errno, cause.strerror, str(path)) from None
            raise
