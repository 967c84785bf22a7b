"""Draw the prediction of expression before and after pretraining, donors as dots.

IN   expression.tsv of each dataset of the experiment
OUT  the figure as PNG and SVG

Options: experiment.
"""

import matplotlib

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import expression
from pairscape.jobs import program
from pairscape.report import expression_figure, style

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("expression.tsv of each dataset"),
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
    )
    experiment = args.options.get("experiment")
    if not experiment:
        raise InputError("--options", "experiment", "nothing", "name it")
    scores = expression.read_experiment_scores(args.scores, experiment)
    if not any(row["value"] is not None for row in scores):
        raise InputError(args.scores[0], "value", "no score", "score an encoder first")
    with matplotlib.rc_context(style.STYLE):
        title = f"Expression prediction, experiment {experiment}"
        style.save_figure(expression_figure.plot_scores(scores, title), args.png, args.svg)
    drawn = {(row["dataset"], row["image_encoder"], row["gene_encoder"]) for row in scores}
    log.info("%s: %d encoders and pairs drawn", experiment, len(drawn))


if __name__ == "__main__":
    program.run(main)
