"""Score how well frozen image embeddings predict a spot's expression, before and after pretraining.

IN   the dataset's shards, splits.tsv and genes.tsv; the stored features of image encoders (.npy, the
     index .json beside each); options.json of runs (their embeddings lie beside it, in embeddings/), or
     the failed.json of a run that ran out of memory
OUT  expression.tsv: one row per source of embeddings, recipe, group of test spots, metric and gene

Options: experiment; dataset; encoders (for each image encoder of the runs and features: features_of,
the encoder whose features it starts from, and control, words or null); and those of the
configuration's part expression. What the recipes are stands in pairscape.evaluate.expression.
"""

from pathlib import Path

import numpy as np

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.dataset import expression_counts, gene_lists, stored_features
from pairscape.dataset.shards import Shards
from pairscape.dataset.splits import read_splits
from pairscape.evaluate import expression
from pairscape.evaluate.expression import AFTER, AS_IT_CAME, ENCODER, SHARED, TRUNK
from pairscape.evaluate.targets import ExpressionOptions, Source, make_targets
from pairscape.jobs import program
from pairscape.pretrain import run_embeddings, runs

RESULT_VERSION = 1
RUN_KEYS = ("shards", "splits")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        shards=program.Many("the dataset's shards"),
        splits="splits.tsv",
        genes="genes.tsv",
        features=program.Many("optional: image features (.npy), each with its .json beside it"),
        runs=program.Many("optional: options.json, or failed.json, of each run"),
        scores=program.Output("expression.tsv to write"),
    )
    names = {name: args.options.pop(name, None) for name in ("experiment", "dataset", "encoders")}
    for name, value in names.items():
        if not value:
            raise InputError("--options", name, "nothing", "name it")
    options = ExpressionOptions.of(args.options)
    if not args.features and not args.runs:
        raise InputError("--features", "flag", "nothing", "give features or runs to score")

    import threadpoolctl

    threadpoolctl.threadpool_limits(args.threads)
    rows_of_splits = read_splits(args.splits)
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    shards = Shards.open(args.shards)
    counts = expression_counts.Counts(shards, genes)
    in_split = expression_counts.split_rows(shards, rows_of_splits, args.splits)
    if (tested := len(in_split["test"])) < 2:
        remedy = "put a sample with pairs into test"
        raise InputError(args.splits, "split test", f"{tested} pairs", remedy)
    donors = {row["sample"]: row["donor"] for row in rows_of_splits}
    sample_of = np.array(shards.samples, str)[shards.owner]
    donor_of = np.array([donors.get(sample, "") for sample in shards.samples], str)
    splits = expression.split_spots(in_split, donor_of[shards.owner])

    sources = check_sources(args, names, shards.described(), rows_of_splits)
    targets = make_targets(counts, genes, splits, sample_of, options)
    head = {
        "experiment": names["experiment"],
        "dataset": names["dataset"],
        "donors_shared": runs.shared_donors(rows_of_splits, "test"),
        "options_sha256": files.sha256_json(options.deciding),
    }
    rows = []
    for facts, open_source in logs.progress(sources, "scoring encoders", unit="encoder"):
        for representation, source, why in open_source(in_split):
            scored = (
                expression.score_source(source, targets, splits, options)
                if source
                else expression.not_scored(targets, why)
            )
            rows += [{**row, **head, **facts, "representation": representation} for row in scored]
            log.info("%s: %s", _name(facts, representation), why or _in_short(scored))
    expression.write_scores(args.scores, rows)


