"""Tell what each query of each run retrieves: its nearest partners, and how far they are off.

IN   options.json of each run (its embeddings lie beside it, in embeddings/), or the failed.json of a
     run that ran out of memory
OUT  hits.parquet: one row per run, direction and query of the whole split; none for a failed run

Options: experiment, dataset, split, top (partners told of each query).
"""

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import hits
from pairscape.jobs import program
from pairscape.pretrain import runs

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        runs=program.Many("options.json, or failed.json, of each run"),
        hits=program.Output("hits.parquet to write"),
    )
    options = {"split": "test", "top": 10, **args.options}
    for name in ("experiment", "dataset"):
        if not options.get(name):
            raise InputError("--options", name, "nothing", "name it")
    if not isinstance(options["top"], int) or options["top"] < 1:
        raise InputError("--options", "top", repr(options["top"]), "give a number from 1 on")
    read = {}
    for given in args.runs:
        names = (options["experiment"], options["dataset"])
        path, run, failed = runs.read_run(given, ("splits",), *names)
        key = tuple(run[name] for name in hits.RUN)
        if key in read:
            raise InputError(path, "run", f"that of {read[key][0]} again", "give each run once")
        read[key] = (path, run, failed)
    scorable = [(path, run) for _, (path, run, failed) in sorted(read.items()) if not failed]
    loaded = (
        (run, runs.read_scorable(path, run, options["split"])[0])
        for path, run in logs.progress(scorable, "telling hits", unit="run")
    )
    count = hits.write_hits(args.hits, loaded, options["top"])
    log.info("%d rows of %d runs, %d failed", count, len(scorable), len(read) - len(scorable))


if __name__ == "__main__":
    program.run(main)
