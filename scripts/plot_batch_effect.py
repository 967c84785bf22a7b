"""Draw silhouette-batch against mean recall over the panels of an experiment.

IN   scores of score_batch_effect and retrieval.tsv, of each dataset of the experiment
OUT  the figure as PNG and SVG; the numbers behind it as TSV, for every encoder pair, gallery,
     batch and resolution, with Spearman's coefficient and its permutation p-value

Options: experiment; panels (the panel of each dataset); resolution; recall_at; pair (image and gene
encoder to draw; null draws the mean over the pairs that were scored on every dataset); seed.
"""

import matplotlib

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import batch_effect, retrieval
from pairscape.jobs import program, records
from pairscape.report import batch_effect_figure, batch_effect_table, style

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        batch_effects=program.Many("scores of score_batch_effect of each dataset (TSV)"),
        retrieval=program.Many("retrieval.tsv of each dataset"),
        png=program.Output("PNG to write"),
        svg=program.Output("SVG to write"),
        numbers=program.Output("TSV to write"),
    )
    options = {"resolution": 1.0, "recall_at": 5, "pair": None, "seed": 0, **args.options}
    for name in ("experiment", "panels"):
        if not options.get(name):
            raise InputError("--options", name, "nothing", "name it")
    experiment, panels = options["experiment"], options["panels"]
    batch_scores = [row for path in args.batch_effects for row in batch_effect.read_scores(path)]
    for dataset in dict.fromkeys(row["dataset"] for row in batch_scores):
        if dataset not in panels:
            raise InputError("--options", "panels", f"none of {dataset}", "name its panel")
    scores = retrieval.read_experiment_scores(args.retrieval, experiment)
    rows = batch_effect_table.points(
        batch_scores, scores, panels, options["recall_at"], options["seed"]
    )
    drawn = batch_effect_figure.choose(rows, options["resolution"], options["pair"])
    if not drawn:
        of = " with ".join(options["pair"]) if options["pair"] else "any encoder pair"
        raise InputError(
            args.retrieval[0],
            f"in-batch recall@{options['recall_at']} of {of}",
            f"none beside a silhouette at resolution {options['resolution']:g}",
            "score it, or name another pair, k or resolution",
        )
    batch_effect_table.write_points(args.numbers, rows)
    with matplotlib.rc_context(style.STYLE):
        title = f"Batch effects and retrieval, experiment {experiment}"
        figure = batch_effect_figure.plot_points(drawn, title)
        style.save_figure(figure, args.png, args.svg)
    records.add_origin([args.numbers], args.options, [*args.batch_effects, *args.retrieval])
    first = drawn[0]
    log.info(
        "%s: %d panels, %s",
        experiment,
        first["panels"],
        first["p_test"]
        if first["spearman"] is None
        else f"Spearman {first['spearman']:.3f}, p {first['p_value']:.3g} ({first['p_test']})",
    )


if __name__ == "__main__":
    program.run(main)
