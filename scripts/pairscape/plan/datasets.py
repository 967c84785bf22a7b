"""The datasets of a configuration: samples, splits, panels, and the files of each."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.audit.protocols import audit_rows
from pairscape.core.names import read_panel_list
from pairscape.core.splits import SPLITS
from pairscape.core.tsv import read_tsv
from pairscape.dataset.card import LAYOUT_SUFFIX
from pairscape.dataset.leakage import FACTS as LEAK_FACTS
from pairscape.dataset.leakage import is_placeholder
from pairscape.plan.plan import Plan

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


def label_names(plan: Plan, name: str) -> dict[str, list[str]]:
    """All names that the labels of pairs may have, so that the shards of one folder agree.

    They are those of the samples of all datasets that use its shards, and no others; samples that
    were left out keep theirs, so that one that is lost on the way makes no other shard anew.
    """
    home = shards_home(plan, name)
    using = [plan.datasets[one] for one in plan.datasets if shards_home(plan, one) == home]
    names = sorted({sample for one in using for sample in (*one.samples, *one.lost)})
    return {
        "name": names,
        "source": sorted({plan.label_source(sample) for sample in names}),
        "tissue": sorted({plan.row(sample)["organ"].lower() for sample in names}),
    }


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
            "rows": kept_rows(plan, name),
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
        return published_rows(config, dataset["panel"])
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


def published_rows(config: Mapping, panel: str) -> list[dict[str, str]]:
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
