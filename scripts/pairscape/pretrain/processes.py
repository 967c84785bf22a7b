"""Several processes, one per device: started or found, counted, and what they tell each other.

They come from ``torchrun``, from ``srun`` with a task for each device, or from a plain call, which
starts the others of its node itself. Lightning alone is silently wrong where a Slurm job of one task
asks for several devices: it takes the job's one task for all there are. Here what was launched is
compared with what is asked for before anything is trained.
"""

import contextlib
import datetime
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import distributed, nn

from pairscape.core import logs
from pairscape.core.devices import has_gpu, pick
from pairscape.core.errors import InputError

TIMEOUT = datetime.timedelta(minutes=30)
# What a scheduler sends before it kills: at the time limit, at a preemption, at scancel.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_ASK_SECONDS = 1.0
_RELAUNCH = (
    "launch one process per device (srun --ntasks-per-node, torchrun, or a plain call on one node),"
    " or ask for what you launch"
)
_refuse = partial(InputError, "--options", "training.devices")


@dataclass(frozen=True)
class World:
    """This process among all of a training."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether it is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of ``count`` rows: contiguous, sizes that differ by one at most."""
        return slice(*self._bounds(count)[self.rank : self.rank + 2])

    def gather(self, mine: torch.Tensor, count: int) -> torch.Tensor:
        """Put the shares of all processes together, without gradient: (count, ...) in every one."""
        if self.size == 1:
            return mine
        bounds = self._bounds(count)
        sizes = np.diff(bounds)
        padded = mine.new_zeros((int(sizes.max()), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def sum_gradients(self, module: nn.Module) -> None:
        """Add up the gradients of all processes; a parameter without one counts as zero."""
        if self.size == 1:
            return
        waiting = []
        for parameter in module.parameters():
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                waiting.append(distributed.all_reduce(parameter.grad, async_op=True))
        for handle in waiting:
            handle.wait()

    def equalise(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the first."""
        if self.size > 1:
            for value in module.state_dict().values():
                distributed.broadcast(value, 0)

    def highest(self, mine: list[float]) -> list[float]:
        """The highest of each number among all processes."""
        if self.size == 1:
            return mine
        numbers = torch.tensor(mine, dtype=torch.float64, device=self.device)
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX)
        return numbers.tolist()

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()

    def leave(self) -> None:
        """Wait for the others and end the talk between processes."""
        if self.size > 1 and distributed.is_initialized():
            self.wait()
            distributed.destroy_process_group()

    def _bounds(self, count: int) -> list[int]:
        return [count * rank // self.size for rank in range(self.size + 1)]


def start(devices: int = 1, nodes: int = 1) -> World:
    """Start or join the processes of a training: ``devices`` (GPUs, else processes) on each node.

    A plain call for several devices runs this program again for each further device of this node,
    with the same arguments; those processes come to this call, too.
    """
    wanted = devices * nodes
    launcher, number = launched(os.environ)
    if number not in (None, wanted):
        at_work = f"{number} processes at work ({launcher}) where {wanted} were asked for"
        raise _refuse(at_work, _RELAUNCH)
    if number is None and nodes > 1:
        asked = f"{devices} device(s) on {nodes} node(s)"
        raise _refuse(f"{asked} and a launch on one node", _RELAUNCH)
    on_gpu = has_gpu()
    if on_gpu and torch.cuda.device_count() < devices:
        seen = f"{devices} where {torch.cuda.device_count()} GPUs can be seen"
        raise _refuse(seen, "ask for no more, or reserve more")
    if wanted == 1:
        return World(0, 1, pick())

    from lightning.fabric import Fabric
    from lightning.fabric.plugins import environments
    from lightning.fabric.strategies import DDPStrategy

    if launcher == "srun" and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise _refuse(f"{number} tasks without --ntasks-per-node", _RELAUNCH)
    environment = {
        "torchrun": environments.TorchElasticEnvironment,
        "srun": environments.SLURMEnvironment,
    }.get(launcher, environments.LightningEnvironment)()
    fabric = Fabric(
        accelerator="gpu" if on_gpu else "cpu",
        devices=devices,
        num_nodes=nodes,
        # Of the strategy, only its processes are used: gradients are gathered here (contrastive.py).
        strategy=DDPStrategy(cluster_environment=environment, timeout=TIMEOUT),
    )
    fabric.launch()
    if fabric.world_size != wanted or distributed.get_world_size() != wanted:
        at_work = f"{fabric.world_size} processes at work where {wanted} were asked for"
        raise _refuse(at_work, _RELAUNCH)
    return World(fabric.global_rank, wanted, fabric.device)


def launched(environment: Mapping[str, str]) -> tuple[str, int | None]:
    """Who launched this process (``torchrun``, ``srun`` or ``plain``), and how many of its kind.

    None for a plain call. In a Slurm job the step counts, not the job: a plain call in a job of four
    tasks is one process.
    """
    if "TORCHELASTIC_RUN_ID" in environment:
        return "torchrun", int(environment["WORLD_SIZE"])
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    return ("srun", tasks) if tasks > 1 else ("plain", None)


@contextlib.contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Yield a list that takes the ``STOP_SIGNALS`` of the block, which would end the program."""
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only that one may
        yield arrived
        return

    def note(number: int, frame) -> None:
        arrived.append(number)

    logs.heed_signals()
    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def ignore_signals(worker: int = 0) -> None:
    """Leave the ``STOP_SIGNALS`` to the process that this one works for; it ends when that does.

    A scheduler sends them to all processes of a job, and one that reads ahead mustn't go before what
    it has read is saved.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class StopQuestion:
    """Whether any process of a training was sent a signal to stop: the same answer in all of them.

    Each answer makes the processes wait for each other, and so they ask about once a second, though
    each calls ``ask`` after every step. ``arrived`` is what ``noted_signals`` gave.
    """

    def __init__(self, world: World, arrived: list[int]):
        self.world, self.arrived = world, arrived
        self.asked, self.passed, self.wanted = time.monotonic(), 0, 1

    def ask(self, is_last: bool) -> int:
        """The signal to stop for after this step, or 0; the last step is always asked at."""
        mine = max(self.arrived, default=0)
        if self.world.size == 1:
            return mine
        self.passed += 1
        if self.passed < self.wanted and not is_last:
            return 0
        seconds = (time.monotonic() - self.asked) / self.passed
        sent, seconds = self.world.highest([mine, seconds])
        self.asked, self.passed = time.monotonic(), 0
        self.wanted = max(1, int(_ASK_SECONDS / max(seconds, 1e-6)))
        return int(sent)


def share_batchnorm(module: nn.Module, world: World) -> None:
    """Let batch normalisation see the global batch, in place; names of entries stay."""
    if world.size == 1:
        return
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm1d):
                setattr(parent, name, _GlobalBatchNorm(child))


class _GlobalSum(torch.autograd.Function):
    """The sum over all processes. Each of them uses it, so their gradients by it are added up."""

    @staticmethod
    def forward(ctx, mine):
        total = mine.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return _GlobalSum.forward(ctx, gradient)


class _GlobalBatchNorm(nn.Module):
    """``nn.BatchNorm1d`` over the rows of all processes. Torch's own refuses to run on a CPU."""

    def __init__(self, norm: nn.BatchNorm1d):
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum
        self.weight, self.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        wide = x.float()
        count = torch.tensor(float(len(x)), device=x.device)
        distributed.all_reduce(count)
        mean = _GlobalSum.apply(wide.sum(0)) / count
        variance = _GlobalSum.apply(((wide - mean) ** 2).sum(0)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        return ((wide - mean) * torch.rsqrt(variance + self.eps) * self.weight + self.bias).to(
            x.dtype
        )
