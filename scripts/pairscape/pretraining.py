"""The image-gene pair: projection heads, contrastive loss, training and embedding.

A frozen image trunk has run before (``embed_images``), so what is trained here is the image head,
the gene encoder and its head. All randomness of a step is a function of the seed and the step, so
that a resumed run ends where an unbroken one does.
"""

import io
import logging
import math
import os
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import lightning as L
import numpy as np
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import nn

from pairscape import config, files, gene_encoders
from pairscape.errors import InputError

log = logging.getLogger("pairscape")

FORMAT = 1
MAX_LOGIT_SCALE = math.log(100)
SIGLIP_BIAS = -10.0
# What is built so far of what the configuration's schema allows.
BUILT = {"image_tuning": ("frozen",)}
METRIC_COLUMNS = (
    "step",
    "split",
    "batch",
    "loss",
    "recall@5",
    "logit_scale",
    "learning_rate",
)


def resolve_training(training: Mapping) -> dict:
    """Fill in the defaults of the training options and check them.

    Raises
    ------
    InputError
        An option is unknown, isn't allowed, isn't built yet, or doesn't go with another.
    """
    resolved = config.resolve_part("training", training)
    for key, built in BUILT.items():
        if resolved[key] not in built:
            raise InputError(
                "--options",
                f"training.{key}",
                f"{resolved[key]!r}, which isn't built yet",
                f"built so far: {', '.join(built)}",
            )
    if resolved["warmup_steps"] >= resolved["max_steps"]:
        raise InputError(
            "--options",
            "training.warmup_steps",
            str(resolved["warmup_steps"]),
            f"warm up in fewer steps than max_steps, {resolved['max_steps']}",
        )
    return resolved


def projection(kind: str, width: int, embedding_dim: int, dropout: float) -> nn.Module:
    """A projection head, (B, width) -> (B, embedding_dim).

    ``mlp`` is timm's Mlp as HESCAPE uses it: hidden width twice the embedding's, GELU, dropout,
    LayerNorm before the second layer, and dropout on the output too.

    Raises
    ------
    InputError
        ``identity`` where the widths differ.
    """
    if kind == "linear":
        return nn.Linear(width, embedding_dim)
    if kind == "identity":
        if width != embedding_dim:
            raise InputError(
                "--options",
                "training.gene_projection",
                f"identity for an encoder of width {width}",
                f"choose linear, or embedding_dim: {width}",
            )
        return nn.Identity()
    hidden = 2 * embedding_dim
    return nn.Sequential(
        OrderedDict(
            fc1=nn.Linear(width, hidden),
            act=nn.GELU(),
            drop1=nn.Dropout(dropout),
            norm=nn.LayerNorm(hidden),
            fc2=nn.Linear(hidden, embedding_dim),
            drop2=nn.Dropout(dropout),
        )
    )


