"""Bring the retrieval scores of an experiment to tables, one per question.

IN   retrieval.tsv of each dataset of the experiment
OUT  each table as TSV (numbers), Markdown and LaTeX (for reading): how well each encoder pair
     retrieves; how well when spots nearby count; how well by donor, organ, disease state and sample;
     which encoders differ, on which donors

Options: experiment; expected, the planned runs (dataset, image_encoder, gene_encoder, seed each, and
control where it is one), so that what is missing is said.
"""

from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.evaluate import retrieval, statistics
from pairscape.jobs import program, records
from pairscape.report import comparisons, layout, retrieval_table, words

RESULT_VERSION = 3
COMPARED = ("split", "other_donors", "sample")  # galleries
FORMS = ".tsv, .md and .tex to write"


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("retrieval.tsv of each dataset"),
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
        nearby=program.OutputMany(f"optional: hits within a radius: {FORMS}"),
        groups=program.OutputMany(f"optional: by donor, organ, disease state and sample: {FORMS}"),
        comparisons=program.OutputMany(f"optional: encoders compared: {FORMS}"),
    )
    experiment = args.options["experiment"]
    expected = args.options.get("expected", [])
    for run in expected:
        for name in (*words.KEYS, "seed"):
            if name not in run:
                raise InputError("--options", f"expected, {name}", "nothing", "name it")
    for flag in ("nearby", "groups", "comparisons"):
        if getattr(args, flag) is not None and len(getattr(args, flag)) != 3:
            raise InputError(
                f"--{flag}", "number", str(len(getattr(args, flag))), f"give three: {FORMS}"
            )
    scores = retrieval.read_experiment_scores(args.scores, experiment)
    rows = retrieval_table.tabulate_retrieval(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score a run first")
    sections = retrieval_table.retrieval_sections(rows)
    title = f"Retrieval, experiment {experiment}"
    retrieval_table.write_table(args.table, rows)
    layout.write_for_reading((args.markdown, args.latex), title, sections)
    if args.nearby:
        near = retrieval_table.tabulate_retrieval(scores, expected, nearby=True)
        retrieval_table.write_table(args.nearby[0], near)
        layout.write_for_reading(
            args.nearby[1:], f"{title}: hits nearby", retrieval_table.retrieval_sections(near)
        )
    if args.groups:
        by_group = retrieval_table.tabulate_groups(scores, expected)
        retrieval_table.write_table(args.groups[0], by_group)
        layout.write_for_reading(
            args.groups[1:], f"{title}: by group", retrieval_table.group_sections(by_group)
        )
    if args.comparisons:
        metric = retrieval_table.headline(
            retrieval_table.metric_names(row["metric"] for row in scores)
        )
        compared = statistics.compare(scores, metric, COMPARED)
        retrieval_table.write_table(args.comparisons[0], compared, comparisons.COLUMNS)
        layout.write_for_reading(
            args.comparisons[1:], f"{title}: encoders compared", comparisons.sections(compared)
        )
    made = [paths[0] for paths in (args.nearby, args.groups, args.comparisons) if paths]
    records.add_origin([args.table, *made], args.options, args.scores)
    missing, failed = _runs(rows, "seeds_missing"), _runs(rows, "seeds_failed")
    log.info("%s: %d rows, %d runs missing, %d failed", experiment, len(rows), missing, failed)


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
