"""Show slide-level predictions: a table over all entries of `mutation`, and a figure of one.

IN   the scores of each entry, and for the table the balance of the folds
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)
     the figure as PNG and SVG: the scores with folds, intervals and chance

Options: expected, the planned runs (mutation, leaking, cohort, target, model each), so that what
is missing is said; for the figure mutation, the entry.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import layout, mutation_figure, mutation_table, style, words
from pairscape.slides import mutation_scores, site_folds

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each entry"),
        balance=program.Many("optional: balance of the folds, JSON"),
        **program.SHOWN,
    )
    expected = words.expected_runs(args.options, mutation_table.HEAD[:5])
    scores = [row for path in args.scores for row in mutation_scores.read_scores(path)]
    if args.table:
        _tabulate(args, scores, expected)
    if args.png:
        _draw(args, scores, expected)


def _tabulate(args, scores, expected) -> None:
    rows = mutation_table.tabulate_mutation(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score a run first")
    balances = [site_folds.read_balance(path) for path in args.balance or ()]
    laid_out = mutation_table.mutation_sections(rows, balances)
    forms = (args.table, args.markdown, args.latex)
    layout.write(mutation_table.TABLE, forms, mutation_table.TITLE, rows, laid_out, args.options)
    records.add_origin([args.table], args.options, args.scores)
    missing = sum(row["auroc"] is None for row in rows)
    log.info("%d rows, %d of them not run", len(rows), missing)


def _draw(args, scores, expected) -> None:
    mutation = args.options["mutation"]
    scores = [row for row in scores if row["mutation"] == mutation]
    if not scores:
        raise InputError(args.scores[0], "rows", f"no score of {mutation}", "score it first")
    table = mutation_table.tabulate_mutation(scores, expected)
    sites = "leaked" if scores[0]["leaking"] == "true" else "preserved"
    title = f"Slide-level prediction, {mutation} (sites {sites})"
    style.draw(lambda: mutation_figure.plot_mutation(table, scores, title), args.png, args.svg)
    log.info("%s: %d rows drawn", mutation, len(table))


if __name__ == "__main__":
    program.run(main)
