"""The datasets of a configuration: samples, splits, panels, and the files of each."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from pairscape.acquire.samples import NO_FILE
from pairscape.audit.protocols import audit_rows
from pairscape.core.errors import InputError, one_of
from pairscape.core.names import read_panel_list
from pairscape.core.splits import SPLITS
from pairscape.core.tsv import read_tsv
from pairscape.dataset import splits
from pairscape.dataset.card import LAYOUT_SUFFIX
from pairscape.dataset.leakage import FACTS as LEAK_FACTS
from pairscape.dataset.leakage import is_placeholder
from pairscape.plan.plan import Dataset, Plan

IMPORT_FACTS = (
    *("panel", "organ", "disease_state", "oncotree_code"),
    *("donor", "preservation", "he_um_per_px"),
)
CARD_FACTS = (
    *("panel", "donor", "organ", "disease_state", "source", "license"),
    *("title", "landing_page", "preservation", "he_um_per_px"),
)


def shards_home(plan: Plan, name: str) -> str:
    """The dataset whose genes and shards this one uses: itself, or its `shards_of`."""
    return plan.datasets[name].shards_of or name


def shard_files(plan: Plan, name: str) -> list[str]:
    """The shards of a dataset, in the order of its samples."""
    folder = f"{plan.results}/datasets/{shards_home(plan, name)}/shards"
    return [f"{folder}/{sample}.arrow" for sample in plan.datasets[name].samples]


def genes_file(plan: Plan, name: str) -> str:
    """The gene list of a dataset."""
    return f"{plan.results}/datasets/{shards_home(plan, name)}/genes.tsv"


def layout_files(plan: Plan, name: str) -> list[str]:
    """The split files where code written for the published data set looks: by the config's name."""
    folder = f"{plan.results}/datasets/{name}/data/{name}{LAYOUT_SUFFIX}"
    return [f"{folder}/{split}.csv" for split in SPLITS]


def published_files(plan: Plan, name: str) -> list[str]:
    """The files of a copy of the published data set; import_pairs says what is missing."""
    folder = Path(plan.datasets[name].published_data)
    return sorted(map(str, [*folder.rglob("*.arrow"), *folder.rglob("*.parquet")]))


def spots_folder(plan: Plan, name: str, sample: str) -> str:
    """The folder of a sample's spots in a dataset."""
    return f"{plan.results}/samples/{sample}/{plan.datasets[name].spots}"


def spots_files(plan: Plan, name: str, file: str = "spots.zarr") -> list[str]:
    """A file of pool_spots for each sample; none where the pairs are imported."""
    dataset = plan.datasets[name]
    if dataset.is_imported:
        return []
    return [f"{spots_folder(plan, name, sample)}/{file}" for sample in dataset.samples]


def counts_files(plan: Plan, name: str) -> list[str]:
    """What tells how many spots each sample of a dataset has."""
    imported = plan.datasets[name].is_imported
    return shard_files(plan, name) if imported else spots_files(plan, name, "audit.json")


def pair_facts(plan: Plan, sample: str) -> dict[str, str]:
    """The row of a sample as far as its pairs depend on it."""
    row = plan.facts(sample, *IMPORT_FACTS, "he_image", "he_alignment")
    return row | {"source": plan.label_source(sample)}


def import_facts(plan: Plan, sample: str) -> dict[str, str]:
    """The row of a sample as far as its imported pairs depend on it."""
    return plan.facts(sample, *IMPORT_FACTS) | {"source": plan.label_source(sample)}


def split_facts(plan: Plan, name: str) -> list[dict[str, str]]:
    """Of each sample of a dataset what a split and its leaks are judged by."""
    columns = ("donor", "donor_known", "organ", "disease_state", *LEAK_FACTS)
    rows = [plan.facts(sample, *columns) for sample in plan.datasets[name].samples]
    # A title decides only where a donor that no source names may be that of another sample.
    doubtful = {row["title"] for row in rows if is_placeholder(row)}
    return [row | {"title": row["title"] if row["title"] in doubtful else ""} for row in rows]


def card_facts(plan: Plan, name: str) -> list[dict[str, str]]:
    """Of each sample of a dataset what its card tells."""
    return [plan.facts(sample, *CARD_FACTS) for sample in plan.datasets[name].samples]


def licences(plan: Plan) -> list[dict[str, str]]:
    """The licence of each sample of any dataset."""
    used = {sample for dataset in plan.datasets.values() for sample in dataset.samples}
    return [plan.facts(sample, "license") for sample in sorted(used)]


def imported(plan: Plan) -> list[str]:
    """The datasets whose pairs are imported."""
    return [name for name, dataset in plan.datasets.items() if dataset.is_imported]


def split_options(plan: Plan, name: str) -> dict:
    """What decides a split: its method, that method's keys, and the seed."""
    split = plan.datasets[name].split
    keys = {"listed": SPLITS, "donor": ["fractions"], "leave_one_donor_out": ["fold"]}
    chosen = ["method", "shared_donors", *keys.get(split["method"], [])]
    return {**{key: split[key] for key in chosen}, "seed": plan.config["seed"]}


def reported_datasets(plan: Plan) -> list[str]:
    """The datasets of a plain run: those that aren't on request, and those of its audits."""
    audited = {
        row["dataset"] for name in plan.audits_in_all for row in audit_rows(name, plan.audits[name])
    }
    return [name for name in plan.datasets if name in plan.datasets_in_all or name in audited]


