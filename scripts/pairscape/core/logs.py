"""The log that all programs share, progress bars, and an orderly stop."""

import logging
import operator
import signal
from collections.abc import Iterable, Iterator, Mapping

log = logging.getLogger("pairscape")
sent_signals: list[int] = []  # that asked this program to leave


class Stopped(Exception):
    """A signal ended the work in good order: the same command goes on where it stopped."""


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Whether this is the only process of its launch, or the first of several (one per device).

    Only that one speaks and writes files. Launched by torchrun, by srun with several tasks, or as a
    further process of a plain call (``processes.start``).
    """
    rank = environment.get("RANK")
    if rank is None and int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        rank = environment.get("SLURM_PROCID")
    return (rank or environment.get("LOCAL_RANK", "0")) == "0"


def leave(number: int, frame=None) -> None:
    """Handle a signal: leave as after Ctrl-C, so that nothing half-written stays."""
    sent_signals.append(number)
    heed_signals()


def heed_signals() -> None:
    """Raise ``KeyboardInterrupt`` if a signal was sent: also once more, where it was swallowed.

    A package that is just being imported may catch everything, or fail at it in words of its own.
    """
    if sent_signals:
        raise KeyboardInterrupt(signal.Signals(sent_signals[0]).name)


def progress(items: Iterable, what: str, total: int | None = None, unit: str = "it"):
    """Iterate over ``items`` with a progress bar; silent where stderr isn't a terminal.

    Signals are heeded before each item.
    """
    from tqdm import tqdm

    total = total or operator.length_hint(items) or None
    return tqdm(_heeding(items), what, total, unit=unit, disable=None, leave=False, mininterval=0.5)


def _heeding(items: Iterable) -> Iterator:
    for item in items:
        heed_signals()
        yield item
