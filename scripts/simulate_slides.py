"""Simulate a cohort: whole slides of several sites, with labels that may change the morphology.

IN   options: cohort (its name), seed, simulation (knobs; see the schema of the configuration)
OUT  a folder of slides, <slide>.tif, tiled pyramids as OpenSlide reads them; the cohort table,
     its files named from the folder above the cohort's; and the truth: what each tissue holds
"""

import functools
import re

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.core.tsv import write_tsv
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        table=program.Output("cohort table to write"),
        truth=program.Output("table of the truth to write"),
        slides=program.OutputShared("folder of the slides to make"),
    )
    from pairscape.core.options import resolve_part
    from pairscape.simulation import whole_slides
    from pairscape.slides import cohorts

    cohort, seed = _check_options(args.options)
    knobs = resolve_part("slide_simulation", args.options["simulation"])
    cohorts.check_slide_simulation("simulation", knobs, "--options")
    targets = list(knobs["targets"])

    rows = whole_slides.plan_cohort(knobs, cohort, seed)
    truth = []
    with atomic_path(args.slides) as folder:
        folder.mkdir()
        for row in logs.progress(rows, "slides", unit="slide"):
            picture, content = whole_slides.draw_slide(knobs, row, cohort, seed)
            whole_slides.write_slide(folder / f"{row['slide']}.tif", picture, knobs["um_per_px"])
            truth.append({**row, **content})
    write_tsv(args.truth, truth, list(truth[0]))
    table = [
        {**row, "file": f"{cohort}/slides/{row['slide']}.tif", "notes": "simulated"} for row in rows
    ]
    cohorts.write_cohort(args.table, table, targets)  # last: it says that the slides are there
    log.info(
        "%s: %d slides of %d patients of %d sites, %s",
        cohort,
        len(rows),
        knobs["patients"],
        knobs["sites"],
        ", ".join(f"{_patients_with(rows, target)} with {target}" for target in targets),
    )


def _patients_with(rows: list[dict], target: str) -> int:
    return len({row["patient"] for row in rows if row[target]})


def _check_options(options: dict) -> tuple[str, int]:
    refuse = functools.partial(InputError, "--options")
    allowed = {"cohort", "seed", "simulation"}
    for key in sorted(set(options) ^ allowed):
        found = "an unknown key" if key in options else "nothing"
        raise refuse(key, found, f"give {', '.join(sorted(allowed))}")
    cohort, seed = options["cohort"], options["seed"]
    if not isinstance(cohort, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", cohort):
        raise refuse("cohort", repr(cohort), "use letters, digits, underscores and hyphens")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise refuse("seed", repr(seed), "give a whole number of 0 or more")
    return cohort, seed


if __name__ == "__main__":
    program.run(main)
