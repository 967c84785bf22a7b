"""A scheduler's signal in a training: saved, left with 143, and gone on with to the same files."""

import errno
import io
import os
import signal
import subprocess
import threading
import time

import pytest
import torch
from test_distributed import command, environment
from test_distributed import dataset as shards  # noqa: F401
from test_pretrain import dataset, one_commit, outputs, run, trained  # noqa: F401

from pairscape.core import files, logs
from pairscape.pretrain import batches, checkpoints, processes, training_loop, training_record
from pairscape.pretrain.processes import World


def signal_at(monkeypatch, step, number):
    """Send this process a signal while it takes a step."""
    real = training_record.Record.after_step

    def hook(self, module, done, *args):
        if done == step:
            os.kill(os.getpid(), number)
        return real(self, module, done, *args)

    monkeypatch.setattr(training_record.Record, "after_step", hook)


@pytest.mark.parametrize(
    ("step", "sent"),
    [
        (47, "SIGTERM"),  # in mid-epoch (3 steps each), between two validations
        (40, "SIGUSR1"),  # at a validation
        (60, "SIGTERM"),  # at the last step
    ],
)
def test_a_stopped_run_goes_on_to_the_same_files(
    dataset,  # noqa: F811
    trained,  # noqa: F811
    tmp_path,
    monkeypatch,
    step,
    sent,
):
    out = tmp_path / "run"
    before = [signal.getsignal(number) for number in processes.STOP_SIGNALS]
    with monkeypatch.context() as patch:
        signal_at(patch, step, getattr(signal, sent))
        with pytest.raises(logs.Stopped) as stop:
            run(dataset, out)
    assert str(stop.value) == (
        f"stopped by {sent} at step {step} of 60; the same command goes on from there"
    )
    assert [path.name for path in out.iterdir()] == ["last.ckpt"]
    assert [signal.getsignal(number) for number in processes.STOP_SIGNALS] == before
    taken = []
    real = training_loop.train_step
    monkeypatch.setattr(
        training_loop, "train_step", lambda *args, **k: taken.append(args[6]) or real(*args, **k)
    )
    run(dataset, out)
    assert taken == list(range(step, 60))
    assert outputs(out) == outputs(trained)


def test_a_run_that_stops_early_can_be_stopped_there(dataset, tmp_path, monkeypatch):  # noqa: F811
    settings = {"early_stopping": {"patience": 1, "min_delta": 100.0}}
    whole = run(dataset, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        signal_at(patch, 40, signal.SIGTERM)
        with pytest.raises(logs.Stopped, match="at step 40 of 60"):
            run(dataset, tmp_path / "run", **settings)
    assert outputs(run(dataset, tmp_path / "run", **settings)) == outputs(whole)


def test_signals_are_noted_in_a_block_and_mean_what_they_did_after_it():
    came = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        with processes.noted_signals() as arrived:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert arrived == [signal.SIGUSR1, signal.SIGTERM]
    assert came == [signal.SIGUSR1]


def test_a_thread_that_may_not_handle_signals_trains_all_the_same():
    found = []

    def work():
        with processes.noted_signals() as arrived:
            found.append(list(arrived))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[]]


class SlowRows(torch.utils.data.Dataset):
    def __getitem__(self, key):
        time.sleep(0.05)
        return {"images": torch.tensor([os.getpid()]), "genes": torch.tensor([key])}


@pytest.mark.slow
def test_a_process_that_reads_ahead_outlives_a_signal_to_the_whole_job():
    reader = batches.train_batches(SlowRows(), iter(range(20)), 1, World(0, 1, torch.device("cpu")))
    worker = int(next(reader)["images"])
    assert worker != os.getpid()
    for number in processes.STOP_SIGNALS:
        os.kill(worker, number)
    assert [int(batch["genes"]) for batch in reader] == list(range(1, 20))


def test_processes_ask_each_other_about_once_a_second_and_at_the_end(monkeypatch):
    """The answer is that of the highest, so that all stop at one step."""
    now, asked = [0.0], []
    monkeypatch.setattr(processes.time, "monotonic", lambda: now[0])
    world = World(1, 2, torch.device("cpu"))
    monkeypatch.setattr(
        World, "highest", lambda self, mine: asked.append(step) or [max(mine[0], other), mine[1]]
    )
    other, answers = 0, []
    question = processes.StopQuestion(world, [])
    for step in range(1, 61):
        now[0] += 0.125
        other = signal.SIGTERM if step >= 26 else 0
        answers.append(question.ask(step == 60))
    assert asked == [1, 9, 17, 25, 33, 41, 49, 57, 60]
    assert [step for step, answer in enumerate(answers, 1) if answer] == [33, 41, 49, 57, 60]
    assert answers[32] == signal.SIGTERM


def start(given):
    return subprocess.Popen(given, env=environment(), stderr=subprocess.PIPE, text=True)


def wait_for(path, running):
    while not path.exists() and running.poll() is None:
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "sent", "steps"), [(1, "SIGTERM", 1000), (2, "SIGUSR1", 200)])
def test_a_signal_ends_the_program_with_143_and_the_same_command_goes_on(
    shards,  # noqa: F811
    tmp_path,
    devices,
    sent,
    steps,
):
    settings = {"max_steps": steps, "validate_every": 20, "early_stopping": None}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    subprocess.run(command(shards, whole, devices, **settings), env=environment(), check=True)
    running = start(command(shards, stopped, devices, **settings))
    wait_for(stopped / "last.ckpt", running)
    running.send_signal(getattr(signal, sent))  # to the first of the processes alone
    said = running.communicate(timeout=120)[1]
    assert running.returncode == 143
    lines = [line for line in said.splitlines() if line.startswith("pretrain: ")]
    told = [line for line in lines if f"stopped by {sent} at step" in line]
    assert len(told) == 1
    assert told == lines[-1:]
    assert "Traceback" not in said
    assert {path.name for path in stopped.iterdir()} == {"last.ckpt", "pretrain.log"}
    step = int(told[0].split("at step ")[1].split()[0])
    done = subprocess.run(
        command(shards, stopped, devices, **settings),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"going on from step {step}" in done.stderr
    for name in ("model.ckpt", "metrics.csv", "embeddings/test_images.npy"):
        assert files.sha256_file(stopped / name) == files.sha256_file(whole / name), name
    assert not (stopped / "last.ckpt").exists()


@pytest.mark.slow
def test_a_signal_before_the_training_ends_the_program_like_ctrl_c(shards, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    running = start(command(shards, out, 1, max_steps=3000))
    wait_for(out / "pretrain.log", running)  # torch isn't even imported
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 143
    assert not (out / "last.ckpt").exists()


def test_a_disk_that_fills_up_while_a_checkpoint_is_saved_is_told_as_that(tmp_path, monkeypatch):
    """torch closes its archive even then, and fails at that in words of its own."""

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    (tmp_path / "last.ckpt").write_bytes(b"the one before")
    monkeypatch.setattr(checkpoints, "open", lambda *_: Full(), raising=False)
    parts = type("", (), {"kept_state": lambda _: {"a": torch.zeros(5000)}, "state_dict": dict})()
    with pytest.raises(OSError, match="No space left") as told:
        checkpoints.save(tmp_path, "x", parts, parts, parts, 1)
    assert told.value.errno == errno.ENOSPC
    assert told.value.filename == str(tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert (tmp_path / "last.ckpt").read_bytes() == b"the one before"
