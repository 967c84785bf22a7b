"""Locks of jobs and of a results folder: one process at a time, and none that outlives its holder."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import ROOT

from pairscape.core.errors import InputError
from pairscape.jobs import job_lock, program

# Writes its output once there is a file "go"; notes in "told" when it begins and ends.
PROGRAM = '''"""Wait for a file, write another."""
import os, time
from pairscape.core import files
from pairscape.jobs import program

RESULT_VERSION = 1

def main(argv=None):
    args = program.parse(argv, __doc__, RESULT_VERSION, folder="where", out="optional: what")
    with open(f"{args.folder}/told", "a") as told:
        print("begins", file=told, flush=True)
        while not os.path.exists(f"{args.folder}/go"):
            time.sleep(0.05)
        if args.out:
            with files.atomic_path(args.out) as temporary:
                temporary.write_text("made")
        print("ends", file=told)

if __name__ == "__main__":
    program.run(main)
'''


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds in place of minutes; nothing held before or after a test."""
    monkeypatch.setattr(job_lock, "LOOK_S", 0.02)
    monkeypatch.setattr(job_lock, "DEAD_AFTER_S", 0.6)
    monkeypatch.setattr(job_lock, "TELL_S", 0.3)
    job_lock.release_all()
    yield
    job_lock.release_all()


@pytest.fixture
def start(tmp_path):
    """Start ``program.py`` in the folder; what runs on is killed after the test."""
    (tmp_path / "wait_here.py").write_text(PROGRAM)
    started = []

    def start_one(*arguments, **more):
        command = [sys.executable, str(tmp_path / "wait_here.py"), "--folder", str(tmp_path)]
        command += ["--log", str(tmp_path / "logs" / "job.log"), *arguments]
        done = subprocess.Popen(
            command,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts"), **more},
        )
        started.append(done)
        return done

    yield start_one
    for one in started:
        if one.poll() is None:
            one.kill()
        one.communicate()


