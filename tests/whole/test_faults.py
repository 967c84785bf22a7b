"""The tiny pipeline, killed, stopped and cut off, ends with the files of an undisturbed run."""

import os
import signal
import time

import pytest
from faults import (
    RESULTS,
    checkout,
    copy_results,
    differences,
    files_of,
    finish,
    jobs_done,
    kill_at,
    leftovers,
    processes_of,
    seeded_moments,
    start,
)

pytestmark = pytest.mark.slow


def test_killed_at_seeded_moments_then_stopped_by_ctrl_c_and_started_again(undisturbed, tmp_path):
    folder = checkout(tmp_path / "killed")
    for jobs, seconds in seeded_moments(seed=7, number=3):
        kill_at(folder, jobs, seconds)
    wanted = jobs_done(folder) + 1
    running = start(folder)
    while jobs_done(folder) < wanted and running.poll() is None:
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    assert running.wait(120) != 0
    deadline = time.monotonic() + 30
    while processes_of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(folder) == []
    assert [path for path in files_of(folder) if ".part-" in path] == []
    finish(folder)
    assert jobs_done(folder) > 5
    assert differences(undisturbed, folder) == []
    assert leftovers(folder) == []
    assert processes_of(folder) == []


def test_what_was_cut_off_by_hand_is_refused_and_made_again(undisturbed, tmp_path):
    folder = checkout(tmp_path / "cut")
    copy_results(undisturbed, folder)
    shard = folder / RESULTS / "datasets/tiny/shards/speck.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    refused = start(folder)
    assert refused.wait(600) == 1
    said = (folder / "said.txt").read_text()
    assert str(RESULTS / "datasets/tiny/shards/speck.arrow") in said
    assert "Traceback" not in said
    shard.unlink()
    finish(folder)
    assert shard.read_bytes() == whole
    assert differences(undisturbed, folder) == []
