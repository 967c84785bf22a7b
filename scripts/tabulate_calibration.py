"""Bring the scores of the calibration grid to one table, for spreadsheets, Markdown and LaTeX.

IN   scores of calibrate_scores, of each batch effect and seed
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)
"""

from pairscape.calibrate import calibration
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import calibration_table, layout

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each batch effect and seed (TSV)"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
    )
    rows = calibration.follow(calibration.read_scores(args.scores))
    calibration_table.write_table(args.table, rows)
    layout.write_for_reading(
        (args.markdown, args.latex), "Calibration", calibration_table.sections(rows)
    )
    records.add_origin([args.table], args.options, args.scores)
    log.info("%d scores, over up to %d datasets", len(rows), max(row["datasets"] for row in rows))


if __name__ == "__main__":
    program.run(main)
