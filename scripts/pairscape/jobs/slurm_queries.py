"""Patience with a Slurm whose controller doesn't answer, and its end.

Snakemake's plugin (up to 2.8.0 at least) forgets all jobs of which it asks while Slurm doesn't answer:
a cycle of ``check_active_jobs`` without an answer names none of them as running still, so that nobody
asks again and Snakemake waits for ever (snakemake-executor-plugin-slurm, issue 207). Here an answer
that didn't come is an empty one: then every job is still running as far as is known.

A job that has ended and that Slurm has forgotten would so be asked for for ever. After ``LIMIT``
without an answer, or without a word of a job in the answers, an error that says what to set ends
Snakemake.
"""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable

from pairscape.core.errors import InputError

PLUGIN = "snakemake_executor_plugin_slurm"
LIMIT = 1800  # seconds; a controller that is started anew answers within minutes
REMEDY = (
    "have MinJobAge set to 300 s or more (`scontrol show config` tells it), or job accounting with "
    "slurm-status-command: sacct in the profile, and run the same snakemake command again"
)


class Silence:
    """How long there has been no answer, or no word of a job; an error where it is too long."""

    def __init__(self, limit: float = LIMIT):
        self.limit, self.command = limit, "squeue"
        self.states: dict | None = {}  # the last answer; None where it didn't come
        self.since: float | None = None  # the first question of those without an answer
        self.unheard: dict[str, float] = {}  # the first answer without a word, by job

    def take(self, command: str, states: dict | None) -> None:
        """Keep an answer; None: none came."""
        self.command, self.states = command, states
        if states is not None:
            self.since = None
            return
        self.since = time.monotonic() if self.since is None else self.since
        if time.monotonic() - self.since > self.limit:
            self._end(f"no answer for {self.limit / 60:g} minutes ({_says(command)})")

    def miss(self, job: str) -> None:
        """A job that is taken to be running, as far as is known."""
        if self.states is None:
            return  # what nobody answered says nothing of a job
        if {job, job.partition("_")[0]} & set(self.states):
            self.unheard.pop(job, None)
        elif time.monotonic() - self.unheard.setdefault(job, time.monotonic()) > self.limit:
            fault = f"no word of job {job} for {self.limit / 60:g} minutes"
            self._end(f"{fault}: it has ended, and Slurm has forgotten how")

    def _end(self, found: str):
        error = InputError("Slurm", shlex.split(self.command)[0], found, REMEDY)
        # Snakemake tells its own exceptions, and no others, without a traceback.
        own = sys.modules.get("snakemake_interface_common.exceptions")
        raise own.WorkflowError(str(error)) if own else error


def _says(command: str) -> str:
    """What the command of a question says now."""
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, encoding="utf-8", timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return f"status {done.returncode}: {(done.stderr or done.stdout).strip() or 'nothing'}"


def be_patient() -> None:
    """Mend the plugin where Snakemake has loaded it; nothing elsewhere, and nothing twice."""
    plugin = sys.modules.get(PLUGIN)
    query = getattr(plugin, "query_job_status", None)
    if query is not None and not hasattr(query, "is_patient"):
        silence = Silence()
        plugin.query_job_status = patient(query, silence)
        plugin.Executor.check_active_jobs = watched(plugin.Executor.check_active_jobs, silence)


def patient(query: Callable, silence: Silence | None = None) -> Callable:
    """The plugin's query, which answers ``({}, seconds)`` where it would answer ``(None, None)``."""
    silence = silence or Silence()

    async def asked(command: str, logger):
        start = time.monotonic()
        states, seconds = await query(command, logger)
        silence.take(command, states)
        if states is not None:
            return states, seconds
        logger.warning(
            "Slurm doesn't answer; its jobs are taken to be running, and asked for again."
        )
        return {}, time.monotonic() - start

    asked.is_patient = True
    return asked


def watched(check: Callable, silence: Silence) -> Callable:
    """The plugin's ``check_active_jobs``, which doesn't ask for ever for a job nobody knows of."""

    async def checked(executor, active_jobs):
        async for job in check(executor, active_jobs):
            silence.miss(job.external_jobid)
            yield job

    return checked
