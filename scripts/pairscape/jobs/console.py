"""What a run of Snakemake says on the terminal: a line when a step starts and one when it ends.

So the lines that the programs say stand out. Snakemake's own log file keeps its full words, and a dry
run is told in them. It takes effect where the profile has ``quiet: [reason]`` among its words.
"""

import logging
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

FROM = 20  # seconds of a run from which on the time left is guessed
_CHATTER = re.compile(
    r"(Select jobs to execute|Execute \d+ jobs|Building DAG|Using shell|Provided cores|Rules claiming|"
    r"Conda environments: ignored|Exiting because a job|RuleException:\s*CalledProcessError)"
)
_FAULT = re.compile(r"\d{4}-\d\d-\d\d [\d:,]+ error (.*)")


class Console:
    """The words for the events of a run; ``clock`` tells seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self.clock, self.begin = clock, clock()
        self.started: dict[int, tuple[str, float]] = {}
        self.ended = ""

    def start(self, event: dict) -> str:
        """A job begins. Its rule and what it is of, as its log is named."""
        name = label(event["rule_name"], event["log"])
        self.started[event["jobid"]] = name, self.clock()
        return "" if not event["log"] else f"{name}: started"  # `all` and its like run nothing

    def end(self, event: dict) -> str:
        """A job has ended: told with the progress that follows."""
        name, since = self.started.get(event["job_id"], ("", self.clock()))
        self.ended = f"{name}: done in {duration(self.clock() - since)}; "
        return ""

    def progress(self, event: dict) -> str:
        """How many steps of all are done, and about how long the others take at the same pace."""
        done, total = event["done"], event["total"]
        seconds = self.clock() - self.begin
        left = f", about {duration(seconds / done * (total - done))} left" if done else ""
        left = left if seconds > FROM and done < total else ""
        return f"{self.ended}{done} of {total}{left}"

    def failure(self, event: dict, full: Callable[[dict], str]) -> str:
        """A job has failed: the line in which its program said why; all that is known without one."""
        faults = [fault for path in event["log"] for fault in last_errors(path)]
        if not faults:
            return full(event)
        name, log = label(event["rule_name"], event["log"]), ", ".join(map(str, event["log"]))
        return f"{name}: FAILED: {faults[-1]} (log: {log})"


def label(rule: str, logs: Collection) -> str:
    """A job's name: its rule, and of what it is made, as the name of its log tells."""
    path = Path(next(iter(logs), rule))
    return f"{rule} {path.stem}" if path.parent.name == rule else rule


def last_errors(path) -> list[str]:
    """The last line of a log, if it is one in which a program says what was wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return []
    match = _FAULT.fullmatch(lines[-1]) if lines else None
    return [match[1]] if match else []


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def be_brief(logger: logging.Logger, quiet: Collection, dry_run: bool) -> None:
    """Let Snakemake's handler of the terminal speak in the words of ``Console``, where it is asked."""
    asked = any(str(getattr(word, "name", word)).lower() == "reason" for word in quiet)
    handler = next((one for one in logger.handlers if one.name == "DefaultStreamHandler"), None)
    if dry_run or not asked or handler is None:
        return
    console, formatter, emit = Console(), handler.formatter, handler.emit
    full = formatter.format_job_error
    formatter.format_job_info = console.start
    formatter.format_job_finished = console.end
    formatter.format_progress = console.progress
    formatter.format_job_error = lambda event: console.failure(event, full)
    handler.addFilter(lambda record: not _CHATTER.match(str(record.msg)))

    def without_gap(record: logging.LogRecord) -> None:
        handler.last_msg_was_job_info = True  # else an empty line stands before each start
        emit(record)

    handler.emit = without_gap
