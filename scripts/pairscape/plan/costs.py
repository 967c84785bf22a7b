"""What a job needs, by the sample table: rough, but known before any bundle is there."""

from collections.abc import Callable, Sequence

from pairscape.plan import runs
from pairscape.plan.plan import Plan


def raw_gb(plan: Plan, sample: str) -> float:
    """Gigabytes of a sample's bundle and H&E by the sample table; 10 and 2 where it doesn't say."""
    row = plan.row(sample)
    if row["source"] == "simulated":
        return 0
    return int(row["bundle_bytes"] or 10e9) / 1e9 + int(row["he_image_bytes"] or 2e9) / 1e9


def thousand_spots(plan: Plan, sample: str, preset: str | None) -> float:
    """About how many thousand spots a sample has; HEST's number of its own, 100 µm apart, tells."""
    row, spots = plan.row(sample), plan.config["spots"].get(preset) or {}
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
        size += kspots * _all_spots(plan, samples, preset)
        return round((base + size) * attempt)

    return needed


def _all_spots(plan: Plan, samples: Sequence[str], preset: str | None) -> float:
    return sum(thousand_spots(plan, name, preset) for name in samples)


# Of a process of a training, in MB: torch with CUDA; a reader of patches with what waits from it.
# Rough: no GPU was at hand to measure them.
_PROCESS_MB, _READER_MB = 4000, 600
_READERS = 8  # of a device, where training.loader_workers is null and patches are read


def training_mb(plan: Plan, run, attempt: int) -> int:
    """mem_mb of a pretraining: it grows with the processes of a node, their readers and weights.

    ``run`` has the attributes ``experiment``, ``dataset``, ``image`` and ``gene``, as wildcards have.
    """
    training = plan.experiments[run.experiment].training
    frozen = runs.frozen_sides(plan, run.experiment, run.gene)
    readers = training["loader_workers"]
    if readers is None:
        readers = 0 if frozen["image"] else _READERS
    names = {"image": run.image, "gene": run.gene}
    specs = [plan.encoders[kind][name] for kind, name in names.items() if not frozen[kind]]
    # Read from the file and built, 4 bytes a number, before they go to the device.
    weights_mb = sum(2 * 4 * (spec["parameters"] or 0) / 1e6 for spec in specs)
    each = _PROCESS_MB + readers * _READER_MB + weights_mb
    dataset = plan.datasets[run.dataset]
    shared = 12_000 + 20 * _all_spots(plan, dataset.samples, dataset.spots)
    return round((shared + training["devices"] * each) * attempt)