def reported_files(plan: Plan, file: str) -> list[str]:
    """A file of each of those datasets."""
    return [f"{plan.results}/datasets/{name}/{file}" for name in reported_datasets(plan)]


def audited_splits(plan: Plan) -> list[dict]:
    """Every split that audit_splits looks at: the datasets', and the published ones beside them."""
    audited = [
        {
            "name": name,
            "panel": dataset.panel,
            "split": split_options(plan, name),
            "samples": list(dataset.samples),
            "rows": kept_rows(plan, name),
        }
        for name, dataset in plan.datasets.items()
    ]
    present = {one["panel"] for one in audited if one["split"]["method"] == "published"}
    for panel in dict.fromkeys(row["panel"] for row in plan.published):
        rows = [row for row in plan.published if row["panel"] == panel]
        extra = sorted({row["split"] for row in rows} - set(SPLITS))
        wanted = [] if panel in present else [(panel, SPLITS)]
        wanted += [(f"{panel}-{split}", (*SPLITS, split)) for split in extra]
        for name, kept in wanted:
            chosen = _sample_and_split(row for row in rows if row["split"] in kept)
            if name not in plan.datasets and all(row["sample"] in plan.samples for row in chosen):
                audited.append(
                    {
                        "name": name,
                        "panel": panel,
                        "split": {"method": "published", "shared_donors": None},
                        "samples": sorted({row["sample"] for row in chosen}),
                        "rows": chosen,
                    }
                )
    return audited


# ------------------------------------------------------------------------------ what tables tell


def _sample_and_split(rows: Iterable[Mapping]) -> list[dict[str, str]]:
    return [{"sample": row["sample"], "split": row["split"]} for row in rows]


def split_rows(config: Mapping, name: str) -> list[dict[str, str]]:
    """The rows of ``sample`` and ``split`` that a dataset's split is given by, if it is by a table."""
    dataset = config["datasets"][name]
    split = dataset["split"]
    if split["method"] == "published":
        return _published_rows(config, dataset["panel"])
    if split["method"] == "file":
        return _sample_and_split(read_tsv(split["file"], ["sample", "split"]))
    return []


def kept_rows(plan: Plan, name: str) -> list[dict[str, str]]:
    """Those of them whose samples the dataset hasn't lost."""
    lost = plan.datasets[name].lost
    return [row for row in split_rows(plan.config, name) if row["sample"] not in lost]


def published_splits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of published splits; none where the table isn't there."""
    path = config["published_splits"]
    return read_tsv(path, ["panel", "sample", "split"]) if Path(path).exists() else []


def published_fits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of what published encoders were fitted on; none where it isn't there."""
    path = config["published_fits"]
    return read_tsv(path, ["encoder", "panel", "sample"]) if Path(path).exists() else []


def _published_rows(config: Mapping, panel: str) -> list[dict[str, str]]:
    """The published train, val and test samples of a panel."""
    rows = read_tsv(config["published_splits"], ["panel", "sample", "split"])
    return _sample_and_split(r for r in rows if r["panel"] == panel and r["split"] in SPLITS)


def panel_list(config: Mapping, panel: str) -> Path:
    """The file of a panel's gene list."""
    return Path(config["panels"], f"{panel}.tsv")


def panel_names(config: Mapping) -> list[str]:
    """The panels that have gene lists."""
    return sorted(path.stem for path in Path(config["panels"]).glob("*.tsv"))


def panel_genes(config: Mapping, panel: str) -> list[str]:
    """The gene symbols of a panel's list."""
    return list(read_panel_list(panel_list(config, panel)))


# ----------------------------------------------------------------------------- reading and checks


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
        needed = ("panel", "published_data")
    for key in needed:
        if not dataset.get(key):
            raise InputError(source, place, f"no key {key!r}", f"add {key}")
    for key in ("spots", "patches", "published_data"):
        if key not in needed and dataset.get(key):
            given = f"a value, with source {dataset['source']}"
            raise InputError(source, f"{place}.{key}", given, "leave it out")


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
    one_of(options["panel"], panel_names(config), source, f"{place}.panel", lists)
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
    rows = split_rows(config, name)
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
    """The samples of a dataset, sorted: those it lists, or else those its split or panel implies."""
    dataset = config["datasets"][name]
    method = dataset["split"]["method"]
    if dataset.get("samples"):
        chosen = dataset["samples"]
    elif method == "listed":
        chosen = {sample for split in SPLITS for sample in dataset["split"][split]}
    elif method in ("published", "file"):
        chosen = {row["sample"] for row in split_rows(config, name)}
    elif dataset["shards_of"]:
        return _dataset_samples(config, samples, dataset["shards_of"])
    elif dataset["source"] == "published":
        chosen = {row["sample"] for row in _published_rows(config, dataset["panel"])}
    else:
        chosen = {key for key, row in samples.items() if row["panel"] == dataset["panel"]}
    return sorted(chosen)


def check_overlay_gene(config: Mapping, source) -> None:
    """The gene of the QC figures is one of a panel that is used."""
    gene = config["overlay_gene"]
    panels = {dataset["panel"] for dataset in config["datasets"].values()}
    if gene and not any(gene in panel_genes(config, panel) for panel in panels):
        remedy = f"name a gene of {', '.join(sorted(panels))}, or null"
        raise InputError(source, "overlay_gene", repr(gene), remedy)
