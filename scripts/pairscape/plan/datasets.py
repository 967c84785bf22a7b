"""The datasets of a configuration: samples, splits, panels, and the files of each."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.acquire.samples import FROM_BUNDLE, NO_FILE
from pairscape.audit.protocols import audit_rows
from pairscape.core.errors import InputError, one_of
from pairscape.core.names import read_panel_list
from pairscape.core.splits import SPLITS, part_name
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


def hosted_folder(plan: Plan, panel: str) -> str:
    """Where a fetched panel of the published data set lies; its receipt has ``.json`` more."""
    return f"{plan.config['hosted']['folder']}/{panel}"


def hosted_panels(plan: Plan) -> list[str]:
    """The panels of the published data set that are fetched."""
    return [
        plan.datasets[name].panel
        for name in imported(plan)
        if not plan.datasets[name].published_data
    ]


def published_folder(plan: Plan, name: str) -> str:
    """The copy of the published data set that a dataset is imported from."""
    dataset = plan.datasets[name]
    return dataset.published_data or hosted_folder(plan, dataset.panel)


def published_files(plan: Plan, name: str) -> list[str]:
    """The files of the user's copy, else the receipt of the fetched one; import_pairs says what is
    missing.
    """
    folder = Path(published_folder(plan, name))
    if not plan.datasets[name].published_data:
        return [f"{folder}.json"]
    return sorted(map(str, [*folder.rglob("*.arrow"), *folder.rglob("*.parquet")]))


def spots_folder(plan: Plan, name: str, sample: str) -> str:
    """The folder of a sample's spots in a dataset."""
    return f"{plan.results}/samples/{plan.whole(sample)}/{plan.datasets[name].spots}"


def spots_files(plan: Plan, name: str, file: str = "spots.zarr") -> list[str]:
    """A file of pool_spots for each sample; none where the pairs are imported."""
    dataset = plan.datasets[name]
    if dataset.is_imported:
        return []
    return [f"{spots_folder(plan, name, sample)}/{file}" for sample in dataset.samples]


def counts_files(plan: Plan, name: str) -> list[str]:
    """What tells how many spots each sample of a dataset has."""
    dataset = plan.datasets[name]
    in_shards = dataset.is_imported or any(sample in plan.parts for sample in dataset.samples)
    return shard_files(plan, name) if in_shards else spots_files(plan, name, "audit.json")


def pair_facts(plan: Plan, sample: str) -> dict[str, str]:
    """The row of a sample as far as its pairs depend on it."""
    row = plan.facts(sample, *IMPORT_FACTS, "he_image", "he_alignment")
    row |= plan.facts(sample, "part_of", "part") if sample in plan.parts else {}
    return row | {"source": plan.label_source(sample)}


def block_options(plan: Plan, name: str, sample: str) -> dict:
    """What decides the block of a section; nothing for a whole sample."""
    if sample not in plan.parts:
        return {}
    return {"split": {key: split_options(plan, name)[key] for key in ("fractions", "seed")}}


def import_facts(plan: Plan, sample: str) -> dict[str, str]:
    """The row of a sample as far as its imported pairs depend on it."""
    return plan.facts(sample, *IMPORT_FACTS) | {"source": plan.label_source(sample)}


def split_facts(plan: Plan, name: str) -> list[dict[str, str]]:
    """Of each sample of a dataset what a split and its leaks are judged by."""
    columns = ("donor", "donor_known", "organ", "disease_state", *LEAK_FACTS)
    names = plan.datasets[name].samples
    rows = [
        plan.facts(sample, *columns, *(["part"] if sample in plan.parts else []))
        for sample in names
    ]
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
    keys = {"listed": SPLITS, "leave_one_donor_out": ["fold"]}
    keys |= {key: ["fractions"] for key in ("donor", "within_sample")}
    chosen = ["method", "shared_donors", *keys.get(split["method"], [])]
    return {**{key: split[key] for key in chosen}, "seed": plan.config["seed"]}


def reported_datasets(plan: Plan) -> list[str]:
    """The datasets of a plain run: those that aren't on request, and those of its audits."""
    audited = {
        row["dataset"] for name in plan.audits_in_all for row in audit_rows(name, plan.audits[name])
    }
    return [name for name in plan.datasets if name in plan.datasets_in_all or name in audited]


def index_files(plan: Plan) -> list[str]:
    """The card over all datasets of a plain run, if there are any."""
    return [f"{plan.results}/datasets/README.md"] if plan.datasets_in_all else []


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
            "rows": split_rows(plan.config, name),
        }
        for name, dataset in plan.datasets.items()
        if not any(sample in plan.parts for sample in dataset.samples)
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
    """The file of a panel's gene list; `from_bundle` has none."""
    return Path(config["panels"], f"{panel}.tsv")


def panel_names(config: Mapping) -> list[str]:
    """The panels that have gene lists."""
    return sorted(path.stem for path in Path(config["panels"]).glob("*.tsv"))


def panel_file(config: Mapping, panel: str) -> dict[str, str]:
    """The gene list of a panel, where it has one."""
    file = panel_list(config, panel)
    return {"panel": str(file)} if file.exists() else {}


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


def read_dataset(name: str, config: Mapping, source, samples: Mapping[str, Mapping]) -> Dataset:
    """A dataset with its samples, checked: presets, panel, samples, and that its split can be made."""
    options, place = config["datasets"][name], f"datasets.{name}"
    if options["source"] != "published":
        one_of(options["spots"], config["spots"], source, f"{place}.spots", "spot presets")
        one_of(options["patches"], config["patches"], source, f"{place}.patches", "patch presets")
    lists = f"gene lists in {config['panels']}"
    panels = [*panel_names(config), FROM_BUNDLE]
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
    placed = splits.make_splits(
        [_with_real_bundle(samples[sample], config["bundles"]) for sample in chosen],
        {**split, "seed": config["seed"]},
        split_rows(config, name),
        place=f"{place}.split",
        source=str(source),
    )
    given = {"spots": None, "patches": None, **options, "samples": tuple(chosen)}
    return Dataset(**given, filled_splits=frozenset(row["split"] for row in placed))


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
        chosen = {row["sample"] for row in split_rows(config, name)}
    elif dataset["shards_of"]:
        return _dataset_samples(config, samples, dataset["shards_of"])
    elif dataset["source"] == "published":
        chosen = {row["sample"] for row in _published_rows(config, dataset["panel"])}
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
    if gene and not any(gene in panel_genes(config, panel) for panel in panels):
        remedy = f"name a gene of {', '.join(sorted(panels))}, or null"
        raise InputError(source, "overlay_gene", repr(gene), remedy)
