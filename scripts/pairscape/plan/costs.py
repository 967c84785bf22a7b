"""What a job needs, by the sample table: rough, but known before any bundle is there."""

from collections.abc import Callable

from pairscape.plan.plan import Plan


def raw_gb(plan: Plan, sample: str) -> float:
    """Gigabytes of a sample's bundle and H&E by the sample table; 10 and 2 where it doesn't say."""
    row = plan.samples[sample]
    if row["source"] == "simulated":
        return 0
    return int(row["bundle_bytes"] or 10e9) / 1e9 + int(row["he_image_bytes"] or 2e9) / 1e9


def thousand_spots(plan: Plan, sample: str, preset: str | None) -> float:
    """About how many thousand spots a sample has; HEST's number of its own, 100 µm apart, tells."""
    row, spots = plan.samples[sample], plan.config["spots"].get(preset) or {}
    pitch_um = spots.get("pitch_um") or spots.get("size_um") or 55
    if row["source"] == "simulated":
        tissue = plan.config["simulations"][row["simulation"]]
        return tissue["width_um"] * tissue["height_um"] / pitch_um**2 / 1e3
    return int(row["hest_spots"] or 10_000) * (100 / pitch_um) ** 2 / 1e3


def grows(plan: Plan, base: float, gb: float = 0, kspots: float = 0) -> Callable:
    """A job's mem_mb or runtime, as a function of its wildcards and attempt.

    To ``base``, ``gb`` is added for each gigabyte of raw bundle and ``kspots`` for each thousand
    spots of the sample, or of all samples of the dataset; all of it times the attempt.
    """

    def needed(wildcards, attempt):
        dataset, sample = plan.datasets.get(wildcards.get("dataset")), wildcards.get("sample")
        samples = [sample] if sample else dataset.samples if dataset else []
        preset = wildcards.get("spots") or (dataset.spots if dataset else None)
        size = gb * sum(raw_gb(plan, name) for name in samples)
        size += kspots * sum(thousand_spots(plan, name, preset) for name in samples)
        return round((base + size) * attempt)

    return needed
