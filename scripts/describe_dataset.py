"""Check the shards of a dataset against each other and write its Hugging Face card.

IN   shards (in the order of options.samples), genes.tsv, splits.tsv, leakage.tsv
OUT  README.md of the dataset, with a config of its splits and one in the layout of the published
     data set; the split files that go with the latter; patch_leakage.tsv: near-identical patches of
     two splits, in the columns of leakage.tsv

Options: dataset, config_name, samples (rows of the sample table), shared_donors (words).

A gate as well: two samples of two splits that show the same tissue stop here, unless shared_donors
says why they may.
"""

import os
from pathlib import Path

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.dataset import card, gene_lists, leakage, pair_shards, patch_hashes
from pairscape.dataset.splits import SPLITS, read_splits
from pairscape.jobs import program

RESULT_VERSION = 3


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
        card=program.Output("README.md to write"),
    )
    options = args.options
    samples = {row["sample"]: row for row in options["samples"]}
    genes = gene_lists.read_genes(args.genes)
    splits, leaks = read_splits(args.splits), leakage.read_leaks(args.leakage)
    paths = _check_shards(args.shards, list(samples), [gene["gene_symbol"] for gene in genes])
    for row in splits:
        if row["sample"] not in paths:
            raise InputError(
                args.splits, f"sample {row['sample']}", "no shard of it", "run split_donors again"
            )
    for sample in paths.keys() - {row["sample"] for row in splits}:
        raise InputError(args.splits, f"sample {sample}", "no split", "run split_donors again")

    words = options.get("shared_donors") or ""
    patch_leaks, hashed = patch_hashes.patch_leaks(
        paths,
        splits,
        words,
        lambda items: logs.progress(items, "patch hashes", len(paths), "shard"),
    )
    leakage.refuse_leaks(patch_leaks, f"datasets.{options['dataset']}.split", "--options")
    shards = {
        sample: {
            "sha256": pair_shards.shard_sha256(path),
            "pairs": pair_shards.read_shard_table(path).num_rows,
            "metadata": pair_shards.shard_metadata(path),
        }
        for sample, path in logs.progress(paths.items(), "checksums", len(paths), "shard")
    }
    version = card.dataset_version(
        RESULT_VERSION,
        [(row["split"], row["sample"], shards[row["sample"]]["sha256"]) for row in splits],
    )
    files = {
        split: [paths[row["sample"]] for row in splits if row["split"] == split] for split in SPLITS
    }
    entry = card.dataset_config(
        options.get("config_name", options["dataset"]),
        version,
        files,
        args.card,
        pair_shards.open_shard(next(iter(paths.values()))).features,
    )
    # The first config is what the folder of this dataset loads as when none is named.
    entry["config"]["default"] = True
    name = options.get("config_name", options["dataset"]) + card.LAYOUT_SUFFIX
    layout = card.dataset_config(
        name,
        version,
        card.layout_files(splits, paths),
        args.card,
        pair_shards.open_shard(next(iter(paths.values()))).features,
    )
    head = card.front_matter(
        options["dataset"], [row.get("license", "") for row in samples.values()], [entry, layout]
    )
    text = card.dataset_text(
        dataset=options["dataset"],
        version=version,
        genes=genes,
        genes_path=Path(os.path.relpath(args.genes, Path(args.card).parent)).as_posix(),
        shards=shards,
        splits=splits,
        leaks=leaks + patch_leaks,
        samples=samples,
    )
    if warning := card.layout_warning(shard["metadata"]["patches"] for shard in shards.values()):
        log.warning("%s: %s", name, warning)
    leakage.LEAKAGE.write(args.patch_leakage, patch_leaks)
    card.write_layout(Path(args.layout[0]).parent, splits, samples)
    with atomic_path(args.card) as temporary:
        temporary.write_text(head + "\n" + text)
    log.info(
        "%s: %d pairs in %d shards, version %s",
        options["dataset"],
        sum(shard["pairs"] for shard in shards.values()),
        len(shards),
        version,
    )
    log.info(
        "%s: %d of %d patches that aren't blank nearly equal one of an earlier split; %d are blank",
        options["dataset"],
        sum(leak["spots"] for leak in patch_leaks),
        hashed["patches"] - hashed["blank"],
        hashed["blank"],
    )


def _check_shards(files, samples, genes) -> dict:
    """Path of each sample's shard; all have the same columns, labels, genes and presets."""
    if len(files) != len(samples):
        raise InputError(
            "--shards",
            "files",
            f"{len(files)} for {len(samples)} samples",
            "give one shard per sample, in the order of options.samples",
        )
    paths = dict(zip(samples, files, strict=True))
    first = None
    for sample, path in paths.items():
        schema, metadata = pair_shards.read_schema(path), pair_shards.shard_metadata(path)
        found = {
            "sample": metadata["sample"],
            "genes": metadata["genes"],
            "columns": schema.remove_metadata(),
            "labels": schema.metadata[b"huggingface"],
            "patches": _preset(metadata["patches"]),
        }
        first = first or {**found, "path": path}
        expected = {**first, "sample": sample, "genes": genes}
        for field in found:
            if found[field] != expected[field]:
                told = {
                    "sample": f"{found['sample']} where {sample} should stand",
                    "genes": "others than in genes.tsv",
                }
                raise InputError(
                    path,
                    field,
                    told.get(field, f"others than in {first['path']}"),
                    "delete it and run export_pairs again",
                )
    return paths


def _preset(patches) -> dict:
    """What of a shard's patches must be that of all: their scale too, unless they are native."""
    own = {"side_px"} | ({"um_per_px"} if patches.get("native_px") else set())
    if patches["encoding"] == "published":  # sizes as they came
        own |= {"native_px", "patch_px"}
    return {key: value for key, value in patches.items() if key not in own}


if __name__ == "__main__":
    program.run(main)