class Pair(L.LightningModule):
    """An image head on stored features beside a gene encoder with its head.

    Parameters
    ----------
    gene_encoder
        The gene encoder's file, as a dictionary.
    training
        See ``resolve_training``.
    feature_width, gene_count
        Numbers per image feature and per expression vector.
    library_size
        Median sum of counts of the train split.
    """

    def __init__(
        self,
        gene_encoder: Mapping,
        training: Mapping,
        feature_width: int,
        gene_count: int,
        library_size: float = 1.0,
    ):
        super().__init__()
        self.gene_spec, self.training_options = gene_encoder, training
        self.feature_width, self.gene_count = feature_width, gene_count
        width, dropout = training["embedding_dim"], training["projection_dropout"]
        self.image_head = projection(training["image_projection"], feature_width, width, dropout)
        self.gene_encoder = gene_encoders.build(gene_encoder, None, gene_count)
        self.gene_head = projection(
            training["gene_projection"], gene_encoder["width"], width, dropout
        )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(training["temperature"])))
        if training["loss"] == "siglip":
            self.logit_bias = nn.Parameter(torch.tensor(SIGLIP_BIAS))
        self.register_buffer("library_size", torch.tensor(float(library_size)))
        self.recall_wanted = False
        self.latest: dict[str, torch.Tensor] = {}
        self.validation: list[tuple[int, float, float]] = []

    def embed_images(self, features: torch.Tensor) -> torch.Tensor:
        """(B, feature_width) stored features -> (B, embedding_dim) of unit length."""
        return nn.functional.normalize(self.image_head(features.float()).float(), dim=1)

    def embed_genes(self, counts: torch.Tensor) -> torch.Tensor:
        """(B, genes) raw counts -> (B, embedding_dim) of unit length."""
        prepared = gene_encoders.prepare_counts(self.gene_spec, counts, self.library_size)
        return nn.functional.normalize(self.gene_head(self.gene_encoder(prepared)).float(), dim=1)

    def setup(self, stage: str) -> None:
        # Gradients of the whole global batch: each device takes the loss of its rows against all.
        world = {"rank": self.global_rank, "world_size": self.trainer.world_size}
        if self.training_options["loss"] == "clip":
            self.loss = ClipLoss(local_loss=True, gather_with_grad=True, **world)
        else:
            self.loss = SigLipLoss(**world)

    def pair_loss(self, images: torch.Tensor, genes: torch.Tensor) -> torch.Tensor:
        bias = (self.logit_bias,) if self.training_options["loss"] == "siglip" else ()
        return self.loss(images, genes, self.logit_scale.exp(), *bias)

    def training_step(self, batch: Mapping, batch_idx: int) -> torch.Tensor:
        images, genes = self.embed_images(batch["features"]), self.embed_genes(batch["counts"])
        loss = self.pair_loss(images, genes)
        self.latest = {"loss": loss.detach()}
        if self.recall_wanted:
            self.latest["recall@5"] = batch_recall(images.detach(), genes.detach())
        return loss

    def validation_step(self, batch: Mapping, batch_idx: int) -> None:
        images, genes = self.embed_images(batch["features"]), self.embed_genes(batch["counts"])
        recall = batch_recall(images, genes)
        self.validation.append((len(images), float(self.pair_loss(images, genes)), float(recall)))

    def configure_optimizers(self) -> dict:
        options = self.training_options
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=options["learning_rate"],
            betas=tuple(options["betas"]),
            weight_decay=options["weight_decay"],
            fused=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate_factor(step, options["warmup_steps"], options["max_steps"]),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def learning_rate_factor(step: int, warmup_steps: int, max_steps: int) -> float:
    """Linear from 0 to 1 in ``warmup_steps``, then half a cosine down to 0 at ``max_steps``."""
    if step < warmup_steps:
        return step / warmup_steps
    share = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return max(0.0, 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def batch_recall(images: torch.Tensor, genes: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Recall@k within a batch, mean of both directions: for the training curve, not for scores."""
    similarity = images @ genes.T
    own = similarity.diagonal()
    image_rank = (similarity > own[:, None]).sum(1)
    gene_rank = (similarity > own[None, :]).sum(0)
    return ((image_rank < k).float().mean() + (gene_rank < k).float().mean()) / 2


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


class PairRows(torch.utils.data.Dataset):
    """Stored features and counts, read by arrays of row numbers (a batch at a time)."""

    def __init__(self, features: np.ndarray, counts: np.ndarray):
        self.features, self.counts = features, counts

    def __getitem__(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        return {
            "features": torch.from_numpy(self.features[rows]),
            "counts": torch.from_numpy(self.counts[rows]),
        }


class PairData(L.LightningDataModule):
    """The pairs of a dataset.

    Parameters
    ----------
    features
        (N, D) float32, may be memory-mapped.
    counts
        (N, genes) int32.
    rows
        Row numbers by split.
    batch_size
        The global batch.
    seed
        Seed of the order.
    """

    def __init__(self, features, counts, rows: Mapping[str, np.ndarray], batch_size, seed):
        super().__init__()
        self.pairs, self.rows = PairRows(features, counts), rows
        self.batch_size, self.seed = batch_size, seed

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.pairs, sampler=self._steps(), batch_size=None)

    def val_dataloader(self):
        batches = validation_batches(self.rows["val"], self.batch_size, self.seed)
        mine = [self._share(rows) for rows in batches]
        return torch.utils.data.DataLoader(self.pairs, sampler=mine, batch_size=None)

    def _steps(self) -> Iterator[np.ndarray]:
        # Runs when the first batch is asked for: a resumed trainer knows its step by then.
        start = self.trainer.global_step
        for rows in step_batches(self.rows["train"], self.batch_size, self.seed, start):
            yield self._share(rows)

    def _share(self, rows: np.ndarray) -> np.ndarray:
        world = self.trainer.world_size
        return rows[: len(rows) // world * world][self.trainer.global_rank :: world]


class Record(L.Callback):
    """Keeps the metrics and the best weights, writes ``last.ckpt``, seeds each step.

    Parameters
    ----------
    folder
        The run's folder.
    identity
        A checksum of all that decides the run; ``last.ckpt`` carries it.
    seed
        The run's seed.
    every
        Steps between validations; training is recorded five times as often.
    world_size
        Processes that were asked for.
    """

    def __init__(self, folder: Path, identity: str, seed: int, every: int, world_size: int):
        self.folder, self.identity, self.seed = Path(folder), identity, seed
        self.every, self.often, self.world_size = every, max(1, every // 5), world_size
        self.metrics: list[dict] = []
        self.losses: list[torch.Tensor] = []
        self.best: dict = {"loss": math.inf, "step": 0, "state": None}

    def state_dict(self) -> dict:
        return {
            "identity": self.identity,
            "metrics": self.metrics,
            "losses": [float(loss) for loss in self.losses],
            "best": self.best,
        }

    def load_state_dict(self, state: dict) -> None:
        self.metrics, self.best = state["metrics"], state["best"]
        self.losses = [torch.tensor(loss) for loss in state["losses"]]

    def on_fit_start(self, trainer, module) -> None:
        if trainer.world_size != self.world_size:
            raise InputError(
                "--options",
                "devices",
                f"{trainer.world_size} processes at work where {self.world_size} were asked for",
                "launch one process per device, or ask for what you launch",
            )

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        # Dropout must not depend on what ran before: then a resumed run equals an unbroken one.
        step = trainer.global_step
        sequence = np.random.SeedSequence([self.seed, 3, step, trainer.global_rank])
        seed = int(sequence.generate_state(1, np.uint32)[0])
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes 2 ms
        if module.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)
        module.recall_wanted = (step + 1) % self.often == 0
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        with torch.no_grad():
            module.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        self.losses.append(module.latest["loss"])
        step = trainer.global_step
        if step % self.often == 0:
            self._add(
                module,
                step,
                "train",
                len(batch["counts"]) * trainer.world_size,
                float(torch.stack(self.losses).mean()),
                float(module.latest["recall@5"]),
            )
            self.losses = []
        if step % self.every == 0 and not trainer.enable_validation:
            self._save(trainer)

    def on_validation_start(self, trainer, module) -> None:
        module.validation = []

    def on_validation_end(self, trainer, module) -> None:
        sizes, losses, recalls = np.array(module.validation, np.float64).reshape(-1, 3).T
        sums = torch.tensor([sizes.sum(), (sizes * losses).sum(), (sizes * recalls).sum()])
        rows, loss, recall = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
        loss, recall, step = loss / rows, recall / rows, trainer.global_step
        batch = round(rows / max(1, len(sizes)))
        self._add(module, step, "val", batch, loss, recall)
        log.debug("step %d: validation loss %.4f, in-batch Recall@5 %.3f", step, loss, recall)
        if loss < self.best["loss"]:
            self.best = {"loss": loss, "step": step, "state": _copy_state(module)}
        if trainer.state.fn == "fit":
            self._save(trainer)

    def _add(self, module, step: int, split: str, batch: int, loss: float, recall: float) -> None:
        scale = float(module.logit_scale.detach().exp())
        values = (step, split, batch, loss, recall, scale, self.rate)
        self.metrics.append(dict(zip(METRIC_COLUMNS, values, strict=True)))

    def _save(self, trainer) -> None:
        temporary = self.folder / ".part-last.ckpt"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            os.replace(temporary, self.folder / "last.ckpt")


def train(
    module: Pair, data: PairData, folder, identity: str, seed: int, devices: int = 1
) -> tuple[dict, list[dict]]:
    """Train a pair; go on from ``last.ckpt`` in ``folder`` where it belongs to the same run.

    Parameters
    ----------
    module, data
        What to train, on what.
    folder
        The run's folder; ``last.ckpt`` is written there while training and is nowhere declared.
    identity
        Checksum of everything that decides the run.
    seed
        The run's seed.
    devices
        Processes, one per device.

    Returns
    -------
    The selected weights (``state``, ``step`` and ``loss``, the validation loss or None), and the
    metrics.
    """
    options = module.training_options
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    validated = len(data.rows["val"]) > 0
    resume = resumable(folder, identity)
    on_gpu = torch.cuda.is_available()
    record = Record(folder, identity, seed, options["validate_every"], devices)
    _quiet_lightning()
    trainer = L.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        precision=resolve_precision(options["precision"]),
        max_steps=options["max_steps"],
        max_epochs=-1,
        gradient_clip_val=options["gradient_clip"],
        val_check_interval=min(options["validate_every"], options["max_steps"]),
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validated else 0,
        num_sanity_val_steps=0,
        callbacks=[record],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=sys.stderr.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
        sync_batchnorm=devices > 1,
        deterministic=True,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.global_step < options["max_steps"]:
        raise KeyboardInterrupt  # Lightning turns Ctrl-C into a quiet end
    val_steps = [row["step"] for row in record.metrics if row["split"] == "val"]
    if validated and val_steps[-1:] != [trainer.global_step]:
        trainer.validate(module, datamodule=data, verbose=False)
    if options["select"] == "best_val_loss":
        return record.best, record.metrics
    last = {"loss": None, "step": trainer.global_step, "state": _copy_state(module)}
    if validated:
        last["loss"] = [row for row in record.metrics if row["split"] == "val"][-1]["loss"]
    return last, record.metrics


def resumable(folder, identity: str) -> Path | None:
    """The ``last.ckpt`` of an interrupted run, if it belongs to this one.

    One of other options or data, or that can't be read, is set aside, and that is said.
    """
    path = Path(folder) / "last.ckpt"
    if not path.is_file():
        return None
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = next(
            state["identity"] for name, state in stored["callbacks"].items() if "Record" in name
        )
        why = "it is of other options or data"
    except Exception:  # whatever is in a damaged file
        found, why = None, "it can't be read"
    if found == identity:
        log.info("going on from step %d of %s", stored["global_step"], path)
        return path
    aside = path.with_name(f"last-set-aside-{files.sha256_file(path)[:8]}.ckpt")
    os.replace(path, aside)
    log.info("%s isn't gone on from: %s; set aside as %s", path, why, aside.name)
    return None


def resolve_precision(precision: str) -> str:
    """``auto`` becomes bf16-mixed on a GPU that has it, and 32-true elsewhere."""
    if precision != "auto":
        return precision
    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return "bf16-mixed" if on_gpu else "32-true"


def embed_pairs(
    module: Pair, data: PairRows, rows: np.ndarray, block: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Embed pairs: images and genes, (len(rows), embedding_dim) float32 of unit length each."""
    module = module.eval().cpu()
    width = module.training_options["embedding_dim"]
    images = np.empty((len(rows), width), np.float32)
    genes = np.empty((len(rows), width), np.float32)
    with torch.inference_mode():
        for at in range(0, len(rows), block):
            batch = data[rows[at : at + block]]
            images[at : at + block] = module.embed_images(batch["features"]).numpy()
            genes[at : at + block] = module.embed_genes(batch["counts"]).numpy()
    return images, genes


def save_pair(path, module: Pair, state: Mapping, meta: Mapping) -> None:
    """Write ``model.ckpt``, all that ``load_pair`` needs. The same input makes the same bytes."""
    # The archive's inner folder takes the file's name: without a file it is always the same.
    buffer = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "gene_encoder": dict(module.gene_spec),
            "training": dict(module.training_options),
            "feature_width": module.feature_width,
            "gene_count": module.gene_count,
            "meta": dict(meta),
            "state": dict(state),
        },
        buffer,
    )
    with files.atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def load_pair(path) -> tuple[Pair, dict]:
    """Read ``model.ckpt`` strictly.

    Returns
    -------
    The pair in eval mode, and the metadata it was saved with (names, genes, selected step, ...).

    Raises
    ------
    InputError
        The file is missing, damaged, or of another format.
    """
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if stored["format"] != FORMAT:
            raise ValueError(f"format {stored['format']}, not {FORMAT}")
        module = Pair(
            stored["gene_encoder"],
            stored["training"],
            stored["feature_width"],
            stored["gene_count"],
        )
        module.load_state_dict(stored["state"], strict=True)
    except FileNotFoundError:
        raise InputError(path, "file", "nothing", "pretrain first or correct the path") from None
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(
            path, "model", str(error).split("\n")[0], "delete it and pretrain again"
        ) from None
    return module.eval(), stored["meta"]


