"""Put the samples of a dataset into train, val and test, and find what one split has seen of another.

IN   audit.json of each sample's pseudo-spots, or the shards where those were imported (in the order
     of options.samples; for the spot counts); experiment.xenium of the bundles, for their slides
OUT  splits.tsv (one row per sample and split), leakage.tsv (one row per finding)

Options: dataset, split (method, seed, fractions, fold or lists, shared_donors), samples, published
(the rows of a split that is given by a table).

A gate as well: a donor or sample in two splits stops here, unless shared_donors says why it may.
"""

from pathlib import Path

from pairscape.core.errors import InputError
from pairscape.core.files import read_json
from pairscape.core.logs import log
from pairscape.dataset import leakage
from pairscape.dataset.splits import SPLITS, make_splits, write_splits
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
    if len(args.spots) != len(samples):
        raise InputError(
            "--spots",
            "files",
            f"{len(args.spots)} for {len(samples)} samples",
            "give one audit.json per sample, in the order of options.samples",
        )
    if args.experiments and len(args.experiments) != len(samples):
        raise InputError(
            "--experiments",
            "files",
            f"{len(args.experiments)} for {len(samples)} samples",
            "give one experiment.xenium per sample, in the order of options.samples, or none",
        )
    spots = {
        row["sample"]: _spot_count(path, row["sample"])
        for path, row in zip(args.spots, samples, strict=True)
    }
    place = f"datasets.{dataset}.split"
    rows = make_splits(samples, options["split"], options.get("published", ()), spots, place=place)
    facts = {row["sample"]: row for row in samples}
    experiments = map(read_json, args.experiments or [])
    slides = {row["sample"]: leakage.slide_of(row, next(experiments, None)) for row in samples}
    leaks = leakage.find_leaks(rows, facts, slides)
    leakage.refuse_leaks(leaks, place, "--options")
    write_splits(args.splits, rows)
    leakage.write_leaks(args.leakage, leaks)
    for told in leakage.describe_leaks(leaks):
        log.warning("%s: %s; acknowledged: %s", dataset, told, options["split"]["shared_donors"])
    for summary in leakage.summarise_leaks(dataset, rows, leaks, "pooled"):
        log.warning("%s: %s", dataset, leakage.summary_text(summary))
    counts = {name: [row for row in rows if row["split"] == name] for name in SPLITS}
    log.info(
        "%s: %s",
        dataset,
        ", ".join(
            f"{name} {len(of)} sample(s) of {len({row['donor'] for row in of})} donor(s) with "
            f"{sum(row['spots'] for row in of)} spots"
            for name, of in counts.items()
            if of
        ),
    )


def _spot_count(path, sample: str) -> int:
    if Path(path).suffix == ".arrow":
        from pairscape.dataset import pair_shards

        found, count = (
            pair_shards.shard_metadata(path)["sample"],
            pair_shards.read_shard_table(path).num_rows,
        )
    else:
        audit = read_json(path)
        found, count = audit.get("sample", sample), audit.get("spots")
    if found != sample:
        raise InputError(path, "sample", found, f"give the audit of {sample} in this place")
    if not isinstance(count, int) or count < 0:
        raise InputError(path, "spots", repr(count), "pool the sample again: this isn't its audit")
    return count


if __name__ == "__main__":
    program.run(main)
