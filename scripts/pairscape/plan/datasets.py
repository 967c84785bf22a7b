"""The datasets of a configuration: samples, splits and panels."""

from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire.samples import NO_FILE
from pairscape.core.errors import InputError, one_of
from pairscape.core.tsv import read_tsv
from pairscape.dataset import splits


def dataset_samples(config: Mapping, samples: Mapping[str, Mapping], name: str) -> list[str]:
    """The samples of a dataset, sorted: those it lists, or else those its split or panel implies."""
    dataset = config["datasets"][name]
    method = dataset["split"]["method"]
    if dataset.get("samples"):
        chosen = dataset["samples"]
    elif method == "listed":
        chosen = {sample for split in splits.SPLITS for sample in dataset["split"][split]}
    elif method in ("published", "file"):
        chosen = {row["sample"] for row in split_rows(config, name)}
    elif dataset["shards_of"]:
        return dataset_samples(config, samples, dataset["shards_of"])
    elif dataset["source"] == "published":
        chosen = {row["sample"] for row in published_rows(config, dataset["panel"])}
    else:
        chosen = {key for key, row in samples.items() if row["panel"] == dataset["panel"]}
    return sorted(chosen)


def split_rows(config: Mapping, name: str) -> list[dict[str, str]]:
    """The rows of ``sample`` and ``split`` that a dataset's split is given by, if it is by a table."""
    dataset = config["datasets"][name]
    split = dataset["split"]
    if split["method"] == "published":
        return published_rows(config, dataset["panel"])
    if split["method"] == "file":
        rows = read_tsv(split["file"], ["sample", "split"])
        return [{"sample": row["sample"], "split": row["split"]} for row in rows]
    return []


def published_splits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of published splits; none where the table isn't there."""
    path = config["published_splits"]
    return read_tsv(path, ["panel", "sample", "split"]) if Path(path).exists() else []


def published_fits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of what published encoders were fitted on; none where it isn't there."""
    path = config["published_fits"]
    return read_tsv(path, ["encoder", "panel", "sample"]) if Path(path).exists() else []


def published_rows(config: Mapping, panel: str) -> list[dict[str, str]]:
    """The published train, val and test samples of a panel, as rows of ``sample`` and ``split``."""
    rows = read_tsv(config["published_splits"], ["panel", "sample", "split"])
    return [
        {"sample": row["sample"], "split": row["split"]}
        for row in rows
        if row["panel"] == panel and row["split"] in splits.SPLITS
    ]


def panel_genes(config: Mapping, panel: str) -> list[str]:
    """The gene symbols of a panel's list."""
    rows = read_tsv(Path(config["panels"]) / f"{panel}.tsv", ["gene_symbol", "ensembl_id"])
    return [row["gene_symbol"] for row in rows]


def inherit(name: str, datasets: Mapping, source) -> None:
    """Give a dataset what it takes from ``shards_of``, and refuse what is missing or too much."""
    place, dataset = f"datasets.{name}", datasets[name]
    taken = ("panel", "spots", "patches", "source", "published_data", "min_panel_share")
    if dataset["shards_of"]:
        base = dataset["shards_of"]
        own = [other for other in datasets if not datasets[other]["shards_of"]]
        one_of(base, own, source, f"{place}.shards_of", "datasets with shards of their own")
        for key in taken:
            value = datasets[base].get(key)
            if key in taken[:3] and dataset.get(key, value) != value:
                raise InputError(
                    source,
                    f"{place}.{key}",
                    f"{dataset[key]!r}, where {base} has {value!r}",
                    "leave it out, or drop shards_of: its shards are those of that dataset",
                )
            if value is not None or key in dataset:
                dataset[key] = value
        return
    needed = ("panel", "published_data") if dataset["source"] == "published" else taken[:3]
    for key in needed:
        if not dataset.get(key):
            raise InputError(source, place, f"no key {key!r}", f"add {key}")
    for key in ("spots", "patches", "published_data"):
        if key not in needed and dataset.get(key):
            raise InputError(
                source,
                f"{place}.{key}",
                f"a value, with source {dataset['source']}",
                "leave it out",
            )


def check_dataset(place: str, dataset: Mapping, config: Mapping, source, samples) -> None:
    name = place.split(".", 1)[1]
    imported = dataset["source"] == "published"
    if not imported:
        one_of(dataset["spots"], config["spots"], source, f"{place}.spots", "spot presets")
        one_of(dataset["patches"], config["patches"], source, f"{place}.patches", "patch presets")
    panels = sorted(path.stem for path in Path(config["panels"]).glob("*.tsv"))
    one_of(dataset["panel"], panels, source, f"{place}.panel", f"gene lists in {config['panels']}")
    if dataset["split"]["method"] == "file" and not dataset["split"]["file"]:
        raise InputError(source, f"{place}.split", "no key 'file'", "name the table of the split")
    chosen = dataset_samples(config, samples, name)
    for sample in chosen:
        one_of(sample, samples, source, f"{place}.samples", f"samples of {config['samples']}")
        if samples[sample]["he_image"] in NO_FILE and not imported:
            raise InputError(
                config["samples"],
                f"sample {sample}, column he_image",
                f"`none`, but {place} of {source} wants image-gene pairs of it",
                "give its H&E image or take it out of that dataset",
            )
        if imported and not float(samples[sample]["he_um_per_px"] or 0):
            raise InputError(
                config["samples"],
                f"sample {sample}, column he_um_per_px",
                f"nothing, but {place} of {source} imports its pairs, which don't tell their scale",
                "give the µm per pixel of its H&E",
            )
        if samples[sample]["panel"] != dataset["panel"]:
            raise InputError(
                source,
                f"{place}.samples",
                f"{sample}, measured with panel {samples[sample]['panel']}",
                f"list only samples of panel {dataset['panel']}",
            )
    if not chosen:
        raise InputError(
            source,
            f"{place}.panel",
            f"no sample of panel {dataset['panel']}",
            f"add rows to {config['samples']} or list samples",
        )
    if dataset["shards_of"]:
        known = dataset_samples(config, samples, dataset["shards_of"])
        for sample in chosen:
            one_of(sample, known, source, f"{place}.samples", f"samples of {dataset['shards_of']}")
    splits.make_splits(
        [samples[sample] for sample in chosen],
        {**dataset["split"], "seed": config["seed"]},
        split_rows(config, name),
        place=f"{place}.split",
        source=str(source),
    )
