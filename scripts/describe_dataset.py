"""Check the shards of a dataset against each other and write its Hugging Face card.

IN   shards (in the order of options.samples), genes.tsv, splits.tsv, leakage.tsv
OUT  README.md of the dataset, with one config

Options: dataset, config_name, samples (rows of the sample table).
"""

from pairscape import hf_card, pairs, program
from pairscape.errors import InputError
from pairscape.files import atomic_path, sha256_file
from pairscape.program import log
from pairscape.splits import SPLITS, read_leaks, read_splits

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("Arrow shard of each sample"),
        genes="genes.tsv of the dataset",
        splits="splits.tsv of the dataset",
        leakage="leakage.tsv of the dataset",
        card="README.md to write",
    )
    options = args.options
    samples = {row["sample"]: row for row in options["samples"]}
    genes = pairs.read_genes(args.genes)
    splits, leaks = read_splits(args.splits), read_leaks(args.leakage)
    paths = _check_shards(args.shards, list(samples), [gene["gene_symbol"] for gene in genes])
    for row in splits:
        if row["sample"] not in paths:
            raise InputError(
                args.splits, f"sample {row['sample']}", "no shard of it", "run split_donors again"
            )
    for sample in paths.keys() - {row["sample"] for row in splits}:
        raise InputError(args.splits, f"sample {sample}", "no split", "run split_donors again")

    shards = {
        sample: {
            "sha256": sha256_file(path),
            "pairs": pairs.read_shard_table(path).num_rows,
            "metadata": pairs.shard_metadata(path),
        }
        for sample, path in program.progress(paths.items(), "checksums", len(paths), "shard")
    }
    version = hf_card.dataset_version(
        RESULT_VERSION,
        [(row["split"], row["sample"], shards[row["sample"]]["sha256"]) for row in splits],
    )
    files = {
        split: [paths[row["sample"]] for row in splits if row["split"] == split] for split in SPLITS
    }
    entry = hf_card.dataset_config(
        options.get("config_name", options["dataset"]),
        version,
        files,
        args.card,
        pairs.open_shard(next(iter(paths.values()))).features,
    )
    head = hf_card.front_matter(
        options["dataset"], [row.get("license", "") for row in samples.values()], [entry]
    )
    text = hf_card.dataset_text(
        dataset=options["dataset"],
        version=version,
        genes=genes,
        shards=shards,
        splits=splits,
        leaks=leaks,
        samples=samples,
    )
    with atomic_path(args.card) as temporary:
        temporary.write_text(head + "\n" + text)
    log.info(
        "%s: %d pairs in %d shards, version %s",
        options["dataset"],
        sum(shard["pairs"] for shard in shards.values()),
        len(shards),
        version,
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
        schema, metadata = pairs.read_schema(path), pairs.shard_metadata(path)
        found = {
            "sample": metadata["sample"],
            "genes": metadata["genes"],
            "columns": schema.remove_metadata(),
            "labels": schema.metadata[b"huggingface"],
            "patches": {k: v for k, v in metadata["patches"].items() if k != "side_px"},
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


if __name__ == "__main__":
    program.run(main)
