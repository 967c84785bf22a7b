"""What a training has come to: its metrics, its best weights, and whether it is over."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.pretrain.options import Training
from pairscape.pretrain.pair import Pair

log = logging.getLogger("pairscape")

METRIC_COLUMNS = (
    *("step", "split", "batch", "loss", "recall@5", "logit_scale", "learning_rate"),
    "waiting",  # share of the steps' time that patches were waited for; empty where none are read ahead
)


class Record:
    """What a training has come to: metrics, the best weights, how long the loss hasn't fallen.

    It is the same in every process, since every process has the loss of the global batch. ``every``
    is the number of steps between validations; training is recorded five times as often. ``best``
    holds ``loss``, ``step`` and ``state`` of the validation with the least loss; ``is_over`` says that
    training has stopped early. ``waiting`` is asked for that column of the metrics.
    """

    def __init__(self, training: Training, every: int):
        self.training, self.every, self.often = training, every, max(1, every // 5)
        self.metrics: list[dict] = []
        self.losses: list[torch.Tensor] = []
        self.best: dict = {"loss": math.inf, "step": 0, "state": None}
        self.reference, self.waited, self.is_over = math.inf, 0, False
        self.waiting: Callable[[], float | None] = lambda: None

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

    def after_step(self, pair: Pair, step: int, scores: Mapping, batch: int, rate: float):
        """Note a step's loss; return a row of the metrics where one is due."""
        self.losses.append(scores["loss"])
        if step % self.often and step != self.training.max_steps:
            return None
        losses = torch.stack([loss.cpu() for loss in self.losses])
        self.losses = []
        if not bool(torch.isfinite(losses).all()):
            why = (
                f"{self.training.learning_rate:g}, with which the loss isn't finite by step {step}"
            )
            remedy = "lower it, or gradient_clip"
            raise InputError("--options", "training.learning_rate", why, remedy)
        loss, recall = float(losses.mean()), float(scores["recall@5"])
        return self._add(pair, step, "train", batch, loss, recall, rate)

    def after_validation(
        self, pair: Pair, step: int, loss: float, recall: float, batch: int, rate: float
    ) -> dict:
        """Note a validation, keep the weights if they are the best, and see whether to stop."""
        log.debug("step %d: validation loss %.4f, in-batch Recall@5 %.3f", step, loss, recall)
        if loss < self.best["loss"]:
            state = pair.kept_state() if self.training.select == "best_val_loss" else None
            self.best = {"loss": loss, "step": step, "state": state}
        stopping = self.training.early_stopping
        if stopping is not None:
            if loss < self.reference - stopping["min_delta"]:
                self.reference, self.waited = loss, 0
            else:
                self.waited += 1
            self.is_over = self.waited >= stopping["patience"]
        return self._add(pair, step, "val", batch, loss, recall, rate)

    def _add(self, pair: Pair, step, split, batch, loss, recall, rate) -> dict:
        scale = float(pair.logit_scale.detach().exp())
        waiting = self.waiting() if split == "train" else None
        values = (step, split, batch, loss, recall, scale, rate, waiting)
        row = dict(zip(METRIC_COLUMNS, values, strict=True))
        self.metrics.append(row)
        return row

    def selected(self, pair: Pair) -> dict:
        """The weights that become the model (option ``select``): ``state``, ``step``, ``loss``."""
        if self.training.select == "best_val_loss":
            return self.best
        losses = [row["loss"] for row in self.metrics if row["split"] == "val"]
        return {
            "loss": losses[-1] if losses else None,
            "step": self.metrics[-1]["step"],
            "state": pair.kept_state(),
        }


def write_metrics(path, metrics: Sequence[Mapping]) -> None:
    """Write the rows of a record, or of a part of its columns, as metrics.csv."""
    tsv.write_numbers(path, metrics, METRIC_COLUMNS, delimiter=",")
