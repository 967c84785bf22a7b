"""Put the samples of a dataset into train, val and test, and find what stands in two of them.

IN   audit.json of each sample's pseudo-spots (in the order of options.samples; for the spot counts)
OUT  splits.tsv (one row per sample and split), leakage.tsv (one row per shared donor or sample)

Options: dataset, split (method, seed, fractions or lists, shared_donors), samples, published.
"""

from pairscape import program
from pairscape.errors import InputError
from pairscape.files import read_json
from pairscape.program import log
from pairscape.splits import (
    SPLITS,
    describe_leaks,
    find_leaks,
    make_splits,
    write_leaks,
    write_splits,
)

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots=program.Many("audit.json of each sample's spots"),
        splits="splits.tsv to write",
        leakage="leakage.tsv to write",
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
    spots = {
        row["sample"]: _spot_count(path, row["sample"])
        for path, row in zip(args.spots, samples, strict=True)
    }
    rows = make_splits(
        samples,
        options["split"],
        options.get("published", ()),
        spots,
        place=f"datasets.{dataset}.split",
    )
    leaks = find_leaks(rows)
    write_splits(args.splits, rows)
    write_leaks(args.leakage, leaks)
    for told in describe_leaks(leaks):
        log.warning("%s: %s; acknowledged: %s", dataset, told, leaks[0]["acknowledged"])
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
    audit = read_json(path)
    if audit.get("sample", sample) != sample:
        raise InputError(
            path, "sample", audit["sample"], f"give the audit of {sample} in this place"
        )
    count = audit.get("spots")
    if not isinstance(count, int) or count < 0:
        raise InputError(path, "spots", repr(count), "pool the sample again: this isn't its audit")
    return count


if __name__ == "__main__":
    program.run(main)
