"""Show what the queries of an experiment retrieve: a good, a median and a bad one of each pair.

IN   hits.parquet of each dataset of the experiment
OUT  the table as TSV, Markdown and LaTeX

Options: experiment.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import hits
from pairscape.jobs import program, records
from pairscape.report import hits_table, layout

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        hits=program.Many("hits.parquet of each dataset"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    experiment = args.options.get("experiment")
    if not experiment:
        raise InputError("--options", "experiment", "nothing", "name it")
    rows = hits_table.tabulate(table for path in args.hits for table in hits.read_hits(path))
    forms, laid_out = (args.table, args.markdown, args.latex), hits_table.sections(rows)
    layout.write(
        hits_table.TABLE,
        forms,
        f"What is retrieved, experiment {experiment}",
        rows,
        laid_out,
        args.options,
    )
    records.add_origin([args.table], args.options, args.hits)
    log.info("%s: %d queries told", experiment, len(rows))


if __name__ == "__main__":
    program.run(main)