def check_sources(args, names, shards, splits) -> list[tuple[dict, object]]:
    """All that is to be scored, looked at before anything is computed.

    Pairs of what names a source, and a function of the splits' rows that gives its representations:
    (name, Source or None, why there is none).
    """
    sources, seen = [], {}

    def describe(path, field, identity, **more):
        image_encoder, gene_encoder, seed = identity
        about = _about(names["encoders"], image_encoder, path, field)
        facts = {"image_encoder": image_encoder, "gene_encoder": gene_encoder, "seed": seed}
        if seen.setdefault(identity, path) != path:
            raise InputError(path, "encoder", f"the same as in {seen[identity]}", "give each once")
        return facts | about | {key: value for key, value in more.items() if value}

    for path in args.features or []:
        index_path = Path(path).with_suffix(".json")
        index = files.read_json(index_path)
        name = index.get("encoder") if isinstance(index, dict) else None
        facts = describe(index_path, "encoder", (name, "", ""), stage=AS_IT_CAME)
        _check_shards(index_path, index, shards, "embed the images again")
        sources.append((facts, _open_features(path, index_path)))
    for given in args.runs or []:
        path, run, failed = runs.read_run(given, RUN_KEYS, names["experiment"], names["dataset"])
        identity = (run["image_encoder"], run["gene_encoder"], run["seed"])
        control = runs.control_words(run)
        facts = describe(path, "image_encoder", identity, stage=AFTER, control=control)
        if not failed:
            _check_shards(path, run, shards, "pretrain again")
            if _places(run["splits"]) != _places(splits):
                raise InputError(path, "splits", "other than splits.tsv", "pretrain again")
        sources.append((facts, _open_failed(run) if failed else _open_run(Path(path).parent)))
    return sources


def _about(encoders, name, path, field: str) -> dict:
    if name not in encoders:
        raise InputError(path, field, str(name), f"give only those of {', '.join(encoders)}")
    about = encoders[name]
    return {"features_of": about.get("features_of", name), "control": about.get("control") or ""}


def _check_shards(path, made_of, shards, remedy: str) -> None:
    there = made_of.get("shards") or []
    for shard, expected in zip(shards, there, strict=False):
        if shard != expected:
            field = f"shards, sample {expected.get('sample')}"
            raise InputError(
                path, field, f"other pairs than those of {shard['sample']} here", remedy
            )
    if len(there) != len(shards):
        raise InputError(path, "shards", f"{len(there)} of them for {len(shards)}", remedy)


def _places(splits) -> set:
    return {(row["sample"], row["split"]) for row in splits}


def _open_features(path, index_path):
    def open_source(in_split):
        array, index = stored_features.read_features(path, index_path)
        # View v of row r is row v * N + r; view 0 is the patch as it is.
        array = array[: len(array) // index.get("views", 1)]
        yield ENCODER, Source(dict.fromkeys(in_split, array), in_split), ""

    return open_source


def _open_failed(run):
    return lambda in_split: [(SHARED, None, run["reason"])]


def _open_run(folder: Path):
    def open_source(in_split):
        if not run_embeddings.run_files(folder, "train")["meta"].exists():
            yield SHARED, None, "the run stored no images of its train split"
            return
        stored = {
            split: run_embeddings.read_run_images(folder, split)
            for split, rows in in_split.items()
            if len(rows)
        }
        for split, one in stored.items():
            if not np.array_equal(one["index"]["row"], in_split[split]):
                path = run_embeddings.run_files(folder, split)["index"]
                fault = (
                    f"{len(one['index'])} rows that aren't the {len(in_split[split])} of {split}"
                )
                raise InputError(path, "row", fault, "pretrain again")
        places = {split: np.arange(len(rows)) for split, rows in in_split.items()}
        yield SHARED, Source({split: one["images"] for split, one in stored.items()}, places), ""
        trunks = {split: one["trunk"] for split, one in stored.items()}
        there = [split for split, trunk in trunks.items() if trunk is not None]
        if not there:
            return
        for split in trunks:
            if split not in there:
                path = run_embeddings.run_files(folder, split)["meta"]
                fault = f"nothing, though {there[0]} has it"
                raise InputError(path, "sha256, trunk", fault, "pretrain again")
        yield TRUNK, Source(trunks, places), ""

    return open_source


def _name(facts, representation: str) -> str:
    if not facts["gene_encoder"]:
        return f"{facts['image_encoder']} {AS_IT_CAME}"
    return f"{facts['image_encoder']}-{facts['gene_encoder']} seed {facts['seed']} {representation}"


def _in_short(scored) -> str:
    words = [
        f"{row['recipe']} {'none' if row['value'] is None else format(row['value'], '.3f')} "
        f"({row['undefined']} genes undefined)"
        for row in scored
        if (row["group"], row["metric"], row["gene"]) == ("all", "pearson", "mean")
    ]
    return "mean Pearson " + ", ".join(words)


if __name__ == "__main__":
    program.run(main)
