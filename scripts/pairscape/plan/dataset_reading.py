"""Reading the datasets of a configuration: what they take from each other, samples, splits."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from pairscape.acquire.samples import FROM_BUNDLE, NO_FILE
from pairscape.core.errors import InputError, one_of
from pairscape.core.splits import SPLITS, part_name
from pairscape.dataset import splits
from pairscape.plan import datasets
from pairscape.plan.plan import Dataset


def inherit(name: str, datasets: Mapping, source) -> None:
    """Give a dataset what it takes from ``shards_of``, and refuse what is missing or too much."""
    place, dataset = f"datasets.{name}", datasets[name]
    needed = ("panel", "spots", "patches")
    if dataset["shards_of"]:
        base = dataset["shards_of"]
        bases = [other for other in datasets if not datasets[other]["shards_of"]]
        one_of(base, bases, source, f"{place}.shards_of", "datasets with shards of their own")
        for key in (*needed, "source", "published_data", "min_panel_share"):
            value = datasets[base].get(key)
            if key in needed and dataset.get(key, value) != value:
                fault = f"{dataset[key]!r}, where {base} has {value!r}"
                remedy = "leave it out, or drop shards_of: its shards are those of that dataset"
                raise InputError(source, f"{place}.{key}", fault, remedy)
            if value is not None or key in dataset:
                dataset[key] = value
        return
    if dataset["source"] == "published":
        needed = ("panel",)
    for key in needed:
        if not dataset.get(key):
            raise InputError(source, place, f"no key {key!r}", f"add {key}")
    excess = ("spots", "patches") if dataset["source"] == "published" else ("published_data",)
    for key in excess:
        if dataset.get(key):
            given = f"a value, with source {dataset['source']}"
            raise InputError(source, f"{place}.{key}", given, "leave it out")


def part_rows(config: Mapping, samples: Mapping[str, Mapping], source) -> dict[str, dict]:
    """The rows of the blocks that sections are split into, by name; else as those of the samples."""
    parts = {}
    for name, dataset in config["datasets"].items():
        if dataset["split"]["method"] != "within_sample":
            continue
        if dataset["shards_of"]:
            fault = f"{dataset['shards_of']!r}, with method within_sample"
            remedy = "leave it out: blocks of a section have shards of their own"
            raise InputError(source, f"datasets.{name}.shards_of", fault, remedy)
        for sample in _whole_samples(config, samples, name):
            one_of(sample, samples, source, f"datasets.{name}.samples", "samples of the table")
            row = samples[sample]
            for split in SPLITS:
                part = part_name(sample, split)
                if part in samples:
                    fault = f"sample {part}, and a block of {sample} of that name"
                    raise InputError(source, f"datasets.{name}.split", fault, "rename the sample")
                bundle = row["bundle"] or sample
                facts = {"sample": part, "bundle": bundle, "part_of": sample, "part": split}
                parts[part] = {**row, **facts}
    return parts


def read_dataset(
    name: str,
    config: Mapping,
    source,
    samples: Mapping[str, Mapping],
    left_out: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """A dataset with its samples, checked: presets, panel, samples, and that its split can be made.

    Samples that are ``left_out``, with the reason, leave it, unless its pairs are imported.
    """
    options, place = config["datasets"][name], f"datasets.{name}"
    if options["source"] != "published":
        one_of(options["spots"], config["spots"], source, f"{place}.spots", "spot presets")
        one_of(options["patches"], config["patches"], source, f"{place}.patches", "patch presets")
    lists = f"gene lists in {config['panels']}"
    panels = [*datasets.panel_names(config), FROM_BUNDLE]
    one_of(options["panel"], panels, source, f"{place}.panel", lists)
    split = options["split"]
    if split["method"] == "file" and not split["file"]:
        raise InputError(source, f"{place}.split", "no key 'file'", "name the table of the split")
    chosen = _dataset_samples(config, samples, name)
    for sample in chosen:
        one_of(sample, samples, source, f"{place}.samples", f"samples of {config['samples']}")
        _check_sample(samples[sample], place, options, config["samples"], source)
    if not chosen:
        remedy = f"add rows to {config['samples']} or list samples"
        raise InputError(source, f"{place}.panel", f"no sample of panel {options['panel']}", remedy)
    base = options["shards_of"]
    known = _dataset_samples(config, samples, base) if base else chosen
    for sample in chosen:
        one_of(sample, known, source, f"{place}.samples", f"samples of {base}")
    lost = {} if options["source"] == "published" else left_out
    lost = {sample: lost[sample] for sample in chosen if sample in lost}
    rows = datasets.split_rows(config, name)
    if lost:
        split = _without(lost, split, rows, f"{place}.split", source)
        rows = [row for row in rows if row["sample"] not in lost]
        chosen = [sample for sample in chosen if sample not in lost]
    placed = splits.make_splits(
        [_with_real_bundle(samples[sample], config["bundles"]) for sample in chosen],
        {**split, "seed": config["seed"]},
        rows,
        place=f"{place}.split",
        source=str(source),
    )
    given = {"spots": None, "patches": None, **options, "split": split, "samples": tuple(chosen)}
    return Dataset(**given, filled_splits=frozenset(row["split"] for row in placed), lost=lost)


def _without(
    lost: Mapping[str, str], split: Mapping, rows: Iterable[Mapping], place, source
) -> dict:
    """A split whose lists are without lost samples; one that is left without samples is refused."""
    pairs = {(row["sample"], row["split"]) for row in rows}
    if split["method"] == "listed":
        pairs = {(sample, name) for name in SPLITS for sample in split[name]}
    for name in SPLITS:
        held = sorted(sample for sample, placed in pairs if placed == name)
        if held and lost.keys() >= set(held):
            reasons = "; ".join(f"{sample} is left out: {lost[sample]}" for sample in held)
            fault = f"no sample in its split {name} ({reasons})"
            remedy = f"get one of them, or put another into {name}, or take the dataset out"
            raise InputError(source, place, fault, remedy)
    kept = {name: [s for s in split[name] if s not in lost] for name in SPLITS}
    return {**split, **kept} if split["method"] == "listed" else dict(split)


def _with_real_bundle(row: Mapping, bundles) -> Mapping:
    """The row with the path at which its bundle lies: two paths may lead to one bundle."""
    return row | {"bundle": os.path.realpath(Path(bundles, row["bundle"] or row["sample"]))}


def _check_sample(row: Mapping, place: str, options: Mapping, table, source) -> None:
    """A sample of a dataset has an H&E, or a scale where its pairs are imported; and its panel."""
    name, imports = row["sample"], options["source"] == "published"
    if row["he_image"] in NO_FILE and not imports:
        fault = f"`none`, but {place} of {source} wants image-gene pairs of it"
        remedy = "give its H&E image or take it out of that dataset"
        raise InputError(table, f"sample {name}, column he_image", fault, remedy)
    if imports and not float(row["he_um_per_px"] or 0):
        fault = f"nothing, but {place} of {source} imports its pairs, which don't tell their scale"
        remedy = "give the µm per pixel of its H&E"
        raise InputError(table, f"sample {name}, column he_um_per_px", fault, remedy)
    if row["panel"] != options["panel"]:
        fault = f"{name}, measured with panel {row['panel']}"
        remedy = f"list only samples of panel {options['panel']}"
        raise InputError(source, f"{place}.samples", fault, remedy)


def _dataset_samples(config: Mapping, samples: Mapping[str, Mapping], name: str) -> list[str]:
    """The samples of a dataset, sorted, or their blocks."""
    whole = _whole_samples(config, samples, name)
    if config["datasets"][name]["split"]["method"] != "within_sample":
        return whole
    return sorted(part_name(sample, split) for sample in whole for split in SPLITS)


def _whole_samples(config: Mapping, samples: Mapping[str, Mapping], name: str) -> list[str]:
    """The samples that a dataset lists, or else those that its split or panel implies."""
    dataset = config["datasets"][name]
    method = dataset["split"]["method"]
    if dataset.get("samples"):
        chosen = dataset["samples"]
    elif method == "listed":
        chosen = {sample for split in SPLITS for sample in dataset["split"][split]}
    elif method in ("published", "file"):
        chosen = {row["sample"] for row in datasets.split_rows(config, name)}
    elif dataset["shards_of"]:
        return _dataset_samples(config, samples, dataset["shards_of"])
    elif dataset["source"] == "published":
        chosen = {row["sample"] for row in datasets.published_rows(config, dataset["panel"])}
    else:
        chosen = {
            key
            for key, row in samples.items()
            if row["panel"] == dataset["panel"] and "part_of" not in row
        }
    return sorted(chosen)


def check_overlay_gene(config: Mapping, source) -> None:
    """The gene of the QC figures is one of a panel that is used."""
    gene = config["overlay_gene"]
    panels = {dataset["panel"] for dataset in config["datasets"].values()}
    if FROM_BUNDLE in panels:  # show_spots knows the genes
        return
    if gene and not any(gene in datasets.panel_genes(config, panel) for panel in panels):
        remedy = f"name a gene of {', '.join(sorted(panels))}, or null"
        raise InputError(source, "overlay_gene", repr(gene), remedy)
