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

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.dataset import expression_counts, gene_lists, stored_features
from pairscape.dataset.shards import Shards
from pairscape.evaluate import expression
from pairscape.evaluate.expression import AFTER, AS_IT_CAME, ENCODER, SHARED, TRUNK
from pairscape.evaluate.targets import Source, make_targets
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
    options = expression.check_options(args.options)
    if not args.features and not args.runs:
        raise InputError("--features", "flag", "nothing", "give features or runs to score")

    import threadpoolctl

    threadpoolctl.threadpool_limits(args.threads)
    rows_of_splits = tsv.read_tsv(args.splits, ["sample", "donor", "split"])
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]
    shards = Shards.open(args.shards)
    counts = expression_counts.Counts(shards, genes)
    of_split = expression_counts.split_rows(shards, rows_of_splits, args.splits)
    if len(of_split["test"]) < 2:
        raise InputError(
            args.splits,
            "split test",
            f"{len(of_split['test'])} pairs",
            "put a sample with pairs into test",
        )
    donors = {row["sample"]: row["donor"] for row in rows_of_splits}
    sample_of = np.array(shards.samples, str)[shards.owner]
    donor_of = np.array([donors.get(sample, "") for sample in shards.samples], str)
    splits = expression.split_spots(of_split, donor_of[shards.owner])

    sources = check_sources(args, names, shards.described(), rows_of_splits)
    targets = make_targets(counts, genes, splits, sample_of, options)
    head = {
        "experiment": names["experiment"],
        "dataset": names["dataset"],
        "donors_shared": runs.shared_donors(rows_of_splits, "test"),
        "options_sha256": files.sha256_json(options),
    }
    rows = []
    for facts, open_source in logs.progress(sources, "scoring encoders", unit="encoder"):
        for representation, source, why in open_source(of_split):
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

    Returns
    -------
    Pairs of what names a source, and a function of the splits' rows that gives its
    representations: (name, Source or None, why there is none).
    """
    found, seen = [], {}
    for path in args.features or []:
        index_path = Path(path).with_suffix(".json")
        index = files.read_json(index_path)
        name = index.get("encoder") if isinstance(index, dict) else None
        about = _about(names["encoders"], name, index_path, "encoder")
        _check_shards(index_path, index, shards, "embed the images again")
        _once(seen, (name,), path)
        facts = {"image_encoder": name, **about}
        facts |= {"stage": AS_IT_CAME, "gene_encoder": "", "seed": ""}
        found.append((facts, _open_features(path, index_path)))
    for given in args.runs or []:
        path, run, failed = runs.read_run(given, RUN_KEYS, names["experiment"], names["dataset"])
        about = _about(names["encoders"], run["image_encoder"], path, "image_encoder")
        identity = (run["image_encoder"], run["gene_encoder"], run["seed"])
        _once(seen, identity, path)
        if not failed:
            _check_shards(path, run, shards, "pretrain again")
            if _places(run["splits"]) != _places(splits):
                raise InputError(path, "splits", "other than splits.tsv", "pretrain again")
        facts = dict(zip(("image_encoder", "gene_encoder", "seed"), identity, strict=True))
        facts |= {**about, "control": runs.control_words(run) or about["control"], "stage": AFTER}
        found.append((facts, _open_failed(run) if failed else _open_run(Path(path).parent)))
    return found


def _about(encoders, name, path, field: str) -> dict:
    if name not in encoders:
        raise InputError(path, field, str(name), f"give only those of {', '.join(encoders)}")
    of = encoders[name]
    return {"features_of": of.get("features_of", name), "control": of.get("control") or ""}


def _check_shards(path, made_of, shards, remedy: str) -> None:
    there = made_of.get("shards") or []
    for shard, expected in zip(shards, there, strict=False):
        if shard != expected:
            raise InputError(
                path,
                f"shards, sample {expected.get('sample')}",
                f"other pairs than those of {shard['sample']} here",
                remedy,
            )
    if len(there) != len(shards):
        raise InputError(path, "shards", f"{len(there)} of them for {len(shards)}", remedy)


def _once(seen: dict, identity, path) -> None:
    if seen.setdefault(identity, path) != path:
        raise InputError(path, "encoder", f"the same as in {seen[identity]}", "give each once")


def _places(splits) -> set:
    return {(row["sample"], row["split"]) for row in splits}


def _open_features(path, index_path):
    def open_source(of_split):
        array, index = stored_features.read_features(path, index_path)
        # View v of row r is row v * N + r; view 0 is the patch as it is.
        array = array[: len(array) // index.get("views", 1)]
        yield ENCODER, Source(dict.fromkeys(of_split, array), of_split), ""

    return open_source


def _open_failed(run):
    def open_source(of_split):
        yield SHARED, None, run["reason"]

    return open_source


def _open_run(folder: Path):
    def open_source(of_split):
        wanted = [split for split, rows in of_split.items() if len(rows)]
        if not run_embeddings.run_files(folder, "train")["meta"].exists():
            yield SHARED, None, "the run stored no images of its train split"
            return
        stored = {split: run_embeddings.read_run_images(folder, split) for split in wanted}
        for split, one in stored.items():
            if not np.array_equal(one["index"]["row"], of_split[split]):
                raise InputError(
                    run_embeddings.run_files(folder, split)["index"],
                    "row",
                    f"{len(one['index'])} rows that aren't the {len(of_split[split])} of {split}",
                    "pretrain again",
                )
        places = {split: np.arange(len(rows)) for split, rows in of_split.items()}
        with_trunk = [split for split, one in stored.items() if one["trunk"] is not None]
        for name, key in ((SHARED, "images"), (TRUNK, "trunk")):
            if key == "trunk" and not with_trunk:
                continue
            lacking = [split for split, one in stored.items() if one[key] is None]
            if lacking:
                raise InputError(
                    run_embeddings.run_files(folder, lacking[0])["meta"],
                    "sha256, trunk",
                    f"nothing, though {with_trunk[0]} has it",
                    "pretrain again",
                )
            arrays = {split: one[key] for split, one in stored.items()}
            yield name, Source(arrays, places), ""

    return open_source


def _name(facts, representation: str) -> str:
    if not facts["gene_encoder"]:
        return f"{facts['image_encoder']} {AS_IT_CAME}"
    return f"{facts['image_encoder']}-{facts['gene_encoder']} seed {facts['seed']} {representation}"


def _in_short(scored) -> str:
    told = []
    for row in scored:
        if (row["group"], row["metric"], row["gene"]) == ("all", "pearson", "mean"):
            value = "none" if row["value"] is None else f"{row['value']:.3f}"
            told.append(f"{row['recipe']} {value} ({row['undefined']} genes undefined)")
    return "mean Pearson " + ", ".join(told)


if __name__ == "__main__":
    program.run(main)
