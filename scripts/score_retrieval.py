"""Score how well pairs find each other, from the embeddings that the runs stored.

IN   options.json of each run (its embeddings lie beside it, in embeddings/)
OUT  retrieval.tsv: one row per run, direction, gallery, group and metric

Options: experiment, dataset, split, recall_at, in_batch (pairs per gallery), bootstrap (draws),
permutations, block_um, seed. How ranks, chance, intervals and p-values are made stands in
pairscape.retrieval.
"""

from pathlib import Path

from pairscape import embeddings, files, program, retrieval
from pairscape.errors import InputError
from pairscape.program import log

RESULT_VERSION = 1
RUN_KEYS = (
    "experiment",
    "dataset",
    "image_encoder",
    "gene_encoder",
    "seed",
    "options_sha256",
    "splits",
)


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        runs=program.Many("options.json of each run"),
        scores="retrieval.tsv to write",
    )
    options = retrieval.check_options(args.options)
    runs = _read_runs(args.runs, options)
    rows = []
    for names, path in program.progress(sorted(runs.items()), "scoring runs", unit="run"):
        run = files.read_json(path)
        embedded = embeddings.read_run_embeddings(Path(path).parent, options["split"])
        if not len(embedded["index"]):
            raise InputError(
                embeddings.run_files(Path(path).parent, options["split"])["index"],
                "rows",
                "no pair to score",
                f"give the split {options['split']} a sample with spots",
            )
        scored = retrieval.score_run(embedded, options)
        head = {key: run[key] for key in RUN_KEYS if key != "splits"}
        head["donors_shared"] = _shared_donors(run["splits"], options["split"])
        rows += [{**row, **head} for row in scored]
        log.info("%s-%s seed %s: %s", *names, _in_short(scored))
    retrieval.write_scores(args.scores, rows)


def _read_runs(paths, options) -> dict[tuple[str, str, int], str]:
    """The runs' options.json by image encoder, gene encoder and seed."""
    runs = {}
    for path in paths:
        run = files.read_json(path)
        for key in RUN_KEYS:
            if not isinstance(run, dict) or key not in run:
                raise InputError(path, key, "nothing", "delete the run and pretrain it again")
        for key in ("experiment", "dataset"):
            if run[key] != options[key]:
                raise InputError(path, key, run[key], f"give only runs of {key} {options[key]}")
        names = (run["image_encoder"], run["gene_encoder"], run["seed"])
        if names in runs:
            raise InputError(
                path, "run", f"the encoders and seed of {runs[names]}", "give each run once"
            )
        runs[names] = path
    return runs


def _shared_donors(splits, split: str) -> str:
    """The words with which the data set admits donors of this split in another one."""
    words = (row.get("shared_donors", "") for row in splits if row.get("split") == split)
    return "; ".join(dict.fromkeys(text for text in words if text))


def _in_short(scored) -> str:
    whole = [row for row in scored if (row["gallery"], row["group"]) == ("split", "all")]
    metric = [row["metric"] for row in whole if row["metric"].startswith("recall@")][-1]
    told = ", ".join(
        f"{row['direction'].upper()} {row['value']:.3f}" for row in whole if row["metric"] == metric
    )
    first = next(row for row in whole if row["metric"] == metric)
    return (
        f"{metric.capitalize()} among {first['queries']} {first['split']} pairs {told}"
        f" (chance {first['chance']:.3f})"
    )


if __name__ == "__main__":
    program.run(main)
