"""The training options, filled in and checked; the schema says what each of them means."""

import dataclasses
from collections.abc import Mapping, Sequence

from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.encoders import specs

# Options that say where and how fast, not what: others of them rerun nothing.
MACHINE_OPTIONS = ("loader_workers", "loggers", "activation_checkpointing")
# So do these, where no draw depends on them (``draws_by_row``).
SHARING_OPTIONS = ("devices", "nodes", "micro_batch")


@dataclasses.dataclass(frozen=True)
class Training:
    """The resolved training options: ``training`` of the schema, field by field."""

    embedding_dim: int
    image_projection: str
    gene_projection: str
    image_tuning: str
    gene_tuning: str
    lora_rank: int
    lora_alpha: float
    lora_dropout: float
    unit_length: bool
    frozen_trunks: str
    transformer_attends: str
    augmentation_draws: str
    sharpen: str
    evaluation_crop: str
    augmentation: str
    stored_views: int
    loss: str
    temperature: float
    batch_size: int
    micro_batch: int | None
    devices: int
    nodes: int
    loader_workers: int | None
    max_steps: int
    warmup_steps: int
    learning_rate: float
    weight_decay: float
    betas: Sequence[float]
    gradient_clip: float
    projection_dropout: float
    precision: str
    validate_every: int | str
    early_stopping: Mapping[str, float] | None
    loggers: Sequence[str]
    select: str
    activation_checkpointing: bool = False  # the last: older models don't have it

    def as_dict(self) -> dict:
        """The plain dictionary that is written to files."""
        return dataclasses.asdict(self)


def draws_by_row(training: Mapping) -> bool:
    """Whether what a row draws in training depends on that row alone.

    Not where attention itself drops out (the transformer head, an encoder in training mode as a whole),
    and not where a device's patches share their draws: then the number of devices and ``micro_batch``
    decide, as they do in torch.
    """
    tuned = {training["image_tuning"], training["gene_tuning"]}
    return (
        training["image_projection"] != "transformer"
        and training["frozen_trunks"] == "eval"
        and training["augmentation_draws"] == "per_patch"
        and "full" not in tuned
    )


def machine_options(training: Mapping) -> tuple[str, ...]:
    """Those of the resolved options that don't decide what a run becomes, up to rounding."""
    by_row = draws_by_row(training)
    return MACHINE_OPTIONS + (SHARING_OPTIONS if by_row else ())


def resolve_training(given: Mapping) -> Training:
    """Fill in the defaults of the training options and check them."""
    resolved = resolve_part("training", given)
    training = Training(**resolved)

    def refuse(key: str, found, remedy: str) -> None:
        raise InputError("--options", f"training.{key}", str(found), remedy)

    if training.warmup_steps >= training.max_steps:
        remedy = f"warm up in fewer steps than max_steps, {training.max_steps}"
        refuse("warmup_steps", training.warmup_steps, remedy)
    if training.batch_size < training.devices * training.nodes:
        refuse("batch_size", training.batch_size, "give each device a pair at least")
    if training.stored_views:
        if training.image_tuning != "frozen":
            refuse("stored_views", "views for an image encoder that is tuned", "set it to 0")
        if specs.augmentation_kind(resolved) is None:
            refuse("stored_views", "views without augmentation", "set augmentation, or this to 0")
        if training.image_projection == "transformer":
            refuse("stored_views", "views for a head that takes tokens", "set it to 0")
        if not specs.takes_stored_images(resolved) or training.evaluation_crop == "random":
            refuse("stored_views", "views for a trunk that runs in every step", "set it to 0")
        defaults = resolve_part("training", {})
        for key in ("augmentation_draws", "sharpen"):
            if resolved[key] != defaults[key]:
                refuse(key, f"{resolved[key]}, for stored views", f"set it to {defaults[key]}")
    return training