def wait_for(what, seconds=240, process=None):
    end = time.monotonic() + seconds
    while not what():
        if process and process.poll() is not None:
            pytest.fail(f"ended early: {process.communicate()[0]}")
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def lines(path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def write_lock(path, **other):
    """A lock as this process would write it, but for ``other``."""
    holder = {**job_lock._describe_process(), **other}
    path.write_text(json.dumps(holder))
    return holder


def elsewhere(path, **other):
    """A lock of a process that can't be seen from here."""
    return write_lock(path, host="node7", sees="another boot pid:[1]", pid=12, **other)


def take(path, **more) -> list[str]:
    said = []
    job_lock.take(path, said.append, **more)
    return said


def holder_of(path) -> int:
    return json.loads(Path(path).read_text())["pid"]


def test_a_second_copy_of_a_program_waits_until_the_first_has_ended(start, tmp_path):
    first = start()
    wait_for(lambda: lines(tmp_path / "told") == ["begins"])
    log = (tmp_path / "logs" / "job.log").read_text()
    second = start(SLURM_JOB_ID="77")
    waits = second.stderr.readline()
    assert f"waiting until pid {first.pid} on {os.uname().nodename} (since " in waits
    assert lines(tmp_path / "told") == ["begins"]
    assert (tmp_path / "logs" / "job.log").read_text() == log  # the first one's still
    (tmp_path / "go").touch()
    assert (first.wait(120), second.wait(120)) == (0, 0)
    assert lines(tmp_path / "told") == ["begins", "ends"] * 2
    assert "waiting until pid" in (tmp_path / "logs" / "job.log").read_text()
    assert not list((tmp_path / "logs").glob("*.lock*"))


def test_kill_9_leaves_a_lock_that_the_next_takes_over(start, tmp_path):
    first = start(SLURM_JOB_ID="77")
    wait_for(lambda: lines(tmp_path / "told"))
    lock = tmp_path / "logs" / "job.log.lock"
    first.kill()
    wait_for(lambda: "(zombie)" in Path(f"/proc/{first.pid}/status").read_text())
    assert holder_of(lock) == first.pid
    (tmp_path / "go").touch()
    second = start()
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0
    (line,) = [line for line in said.splitlines() if "taking over" in line]
    assert f"from pid {first.pid} on {os.uname().nodename}, Slurm job 77 (since " in line
    assert "waiting" not in said
    assert "taking over" in (tmp_path / "logs" / "job.log").read_text()
    assert not list((tmp_path / "logs").glob("*.lock*"))


def test_a_pid_that_was_used_again_is_not_taken_for_the_holder(tmp_path):
    lock = tmp_path / "job.log.lock"
    began = job_lock._started(os.getppid())
    write_lock(lock, pid=os.getppid(), started=began)
    with pytest.raises(InputError, match=f"found pid {os.getppid()} on .* at work"):
        take(lock, wait=False)
    write_lock(lock, pid=os.getppid(), started=began - 1)
    (said,) = take(lock, wait=False)
    assert said.startswith("taking over")
    assert holder_of(lock) == os.getpid()


def test_a_lock_of_another_host_without_a_heartbeat_is_taken_over_after_a_while(tmp_path):
    lock = tmp_path / "job.log.lock"
    elsewhere(lock, slurm_job="5")
    os.utime(lock, (time.time() + 1e6,) * 2)  # its clock doesn't matter
    start = time.monotonic()
    said = take(lock, wait=False)
    assert time.monotonic() - start >= 0.6
    assert "waiting until pid 12 on node7, Slurm job 5" in said[0]
    assert "is seen to be dead for 0.6 s" in said[0]
    assert said[-1].startswith("taking over")
    assert holder_of(lock) == os.getpid()


def test_a_lock_of_another_host_with_a_heartbeat_is_waited_for_until_that_stops(tmp_path):
    lock = tmp_path / "job.log.lock"
    elsewhere(lock)
    os.utime(lock, (time.time() - 1e6,) * 2)
    stopped = []

    def beat():
        for _ in range(10):
            time.sleep(0.2)
            os.utime(lock)
        stopped.append(time.monotonic())

    heart = threading.Thread(target=beat)
    heart.start()
    with pytest.raises(InputError, match="found pid 12 on node7"):
        take(lock, wait=False)
    said = take(lock)
    heart.join()
    assert time.monotonic() - stopped[0] >= 0.5
    assert len([line for line in said if line.startswith("waiting")]) >= 3  # again and again
    assert said[-1].startswith("taking over")


def test_a_holder_moves_the_time_stamp_of_its_own_lock_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(job_lock, "BEAT_S", 0.05)
    lock = tmp_path / "job.log.lock"
    take(lock)
    os.utime(lock, (0, 0))
    wait_for(lambda: lock.stat().st_mtime > 0, 10)
    elsewhere(lock)
    os.utime(lock, (0, 0))
    time.sleep(0.3)
    assert lock.stat().st_mtime == 0
    job_lock.release(lock)
    assert lock.exists()  # another's by now


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "{}", '{"pid'])
def test_a_lock_cut_short_is_waited_for_and_taken_over(tmp_path, content):
    lock = tmp_path / "job.log.lock"
    lock.write_text(content)
    start = time.monotonic()
    said = take(lock)
    assert time.monotonic() - start >= 0.6
    assert "a process that left no name" in said[0]
    assert holder_of(lock) == os.getpid()


