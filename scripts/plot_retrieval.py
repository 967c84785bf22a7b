"""Draw the recall of an experiment's encoder pairs, with chance, intervals and seeds.

IN   retrieval.tsv of each dataset of the experiment
OUT  the figure as PNG and SVG

Options: experiment; expected, the planned runs, as for tabulate_retrieval.
"""

import matplotlib

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import retrieval
from pairscape.jobs import program
from pairscape.report import retrieval_figure, retrieval_table, style, words

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("retrieval.tsv of each dataset"),
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
    )
    experiment = args.options["experiment"]
    scores = retrieval.read_experiment_scores(args.scores, experiment)
    if not scores:
        raise InputError(args.scores[0], "rows", "no score", "score a run first")
    table = retrieval_table.tabulate_retrieval(scores, args.options.get("expected", []))
    with matplotlib.rc_context(style.STYLE):
        figure = retrieval_figure.plot_recall(table, scores, f"Retrieval, experiment {experiment}")
        style.save_figure(figure, args.png, args.svg)
    log.info(
        "%s: %d encoder pairs drawn",
        experiment,
        len({tuple(r[k] for k in words.KEYS) for r in table}),
    )


if __name__ == "__main__":
    program.run(main)
