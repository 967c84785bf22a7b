"""Fixtures that several test files share."""

import os
from pathlib import Path

import faults
import plans
import pytest
from hypothesis import settings

from pairscape.jobs import job_lock

ROOT = Path(__file__).resolve().parents[1]

# `make test` tries 15 examples of each property, `make test-slow` 100 (--hypothesis-profile thorough).
settings.register_profile("quick", max_examples=15, deadline=None, derandomize=True)
settings.register_profile("thorough", max_examples=100, deadline=None, derandomize=True)
settings.load_profile("quick")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared facts and real inputs; tests that need it are skipped without it."""
    folder = Path(os.environ.get("PAIRSCAPE_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no shared test data at {folder} (set PAIRSCAPE_SHARED)")
    return folder


def made_once(factory, name: str, make) -> Path:
    """A folder that ``make`` fills, by the first of all workers that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    job_lock.take(f"{folder}.lock", print)
    try:
        if not (folder / "finished").exists():
            make(folder)
            (folder / "finished").touch()
    finally:
        job_lock.release(f"{folder}.lock")
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """A finished run of tests/tiny.yaml, one for all workers: look at it, and change a copy."""
    return made_once(
        tmp_path_factory, "undisturbed", lambda folder: faults.finish(faults.checkout(folder))
    )


@pytest.fixture
def checkout(tmp_path):
    """A folder with the workflow and nothing else: no bundles, weights or results."""
    return plans.workflow_folder(tmp_path)


@pytest.fixture(scope="session")
def full_plan(tmp_path_factory):
    """The dry run of the full benchmark, as a user calls it: jobs by rule, and what it printed."""

    def make(folder):
        folder.mkdir()
        done = plans.snakemake(plans.workflow_folder(folder), "-n", "--printshellcmds")
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        (folder / "said.txt").write_text(done.stdout + done.stderr)

    text = (made_once(tmp_path_factory, "full", make) / "said.txt").read_text()
    return plans.counts(text), text


def pytest_collection_modifyitems(items) -> None:
    """Files with slow tests first: at the end one worker would be alone with them."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
