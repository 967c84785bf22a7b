"""Samples that can't be had or were refused, and what their datasets tell of them.

``missing_samples: leave_out`` leaves them out of the plan, ``stop`` of none.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.acquire import refusals, sources
from pairscape.acquire.samples import ALIGNMENT_WORDS, NO_FILE
from pairscape.plan.plan import Plan

PARTS = {"bundle": "bundle", "he_image": "H&E", "he_alignment": "alignment"}


def left_out(config: Mapping, samples: Mapping[str, Mapping]) -> dict[str, str]:
    """Why each sample stays out of the datasets; none where ``missing_samples`` is stop."""
    if config["missing_samples"] == "stop":
        return {}
    reasons = {name: reason(config, row) for name, row in samples.items()}
    return {name: why for name, why in reasons.items() if why}


def reason(config: Mapping, row: Mapping[str, str]) -> str | None:
    """Why a sample can't be had, or was refused by a step; None of others."""
    refused = refused_by(config, row)
    return next(iter([*refused.values(), *absent(config, row)]), None)


def refused_by(config: Mapping, row: Mapping[str, str]) -> dict[Path, str]:
    """The refusals of a sample that still hold: none from before its row or its files changed."""
    found = {}
    for path in refusal_files(config, row):
        why = refusals.reason(path, row)
        if why and not any(_is_newer(file, path) for file in files_by_hand(config, row)):
            found[path] = why
    return found


def files_by_hand(config: Mapping, row: Mapping[str, str]) -> list[Path]:
    """The files of a sample that somebody may have put there, or mended."""
    standard = Path(config["bundles"], row["sample"])
    files = [standard / file_of(part, row["sample"]) for part in PARTS]
    files += map(Path, given_files(config, row).values())
    files += filter(None, (sources.find(config["downloads"], part, row) for part in PARTS))
    return [path for path in files if path.exists()]


def _is_newer(file: Path, other: Path) -> bool:
    """Whether a file was changed, or came to its place, after another."""
    return file.stat().st_ctime_ns > other.stat().st_ctime_ns


def refusal_files(config: Mapping, row: Mapping[str, str]) -> list[Path]:
    """Where the steps of a sample keep why they refused it; to try it again it is deleted."""
    folder = Path(config["results"], "samples", row["sample"])
    made = [Path(config["bundles"], row["sample"])]
    made += [folder / "check.json", folder / "registration.json"]
    if row["sample"] not in config["alignment"]["trusted"]:
        made.append(folder / "alignment.json")
    return [refusals.path_beside(path) for path in made]


def absent(config: Mapping, row: Mapping[str, str]) -> list[str]:
    """What of a sample nothing was made of yet is neither there nor known where to fetch."""
    if Path(config["results"], "samples", row["sample"], "check.json").exists():
        return []
    lines = [
        f"nothing at {path} (column {column})"
        for column, path in given_files(config, row).items()
        if not Path(path).exists()
    ]
    standard = Path(config["bundles"], row["sample"])
    if row["source"] == "local" and not row["bundle"] and not standard.exists():
        lines.append(f"nothing at {standard}")
    if row["source"] not in ("local", "simulated") and not row["bundle"]:
        lines += [
            f"no known address of its {PARTS[part]}"
            + " (column he_alignment may say register)" * (part == "he_alignment")
            for part in sources.unknown(row, config["downloads"])
            if not Path(standard, file_of(part, row["sample"])).exists()
        ]
    return lines


def file_of(part: str, sample: str) -> str:
    """The file of a fetched bundle that shows that a part of the sample is there."""
    return "experiment.xenium" if part == "bundle" else sample + sources.ENDINGS[part]


def given_files(config: Mapping, row: Mapping[str, str]) -> dict[str, str]:
    """The paths that a sample's row gives, by column; they start in <bundles>."""
    words = {"bundle": (), "he_image": NO_FILE, "he_alignment": ALIGNMENT_WORDS}
    return {
        column: str(Path(config["bundles"], row[column]))
        for column in PARTS
        if row[column] and row[column] not in words[column]
    }


def share_of_spots(
    sample: str, among: Iterable[str], samples: Mapping[str, Mapping]
) -> float | None:
    """The share of a sample's spots among those of others and itself, by HEST's counts, or None."""
    counts = [int(samples[name]["hest_spots"] or 0) for name in among]
    return int(samples[sample]["hest_spots"]) / sum(counts) if all(counts) else None


def lost_since(plan: Plan) -> list[str]:
    """Samples of the datasets that were refused since the plan was made."""
    used = {
        plan.whole(sample)
        for one in plan.datasets.values()
        for sample in one.samples
        if not one.is_imported
    }
    return sorted(used & left_out(plan.config, plan.samples).keys())


def told(plan: Plan, names: Iterable[str]) -> dict[str, list[str]]:
    """An option of what shows datasets: a line for each sample that one of them has lost.

    No option where there is none, so that a plan without losses is the same as ever.
    """
    lines = []
    for name in dict.fromkeys(filter(None, names)):
        lost = plan.datasets[name].lost
        for sample, why in lost.items():
            among = {*plan.datasets[name].samples, *lost}
            share = share_of_spots(sample, among, {**plan.samples, **plan.parts})
            spots = "its share of the spots is not known"
            if share is not None:
                spots = f"{100 * share:.1f} % of the spots, by HEST's counts"
            lines.append(f"{name} is without sample {sample} ({spots}): {why}")
    return {"left_out": lines} if lines else {}


def warnings(plan: Plan) -> list[str]:
    """A line for each sample that is left out, with what to delete where a step refused it."""
    lines = []
    lost = {sample: why for one in plan.datasets.values() for sample, why in one.lost.items()}
    for sample, why in sorted(lost.items()):
        row = plan.samples[plan.whole(sample)]
        kept = refused_by(plan.config, row)
        again = f"; to try it again delete {' and '.join(map(str, kept))}" if kept else ""
        lines.append(f"{plan.config['samples']}: sample {sample} is left out: {why}{again}")
    return lines
