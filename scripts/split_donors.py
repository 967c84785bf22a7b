"""Put the samples of a dataset into train, val and test, and find what one split has seen of another.

IN   audit.json of each sample's pseudo-spots, or the shards where those were imported (in the order
     of options.samples; for the spot counts); experiment.xenium of the bundles, for their slides
OUT  splits.tsv (one row per sample and split), leakage.tsv (one row per finding)

Options: dataset, split (method, seed, fractions, fold or lists, shared_donors), samples, published
(the rows of a split that is given by a table).

A gate as well: a donor or sample in two splits stops here, unless shared_donors says why it may.
"""

from pathlib import Path

from pairscape.core.errors import InputError, one_each
from pairscape.core.files import read_json
from pairscape.core.logs import log
from pairscape.dataset import leakage
from pairscape.dataset.splits import SPLITS, SPLITS_TABLE, make_splits
from pairscape.jobs import program

RESULT_VERSION = 2


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots=program.Many("audit.json of each sample's spots, or its shard"),
        experiments=program.Many("optional: experiment.xenium of each bundle"),
        splits=program.Output("splits.tsv to write"),
        leakage=program.Output("leakage.tsv to write"),
    )
    options = args.options
    dataset, samples = options["dataset"], options["samples"]
    one_each(args.spots, samples, "--spots")
    if args.experiments:
        one_each(args.experiments, samples, "--experiments")
    spots = {
        row["sample"]: _spot_count(path, row["sample"])
        for path, row in zip(args.spots, samples, strict=True)
    }
    place = f"datasets.{dataset}.split"
    rows = make_splits(samples, options["split"], options.get("published", ()), spots, place=place)
    facts = {}
    slides = {}
    experiments = [read_json(path) for path in args.experiments or []] or [None] * len(samples)
    for row, experiment in zip(samples, experiments, strict=True):
        facts[row["sample"]] = row | {"experiment": leakage.experiment_of(experiment)}
        slides[row["sample"]] = leakage.slide_of(row, experiment)
    leaks = leakage.find_leaks(rows, facts, slides)
    leakage.refuse_leaks(leaks, place, "--options")
    SPLITS_TABLE.write(args.splits, rows)
    leakage.LEAKAGE.write(args.leakage, leaks)
    for leak in leakage.describe_leaks(leaks):
        log.warning("%s: %s; acknowledged: %s", dataset, leak, options["split"]["shared_donors"])
    for summary in leakage.summarise_leaks(dataset, rows, leaks, "pooled"):
        log.warning("%s: %s", dataset, leakage.summary_text(summary))
    for name in SPLITS:
        if placed := [row for row in rows if row["split"] == name]:
            donors, spots = {row["donor"] for row in placed}, sum(row["spots"] for row in placed)
            words = "%s: %s %d sample(s) of %d donor(s) with %d spots"
            log.info(words, dataset, name, len(placed), len(donors), spots)


def _spot_count(path, sample: str) -> int:
    if Path(path).suffix == ".arrow":
        from pairscape.dataset.shards import Shards

        shard = Shards.open([path])
        stated, count = shard.samples[0], shard.row_counts[0]
    else:
        audit = read_json(path)
        stated, count = audit.get("sample", sample), audit.get("spots")
    if stated != sample:
        raise InputError(path, "sample", stated, f"give the audit of {sample} in this place")
    if not isinstance(count, int) or count < 0:
        raise InputError(path, "spots", repr(count), "pool the sample again: this isn't its audit")
    return count


if __name__ == "__main__":
    program.run(main)