def test_takers_of_a_dead_lock_come_in_one_at_a_time(tmp_path):
    """The dead lock is taken over once, and no taker removes the lock of one that was faster."""
    lock = tmp_path / "job.log.lock"
    code = (
        "import json, os, sys, time; from pairscape.jobs import job_lock; job_lock.LOOK_S = 0.001\n"
        "lock, folder = sys.argv[1:]; said = []; mine = f'{folder}/dead{os.getpid()}'\n"
        "open(f'{folder}/ready{os.getpid()}', 'w').close()\n"
        "while not os.path.exists(f'{folder}/go'): time.sleep(0.001)\n"
        "for turn in range(15):\n"
        "    job_lock.take(lock, said.append)\n"
        "    os.close(os.open(f'{folder}/inside', os.O_CREAT | os.O_EXCL))\n"
        "    time.sleep(0.001)\n"
        "    os.unlink(f'{folder}/inside')\n"
        "    with open(mine, 'w') as handle:\n"
        "        json.dump(job_lock._describe_process() | {'started': 1, 'turn': turn}, handle)\n"
        "    os.replace(mine, lock)\n"  # as if it had died
        "print(sum('taking over' in line for line in said))\n"
    )
    command = [sys.executable, "-c", code, str(lock), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "scripts")}
    write_lock(lock, started=1)
    takers = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        for _ in range(4)
    ]
    wait_for(lambda: len(list(tmp_path.glob("ready*"))) == 4)
    (tmp_path / "go").touch()
    ended = [taker.communicate(timeout=120) for taker in takers]
    assert [taker.returncode for taker in takers] == [0] * 4, ended
    assert sum(int(out) for out, _ in ended) == 4 * 15  # each dead one but the last, once


def test_a_taker_that_comes_late_leaves_the_lock_of_the_one_before(tmp_path, monkeypatch):
    lock = tmp_path / "job.log.lock"
    write_lock(lock, started=1)
    look_again = job_lock._is_alive

    def overtaken(holder):
        alive = look_again(holder)
        if holder.get("started") == 1:  # between the look and the deed
            write_lock(lock, pid=os.getppid(), started=job_lock._started(os.getppid()))
        return alive

    monkeypatch.setattr(job_lock, "_is_alive", overtaken)
    with pytest.raises(InputError, match=f"found pid {os.getppid()} on"):
        take(lock, wait=False)
    assert holder_of(lock) == os.getppid()


def test_a_dead_lock_stays_while_another_is_taking_it_over(tmp_path):
    lock, guard = tmp_path / "job.log.lock", tmp_path / "job.log.lock.takeover"
    write_lock(lock, started=1)
    write_lock(guard, pid=os.getppid(), started=job_lock._started(os.getppid()))
    taker = threading.Thread(target=take, args=(lock,))
    taker.start()
    time.sleep(0.5)
    assert json.loads(lock.read_text())["started"] == 1
    write_lock(guard, started=1)  # that one dies
    taker.join(60)
    assert holder_of(lock) == os.getpid()
    assert json.loads(lock.read_text())["started"] > 1
    assert not guard.exists()


@pytest.mark.parametrize("ending", ["success", "bad input", "defect", "usage", "interrupt"])
def test_a_lock_is_released_however_a_program_ends(tmp_path, ending, monkeypatch):
    log = tmp_path / "logs" / "job.log"
    monkeypatch.setattr(sys, "argv", ["program"])
    raised = {
        "bad input": InputError("file", "field", "this", "do that"),
        "defect": RuntimeError("a defect"),
        "usage": SystemExit(2),
        "interrupt": KeyboardInterrupt(),
    }

    def main():
        options = '{"result_version": 2}' if ending == "bad input" else "{}"
        try:
            program.parse(["--log", str(log), "--options", options], "", 1)
        finally:
            assert holder_of(f"{log}.lock") == os.getpid()
        if ending in raised:
            raise raised[ending]

    with pytest.raises(SystemExit):
        program.run(main)
    if ending == "usage":  # argparse's way out, as atexit sees it
        job_lock.release_all()
    assert log.exists()
    assert not list(log.parent.glob("*.lock*"))


def test_a_process_takes_its_own_lock_again_silently_and_drops_it_for_another_job(tmp_path, capfd):
    one, two = tmp_path / "one.log", tmp_path / "two.log"
    for log in (one, one, two):
        program.parse(["--log", str(log)], "", 1)
        assert [path.name for path in tmp_path.glob("*.lock*")] == [f"{log.name}.lock"]
    assert take(f"{two}.lock", wait=False) == []
    assert capfd.readouterr().err == ""


