"""Bring the retrieval scores of an experiment to one table, for spreadsheets, Markdown and LaTeX.

IN   retrieval.tsv of each dataset of the experiment
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading)

Options: experiment; expected, the planned runs (dataset, image_encoder, gene_encoder, seed each),
so that what is missing is said.
"""

from pairscape import files, program, retrieval, tables
from pairscape.errors import InputError
from pairscape.program import log

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("retrieval.tsv of each dataset"),
        table="TSV to write",
        markdown="Markdown to write",
        latex="LaTeX to write",
    )
    experiment = args.options["experiment"]
    expected = args.options.get("expected", [])
    for run in expected:
        for name in (*tables.KEYS, "seed"):
            if name not in run:
                raise InputError("--options", f"expected, {name}", "nothing", "name it")
    scores = retrieval.read_experiment_scores(args.scores, experiment)
    rows = tables.tabulate_retrieval(scores, expected)
    if not rows:
        raise InputError(args.scores[0], "rows", "no score and no planned run", "score a run first")
    sections = tables.retrieval_sections(rows)
    title = f"Retrieval, experiment {experiment}"
    tables.write_table(args.table, rows)
    for path, text in (
        (args.markdown, tables.to_markdown(title, sections)),
        (args.latex, tables.to_latex(title, sections)),
    ):
        with files.atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    missing = sum(len(row["seeds_missing"].split()) for row in rows if row["direction"] == "i2g")
    galleries = len(sections)
    log.info("%s: %d rows, %d runs missing", experiment, len(rows), missing // galleries)


if __name__ == "__main__":
    program.run(main)
