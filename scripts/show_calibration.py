"""Show the scores of the calibration grid over what is known of the data: a table and a figure.

IN   scores of calibrate_scores, of each batch effect and seed
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading); the figure as PNG and SVG
"""

from pairscape.calibrate import calibration
from pairscape.core.logs import log
from pairscape.jobs import program, records
from pairscape.report import calibration_figure, calibration_table, layout, style

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each batch effect and seed (TSV)"),
        **program.SHOWN,
    )
    scores = calibration.read_scores(args.scores)
    if args.table:
        rows = calibration.follow(scores)
        forms, laid_out = (args.table, args.markdown, args.latex), calibration_table.sections(rows)
        layout.write(calibration_table.TABLE, forms, "Calibration", rows, laid_out)
        records.add_origin([args.table], args.options, args.scores)
        most = max(row["datasets"] for row in rows)
        log.info("%d scores, over up to %d datasets", len(rows), most)
    if args.png:
        style.draw(lambda: calibration_figure.plot_grid(scores), args.png, args.svg)


if __name__ == "__main__":
    program.run(main)
