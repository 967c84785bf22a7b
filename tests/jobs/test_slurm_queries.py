"""A Slurm that doesn't answer makes no job forgotten."""

import asyncio
import logging
from types import SimpleNamespace

import pytest

from pairscape.jobs import slurm_queries

plugin = pytest.importorskip(slurm_queries.PLUGIN)


class Executor:
    """What ``check_active_jobs`` of the plugin asks of an executor, and nothing else."""

    check_active_jobs = plugin.Executor.check_active_jobs
    run_uuid, logger = "run", logging.getLogger("a test")
    next_seconds_between_status_checks = 40
    _status_query_failures = _status_query_calls = _status_query_total_seconds = 0
    _status_query_min_seconds, _status_query_max_seconds = None, 0.0

    def __init__(self):
        settings = SimpleNamespace(status_attempts=1, init_seconds_before_status_checks=40)
        self.workflow = SimpleNamespace(executor_settings=settings)
        self.status_rate_limiter, self._status_query_cycle_rows = asyncio.Lock(), []

    def get_status_command(self):
        return "squeue"


def still_running(monkeypatch, query) -> list:
    async def check():
        jobs = [SimpleNamespace(external_jobid="7", aux={})]
        return [job.external_jobid async for job in Executor().check_active_jobs(jobs)]

    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin, "get_min_job_age", lambda: 300)
    return asyncio.run(check())


async def silent(command, logger):
    return None, None


def test_the_plugin_alone_forgets_jobs_and_the_mended_one_does_not(monkeypatch):
    # Once this fails upstream has mended it, and slurm_queries can go.
    assert still_running(monkeypatch, silent) == []
    assert still_running(monkeypatch, slurm_queries.patient(silent)) == ["7"]


def test_an_answer_is_passed_on_and_the_plugin_is_mended_once(monkeypatch):
    async def answers(command, logger):
        return {"7": "RUNNING"}, 0.1

    monkeypatch.setattr(plugin, "query_job_status", answers)
    slurm_queries.be_patient()
    mended = plugin.query_job_status
    assert asyncio.run(mended("squeue", None)) == ({"7": "RUNNING"}, 0.1)
    slurm_queries.be_patient()
    assert plugin.query_job_status is mended is not answers
