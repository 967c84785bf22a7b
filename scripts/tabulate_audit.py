"""Bring the scores of an audit to one table, for spreadsheets, Markdown and LaTeX.

IN   scores of score_audit
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)

Options: audit.
"""

from pairscape.audit import flag_effects
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import audit_table, layout

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores="scores of score_audit (TSV)",
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    rows = flag_effects.read_scores(args.scores, args.options.get("audit"))
    audit_table.write_table(args.table, rows)
    layout.write_for_reading(
        (args.markdown, args.latex), f"Audit, {rows[0]['audit']}", audit_table.sections(rows)
    )
    records.add_origin([args.table], args.options, [args.scores])
    log.info("audit %s: %s", rows[0]["audit"], audit_table.in_short(rows))


if __name__ == "__main__":
    program.run(main)
