"""Show the expression scores of an experiment: a table and a figure.

IN   expression.tsv of each dataset of the experiment
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading): each image encoder as it came
     beside itself after pretraining, by recipe, with the difference of each donor
     the figure as PNG and SVG: before and after pretraining, donors as dots

Options: experiment; expected, the planned runs (dataset, image_encoder, gene_encoder, seed each),
so that what is missing is said; titles, of encoders by kind and name.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import expression
from pairscape.jobs import program, records
from pairscape.report import expression_figure, expression_table, layout, style, words

RESULT_VERSION = 3


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("expression.tsv of each dataset"),
        **program.SHOWN,
    )
    experiment = args.options.get("experiment")
    if not experiment:
        raise InputError("--options", "experiment", "nothing", "name it")
    expected = words.expected_runs(args.options, (*expression_table.RUN, "seed"))
    scores = expression.read_experiment_scores(args.scores, experiment)
    title = f"Expression prediction, experiment {experiment}"
    if args.table:
        rows = expression_table.tabulate(scores, expected)
        if not rows:
            remedy = "score one first"
            raise InputError(args.scores[0], "rows", "no score and no planned run", remedy)
        forms, laid_out = (args.table, args.markdown, args.latex), expression_table.sections(rows)
        layout.write(expression_table.TABLE, forms, title, rows, laid_out, args.options)
        records.add_origin([args.table], args.options, args.scores)
        pairs = [row for row in rows if row["gene_encoder"] and row["metric"] == "pearson"]
        reads = [
            f"{row['image_encoder']}-{row['gene_encoder']} {row['reads']} ({row['recipe']})"
            for row in pairs[:4]
        ]
        log.info("%s: %d rows; %s", experiment, len(rows), "; ".join(reads))
    if args.png:
        if not any(row["value"] is not None for row in scores):
            raise InputError(args.scores[0], "value", "no score", "score an encoder first")
        titles = args.options.get("titles", {})
        style.draw(lambda: expression_figure.plot_scores(scores, title, titles), args.png, args.svg)


if __name__ == "__main__":
    program.run(main)
