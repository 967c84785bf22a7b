"""Score how well pairs find each other, from the embeddings that the runs stored.

IN   options.json of each run (its embeddings lie beside it, in embeddings/), or the failed.json of a
     run that ran out of memory
OUT  retrieval.tsv: one row per run, direction, gallery, group and metric; one for a failed run

Options: experiment, dataset, split, seed, and those of the configuration's part `retrieval`. How
ranks, chance, intervals and p-values are made stands in pairscape.evaluate.retrieval.
"""

from pairscape.core import logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import require_options
from pairscape.evaluate import ranks, retrieval
from pairscape.jobs import program
from pairscape.pretrain import failures, runs

RESULT_VERSION = 2
RUN_KEYS = ("options_sha256", "splits")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        runs=program.Many("options.json, or failed.json, of each run"),
        scores=program.Output("retrieval.tsv to write"),
    )
    require_options(args.options, "experiment", "dataset")
    names = {name: args.options.pop(name) for name in ("experiment", "dataset")}
    options = retrieval.RetrievalOptions.of(args.options)
    by_encoders = _read_runs(args.runs, **names)
    rows = []
    for encoders, (path, run) in logs.progress(
        sorted(by_encoders.items()), "scoring runs", unit="run"
    ):
        head = {key: run[key] for key in failures.RUN_KEYS} | {"control": runs.control_words(run)}
        if "reason" in run:
            rows.append({**head, "status": run["reason"], "split": options.split})
            log.info("%s-%s seed %s: not scored, %s", *encoders, run["reason"])
            continue
        embedded, placeholders = runs.read_scorable(path, run, options.split)
        device = ranks.choose_device(options.device, len(embedded["index"]))
        scored = retrieval.score_run(embedded, options, placeholders, device)
        head |= {
            "status": retrieval.SCORED,
            "donors_shared": runs.shared_donors(run["splits"], options.split),
            "options_sha256": run["options_sha256"],
        }
        rows += [{**row, **head} for row in scored]
        log.info("%s-%s seed %s: %s", *encoders, _in_short(scored))
    retrieval.write_scores(args.scores, rows)


def _read_runs(paths, experiment: str, dataset: str) -> dict[tuple[str, str, int], tuple]:
    """The runs by image encoder, gene encoder and seed: the file that tells of one, and what."""
    by_encoders = {}
    for given in paths:
        path, run, _ = runs.read_run(given, RUN_KEYS, experiment, dataset)
        encoders = (run["image_encoder"], run["gene_encoder"], run["seed"])
        if encoders in by_encoders:
            twice = f"the encoders and seed of {by_encoders[encoders][0]}"
            raise InputError(path, "run", twice, "give each run once")
        by_encoders[encoders] = (path, run)
    return by_encoders


def _in_short(scored) -> str:
    whole = [r for r in scored if (r["gallery"], r["group_by"]) == ("split", retrieval.ALL)]
    recalls = [r["metric"] for r in whole if "@" in r["metric"] and "_" not in r["metric"]]
    whole = [row for row in whole if row["metric"] == recalls[-1]]
    values = ", ".join(f"{row['direction'].upper()} {row['value']:.3f}" for row in whole)
    return (
        f"{recalls[-1].capitalize()} among {whole[0]['queries']} {whole[0]['split']} pairs {values}"
        f" (chance {whole[0]['chance']:.3f})"
    )


if __name__ == "__main__":
    program.run(main)
