"""Show what the queries of an experiment retrieve: a good, a median and a bad one of each pair.

IN   hits.parquet of each dataset of the experiment; for the figure the shards of those datasets
OUT  the table as TSV, Markdown and LaTeX; the figure as PNG and SVG: the patches and leading genes of
     the queries and hits of each dataset's best pair

Options: experiment. For the figure: homes (whose shards a dataset has, where they aren't its own);
controls (image and gene encoder of pairs that are none to choose the best from); titles, of encoders by
kind and name.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import hits
from pairscape.jobs import program, records
from pairscape.report import hits_figure, hits_table, layout, style

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        hits=program.Many("hits.parquet of each dataset"),
        shards=program.Many("optional: the shards of the datasets, for the figure"),
        **program.SHOWN,
    )
    experiment = args.options.get("experiment")
    if not experiment:
        raise InputError("--options", "experiment", "nothing", "name it")
    firsts = hits_table.first_runs(table for path in args.hits for table in hits.read_hits(path))
    rows = hits_table.tabulate(firsts)
    title = f"What is retrieved, experiment {experiment}"
    if args.table:
        forms, laid_out = (args.table, args.markdown, args.latex), hits_table.sections(rows)
        layout.write(hits_table.TABLE, forms, title, rows, laid_out, args.options)
        records.add_origin([args.table], args.options, args.hits)
    if args.png:
        _draw(args, firsts, title)
    log.info("%s: %d queries told", experiment, len(rows))


def _draw(args, firsts: dict, title: str) -> None:
    from pairscape.dataset.pair_shards import shard_metadata

    pairs = hits_figure.best_pair(firsts, args.options.get("controls", []))
    shards = {}
    for path in args.shards or ():
        facts = shard_metadata(path)
        shards[facts["dataset"], facts["sample"]] = path
    galleries = {}
    for dataset, pair in pairs.items():
        home = args.options.get("homes", {}).get(dataset, dataset)
        samples = sorted(set(firsts[dataset, *pair, "i2g"]["sample"]))
        if lacking := [name for name in samples if (home, name) not in shards]:
            fault = f"none of {lacking[0]} in {home}"
            raise InputError("--shards", "files", fault, "give the shards of the test split")
        galleries[dataset] = hits_figure.Gallery({name: shards[home, name] for name in samples})
    titles = args.options.get("titles", {})
    style.draw(
        lambda: hits_figure.plot_hits(firsts, galleries, pairs, title, titles), args.png, args.svg
    )


if __name__ == "__main__":
    program.run(main)
