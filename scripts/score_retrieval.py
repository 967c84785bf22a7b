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
    options = retrieval.check_options(args.options)
    found = _read_runs(args.runs, options)
    rows = []
    for names, (path, run) in logs.progress(sorted(found.items()), "scoring runs", unit="run"):
        head = {key: run[key] for key in failures.RUN_KEYS} | {"control": runs.control_words(run)}
        if "reason" in run:
            rows.append({**head, "status": run["reason"], "split": options["split"]})
            log.info("%s-%s seed %s: not scored, %s", *names, run["reason"])
            continue
        scored = _score(path, run, options)
        head |= {
            "status": retrieval.SCORED,
            "donors_shared": runs.shared_donors(run["splits"], options["split"]),
            "options_sha256": run["options_sha256"],
        }
        rows += [{**row, **head} for row in scored]
        log.info("%s-%s seed %s: %s", *names, _in_short(scored))
    retrieval.write_scores(args.scores, rows)


def _score(path, run, options) -> list[dict]:
    embedded, placeholders = runs.read_scorable(path, run, options["split"])
    device = ranks.choose_device(options["device"], len(embedded["index"]))
    return retrieval.score_run(embedded, options, placeholders, device)


def _read_runs(paths, options) -> dict[tuple[str, str, int], tuple]:
    """The runs by image encoder, gene encoder and seed: where they are told of, and what is told."""
    found = {}
    for given in paths:
        path, run, _ = runs.read_run(given, RUN_KEYS, options["experiment"], options["dataset"])
        names = (run["image_encoder"], run["gene_encoder"], run["seed"])
        if names in found:
            raise InputError(
                path, "run", f"the encoders and seed of {found[names][0]}", "give each run once"
            )
        found[names] = (path, run)
    return found


def _in_short(scored) -> str:
    whole = [r for r in scored if (r["gallery"], r["group_by"]) == ("split", retrieval.ALL)]
    metric = [row["metric"] for row in whole if "@" in row["metric"] and "_" not in row["metric"]][
        -1
    ]
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
