"""Score an audit: what each flag does to recall, from the embeddings that the runs stored.

IN   options.json of each run (its embeddings lie beside it, in embeddings/), or the failed.json of a
     run that ran out of memory
OUT  scores: one row per start, flag, encoder pair, gallery, k and direction, with the difference to
     the base of that start; one for a flag that can't be tried

Options: audit; rows, those of the audit in table order, each with its encoder pairs and seeds; seed,
and those of the configuration's part `retrieval`. How differences and intervals are made stands in
pairscape.audit.flag_effects.
"""

from pairscape.audit import flag_effects
from pairscape.audit.options import Run, check_options, words
from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.jobs import program
from pairscape.pretrain import runs

RESULT_VERSION = 1
RUN_KEYS = ("options_sha256", "splits")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        runs=program.Many("options.json, or failed.json, of each run"),
        scores=program.Output("scores to write (TSV)"),
    )
    options = check_options(args.options)
    read = _read_runs(args.runs, options)
    rows = flag_effects.score(
        options,
        {run: record.get("reason", "") for run, (_, record) in read.items()},
        lambda run: _load(*read[run]),
        lambda several: logs.progress(several, "scoring the audit", unit="row"),
    )
    flag_effects.TABLE.write(args.scores, rows)
    tried = {(row["start"], row["flag"]) for row in rows if row.get("difference") is not None}
    flags = {(row["start"], row["flag"]) for row in rows if row["flag"]}
    log.info(
        "audit %s: %d of %d changes scored, %d of %d runs",
        options["audit"],
        len(tried),
        len(flags),
        sum("reason" not in record for _, record in read.values()),
        len(options["expected"]),
    )


def _read_runs(paths, options) -> dict[Run, tuple]:
    """The runs: the file that tells of each, and what it holds."""
    read = {}
    for given in paths:
        path, record, _ = runs.read_run(given, RUN_KEYS)
        run = Run(*(record[key] for key in Run._fields))
        if run not in options["expected"]:
            raise InputError(path, "run", words(run), "give only runs of this audit")
        if run in read:
            raise InputError(path, "run", f"{words(run)} twice", "give each run once")
        read[run] = (path, record)
    return read


def _load(path, record) -> flag_effects.Loaded:
    embedded, placeholders = runs.read_scorable(path, record, "test")
    return flag_effects.Loaded(embedded, placeholders, record["options_sha256"], str(path))


if __name__ == "__main__":
    program.run(main)
