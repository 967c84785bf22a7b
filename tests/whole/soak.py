"""Every fault on the tiny run, one after the other: what was done, what happened, what was lost.

`make soak` runs it (some 20 minutes); `python tests/whole/soak.py disk Ctrl-C` tries the faults
whose names hold one of the words. Each fault begins with a copy of the workflow of its own and ends
with the same command run to its end; then every file is held against an undisturbed run's. Prints a
table in Markdown; exits with 1 where anything was lost, left or differs.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from faults import (
    RESULTS,
    ROOT,
    checkout,
    copy_results,
    differences,
    finish,
    jobs_done,
    kill_at,
    leftovers,
    processes_of,
    seeded_moments,
    start,
)

SHARD = RESULTS / "datasets/tiny/shards/speck.arrow"
FEATURES = RESULTS / "datasets/tiny/embeddings/images/tf_efficientnet_lite0/features.npy"
RUN = RESULTS / "runs/tiny/tiny/tf_efficientnet_lite0-mlp/seed1"
SCORES = RESULTS / "scores/tiny/tiny/retrieval.tsv"


def main():
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        home = Path(home).resolve()
        whole = checkout(home / "undisturbed")
        finish(whole)
        bad = 0
        print("| fault | what happened | what was lost |\n| --- | --- | --- |", flush=True)
        for number, (words, fault) in enumerate(FAULTS.items()):
            if sys.argv[1:] and not any(word in words for word in sys.argv[1:]):
                continue
            folder = checkout(home / f"fault{number}")
            began = time.monotonic()
            try:
                happened = fault(folder, whole)
                lost = [*differences(whole, folder), *leftovers(folder)]
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                happened, lost = "the check itself failed", [" ".join(str(error).split())[-300:]]
            finally:
                clean_up(folder)
            bad += bool(lost) and happened is not None
            print(
                f"| {words} | {happened or 'not tried: needs root'}"
                f" ({time.monotonic() - began:.0f} s)"
                f" | {'; '.join(lost[:5]) if lost and happened else 'nothing'} |",
                flush=True,
            )
        sys.exit(bool(bad))


def clean_up(folder: Path) -> None:
    """End what still runs there, and unmount what was mounted."""
    for process in processes_of(folder):
        os.kill(process, signal.SIGKILL)
    if os.path.ismount(folder / "results"):
        subprocess.run(["umount", folder / "results"], check=False)
    shutil.rmtree(folder, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- faults


def again(folder: Path, whole: Path) -> str:
    finish(folder)
    return "two undisturbed runs"


def killed(seed: int):
    def fault(folder: Path, whole: Path) -> str:
        moments = seeded_moments(seed, 3)
        for jobs, seconds in moments:
            kill_at(folder, jobs, seconds)
        said = finish(folder)
        waited = said.count("waiting until")
        return f"killed {len(moments)} times; the next took over, {waited} jobs waited for orphans"

    return fault


def interrupted(jobs: int):
    def fault(folder: Path, whole: Path) -> str:
        running = start(folder)
        while jobs_done(folder) < jobs and running.poll() is None:
            time.sleep(0.05)
        os.killpg(running.pid, signal.SIGINT)
        code = running.wait(120)
        assert code != 0, "it wasn't interrupted"
        time.sleep(3)
        assert not processes_of(folder), "its jobs go on"
        finish(folder)
        return f"ended with {code}, no job went on; the same command went on"

    return fault


def program_killed(folder: Path, whole: Path) -> str:
    running = start(folder)
    while not processes_of(folder) and running.poll() is None:
        time.sleep(0.05)
    time.sleep(2)
    for process in processes_of(folder):
        os.kill(process, signal.SIGKILL)
    code = running.wait(600)
    finish(folder)
    return f"Snakemake ended with {code}; the same command made it"


def at_once(folder: Path, whole: Path) -> str:
    first = start(folder)
    while not (folder / "results/tiny/.pairscape.lock").exists() and first.poll() is None:
        time.sleep(0.05)
    second = start(folder)
    codes = second.wait(300), first.wait(1200)
    said = (folder / "said.txt").read_text()
    assert codes == (1, 0), codes
    assert ".pairscape.lock: lock: found pid" in said, said[-600:]
    return "the second was refused in one line, the first ended well"


def mounted(folder: Path, options: str) -> bool:
    """A small file system of its own for the results; only root may."""
    (folder / "results").mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder / "results"], capture_output=True
    )
    return done.returncode == 0


def disk_full(megabytes: int):
    def fault(folder: Path, whole: Path) -> str | None:
        if not mounted(folder, f"size={megabytes}m"):
            return None
        code = start(folder).wait(600)
        said = (folder / "said.txt").read_text()
        assert code != 0, f"{megabytes} MB were enough"
        assert "No space left" in said, said[-600:]
        assert "a defect in" not in said, said[-600:]
        half = [path for path in leftovers(folder) if ".part-" in path]
        assert not half, half
        subprocess.run(["mount", "-o", "remount,size=2g", folder / "results"], check=True)
        finish(folder)
        return "one line named the disk; with space, the same command went on"

    return fault


def read_only(folder: Path, whole: Path) -> str | None:
    if not mounted(folder, "size=2g"):
        return None
    subprocess.run(["mount", "-o", "remount,ro", folder / "results"], check=True)
    code = start(folder).wait(600)
    said = (folder / "said.txt").read_text()
    subprocess.run(["mount", "-o", "remount,rw", folder / "results"], check=True)
    assert code != 0
    finish(folder)
    told = next((line for line in said.splitlines() if "ead-only" in line), "nothing told")
    return f"refused: {told.strip()[:90].replace('|', '/')}"


def refused_until_deleted(path: Path, change):
    """Change a file by hand: whoever reads it refuses in one line; deleted, it is made again."""

    def fault(folder: Path, whole: Path) -> str:
        copy_results(whole, folder)
        place = folder / path
        place.write_bytes(change(place.read_bytes()))
        code = start(folder).wait(900)
        said = (folder / "said.txt").read_text()
        assert "Traceback" not in said, said[-600:]
        if code:
            assert str(path) in said, said[-600:]
            place.unlink()
            finish(folder)
            return "refused by its reader in one line; deleted, it was made again"
        return "not refused"

    return fault


def must_be_named(folder: Path, path: Path) -> None:
    """``make verify`` refuses the results and names the file."""
    verify = [sys.executable, "scripts/verify_results.py", "--results", str(RESULTS)]
    done = subprocess.run(verify, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert str(path) in done.stderr + done.stdout, done.stderr


def flipped_unseen(folder: Path, whole: Path) -> str:
    copy_results(whole, folder)
    place, times = folder / FEATURES, os.stat(folder / FEATURES)
    data = bytearray(place.read_bytes())
    data[len(data) // 2] ^= 1
    place.write_bytes(data)
    os.utime(place, ns=(times.st_atime_ns, times.st_mtime_ns))
    must_be_named(folder, FEATURES)
    (folder / RUN / "model.ckpt").unlink()
    code = start(folder).wait(600)
    assert code != 0, "the run was trained on it"
    place.unlink()
    finish(folder)
    return "named by make verify; a run that reads it refuses; deleted, it was made again"


def named_by_verify(path: Path, change):
    """Change what no further step reads: ``make verify`` names it; deleted, it is made again."""

    def fault(folder: Path, whole: Path) -> str:
        copy_results(whole, folder)
        place = folder / path
        place.write_bytes(change(place.read_bytes()))
        must_be_named(folder, path)
        place.unlink()
        finish(folder)
        return "no step reads it; named by make verify; deleted, it was made again"

    return fault


def deleted(*paths: Path):
    def fault(folder: Path, whole: Path) -> str:
        copy_results(whole, folder)
        for path in paths:
            (folder / path).unlink()
        finish(folder)
        return "made again"

    return fault


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


FAULTS = {
    "none": again,
    "kill -9 of Snakemake at three moments (seed 1)": killed(1),
    "kill -9 of Snakemake at three moments (seed 2)": killed(2),
    "kill -9 of Snakemake at three moments (seed 3)": killed(3),
    "Ctrl-C after 1 job": interrupted(1),
    "Ctrl-C after 6 jobs": interrupted(6),
    "kill -9 of the programs": program_killed,
    "two Snakemakes at once": at_once,
    "a disk of 3 MB": disk_full(3),
    "a disk of 12 MB": disk_full(12),
    "results that can't be written": read_only,
    "Arrow shard cut in half": refused_until_deleted(SHARD, cut),
    "model.ckpt of no bytes": named_by_verify(RUN / "model.ckpt", lambda data: b""),
    "a byte of the image features flipped, its time kept": flipped_unseen,
    "scores and a trained pair deleted": deleted(SCORES, RUN / "model.ckpt"),
}

if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "scripts"))
    main()
