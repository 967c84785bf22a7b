"""Check the shards of a dataset against each other and write its Hugging Face card.

IN   shards (in the order of options.samples), genes.tsv, splits.tsv, leakage.tsv
OUT  README.md of the dataset, with a config of its splits and one in the layout of the published
     data set; preview.jpg on it, patches of each split; the split files that go with the latter;
     patch_leakage.tsv: near-identical patches of
     two splits, in the columns of leakage.tsv

Options: dataset, config_name, samples (rows of the sample table), shared_donors (words), left_out (a
line for each sample that the dataset has lost).

A gate as well: two samples of two splits that show the same tissue stop here, unless shared_donors
says why they may.
"""

from pathlib import Path

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.dataset import (
    card,
    card_text,
    gene_lists,
    leakage,
    pair_shards,
    patch_hashes,
    preview,
)
from pairscape.dataset.shards import Shards
from pairscape.dataset.splits import SPLITS, read_with_leaks
from pairscape.jobs import program

RESULT_VERSION = 5


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("Arrow shard of each sample"),
        genes="genes.tsv of the dataset",
        splits="splits.tsv of the dataset",
        leakage="leakage.tsv of the dataset",
        patch_leakage=program.Output("patch_leakage.tsv to write"),
        layout=program.OutputMany(
            "train.csv, val.csv and test.csv to write, in data/<config in the published layout>/"
        ),
        preview=program.Output("preview.jpg to write, beside the card"),
        card=program.Output("README.md to write"),
    )
    options = args.options
    name, words = options["dataset"], options.get("shared_donors") or ""
    samples = {row["sample"]: row for row in options["samples"]}
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    splits, leaks = read_with_leaks(args.splits, args.leakage)
    shards = Shards.open(args.shards, list(samples))
    _refuse_others(shards, genes)
    placed = {row["sample"] for row in splits}
    for sample in sorted(placed ^ samples.keys()):
        lacks = "no shard of it" if sample in placed else "no split"
        raise InputError(args.splits, f"sample {sample}", lacks, "run split_donors again")

    paths = dict(zip(shards.samples, shards.paths, strict=True))
    patch_leaks, hashed = patch_hashes.patch_leaks(
        paths,
        splits,
        words,
        lambda items: logs.progress(items, "patch hashes", len(paths), "shard"),
    )
    leakage.refuse_leaks(patch_leaks, f"datasets.{name}.split", "--options")
    sums = dict(zip(shards.samples, shards.sha256, strict=True))
    version = card.dataset_version(
        RESULT_VERSION, [(row["split"], row["sample"], sums[row["sample"]]) for row in splits]
    )
    dataset = card_text.Described(
        name=name,
        version=version,
        gene_count=len(genes),
        genes_path=card.relative(Path(args.genes).resolve(), args.card),
        shards=shards,
        splits=splits,
        leaks=leaks + patch_leaks,
        samples=samples,
        left_out=options.get("left_out", ()),
    )
    config = options.get("config_name", name)
    if warning := card.layout_warning(metadata["patches"] for metadata in shards.metadata):
        log.warning("%s: %s", config + card.LAYOUT_SUFFIX, warning)
    licences = [row.get("license", "") for row in samples.values()]
    row_counts = dict(zip(shards.samples, shards.row_counts, strict=True))
    pairs = sum(row_counts[row["sample"]] for row in splits)
    head = card.front_matter(name, licences, _configs(config, dataset, paths, args.card), pairs)
    with atomic_path(args.preview) as temporary:
        preview.draw(paths, splits).save(temporary, "JPEG", quality=preview.QUALITY)
    leakage.LEAKAGE.write(args.patch_leakage, patch_leaks)
    card.write_layout(Path(args.layout[0]).parent, splits, samples)
    with atomic_path(args.card) as temporary:
        temporary.write_text(head + "\n" + card_text.dataset_text(dataset), encoding="utf-8")
    log.info(
        "%s: %d pairs in %d shards, version %s", name, sum(shards.row_counts), len(paths), version
    )
    log.info(
        "%s: %d of %d patches that aren't blank nearly equal one of an earlier split; %d are blank",
        name,
        sum(leak["spots"] for leak in patch_leaks),
        hashed["patches"] - hashed["blank"],
        hashed["blank"],
    )


def _configs(name: str, dataset: card_text.Described, paths: dict, readme) -> list[dict]:
    """The configs of a dataset: its splits, and every shard once, as train, in the other layout."""
    features = pair_shards.open_shard(dataset.shards.paths[0]).features
    files = {
        split: [paths[row["sample"]] for row in dataset.splits if row["split"] == split]
        for split in SPLITS
    }
    entry = card.dataset_config(name, dataset.version, files, readme, features)
    # The first config is what the folder of this dataset loads as when none is named.
    entry["config"]["default"] = True
    every = {"train": [paths[sample] for sample in sorted(paths)]}
    layout = name + card.LAYOUT_SUFFIX
    return [entry, card.dataset_config(layout, dataset.version, every, readme, features)]


def _refuse_others(shards: Shards, genes: list[str]) -> None:
    """Refuse shards whose columns, labels, genes or presets aren't those of all."""
    first = None
    for path, metadata in zip(shards.paths, shards.metadata, strict=True):
        schema = pair_shards.read_schema(path)
        facts = {
            "genes": metadata["genes"],
            "columns": schema.remove_metadata(),
            "labels": schema.metadata[b"huggingface"],
            "patches": _preset(metadata["patches"]),
        }
        first = first or {**facts, "genes": genes}
        for field, value in facts.items():
            if value != first[field]:
                others = f"others than in {'genes.tsv' if field == 'genes' else shards.paths[0]}"
                raise InputError(path, field, others, "delete it and run export_pairs again")


def _preset(patches: dict) -> dict:
    """What of a shard's patches must be that of all: their scale too, unless they are native."""
    free = {"side_px"} | ({"um_per_px"} if patches.get("native_px") else set())
    if patches["encoding"] == "published":  # sizes as they came
        free |= {"native_px", "patch_px"}
    return {key: value for key, value in patches.items() if key not in free}


if __name__ == "__main__":
    program.run(main)
