"""Gather what the runs of several results folders reached: a row for each pair, the best first.

IN   results folders with finished tables (retrieval_*.tsv, expression_*.tsv) and their runs
OUT  leaderboard.tsv, leaderboard.html

Folders whose data sets of one name differ in pairs or splits are refused.
"""

from pairscape.core import logs
from pairscape.jobs import program
from pairscape.report import leaderboard

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        folders=program.Many("results folders"),
        board=program.Output("leaderboard.tsv to write"),
        page=program.Output("leaderboard.html to write"),
    )
    rows = leaderboard.gather(args.folders)
    leaderboard.BOARD.write(args.board, rows)
    leaderboard.write_page(args.page, rows)
    datasets = {row["dataset"] for row in rows}
    words = "%s: %d pairs on %d data sets of %d folders"
    logs.log.info(words, args.board, len(rows), len(datasets), len(args.folders))


if __name__ == "__main__":
    program.run(main)
