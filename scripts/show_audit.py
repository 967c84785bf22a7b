"""Show the scores of an audit, what each flag does to recall: a table and a figure.

IN   scores of score_audit
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)
     the figure as PNG and SVG: in batches and in the whole split

Options: audit.
"""

from pairscape.audit import flag_effects
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import audit_figure, audit_table, layout, style

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores="scores of score_audit (TSV)",
        **program.SHOWN,
    )
    rows = flag_effects.read_scores(args.scores, args.options.get("audit"))
    name = rows[0]["audit"]
    if args.table:
        forms, laid_out = (args.table, args.markdown, args.latex), audit_table.sections(rows)
        table_rows = audit_table.without_origin(rows)
        layout.write(audit_table.TABLE, forms, f"Audit, {name}", table_rows, laid_out, args.options)
        records.add_origin([args.table], args.options, [args.scores])
        log.info("audit %s: %s", name, audit_table.in_short(rows))
    if args.png:
        style.draw(lambda: audit_figure.plot_differences(rows), args.png, args.svg)


if __name__ == "__main__":
    program.run(main)
