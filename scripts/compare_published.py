"""Set our retrieval beside the published one: difference, seeds' spread, order of the encoders.

IN   retrieval.tsv of the datasets that are scored, of one experiment or of the experiments that are
     the levels of an ablation; the published numbers (config/published/retrieval.tsv, ablations.tsv)
OUT  the table as TSV (numbers), Markdown and LaTeX (for reading); how far the encoders stand in the
     same order, as TSV

Options: name; experiments, by name: training (resolved), expected, the planned runs (dataset,
image_encoder, gene_encoder, seed each), protocol, and variants (encoders that stand for others);
datasets, by name: panel, and unlike (why its numbers don't compare with published ones; empty where
they do). Scores of an experiment that isn't named are refused; those that are missing are told.
"""

from pairscape.core.logs import log
from pairscape.evaluate import retrieval
from pairscape.jobs import program, records
from pairscape.pretrain import runs
from pairscape.report import (
    layout,
    published_gap,
    published_ranks,
    published_scores,
    published_sections,
)

RESULT_VERSION = 3


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        scores=program.Many("optional: retrieval.tsv of each dataset that is scored"),
        published="the published retrieval.tsv",
        ablations="the published ablations.tsv",
        table=program.Output("TSV to write"),
        markdown=program.Output("Markdown to write"),
        latex=program.Output("LaTeX to write"),
        ranks=program.Output("TSV to write: the order of the encoders"),
    )
    name, experiments = args.options["name"], args.options["experiments"]
    published = published_scores.read_retrieval(args.published)
    published += published_scores.read_ablations(args.ablations)
    scores = []
    for path in args.scores or []:
        rows = retrieval.read_scores(path)
        runs.check_experiment(path, rows, *experiments)
        scores += rows
    rows = published_gap.compare(published, scores, experiments, args.options["datasets"])
    forms, laid_out = (args.table, args.markdown, args.latex), published_sections.sections(rows)
    title = f"Gap to the published numbers, {name}"
    layout.write(published_gap.TABLE, forms, title, rows, laid_out, args.options)
    published_ranks.TABLE.write(args.ranks, published_ranks.agreement(rows))
    records.add_origin([args.table, args.ranks], args.options, args.scores or [])
    log.info("%s: %s", name, published_sections.in_short(rows))


if __name__ == "__main__":
    program.run(main)
