"""Draw what each flag of an audit does to recall, in batches and in the whole split.

IN   scores of score_audit
OUT  the figure as PNG and SVG

Options: audit.
"""

import matplotlib

from pairscape.audit import flag_effects
from pairscape.jobs import program
from pairscape.report import audit_figure, style

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores="scores of score_audit (TSV)",
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
    )
    rows = flag_effects.read_scores(args.scores, args.options.get("audit"))
    with matplotlib.rc_context(style.STYLE):
        style.save_figure(audit_figure.plot_differences(rows), args.png, args.svg)


if __name__ == "__main__":
    program.run(main)
