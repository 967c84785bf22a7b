"""Patience with a Slurm whose controller doesn't answer.

Snakemake's plugin (up to 2.8.0 at least) forgets all jobs of which it asks while Slurm doesn't answer:
a cycle of ``check_active_jobs`` without an answer names none of them as running still, so that nobody
asks again and Snakemake waits for ever (snakemake-executor-plugin-slurm, issue 207). Here an answer
that didn't come is an empty one: then every job is still running as far as is known.
"""

import sys
import time
from collections.abc import Callable

PLUGIN = "snakemake_executor_plugin_slurm"


def be_patient() -> None:
    """Mend the plugin where Snakemake has loaded it; nothing elsewhere, and nothing twice."""
    plugin = sys.modules.get(PLUGIN)
    query = getattr(plugin, "query_job_status", None)
    if query is not None and not hasattr(query, "is_patient"):
        plugin.query_job_status = patient(query)


def patient(query: Callable) -> Callable:
    """The plugin's query, which answers ``({}, seconds)`` where it would answer ``(None, None)``."""

    async def asked(command: str, logger):
        start = time.monotonic()
        states, seconds = await query(command, logger)
        if states is not None:
            return states, seconds
        logger.warning(
            "Slurm doesn't answer; its jobs are taken to be running, and asked for again."
        )
        return {}, time.monotonic() - start

    asked.is_patient = True
    return asked
