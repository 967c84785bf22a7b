"""The log that all programs share, progress bars, and an orderly stop."""

import logging
from collections.abc import Iterable, Mapping

log = logging.getLogger("pairscape")


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


def progress(items: Iterable, what: str, total: int | None = None, unit: str = "it"):
    """Iterate over ``items`` with a progress bar; silent where stderr isn't a terminal."""
    from tqdm import tqdm

    return tqdm(
        items, desc=what, total=total, unit=unit, disable=None, leave=False, mininterval=0.5
    )