def plot_curve(path, metrics: Sequence[Mapping], selected_step: int, loss: str, title: str) -> None:
    """Draw the loss over the steps, training and validation, with the loss of chance (CLIP)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    looks = {
        "train": {"color": "#56B4E9", "label": "training", "lw": 1.2},
        "val": {"color": "#D55E00", "label": "validation", "lw": 1.8, "marker": "o", "ms": 3.5},
    }
    for split, look in looks.items():
        rows = [row for row in metrics if row["split"] == split]
        if not rows:
            continue
        axes.plot([row["step"] for row in rows], [row["loss"] for row in rows], **look)
        if loss == "clip":
            chance = math.log(rows[-1]["batch"])
            axes.axhline(chance, color=look["color"], ls="--", lw=1)
            axes.annotate(
                f"chance, {look['label']} (ln {rows[-1]['batch']})",
                (0.99, chance),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3 if split == "train" else -3),
                textcoords="offset points",
                ha="right",
                va="bottom" if split == "train" else "top",
                fontsize=8,
                color="0.25",
            )
    axes.axvline(selected_step, color="0.5", lw=1, ls=":")
    axes.annotate(
        "selected",
        (selected_step, 0.02),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        fontsize=8,
        color="0.25",
    )
    axes.set(xlabel="optimiser step", ylabel=f"contrastive loss ({loss})", title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with files.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
    plt.close(figure)


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().clone() for name, value in module.state_dict().items()}


def _quiet_lightning() -> None:
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
