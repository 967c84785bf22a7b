"""Audit the splits of the published panels and of every dataset, from tables alone.

IN   the sample table, the table of the published splits, what published encoders were fitted on
OUT  leakage.tsv of each dataset; leakage_summary.tsv, how much of each split a finding touches;
     donor_splits.tsv, for each panel a split by donors or the word why there is none

Options: datasets (name, panel, split, samples, rows and words of each), panels, seed, fractions.

No bundle is needed, so spots are those that HEST counted (another pitch: good for shares). Nothing
is refused here: what a run would refuse is told as an error.
"""

from pairscape.acquire.samples import read_samples
from pairscape.core.errors import InputError, one_each
from pairscape.core.logs import log
from pairscape.core.tsv import Table, counts, read_tsv, text
from pairscape.dataset import leakage
from pairscape.dataset.splits import SPLITS, make_splits
from pairscape.jobs import program

RESULT_VERSION = 1
DONOR_SPLITS = Table(
    "donor_splits.tsv",
    "audit_splits",
    (
        *text(panel="the published panel", possible="whether it can be split by donors: yes or no"),
        *counts(
            samples="its samples",
            donors="groups of samples whose donors may be one",
            donors_known="donors that a source names",
        ),
        *text(
            **{
                f"{split}_{what}": f"{what} that {split} holds"
                for split in SPLITS
                for what in ("share", "donors", "samples")
            }
        ),
        *text(shares_of="what the shares are of", word="why there is none, or what isn't known"),
    ),
)


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        samples="the sample table",
        fitted_on="optional: what published encoders were fitted on (encoder, panel, sample)",
        leakage=program.OutputMany("leakage.tsv to write, in the order of options.datasets"),
        summary=program.Output("leakage_summary.tsv to write"),
        donor_splits=program.Output("donor_splits.tsv to write"),
    )
    options = args.options
    samples = read_samples(args.samples)
    fitted_on = []
    if args.fitted_on:
        fitted_on = read_tsv(args.fitted_on, ["encoder", "panel", "sample", "evidence"])
    one_each(args.leakage, options["datasets"], "--leakage", "datasets")
    summaries = []
    for path, dataset in zip(args.leakage, options["datasets"], strict=True):
        rows, facts = _rows(dataset, samples, args.samples)
        slides = {name: leakage.slide_of(row) for name, row in facts.items()}
        panel_fits = [row for row in fitted_on if row["panel"] == dataset["panel"]]
        leaks = leakage.find_leaks(rows, facts, slides, panel_fits)
        leakage.LEAKAGE.write(path, leaks)
        summary = leakage.summarise_leaks(dataset["name"], rows, leaks, "counted by HEST")
        summaries += summary
        for row in summary:
            if row["finding"] in leakage.HARD:
                log.info("%s: %s", row["level"], f"{dataset['name']}: {leakage.summary_text(row)}")
        if not any(row["finding"] in leakage.HARD for row in summary):
            soft = "; ".join(map(leakage.summary_text, summary)) or "no finding"
            log.info("%s: no donor is known to stand in two splits (%s)", dataset["name"], soft)
    leakage.SUMMARY.write(args.summary, summaries)
    donor_splits = [_donor_split(panel, samples, options) for panel in options["panels"]]
    DONOR_SPLITS.write(args.donor_splits, donor_splits)
    for row in donor_splits:
        log.info("%s: donor split %s: %s", row["panel"], row["possible"], row["word"])


def _rows(dataset: dict, samples: dict, table) -> tuple[list[dict], dict]:
    """The rows of a dataset's splits (also such that a run would refuse), and its samples."""
    if missing := [sample for sample in dataset["samples"] if sample not in samples]:
        remedy = f"add {missing[0]} or drop it"
        raise InputError(table, "column sample", f"no {missing[0]}", remedy)
    facts = {sample: samples[sample] for sample in dataset["samples"]}
    split, spots = dataset["split"], _spots(facts)
    if split["method"] in ("donor", "leave_one_donor_out"):
        placed = make_splits(list(facts.values()), split, (), spots)
    elif split["method"] == "listed":
        placed = [{"sample": s, "split": name} for name in SPLITS for s in split[name]]
    else:
        placed = dataset["rows"]
    pairs = {(row["sample"], row["split"]) for row in placed}
    words = split.get("shared_donors") or ""
    return [
        {
            **facts[sample],
            "split": name,
            "spots": int(facts[sample]["hest_spots"] or 0) or None,
            "shared_donors": words,
        }
        for sample, name in sorted(pairs, key=lambda pair: (leakage.split_order(pair[1]), pair[0]))
    ], facts


def _spots(facts: dict) -> dict[str, int] | None:
    """HEST's spot counts, or None where one is missing."""
    spots = {name: int(row["hest_spots"] or 0) for name, row in facts.items()}
    return spots if all(spots.values()) else None


def _donor_split(panel: str, samples: dict, options: dict) -> dict:
    """One row of donor_splits.tsv."""
    facts = {name: row for name, row in samples.items() if row["panel"] == panel}
    spots = _spots(facts)
    group = leakage.donor_group(facts.values())
    donors = set(group.values())
    unknown = sorted(name for name, row in facts.items() if leakage.is_placeholder(row))
    row = {
        "panel": panel,
        "possible": "yes",
        "samples": len(facts),
        "donors": len(donors),
        "donors_known": len({r["donor"] for r in facts.values() if not leakage.is_placeholder(r)}),
        "shares_of": "spots counted by HEST" if spots else "samples (not all have HEST's count)",
    }
    split = {"method": "donor", "seed": options["seed"], "fractions": options["fractions"]}
    try:
        made = make_splits(list(facts.values()), split, (), spots)
    except InputError as error:
        empty = dict.fromkeys(DONOR_SPLITS.names, "")
        word = f"can't be: {error.found}"
        return {**empty, **row, "possible": "no", "shares_of": "", "word": word}
    sizes = {name: (spots or dict.fromkeys(facts, 1))[name] for name in facts}
    for name in SPLITS:
        placed = [r["sample"] for r in made if r["split"] == name]
        row[f"{name}_share"] = f"{sum(sizes[s] for s in placed) / sum(sizes.values()):.4f}"
        row[f"{name}_donors"] = ", ".join(sorted({group[s] for s in placed}))
        row[f"{name}_samples"] = ", ".join(placed)
    word = "every donor is named by a source"
    if unknown:
        word = (
            f"no source names the donor of {len(unknown)} of {len(facts)} samples "
            f"({', '.join(unknown)}): those of one title are kept together, and nothing tells "
            "whether others are of one donor"
        )
    return {**row, "word": word}


if __name__ == "__main__":
    program.run(main)
