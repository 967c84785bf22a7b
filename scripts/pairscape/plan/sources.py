"""Every file that a plain run would fetch: what check_sources asks for."""

from pathlib import Path

from pairscape.acquire import sources
from pairscape.acquire.samples import NO_FILE
from pairscape.plan import datasets, missing, runs, samples
from pairscape.plan.plan import Plan

CHECKED = "audits/sources.tsv"  # of the results: the last answers of check_sources


def asked_samples(plan: Plan) -> list[str]:
    """The samples that a plain run uses, or would use if it could have them."""
    lost = {
        plan.whole(sample)
        for name in datasets.reported_datasets(plan)
        for sample in plan.datasets[name].lost
    }
    return sorted(lost | dict(samples.used_samples(plan)).keys())


def files(plan: Plan) -> list[dict]:
    """Each file of a published sample or an encoder: its address, size, and place where it is there.

    ``kind``, ``name``, ``part``, ``url``, ``bytes`` (as in the sample table), ``place`` (empty where it
    isn't on the disk), and ``encoder``, its file, of weights.
    """
    fetched = [sample for sample in asked_samples(plan) if sample in plan.fetched]
    found = [one for sample in fetched for one in _of_sample(plan, sample)]
    for path in dict.fromkeys(runs.all_weights(plan)):
        if path.endswith(".source.json"):
            continue
        kind, name, file = Path(path).parts[-3:]
        asked = {"kind": kind, "name": name, "part": file, "url": "", "bytes": ""}
        place = path if Path(path).is_file() else ""
        found.append({**asked, "place": place, "encoder": plan.encoder(kind, name)})
    return found


def _of_sample(plan: Plan, sample: str) -> list[dict]:
    row, found = plan.samples[sample], []
    standard = Path(plan.bundles, sample)
    for part in sources.PARTS:
        url = row[f"{part}_url"]
        without = part != "bundle" and row["he_image"] in NO_FILE
        if without or not (url or part in sources.needed(row)):
            continue
        there = standard / missing.file_of(part, sample)
        place = there if there.exists() else sources.find(plan.config["downloads"], part, row)
        asked = {"kind": "sample", "name": sample, "part": part, "url": url}
        found.append({**asked, "bytes": row[f"{part}_bytes"], "place": str(place or "")})
    return found
