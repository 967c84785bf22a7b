"""What the benchmarks share: CPU seconds, anonymous memory, and the table of results.

Run as a program it prints the tables that the benchmarks have written: ``measure.py FOLDER``.
"""

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from pairscape.core import tsv  # noqa: E402
from pairscape.core.errors import InputError  # noqa: E402

COLUMNS = ("what", "ours", "theirs", "unit", "ratio", "target", "met", "size")


def arguments(description: str, scratch: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks have; ``scratch`` says what is written to that folder."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--results", default="results/bench", help="folder of the table")
    parser.add_argument("--scratch", default=None, help=scratch)
    parser.add_argument("--quick", action="store_true", help="small sizes: it runs, no more")
    return parser


def cpu_s() -> float:
    """CPU seconds of this process, all its threads, and its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def repeat(calls: dict, times: int) -> dict[str, float]:
    """The median CPU seconds of each call; they take turns, so that a busy machine hits all."""
    spent = {name: [] for name in calls}
    for _ in range(times):
        for name, call in calls.items():
            start = cpu_s()
            call()
            spent[name].append(cpu_s() - start)
    return {name: statistics.median(seconds) for name, seconds in spent.items()}


def run_apart(script, *arguments) -> dict:
    """Run a part of a benchmark in a process of its own.

    Returns
    -------
    The JSON of its last line, and ``anonymous_mb``: the most anonymous memory (RssAnon) that it
    held, looked at every 20 ms.
    """
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watch_memory(process.pid) as peak:
        said, complaint = process.communicate()
    if process.returncode:
        raise SystemExit(f"{script} {' '.join(map(str, arguments))}: failed\n{complaint}")
    return json.loads(said.splitlines()[-1]) | {"anonymous_mb": peak[0]}


@contextlib.contextmanager
def watch_memory(process: int):
    """Yield a list whose only entry becomes the most anonymous memory (MB) the process held."""
    peak, ended = [0.0], threading.Event()

    def watch():
        while not ended.wait(0.02):
            try:
                status = Path(f"/proc/{process}/status").read_text()
            except OSError:
                return
            for line in status.splitlines():
                if line.startswith("RssAnon:"):
                    peak[0] = max(peak[0], int(line.split()[1]) / 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def compare(what: str, ours: float, theirs: float, target: str, size: str, unit="CPU s") -> dict:
    """A row of the table. ``target`` is ``<= 2`` for ours / theirs or ``>= 5`` for theirs / ours."""
    sign, limit = target.split()
    ratio = ours / theirs if sign == "<=" else theirs / ours
    met = ratio <= float(limit) if sign == "<=" else ratio >= float(limit)
    return {
        "what": what,
        "ours": f"{ours:.3g}",
        "theirs": f"{theirs:.3g}",
        "unit": unit,
        "ratio": f"{ratio:.2f}",
        "target": target,
        "met": "yes" if met else "no",
        "size": size,
    }


def need_space(folder, size: int) -> None:
    """Refuse to begin where the disk can't take what will be made."""
    free = shutil.disk_usage(folder).free
    if free < 1.2 * size:
        raise InputError(
            folder,
            "free space",
            f"{free / 1e9:.1f} GB where {1.2 * size / 1e9:.1f} are needed",
            "free space, or name another folder with --scratch",
        )


def finish(results, name: str, rows: list[dict]) -> None:
    """Write the table of a benchmark and print it."""
    path = Path(results) / f"{name}.tsv"
    tsv.write_tsv(path, rows, COLUMNS)
    print_table(rows)


def print_table(rows: list[dict]) -> None:
    """Print rows in columns."""
    lines = [COLUMNS, *([row[column] for column in COLUMNS] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    for line in lines:
        print(
            "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        )


def main(argv=None):
    (folder,) = sys.argv[1:] if argv is None else argv
    rows = [row for path in sorted(Path(folder).glob("*.tsv")) for row in tsv.read_tsv(path)]
    print_table(rows)


if __name__ == "__main__":
    main()
