"""tests/tiny.yaml through `--profile slurm` on a real Slurm: run by `make test-slurm` alone.

One scheduler of one node with fake GPUs (tests/slurm/). The run is disturbed: a job exceeds its memory,
the pretraining its time, and at the end its files are held against those of an undisturbed local run.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

if not os.environ.get("PAIRSCAPE_TEST_SLURM"):
    pytest.skip("`make test-slurm` runs them", allow_module_level=True)

GPU_RULES = {"embed_images", "pretrain"}
STEPS = 300
DEVICES = 2  # two processes, and two of the fake GPUs
RUN = "runs/tiny/tiny/tf_efficientnet_lite0-mlp/seed1"
# What differs between any two runs of one machine, and why; all else is identical.
DIFFERS = {
    "*.log": "times",
    "*.made.json": "seconds, the commit, the job",
}


@pytest.fixture(scope="module")
def cluster():
    """The test cluster, brought up unless it is up already; skipped in words where it can't be."""
    began = subprocess.run([ROOT / "tests/slurm/start_cluster.sh"], capture_output=True, text=True)
    if began.returncode == 77:
        pytest.skip(began.stderr.strip().splitlines()[-1])
    assert began.returncode == 0, began.stderr
    yield Path(re.search(r"\((.*)\)", began.stdout).group(1))
    if "already" not in began.stdout:
        subprocess.run([ROOT / "tests/slurm/stop_cluster.sh"], check=True)


def checkout(folder: Path) -> Path:
    """A folder to work in; its training is longer than that of tests/tiny.yaml, so that it can be
    caught at it, and takes two devices.
    """
    folder.mkdir()
    for name in (
        "Snakefile",
        "workflow",
        "scripts",
        "config",
        "envs",
        "tests",
        "profiles",
        "slurm",
    ):
        (folder / name).symlink_to(ROOT / name)
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    training = config["experiments"]["tiny"]["training"]
    config["experiments"]["tiny"]["training"] = training | {
        "max_steps": STEPS,
        "early_stopping": None,
        "devices": DEVICES,
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(config))
    return folder


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    """Snakemake in such a folder; what it says goes to said.txt there."""
    with open(folder / "said.txt", "w") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments, "--configfile", "tiny.yaml"],
            cwd=folder,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"}
            | {"PAIRSCAPE_DEVICE": "cpu"},  # its GPUs are fakes
        )


def on_slurm(folder: Path, *set_resources: str, more: tuple[str, ...] = ()) -> subprocess.Popen:
    """Snakemake on the cluster: the profile as it stands, and what a test changes of the resources."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())
    asked = [
        f"{rule}:{name}={value}"
        for rule, of in profile["set-resources"].items()
        for name, value in of.items()
        if not any(text.startswith(f"{rule}:{name}=") for text in set_resources)
    ]
    return start(
        folder,
        *("--profile", "slurm", "--latency-wait", "5"),
        *("--slurm-init-seconds-before-status-checks", "5"),
        *("--set-resources", *asked, *set_resources),
        *more,
    )


def slurm_jobs(since: int = 0) -> list[dict[str, str]]:
    """What Slurm says of each job, by `scontrol show job`."""
    said = subprocess.check_output(["scontrol", "show", "job", "--oneliner"], text=True)
    jobs = [
        dict(re.findall(r"(\S+?)=(\S*)", line)) for line in said.splitlines() if "JobId=" in line
    ]
    return sorted(
        (job for job in jobs if int(job["JobId"]) > since), key=lambda job: int(job["JobId"])
    )


def last_job() -> int:
    return max((int(job["JobId"]) for job in slurm_jobs()), default=0)


def processes_of(program: str, folder: Path) -> list[int]:
    """The processes that run a program in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            # Further processes of a training are started by the program's whole path.
            named = Path(*words[1:2]).name == f"{program}.py"
            if named and (path / "cwd").resolve() == folder:
                found.append(int(path.name))
    return sorted(found)


