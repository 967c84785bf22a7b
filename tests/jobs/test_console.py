"""What a run says on the terminal: a line as a step starts, one as it ends, or why it failed."""

import io
import logging

import pytest

from pairscape.jobs import console


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Formatter(logging.Formatter):
    """As much of Snakemake's formatter as is spoken through."""

    def format(self, record):
        word = getattr(record, "event", None)
        return getattr(self, f"format_{word}")(record.__dict__) if word else record.msg

    def format_job_error(self, event):
        return "all that Snakemake knows"

    format_job_info = format_job_finished = format_progress = format_job_error


def job(number, rule="pool_spots", log="logs/pool_spots/demo1_square55.log"):
    return {"jobid": number, "rule_name": rule, "log": [log] if log else []}


def test_a_job_is_told_by_its_rule_and_of_what_it_is():
    clock = Clock()
    words = console.Console(clock)
    assert words.start(job(1)) == "pool_spots demo1_square55: started"
    clock.now = 12
    assert words.end({"job_id": 1}) == ""
    told = words.progress({"done": 1, "total": 4})
    assert told == "pool_spots demo1_square55: done in 12 s; 1 of 4"
    assert words.start(job(2, "index_datasets", "logs/index_datasets.log")) == (
        "index_datasets: started"
    )
    clock.now = 400
    words.end({"job_id": 2})
    told = words.progress({"done": 2, "total": 4})
    assert told == "index_datasets: done in 6 min; 2 of 4, about 7 min left"
    assert words.start(job(3, "all", None)) == ""
    words.end({"job_id": 3})
    assert words.progress({"done": 4, "total": 4}) == "all: done in 0 s; 4 of 4"


def test_a_failure_is_the_line_of_its_program(tmp_path):
    log = tmp_path / "pool_spots" / "demo1.log"
    log.parent.mkdir()
    event = job(1, log=str(log))
    words = console.Console()
    full = lambda event: "all that Snakemake knows"  # noqa: E731
    assert words.failure(event, full) == "all that Snakemake knows"  # no log was written
    log.write_text(
        "2026-01-01 10:00:00,123 info begins\n2026-01-01 10:00:01,001 error a.csv: found b\n"
    )
    assert words.failure(event, full) == f"pool_spots demo1: FAILED: a.csv: found b (log: {log})"
    log.write_text("2026-01-01 10:00:00,123 error a.csv: found b\nTraceback\n  ValueError\n")
    assert words.failure(event, full) == "all that Snakemake knows"


@pytest.fixture
def spoken():
    """A logger with a handler as Snakemake's of the terminal, and what it wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.name = "DefaultStreamHandler"
    handler.setFormatter(Formatter())
    logger = logging.Logger("snakemake here")
    logger.addHandler(handler)
    return logger, stream


@pytest.mark.parametrize(
    ("quiet", "dry_run", "brief"),
    [(["reason"], False, True), (["host"], False, False), (["reason"], True, False)],
)
def test_it_is_brief_where_the_profile_asks_for_it(spoken, quiet, dry_run, brief):
    logger, stream = spoken
    console.be_brief(logger, quiet, dry_run)
    logger.info("Select jobs to execute...")
    logger.info("a job", extra={"event": "job_info", **job(1)})
    logger.info("a word of ours")
    told = stream.getvalue().splitlines()
    expected = ["pool_spots demo1_square55: started", "a word of ours"]
    assert (told == expected) == brief
    assert told[-1] == "a word of ours"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (89, "89 s"), (150, "2 min"), (7200, "2.0 h")]
)
def test_durations_are_told_in_the_unit_that_people_use(seconds, words):
    assert console.duration(seconds) == words
