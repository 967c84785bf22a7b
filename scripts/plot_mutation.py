"""Draw the scores of one slide-level prediction, with folds, intervals and chance.

IN   the scores of an entry of `mutation`
OUT  the figure as PNG and SVG

Options: mutation; expected, the planned runs, as for tabulate_mutation.
"""

import matplotlib

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.jobs import program
from pairscape.report import mutation_figure, mutation_table, style
from pairscape.slides import mutation_scores

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores="scores of the entry",
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
    )
    mutation = args.options["mutation"]
    scores = mutation_scores.read_scores(args.scores)
    scores = [row for row in scores if row["mutation"] == mutation]
    if not scores:
        raise InputError(args.scores, "rows", f"no score of {mutation}", "score it first")
    table = mutation_table.tabulate_mutation(scores, args.options.get("expected", []))
    with matplotlib.rc_context(style.STYLE):
        sites = "leaked" if scores[0]["leaking"] == "true" else "preserved"
        title = f"Slide-level prediction, {mutation} (sites {sites})"
        figure = mutation_figure.plot_mutation(table, scores, title)
        style.save_figure(figure, args.png, args.svg)
    log.info("%s: %d rows drawn", mutation, len(table))


if __name__ == "__main__":
    program.run(main)
