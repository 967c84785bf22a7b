"""What every program shares, run inside one process."""

import logging
import signal
import sys

import pytest

from pairscape.core import logs
from pairscape.jobs import program
from pairscape.pretrain import processes


def test_a_program_closes_its_own_log_and_no_handler_of_a_library(tmp_path, monkeypatch):
    """absl's handler closes the stream it was made on: the terminal of whoever runs us."""
    monkeypatch.setattr(sys, "argv", ["program"])
    log = tmp_path / "job.log"
    closed = []
    other = logging.StreamHandler()
    monkeypatch.setattr(other, "close", lambda: closed.append(other))

    def main():
        program.parse(["--log", str(log)], "", 1)
        logs.log.info("said")

    with pytest.raises(SystemExit) as end:
        program.run(main)
    assert end.value.code == 0
    assert closed == []
    assert logs.log.handlers[-1].stream is None  # a closed file handler has none
    assert log.read_text().endswith("info said\n")


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a shell's `&`
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def swallowed(number):
    """What an import does now and then: of torch's and timm's, one in eighty."""
    try:
        signal.raise_signal(number)
    except BaseException:
        logs.log.debug("gone")


def before_an_item(number):
    swallowed(number)
    for _ in logs.progress([1, 2], "items"):
        raise AssertionError("the signal is heeded first")


def before_the_training(number):
    swallowed(number)
    with processes.noted_signals():
        raise AssertionError("the signal is heeded first")


def as_another_error(number):
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        raise RecursionError("maximum recursion depth exceeded") from None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "main", [signal.raise_signal, before_an_item, before_the_training, as_another_error]
)
def test_a_signal_ends_a_program_whatever_an_import_makes_of_it(main, number, handlers, caplog):
    with pytest.raises(SystemExit) as end:
        program.run(lambda: main(number))
    assert end.value.code == 128 + number
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"stopped by {number.name}; the same command starts it anew"]
    assert logs.sent_signals == []


def test_work_that_is_done_when_a_signal_comes_is_whole(handlers):
    with pytest.raises(SystemExit) as end:
        program.run(lambda: swallowed(signal.SIGTERM))
    assert end.value.code == 0


def test_a_bar_knows_how_much_there_is():
    assert logs.progress({"a": 1, "b": 2}, "items").total == 2
    assert logs.progress(iter([1, 2]), "items", 7).total == 7
    assert logs.progress((item for item in "ab"), "items").total is None
    assert list(logs.progress("ab", "items")) == ["a", "b"]
