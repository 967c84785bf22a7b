"""What every program shares, run inside one process."""

import logging
import sys

import pytest

from pairscape.core import logs
from pairscape.jobs import program


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
