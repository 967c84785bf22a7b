"""Show the batch-effect scores of datasets: a table, and a figure of them against recall.

IN   scores of score_batch_effect of each dataset; for the figure also retrieval.tsv of each
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)
     the figure as PNG and SVG, a point per panel; the numbers behind it as TSV, for every encoder pair,
     gallery, batch and resolution, with Spearman's coefficient and its permutation p-value

Options: resolution, of the clusters whose score is the main one. For the figure: experiment; panels
(the panel of each dataset); recall_at; pair (image and gene encoder to draw; null draws the mean over
the pairs that were scored on every dataset); seed.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import batch_effect, retrieval
from pairscape.jobs import program, records
from pairscape.report import batch_effect_figure, batch_effect_table, layout, style

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("scores of score_batch_effect of each dataset (TSV)"),
        retrieval=program.Many("optional: retrieval.tsv of each dataset, for the figure"),
        numbers=program.Output("optional: TSV of the figure's numbers to write"),
        **program.SHOWN,
    )
    options = {"resolution": 1.0, "recall_at": 5, "pair": None, "seed": 0, **args.options}
    if args.table:
        _tabulate(args, options["resolution"])
    if args.png:
        _draw(args, options)


def _tabulate(args, resolution: float) -> None:
    scores, paths = [], {}
    for path in args.scores:
        rows = batch_effect.read_scores(path)
        if not any(row["resolution"] == resolution for row in rows):
            raise InputError(path, "resolution", f"none of {resolution:g}", "score it again")
        for row in rows:
            dataset = row["dataset"]
            if paths.setdefault(dataset, path) != path:
                raise InputError(
                    path, "dataset", f"{dataset}, as in {paths[dataset]}", "give it once"
                )
        scores += rows
    rows = batch_effect_table.tabulate(scores, dict.fromkeys(paths, resolution))
    forms, laid_out = (args.table, args.markdown, args.latex), batch_effect_table.sections(rows)
    layout.write(batch_effect_table.TABLE, forms, "Batch effects", rows, laid_out, args.options)
    records.add_origin([args.table], args.options, args.scores)
    log.info("%d datasets, %d rows", len(paths), len(rows))


def _draw(args, options) -> None:
    for name in ("experiment", "panels"):
        if not options.get(name):
            raise InputError("--options", name, "nothing", "name it")
    experiment, panels, pair = options["experiment"], options["panels"], options["pair"]
    if not args.retrieval:
        raise InputError("--retrieval", "files", "nothing", "give those of each dataset")
    scores = [row for path in args.scores for row in batch_effect.read_scores(path)]
    for dataset in dict.fromkeys(row["dataset"] for row in scores):
        if dataset not in panels:
            raise InputError("--options", "panels", f"none of {dataset}", "name its panel")
    recalls = retrieval.read_experiment_scores(args.retrieval, experiment)
    k, resolution = options["recall_at"], options["resolution"]
    rows = batch_effect_table.points(scores, recalls, panels, k, options["seed"])
    drawn = batch_effect_figure.choose(rows, resolution, pair)
    if not drawn:
        field = f"in-batch recall@{k} of {' with '.join(pair) if pair else 'any encoder pair'}"
        fault = f"none beside a silhouette at resolution {resolution:g}"
        remedy = "score it, or name another pair, k or resolution"
        raise InputError(args.retrieval[0], field, fault, remedy)
    batch_effect_table.POINTS.write(args.numbers, rows)
    title = f"Batch effects and retrieval, experiment {experiment}"
    style.draw(lambda: batch_effect_figure.plot_points(drawn, title), args.png, args.svg)
    records.add_origin([args.numbers], args.options, [*args.scores, *args.retrieval])
    correlation = batch_effect_figure.correlation_words(drawn[0], ".3f")
    log.info("%s: %d panels, %s", experiment, drawn[0]["panels"], correlation)


if __name__ == "__main__":
    program.run(main)