def wait_for(what, seconds: float, every: float = 0.2):
    """What a function returns as soon as that is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(every)
    raise AssertionError(f"{what.__name__} didn't come within {seconds:.0f} s")


def stop_in_training(folder: Path, remote: subprocess.Popen, seconds: float = 900) -> int:
    """Halt the pretraining (SIGSTOP) after its first checkpoint and before its end."""
    checkpoint = folder / "results/tiny" / RUN / "last.ckpt"

    def training():
        assert remote.poll() is None, (folder / "said.txt").read_text()[-6000:]
        return checkpoint.exists() and processes_of("pretrain", folder)

    process = wait_for(training, seconds, every=0.01)[0]
    os.kill(process, signal.SIGSTOP)
    assert not (checkpoint.parent / "model.ckpt").exists(), "the training was over too soon"
    return process


@pytest.fixture(scope="module")
def ran(cluster, tmp_path_factory):
    """The disturbed run on the cluster, and beside it an undisturbed one on this machine."""
    began = time.monotonic()
    before = last_job()
    folder = tmp_path_factory.mktemp("slurm").resolve()
    here, there = checkout(folder / "local"), checkout(folder / "cluster")
    started = []
    try:
        remote = on_slurm(
            there,
            "embed_images:mem_mb=[300, 4000, 8000][attempt - 1]",  # torch alone takes more
            "pretrain:runtime=[1, 30, 60][attempt - 1]",
            "pretrain:slurm_extra=''",  # no warning: until its time is up
        )
        started.append(remote)
        # Halted, it can't be ready in time; Slurm wakes it to end it.
        stop_in_training(there, remote)
        at_work = len(processes_of("pretrain", there))
        local = start(here, "--cores", "2", "--workflow-profile", "profiles/local")
        started.append(local)
        codes = local.wait(1500), remote.wait(1500)
    finally:
        for process in started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(120)
    for run, code in zip((here, there), codes, strict=True):
        assert code == 0, (run / "said.txt").read_text()[-6000:]
    seconds = time.monotonic() - began
    print(f"\ntest-slurm: the tiny run with its faults, and one without: {seconds:.0f} s")
    return {
        "local": here,
        "cluster": there,
        "state": cluster,
        "at_work": at_work,
        "jobs": slurm_jobs(before),
    }


def rules_of(job: dict[str, str]) -> str:
    return job["Comment"].removeprefix("rule_").split("_wildcards")[0]


def test_the_tiny_run_is_at_most_8_jobs_for_slurm(ran):
    assert 6 <= len(ran["jobs"]) <= 8, [rules_of(job) for job in ran["jobs"]]


def test_gpu_jobs_get_a_gpu_of_the_gpu_partition_and_the_others_none(ran):
    found = set()
    for job in ran["jobs"]:
        rule = rules_of(job)
        gpus = "gres:gpu" in job.get("TresPerJob", "") or "gres/gpu" in job["TRES"]
        assert gpus == (rule in GPU_RULES), job
        assert job["Partition"] == ("gpu" if rule in GPU_RULES else "cpu"), job
        found.add(rule)
    assert found >= GPU_RULES


def test_a_pretraining_on_two_devices_gets_two_gpus_at_each_attempt_and_is_two_processes(ran):
    jobs = [job for job in ran["jobs"] if rules_of(job) == "pretrain"]
    assert [job["JobState"] for job in jobs] == ["TIMEOUT", "COMPLETED"]
    for job in jobs:
        assert f"gres/gpu={DEVICES}" in job["TRES"] or f"gres:gpu:{DEVICES}" in job["TresPerJob"]
    assert ran["at_work"] == DEVICES


def test_a_job_out_of_memory_succeeds_with_more(ran):
    first, second = (job for job in ran["jobs"] if rules_of(job) == "embed_images")
    assert first["JobState"] in ("FAILED", "OUT_OF_MEMORY")
    assert second["JobState"] == "COMPLETED"
    assert (first["MinMemoryNode"], second["MinMemoryNode"]) == ("300M", "4000M")
    log = (ran["state"] / "slurmd.log").read_text()
    assert re.search(rf"StepId={first['JobId']}\.\d+ exceeded memory limit", log)


def test_a_pretraining_out_of_time_goes_on_from_its_checkpoint(ran):
    first, second = (job for job in ran["jobs"] if rules_of(job) == "pretrain")
    assert first["JobState"] == "TIMEOUT"
    assert second["JobState"] == "COMPLETED"
    log = (ran["cluster"] / "results/tiny" / RUN / "pretrain.log").read_text()
    step = re.search(r"going on from step (\d+) of .*last\.ckpt", log)
    assert step, log
    assert 0 < int(step[1]) < STEPS


def same_files(ran) -> int:
    """Hold the files of the cluster against those of the local run; return how many were equal."""
    trees = []
    for name in ("local", "cluster"):
        root = ran[name] / "results/tiny"
        trees.append({path.relative_to(root): path for path in root.rglob("*") if path.is_file()})
    ours, theirs = (
        {
            name: path
            for name, path in tree.items()
            if not any(name.match(pattern) for pattern in DIFFERS)
        }
        for tree in trees
    )
    assert sorted(ours) == sorted(theirs)
    different = [str(name) for name in ours if ours[name].read_bytes() != theirs[name].read_bytes()]
    assert different == []
    return len(ours)


def test_its_files_are_those_of_an_undisturbed_local_run(ran):
    assert same_files(ran) > 50


def test_nothing_half_written_or_locked_is_left(ran):
    left = [
        path
        for path in (ran["cluster"] / "results").rglob("*")
        if path.name.startswith(".part-") or path.name.endswith(".lock")
    ]
    assert left == []
    assert not (ran["cluster"] / "results/tiny" / RUN / "last.ckpt").exists()


def test_a_second_call_has_nothing_to_do(ran):
    again = on_slurm(ran["cluster"])
    assert again.wait(300) == 0
    assert "Nothing to be done" in (ran["cluster"] / "said.txt").read_text()


@pytest.fixture(scope="module")
def ran_again(ran):
    """The same folder, made anew from the pretraining on, through three more faults."""
    if os.environ["PAIRSCAPE_TEST_SLURM"] != "all":
        pytest.skip("`make test-slurm FAULTS=all` runs it (some 5 minutes)")
    before, folder = last_job(), ran["cluster"]
    (folder / "results/tiny" / RUN / "model.ckpt").unlink()
    remote = on_slurm(folder, more=("--forcerun", "pretrain"))

    def running(name):
        def job_of_it():
            return next(
                (
                    job["JobId"]
                    for job in slurm_jobs(before)
                    if rules_of(job).startswith(name) and job["JobState"] == "RUNNING"
                ),
                None,
            )

        return job_of_it

    try:
        # Preempted: the warning that Slurm sends, while training.
        halted = stop_in_training(folder, remote)
        subprocess.run(["scancel", "--signal=TERM", running("pretrain")()], check=True)
        time.sleep(2)  # the signal waits for it
        os.kill(halted, signal.SIGCONT)
        # Cancelled by hand.
        subprocess.run(["scancel", wait_for(running("score_retrieval"), 600)], check=True)
        # No controller for a minute.
        wait_for(running("report"), 600)
        os.kill(int((ran["state"] / "slurmctld.pid").read_text()), signal.SIGTERM)
        time.sleep(60)
        subprocess.run([ROOT / "tests/slurm/start_cluster.sh"], check=True)
        code = remote.wait(900)
    finally:
        if remote.poll() is None:
            remote.send_signal(signal.SIGINT)
            remote.wait(120)
    assert code == 0, (folder / "said.txt").read_text()[-6000:]
    return {**ran, "jobs": slurm_jobs(before)}


def test_preemption_scancel_and_a_minute_without_controller_lose_nothing(ran_again):
    states = [
        (rules_of(job).split("_")[0], job["JobState"].split()[0]) for job in ran_again["jobs"]
    ]
    assert states[:4] == [
        ("pretrain", "FAILED"),
        ("pretrain", "COMPLETED"),
        ("score", "CANCELLED"),
        ("score", "COMPLETED"),
    ]
    # A job whose own srun finds no controller fails, and is made again.
    assert {rule for rule, _ in states[4:]} == {"report"}
    assert states[-1][1] == "COMPLETED"
    log = (ran_again["cluster"] / "results/tiny" / RUN / "pretrain.log").read_text()
    assert "going on from step" in log
    assert same_files(ran_again) > 50
