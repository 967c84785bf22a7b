"""Which large packages a program loads: each call in a fork of an interpreter that has none of them.

As a program: a JSON list of [program, arguments] from standard input; prints a line of JSON for each,
the status and what was loaded.
"""

import contextlib
import importlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
LARGE = [
    "anndata",
    "dask",
    "datasets",
    "drvi",
    "jax",
    "lightning",
    "matplotlib",
    "numba",
    "open_clip",
    "pandas",
    "peft",
    "pyarrow",
    "scanpy",
    "scipy",
    "scvi",
    "skimage",
    "sklearn",
    "snakemake",
    "spatialdata",
    "statsmodels",
    "timm",
    "torch",
    "torch._dynamo",
    "torchvision",
    "transformers",
    "umap",
    "wandb",
    "zarr",
    "matplotlib.pyplot",
]


def by_call(calls, folder=None) -> list[tuple[int, set[str]]]:
    """For each call (program, arguments): its status, and the large packages that it has loaded."""
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps([list(call) for call in calls]),
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return [(status, set(loaded)) for status, loaded in answers]


def _run(program: str, arguments: list[str], pipe: int) -> None:
    status = 0
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            importlib.import_module(program).main(arguments)
        except SystemExit as end:
            status = end.code or 0
    loaded = [name for name in LARGE if name in sys.modules]
    os.write(pipe, json.dumps([status, loaded]).encode())


def main() -> None:
    sys.path.insert(0, str(SCRIPTS))
    for program, arguments in json.load(sys.stdin):
        ours, theirs = os.pipe()
        if not os.fork():
            try:
                _run(program, arguments, theirs)
            finally:
                os._exit(0)
        os.close(theirs)
        with open(ours, "rb") as answer:
            print(answer.read().decode() or "[1, []]", flush=True)
        os.wait()


if __name__ == "__main__":
    main()
