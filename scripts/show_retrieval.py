"""Show the retrieval scores of an experiment: tables, one per question, and a figure.

IN   retrieval.tsv of each dataset of the experiment
OUT  each table as TSV (numbers), Markdown and LaTeX (for reading): how well each encoder pair
     retrieves; how well when spots nearby count; how well by donor, organ, disease state and sample;
     which encoders differ, on which donors
     the figure as PNG and SVG: recall of the pairs, with chance, intervals and seeds

Options: experiment; expected, the planned runs (dataset, image_encoder, gene_encoder, seed each, and
control where it is one), so that what is missing is said; titles, of encoders by kind and name.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import retrieval, statistics
from pairscape.jobs import program, records
from pairscape.report import (
    comparisons,
    layout,
    retrieval_figure,
    retrieval_sections,
    retrieval_table,
    style,
    words,
)

RESULT_VERSION = 4
COMPARED = ("split", "other_donors", "sample")  # galleries
FORMS = ".tsv, .md and .tex to write"


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("retrieval.tsv of each dataset"),
        nearby=program.OutputMany(f"optional: hits within a radius: {FORMS}"),
        groups=program.OutputMany(f"optional: by donor, organ, disease state and sample: {FORMS}"),
        comparisons=program.OutputMany(f"optional: encoders compared: {FORMS}"),
        **program.SHOWN,
    )
    experiment = args.options["experiment"]
    expected = words.expected_runs(args.options, (*words.KEYS, "seed"))
    for flag in ("nearby", "groups", "comparisons"):
        if getattr(args, flag) is not None and len(getattr(args, flag)) != 3:
            count = str(len(getattr(args, flag)))
            raise InputError(f"--{flag}", "number", count, f"give three: {FORMS}")
    scores = retrieval.read_experiment_scores(args.scores, experiment)
    rows = retrieval_table.tabulate_retrieval(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score a run first")
    title = f"Retrieval, experiment {experiment}"
    if args.table:
        made = _write_tables(args, title, rows, scores, expected)
        records.add_origin(made, args.options, args.scores)
    if args.png:
        if not scores:
            raise InputError(args.scores[0], "rows", "no score", "score a run first")
        titles = args.options.get("titles", {})
        style.draw(
            lambda: retrieval_figure.plot_recall(rows, scores, title, titles), args.png, args.svg
        )
    missing, failed = _runs(rows, "seeds_missing"), _runs(rows, "seeds_failed")
    log.info("%s: %d rows, %d runs missing, %d failed", experiment, len(rows), missing, failed)


def _write_tables(args, title: str, rows, scores, expected) -> list:
    """Write the tables that are asked for; return the TSV files."""
    main_forms = (args.table, args.markdown, args.latex)
    laid_out = retrieval_sections.retrieval_sections(rows)
    layout.write(retrieval_table.TABLE, main_forms, title, rows, laid_out, args.options)
    if args.nearby:
        near = retrieval_table.tabulate_retrieval(scores, expected, nearby=True)
        laid_out = retrieval_sections.retrieval_sections(near)
        layout.write(
            retrieval_table.TABLE,
            args.nearby,
            f"{title}: hits nearby",
            near,
            laid_out,
            args.options,
        )
    if args.groups:
        by_group = retrieval_table.tabulate_groups(scores, expected)
        laid_out = retrieval_sections.group_sections(by_group)
        layout.write(
            retrieval_table.GROUPS,
            args.groups,
            f"{title}: by group",
            by_group,
            laid_out,
            args.options,
        )
    if args.comparisons:
        names = retrieval_table.metric_names(row["metric"] for row in scores)
        compared = statistics.compare(scores, retrieval_table.headline(names), COMPARED)
        laid_out = comparisons.sections(compared)
        compared_title = f"{title}: encoders compared"
        layout.write(
            comparisons.TABLE, args.comparisons, compared_title, compared, laid_out, args.options
        )
    others = (args.nearby, args.groups, args.comparisons)
    return [args.table, *(paths[0] for paths in others if paths)]


def _runs(rows, column) -> int:
    """How many runs a column of seeds names, each once whatever the galleries and directions."""
    named = {
        (*(row[key] for key in words.KEYS), seed)
        for row in rows
        for seed in row[column].replace(";", "").split()
        if seed.isdigit()
    }
    return len(named)


if __name__ == "__main__":
    program.run(main)
