"""Bring the scores of all slide-level predictions to one table: spreadsheet, Markdown and LaTeX.

IN   the scores of each entry of `mutation`, and the balance of the folds
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)

Options: expected, the planned runs (mutation, leaking, cohort, target, model each), so that what
is missing is said.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import layout, mutation_table
from pairscape.slides import mutation_scores, site_folds

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each entry"),
        balance=program.Many("optional: balance of the folds, JSON"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    expected = args.options.get("expected", [])
    for run in expected:
        for name in mutation_table.HEAD[:5]:
            if name not in run:
                raise InputError("--options", f"expected, {name}", "nothing", "name it")
    scores = [row for path in args.scores for row in mutation_scores.read_scores(path)]
    rows = mutation_table.tabulate_mutation(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score a run first")
    balances = [site_folds.read_balance(path) for path in args.balance or ()]
    sections = mutation_table.mutation_sections(rows, balances)
    mutation_table.write_table(args.table, rows)
    layout.write_for_reading((args.markdown, args.latex), mutation_table.TITLE, sections)
    records.add_origin([args.table], args.options, args.scores)
    missing = sum(row["auroc"] is None for row in rows)
    log.info("%d rows, %d of them not run", len(rows), missing)


if __name__ == "__main__":
    program.run(main)
