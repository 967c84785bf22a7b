"""The tiny pipeline through faults: how it is started, hurt and held against an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("results") / "tiny"
WORKFLOW = ("Snakefile", "workflow", "scripts", "config", "envs", "tests", "profiles")
# What differs between any two runs, and why; all else is the same to the byte.
DIFFERS = {
    "*.log": "times",
    "*.made.json": "seconds and times",
}


def checkout(folder: Path) -> Path:
    """A folder with the workflow, in which the tiny run makes its results."""
    folder.mkdir(parents=True)
    for name in WORKFLOW:
        (folder / name).symlink_to(ROOT / name)
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """The tiny run by the local profile, in a process group of its own; it says.txt what it says."""
    with open(folder / "said.txt", "a") as said:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "snakemake", "--cores", "2", *arguments),
                *("--workflow-profile", "profiles/local", "--configfile", "tests/tiny.yaml"),
            ],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # What a shell starts in the background ignores Ctrl-C, and so would this.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
        )


def finish(folder: Path, *arguments: str) -> str:
    """Run to the end; return what this call said."""
    before = (folder / "said.txt").stat().st_size if (folder / "said.txt").exists() else 0
    code = start(folder, *arguments).wait(1800)
    said = (folder / "said.txt").read_bytes()[before:].decode(errors="replace")
    assert code == 0, said[-4000:]
    return said


def files_of(folder: Path) -> dict[str, Path]:
    """What a run has made and what must be the same in any other, by its path in the results."""
    root = folder / RESULTS
    found = {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
    return {
        str(name): path
        for name, path in found.items()
        if not any(name.match(pattern) for pattern in DIFFERS)
    }


def differences(one: Path, other: Path) -> list[str]:
    """The files that only one of two runs has, or that differ."""
    ours, theirs = files_of(one), files_of(other)
    found = [f"{name}: only in one" for name in sorted(ours.keys() ^ theirs.keys())]
    return found + [
        f"{name}: other bytes"
        for name in sorted(ours.keys() & theirs.keys())
        if ours[name].read_bytes() != theirs[name].read_bytes()
    ]


def leftovers(folder: Path) -> list[str]:
    """Half-written files, locks and checkpoints that a finished run should not have left."""
    return [
        str(path)
        for pattern in (".part-*", "*.lock*", "last*.ckpt", "failed.json")
        for path in (folder / "results").rglob(pattern)
    ]


def copy_results(source: Path, folder: Path) -> None:
    """The results of one run, with their times, as if the other had made them."""
    for name in ("results", ".snakemake"):
        shutil.copytree(source / name, folder / name, symlinks=True)


def jobs_done(folder: Path) -> int:
    """How many jobs Snakemake has said are finished, over all calls in this folder."""
    said = folder / "said.txt"
    return said.read_text(errors="replace").count(": done in ") if said.exists() else 0


def kill_at(folder: Path, jobs: int, wait_s: float) -> None:
    """Start the run; ``kill -9`` Snakemake alone some time after it has finished so many jobs.

    Its jobs live on, as they do on a cluster, or on a laptop whose Snakemake the system killed.
    """
    wanted = jobs_done(folder) + jobs
    running = start(folder)
    while running.poll() is None and jobs_done(folder) < wanted:
        time.sleep(0.05)
    time.sleep(wait_s)
    if running.poll() is None:
        os.kill(running.pid, signal.SIGKILL)
    running.wait()


def seeded_moments(seed: int, number: int) -> list[tuple[int, float]]:
    """After how many further jobs, and how many seconds after that, Snakemake is killed."""
    rng = random.Random(seed)
    return [(rng.randint(1, 3), rng.uniform(0, 4)) for _ in range(number)]


def processes_of(folder: Path) -> list[int]:
    """Programs of the pipeline that are at work in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
            if b"scripts/" in b" ".join(words[:3]) and (path / "cwd").resolve() == folder.resolve():
                found.append(int(path.name))
        except OSError:
            continue
    return found
