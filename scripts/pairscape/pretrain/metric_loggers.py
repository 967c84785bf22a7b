"""Where the metrics go while a pair trains, beside metrics.csv: TensorBoard, Weights & Biases."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pairscape.core.errors import InputError


class MetricLoggers:
    """The loggers of a run that were asked for, of ``tensorboard`` and ``wandb``.

    Each has a folder of its own in the run's ``folder``. A run that is gone on with goes on there, too,
    by its checksum ``identity``; what an interrupted one told of steps from ``start`` on is replaced.
    ``config`` is shown as the run's settings.
    """

    def __init__(self, names: Sequence[str], folder, identity: str, config: Mapping, start: int):
        folder = Path(folder)
        self.tensorboard = self.wandb = None
        if "tensorboard" in names:
            from torch.utils.tensorboard import SummaryWriter

            self.tensorboard = SummaryWriter(folder / "tensorboard", purge_step=start)
        if "wandb" in names:
            import wandb

            (folder / "wandb").mkdir(parents=True, exist_ok=True)
            try:
                self.wandb = wandb.init(
                    project="pairscape",
                    id=identity[:16],
                    name="/".join(folder.parts[-4:]),
                    dir=folder,
                    config=dict(config),
                    resume="allow",
                )
            except wandb.errors.Error as error:
                remedy = "set WANDB_API_KEY, or WANDB_MODE=offline, or leave it out"
                says = f"wandb, which says: {error}"
                raise InputError("--options", "training.loggers", says, remedy) from None
            except ValueError as error:  # of pydantic: a setting that wandb doesn't know
                raise _wrong_setting(error) from None

    def log(self, row: Mapping) -> None:
        """Tell one row of the metrics (``training_record.METRIC_COLUMNS``)."""
        values = {
            f"{row['split']}/{name}": value
            for name, value in row.items()
            if name not in ("step", "split", "batch") and value is not None
        }
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, row["step"])
        if self.wandb is not None:
            self.wandb.log({**values, "step": row["step"]})

    def close(self) -> None:
        """Write what is left."""
        if self.tensorboard is not None:
            self.tensorboard.close()
        if self.wandb is not None:
            self.wandb.finish()


def _wrong_setting(error: ValueError) -> InputError:
    """The refusal of a setting of wandb, which comes from the environment or its settings file."""
    faults = error.errors() if hasattr(error, "errors") else []
    if not faults:
        return InputError("wandb", "settings", str(error), "correct its settings, or leave it out")
    fault = faults[0]
    name = "_".join(["WANDB", *map(str, fault["loc"])]).upper()
    remedy = f"{fault['msg'][:1].lower()}{fault['msg'][1:]}: correct it, or unset it"
    return InputError("the environment", name, repr(fault["input"]), remedy)
