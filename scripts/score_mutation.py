"""Score slide-level predictions, and compare models patient by patient.

IN   predictions.tsv of each target and model, and those of other entries that are compared with
OUT  one row per target, model, cohort, group and metric

Options: mutation (the name of the entry that is scored), cohort, leaking, runs (mutation, target
and model of each file, in the order of the files), comparisons (target, model, compared_mutation,
compared_model), bootstrap (draws), permutations, seed. How folds, intervals and chance are dealt
with stands in pairscape.slides.mutation_scores.
"""

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.logs import log
from pairscape.core.options import require_options
from pairscape.jobs import program
from pairscape.slides import mutation_scores
from pairscape.slides.predictions import EXTERNAL, TEST, read_predictions

RESULT_VERSION = 1
OPTIONS = ("mutation", "cohort", "leaking", "runs", "bootstrap", "permutations", "seed")


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        predictions=program.Many("predictions.tsv of each run"),
        scores=program.Output("table of scores to write"),
    )
    options = args.options
    require_options(options, *OPTIONS)
    if len(options["runs"]) != len(args.predictions):
        fault = f"{len(options['runs'])} for {len(args.predictions)} files of predictions"
        remedy = "name mutation, target and model of each, in the order of the files"
        raise InputError("--options", "runs", fault, remedy)
    runs = {
        (run["mutation"], run["target"], run["model"]): (path, read_predictions(path))
        for run, path in zip(options["runs"], args.predictions, strict=True)
    }
    draws = (options["bootstrap"], options["permutations"], options["seed"])
    rows = []
    mine = [key for key in runs if key[0] == options["mutation"]]
    for key in logs.progress(mine, "scoring", unit="model"):
        path, roles = runs[key]
        for role, table in roles.items():
            score = mutation_scores.score_test if role == TEST else mutation_scores.score_external
            scored = score(table, *draws)
            head = _head(options, key, path, role)
            rows += [head | row for row in scored]
            log.info("%s, %s, %s: %s", *key[1:], role, _in_short(scored))
    for comparison in options.get("comparisons", ()):
        rows += _compare(comparison, runs, options)
    mutation_scores.write_scores(args.scores, rows)


def _compare(comparison, runs, options) -> list[dict]:
    target = comparison["target"]
    one = (options["mutation"], target, comparison["model"])
    other = (comparison["compared_mutation"], target, comparison["compared_model"])
    for key in (one, other):
        if key not in runs:
            raise InputError("--options", "comparisons", " ".join(key), "give its predictions too")
    (path, roles), (_, others) = runs[one], runs[other]
    rows = []
    for role in (role for role in roles if role in others):
        compare = mutation_scores.compare_test
        if role != TEST:
            if one[0] != other[0]:
                continue  # the same patients outside, but other patients trained: no one comparison
            compare = mutation_scores.compare_external
        compared = compare(roles[role], others[role], options["bootstrap"], options["seed"])
        if not compared:
            log.warning(
                "%s, %s, %s: not compared with %s %s: no patients in common, or other labels",
                *(*one[1:], role, other[0], other[2]),
            )
        head = _head(options, one, path, role)
        head |= {"compared_mutation": other[0], "compared_model": other[2]}
        rows += [head | row for row in compared]
    return rows


def _head(options, key, path, role: str) -> dict:
    mutation, target, model = key
    return {
        "mutation": mutation,
        "leaking": str(bool(options["leaking"])).lower(),
        "target": target,
        "model": model,
        "role": role,
        "cohort": options["cohort"] if role == TEST else role.removeprefix(EXTERNAL),
        "predictions_sha256": files.sha256_file(path),
    }


def _in_short(scored) -> str:
    whole = {row["group"]: row for row in scored if row["metric"] == "auroc"}
    best = whole.get("ensemble") or whole["mean"]
    text = f"AUROC {best['value']:.3f} ({best['group']})"
    if best.get("ci_low") is not None:
        text += f" [{best['ci_low']:.3f} to {best['ci_high']:.3f}]"
    if best.get("chance_low") is not None:
        text += f", chance {best['chance_low']:.3f} to {best['chance_high']:.3f}"
    return text + f", {best['patients']} patients ({best['positives']} positive)"


if __name__ == "__main__":
    program.run(main)
