"""Score the batch effects of a dataset: how well splits, and donors, mix within clusters of spots.

IN   the dataset's shards, splits.tsv, genes.tsv; a table of labels beside the clusters, if wanted
     (tab-separated: sample, spot, label)
OUT  scores: silhouette-batch and BRAS for each resolution of the clustering, iLISI, and Cramér's V of
     the split with organ and disease state, with every choice that was made

Options: dataset, and those of the configuration's part batch_effect. What the scores are stands in
pairscape.evaluate.batch_effect.
"""

import numpy as np

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.dataset import expression_counts, gene_lists, pair_shards, splits
from pairscape.dataset.shards import Shards
from pairscape.evaluate import batch_effect, clustering
from pairscape.evaluate.clustering import BatchEffectOptions
from pairscape.jobs import program

RESULT_VERSION = 1
_BLOCK_NUMBERS = 1 << 23  # counts held at once as a dense block (32 MB)


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards"),
        splits="splits.tsv",
        genes="genes.tsv",
        labels="optional: table with columns sample, spot, label",
        scores=program.Output("scores to write (TSV)"),
    )
    dataset = args.options.pop("dataset", None)
    if not isinstance(dataset, str) or not dataset:
        raise InputError("--options", "dataset", repr(dataset), "name the dataset")
    options = BatchEffectOptions.of(args.options)
    rows = splits.read_splits(args.splits)
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    shards = Shards.open(args.shards)
    counts = expression_counts.Counts(shards, genes)
    _ = shards.sha256  # refuses one that was damaged
    in_split = expression_counts.split_rows(shards, rows, args.splits)

    used = np.unique(np.concatenate(list(in_split.values())))
    size = max(256, _BLOCK_NUMBERS // len(genes))
    filled = np.concatenate([block.any(axis=1) for block in counts.blocks(used, size)])
    empty, used = int((~filled).sum()), used[filled]
    if len(used) < 3:
        fault = f"{len(used)} spots with counts"
        raise InputError(args.splits, "spots", fault, "give the dataset more spots")
    given = _read_labels(args.labels, args.shards)[used] if args.labels else None
    if empty:
        log.warning("%s: %d spots without counts are left out", dataset, empty)

    _limit_threads(args.threads)
    blocks = logs.progress(
        counts.blocks(used, size), "reading counts", -(-len(used) // size), "block"
    )
    space = clustering.embed_counts(blocks, len(genes), options)
    samples, sample_of = shards.samples, shards.owner[used]
    donors = {row["sample"]: row["donor"] for row in rows}
    donor_of = np.array([donors.get(sample, "") for sample in samples])[sample_of]
    batches, notes = _batches(used, in_split, donor_of, rows, empty)
    spots = dict(zip(samples, np.bincount(sample_of, minlength=len(samples)).tolist(), strict=True))
    scored = batch_effect.score_dataset(space, batches, options, given, notes)
    scored += batch_effect.score_confounding(rows, spots)
    head = {
        "dataset": dataset,
        "versions": batch_effect.versions(),
        "options_sha256": files.sha256_json(vars(options)),
    }
    batch_effect.write_scores(args.scores, [{**row, **head} for row in scored])
    log.info("%s: %s", dataset, _in_short(scored, options.resolution))


def _batches(used, in_split, donor_of, rows, empty: int) -> tuple[dict, dict]:
    """The scored spots and the batch of each, by split and by donor; and what to say with them."""
    parts = {
        name: np.flatnonzero(np.isin(used, members))
        for name, members in in_split.items()
        if len(members)
    }
    in_splits = np.concatenate(list(parts.values()))
    names = np.repeat(list(parts), [len(spots) for spots in parts.values()])
    unknown = {row["donor"] for row in rows if row["donor_known"].lower() != "true"}
    repeated = len(in_splits) - len(used)
    left_out = [f"{empty} spots without counts are left out"] if empty else []
    notes = {"split": [*left_out], "donor": [*left_out]}
    if repeated:
        notes["split"].append(f"{repeated} spots stand in two splits and count in both")
    if unknown:
        every = len({row["donor"] for row in rows})
        notes["donor"].append(f"{len(unknown)} of {every} donors are placeholders")
    batches = {"split": (in_splits, names), "donor": (np.arange(len(used)), donor_of)}
    return batches, {name: "; ".join(words) for name, words in notes.items()}


def _read_labels(path, shards) -> np.ndarray:
    """The label of each row of the shards."""
    table = tsv.read_tsv(path, ("sample", "spot", "label"))
    label_of = {(row["sample"], row["spot"]): row["label"] for row in table}
    labels = []
    for shard in shards:
        for row in pair_shards.read_index(shard).select(["sample", "spot"]).to_pylist():
            sample, spot = row["sample"], row["spot"]
            if not label_of.get((sample, spot)):
                place = f"sample {sample}, spot {spot}"
                raise InputError(path, place, "no label", "label every spot")
            labels.append(label_of[sample, spot])
    return np.array(labels, str)


def _limit_threads(threads: int) -> None:
    import numba
    import scanpy
    import threadpoolctl

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    scanpy.settings.n_jobs = threads
    threadpoolctl.threadpool_limits(threads)


def _in_short(scored, resolution: float) -> str:
    words = [
        f"by {row['batch']} {'none' if row['value'] is None else format(row['value'], '.3f')} "
        f"({row['labels']} clusters, {row['spots_skipped']:.0%} of spots in skipped ones)"
        for row in scored
        if (row["metric"], row["group"]) == ("silhouette_batch", "all")
        and row["resolution"] == resolution
    ]
    return "silhouette-batch " + ", ".join(words)


if __name__ == "__main__":
    program.run(main)
