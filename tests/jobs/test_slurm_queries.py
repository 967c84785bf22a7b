"""A Slurm that doesn't answer makes no job forgotten."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_common.exceptions import WorkflowError

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
    monkeypatch.setattr(plugin.Executor, "check_active_jobs", plugin.Executor.check_active_jobs)
    slurm_queries.be_patient()
    mended = plugin.query_job_status
    assert asyncio.run(mended("squeue", None)) == ({"7": "RUNNING"}, 0.1)
    slurm_queries.be_patient()
    assert plugin.query_job_status is mended is not answers


def asks(monkeypatch, query, limit, times=2):
    """The jobs still running after some rounds of questions, with no more patience than ``limit``."""
    silence = slurm_queries.Silence(limit)
    check = slurm_queries.watched(Executor.check_active_jobs, silence)
    monkeypatch.setattr(Executor, "check_active_jobs", check)
    mended = slurm_queries.patient(query, silence)
    return [still_running(monkeypatch, mended) for _ in range(times)]


async def of_others(command, logger):
    return {"8": "RUNNING"}, 0.1


async def pending(command, logger):
    return {"7": "PENDING"}, 0.1


def test_patience_has_an_end_that_says_what_slurm_said_and_what_to_set(monkeypatch):
    assert asks(monkeypatch, silent, 60) == [["7"], ["7"]]
    monkeypatch.setattr(Executor, "get_status_command", lambda self: "no-such-command")
    with pytest.raises(WorkflowError, match="Slurm: squeue: found no answer for 0 minutes") as end:
        asks(monkeypatch, silent, 0)
    assert "MinJobAge set to 300 s or more" in str(end.value)
    assert "No such file" in str(end.value) or "status" in str(end.value)
    assert "\n" not in str(end.value)


def test_a_job_that_slurm_has_forgotten_is_not_asked_for_for_ever(monkeypatch):
    assert asks(monkeypatch, of_others, 60) == [["7"], ["7"]]
    assert asks(monkeypatch, pending, 0) == [["7"], ["7"]]
    with pytest.raises(WorkflowError, match="no word of job 7 for 0 minutes: it has ended"):
        asks(monkeypatch, of_others, 0)
