"""Plans by Snakemake in this process: what it would run, without starting an interpreter for each."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def workflow_folder(folder: Path, *more: str) -> Path:
    """A folder with the workflow and nothing else: no bundles, weights or results."""
    for name in ("Snakefile", "workflow", "scripts", "config", "envs", "tests", *more):
        (folder / name).symlink_to(ROOT / name)
    return folder


def plan(folder: Path, *arguments: str, ok: bool = True) -> tuple[dict[str, int], str]:
    """The number of jobs by rule of a dry run in a folder, and all that it printed."""
    from snakemake import cli

    command = [
        "--cores",
        "2",
        "--directory",
        str(folder),
        "--snakefile",
        f"{folder}/Snakefile",
        "-n",
    ]
    before, place, paths, printed = dict(os.environ), Path.cwd(), list(sys.path), io.StringIO()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            cli.main([*command, *arguments])
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        os.chdir(place)
        sys.path[:] = paths
        os.environ.clear()
        os.environ.update(before)
    text = printed.getvalue()
    assert (code == 0) == ok, text[-3000:]
    return counts(text), text


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """A call of Snakemake in a folder with the workflow, as a user makes it."""
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(folder)]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)


def counts(text: str) -> dict[str, int]:
    """The table of jobs that a dry run prints, by rule."""
    rows = re.findall(r"^(\w+) +(\d+)$", text, re.MULTILINE)
    return {rule: int(number) for rule, number in rows}
