"""Draw the scores of the calibration grid over what is known of the data.

IN   scores of calibrate_scores, of each batch effect and seed
OUT  the figure as PNG and SVG
"""

import matplotlib

from pairscape.calibrate import calibration
from pairscape.jobs import program
from pairscape.report import calibration_figure, style

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of each batch effect and seed (TSV)"),
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
    )
    rows = calibration.read_scores(args.scores)
    with matplotlib.rc_context(style.STYLE):
        style.save_figure(calibration_figure.plot_grid(rows), args.png, args.svg)


if __name__ == "__main__":
    program.run(main)