def test_only_the_first_of_several_processes_takes_a_lock(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    write_lock(tmp_path / "job.log.lock", pid=os.getppid(), started=job_lock._started(os.getppid()))
    program.parse(["--log", str(tmp_path / "job.log")], "", 1)  # doesn't wait for the first
    assert holder_of(tmp_path / "job.log.lock") == os.getppid()


def test_a_device_as_a_log_needs_no_lock():
    program.parse(["--log", os.devnull], "", 1)
    assert not os.path.exists(f"{os.devnull}.lock")


def test_a_full_disk_leaves_no_empty_lock(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(job_lock.os, "write", full)
    with pytest.raises(OSError, match="No space left") as error:
        take(tmp_path / "job.log.lock")
    assert error.value.filename == str(tmp_path / "job.log.lock")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def workflow(tmp_path):
    """A workflow of one job, with the locking part of the real Snakefile."""
    (tmp_path / "wait_here.py").write_text(PROGRAM)
    mark = "# In place of Snakemake's own lock"
    (locking,) = (ROOT / "Snakefile").read_text().split(mark)[1:]
    (tmp_path / "Snakefile").write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT / 'scripts')!r})\n"
        "from pairscape.core.errors import InputError\n"
        "from types import SimpleNamespace\n"
        "plan = SimpleNamespace(results='results')\n"
        "rule work:\n"
        "    output: 'results/made'\n"
        "    log: 'results/logs/work.log'\n"
        f"    shell: '{sys.executable} wait_here.py --folder . --out {{output}} --log {{log}}'\n"
        f"{mark}{locking}"
    )
    started = []

    def start_one(*arguments, profile=True):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]
        command += ["--workflow-profile", str(ROOT / "profiles/local") if profile else "none"]
        done = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "scripts")},
            start_new_session=True,
        )
        started.append(done)
        return done

    yield tmp_path, start_one
    for one in started:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
        one.wait()
        one.stdout.close()


@pytest.mark.slow
def test_one_snakemake_at_a_time_and_after_kill_9_the_same_command_goes_on(workflow):
    folder, start_one = workflow
    results = folder / "results"
    first = start_one()
    wait_for(lambda: lines(folder / "told") == ["begins"], process=first)
    assert holder_of(results / ".pairscape.lock") == first.pid

    second, dry = start_one(), start_one("-n")
    said = second.communicate(timeout=300)[0]
    assert second.returncode == 1
    refusals = [line for line in said.splitlines() if ".pairscape.lock" in line]
    assert len(refusals) == 1
    assert re.search(rf"lock: found pid {first.pid} on \S+ .* at work; wait until", refusals[0])
    assert said.rstrip().endswith(refusals[0])
    assert "Traceback" not in said
    assert "This was a dry-run" in dry.communicate(timeout=300)[0]
    assert dry.returncode == 0
    assert holder_of(results / ".pairscape.lock") == first.pid

    first.kill()
    again = start_one()
    text = ""
    for line in again.stdout:  # its job waits for the orphan's
        text += line
        if "waiting until pid" in line:
            assert lines(folder / "told") == ["begins"]
            (folder / "go").touch()
    assert again.wait(120) == 0, text
    assert f"taking over {results}/.pairscape.lock from pid {first.pid}" in text
    assert lines(folder / "told") == ["begins", "ends"] * 2
    assert (results / "made").read_text() == "made"
    assert not list(results.rglob("*.lock*"))


@pytest.mark.slow
def test_a_failed_workflow_releases_the_results(workflow):
    folder, start_one = workflow
    (folder / "wait_here.py").write_text("raise SystemExit(3)")
    done = start_one()
    assert "work" in done.communicate(timeout=300)[0]
    assert done.returncode == 1
    assert not list(folder.glob("results/.pairscape.lock*"))
