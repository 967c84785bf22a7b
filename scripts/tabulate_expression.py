"""Bring the expression scores of an experiment to one table, for spreadsheets, Markdown and LaTeX.

IN   expression.tsv of each dataset of the experiment
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading): each image encoder as it came
     beside itself after pretraining, by recipe, with the difference of each donor

Options: experiment; expected, the planned runs (dataset, image_encoder, gene_encoder, seed each),
so that what is missing is said.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import expression
from pairscape.jobs import program, records
from pairscape.report import expression_table, layout

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("expression.tsv of each dataset"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    experiment = args.options.get("experiment")
    if not experiment:
        raise InputError("--options", "experiment", "nothing", "name it")
    expected = args.options.get("expected", [])
    for run in expected:
        for name in (*expression_table.RUN, "seed"):
            if name not in run:
                raise InputError("--options", f"expected, {name}", "nothing", "name it")
    scores = expression.read_experiment_scores(args.scores, experiment)
    rows = expression_table.tabulate(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score one first")
    title = f"Expression prediction, experiment {experiment}"
    laid_out = expression_table.sections(rows)
    expression_table.write_table(args.table, rows)
    layout.write_for_reading((args.markdown, args.latex), title, laid_out)
    records.add_origin([args.table], args.options, args.scores)
    of_pairs = [row for row in rows if row["gene_encoder"] and row["metric"] == "pearson"]
    log.info(
        "%s: %d rows; %s",
        experiment,
        len(rows),
        "; ".join(
            f"{row['image_encoder']}-{row['gene_encoder']} {row['reads']} ({row['recipe']})"
            for row in of_pairs[:4]
        ),
    )


if __name__ == "__main__":
    program.run(main)
