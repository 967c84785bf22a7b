"""Bring the batch-effect scores of all datasets to one table, for spreadsheets, Markdown and LaTeX.

IN   scores of score_batch_effect, of each dataset
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)

Options: resolution, of the clusters whose score is the main one.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import batch_effect
from pairscape.jobs import program, records
from pairscape.report import batch_effect_table, layout

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each dataset (TSV)"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    resolution = args.options.get("resolution", 1.0)
    scores, of = [], {}
    for path in args.scores:
        rows = batch_effect.read_scores(path)
        if not any(row["resolution"] == resolution for row in rows):
            raise InputError(path, "resolution", f"none of {resolution:g}", "score it again")
        for row in rows:
            if of.setdefault(row["dataset"], path) != path:
                raise InputError(
                    path, "dataset", f"{row['dataset']}, as in {of[row['dataset']]}", "give it once"
                )
        scores += rows
    rows = batch_effect_table.tabulate(scores, dict.fromkeys(of, resolution))
    batch_effect_table.write_table(args.table, rows)
    layout.write_for_reading(
        (args.markdown, args.latex), "Batch effects", batch_effect_table.sections(rows)
    )
    records.add_origin([args.table], args.options, args.scores)
    log.info("%d datasets, %d rows", len(of), len(rows))


if __name__ == "__main__":
    program.run(main)
