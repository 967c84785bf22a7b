"""The table of slide-level prediction: one row per entry, cohort, target and model."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import tsv
from pairscape.report import layout
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.rows import split_by
from pairscape.slides import site_folds
from pairscape.slides.mutation_scores import RANKED
from pairscape.slides.predictions import TEST

TITLE = "Slide-level mutation prediction"

HEAD = ("mutation", "leaking", "cohort", "target", "model", "role")
PARTS = {
    "": "",
    "_sd": ", standard deviation over folds",
    "_ci_low": ", lower bound",
    "_ci_high": ", upper bound",
    "_chance": " of chance",
    "_chance_low": " of chance, lower bound",
    "_chance_high": " of chance, upper bound",
}
CHANGE = ("", "_ci_low", "_ci_high", "_p_value")
METRIC_WORDS = {"auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "Balanced accuracy"}


def _changes(kind: str, what: str) -> tuple[tsv.Column, ...]:
    names = [f"{metric}_{kind}{part}" for metric in RANKED for part in CHANGE]
    return tsv.numbers(**dict.fromkeys(names, what))


TABLE = tsv.Table(
    "mutation.tsv",
    "show_mutation",
    (
        *tsv.text(
            mutation="the entry of the configuration",
            leaking="whether sites stand in several folds",
            cohort="cohort",
            target="label",
            model="whose embeddings",
            role="test folds, or an external cohort",
        ),
        *tsv.numbers(patients="patients", positives="of them positive"),
        *tsv.numbers(
            **{
                metric + part: f"{METRIC_WORDS[metric]}{words}"
                for metric in RANKED
                for part, words in PARTS.items()
            }
        ),
        *tsv.numbers(
            auroc_ranks="AUROC of ranks within folds",
            auroc_p_value="for a score above chance",
            auroc_site_chance="mean for labels dealt anew within sites",
            auroc_site_p_value="for a score above that",
            brier="Brier score, the class weight undone",
            brier_chance="that of the share of positives",
            calibration_in_the_large="intercept of the logits' calibration",
            calibration_slope="slope of the logits' calibration",
        ),
        *tsv.text(ci_over="what the intervals are over", baseline="what the gain is over"),
        *_changes("gain", "difference to the baseline, its interval, p"),
        *tsv.text(preserved="the entry that the leak is over"),
        *_changes("leak", "difference to preserved sites, its interval, p"),
        *tsv.text(change_over="what the intervals of differences are over"),
    ),
)
COLUMNS = TABLE.names


def tabulate_mutation(scores: Iterable[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """Bring tidy scores to one row per entry, cohort, target and model.

    Test folds give the mean over folds, external cohorts the models' mean score. ``_gain`` is the
    difference to the ``baseline``: the encoder before pretraining, or its untrained control;
    ``_leak`` that of leaked to ``preserved`` sites.

    ``scores``: rows of ``mutation_scores.read_scores``, of any number of entries. ``expected``: the
    planned runs (the first five of ``HEAD``); what isn't among the scores gets a row without values.
    """
    table: dict[tuple, dict] = {}
    for run in expected:
        leaking = str(bool(run["leaking"])).lower()
        key = (run["mutation"], leaking, run["cohort"], run["target"], run["model"], TEST)
        table[key] = dict.fromkeys(COLUMNS) | dict(zip(HEAD, key, strict=True))
    for row in scores:
        if row["group"] not in (("mean", "ranks") if row["role"] == TEST else ("ensemble",)):
            continue
        key = tuple(row[name] for name in HEAD)
        made = table.setdefault(key, dict.fromkeys(COLUMNS) | dict(zip(HEAD, key, strict=True)))
        metric = row["metric"]
        if row["compared_model"]:
            leak = row["compared_mutation"] != row["mutation"]
            kind = "leak" if leak else "gain"
            made["preserved" if leak else "baseline"] = (
                row["compared_mutation"] if leak else row["compared_model"]
            )
            for part in CHANGE:
                made[f"{metric}_{kind}{part}"] = row[part.removeprefix("_") or "value"]
            if metric == "auroc":
                made["change_over"] = row["ci_over"]
        elif row["group"] == "ranks":
            if metric == "auroc":
                made["auroc_ranks"] = row["value"]
        elif metric in RANKED:
            for part in PARTS:
                made[metric + part] = row[part.removeprefix("_") or "value"]
            if metric == "auroc":
                for name in ("p_value", "site_chance", "site_p_value"):
                    made[f"auroc_{name}"] = row[name]
                for name in ("patients", "positives", "ci_over"):
                    made[name] = row[name]
        else:
            made[metric] = row["value"]
            if metric == "brier":
                made["brier_chance"] = row["chance"]
    return list(table.values())


# ----------------------------------------------------------------------------------- for the reader


def mutation_sections(rows: Sequence[Mapping], balances: Iterable[Mapping] = ()) -> list[dict]:
    """Lay the table out for a reader: a section per entry and cohort, and one of leaked against
    preserved sites where both were run.

    ``balances``: what ``site_folds.read_balance`` read, for the notes.
    """
    balances = list(balances)
    names = list(dict.fromkeys(row["mutation"] for row in rows))
    places = split_by(rows, "mutation", "role", "cohort")
    order = sorted(places, key=lambda place: names.index(place[0]))  # stable
    sections = [_scores(places[place], balances) for place in order]
    leaked = [row for row in rows if row["preserved"]]
    return sections + ([_leaked(leaked, rows)] if leaked else [])


def _scores(rows: Sequence[Mapping], balances: Sequence[Mapping]) -> dict:
    first, body, rules = rows[0], [], []
    targets = split_by(rows, "target")
    for target, of_target in targets.items():
        rules.append(len(body))
        for row in of_target:
            body.append(
                [target, _folds(row), row["model"]]
                + [_value(row, metric) for metric in RANKED]
                + [_range(row, "auroc_chance"), _p(row["auroc_p_value"])]
                + [layout.number(row["auroc_site_chance"]), _p(row["auroc_site_p_value"])]
                + [_brier(row), _change(row, "auroc_gain"), _patients(row)]
            )
    tested = first["role"] == TEST
    where = "test folds" if tested else "external"
    notes = [
        (
            "Mean over the test folds (standard deviation over them); scores of different folds "
            "are never pooled."
            if tested
            else "Each patient is scored by the mean logit of the folds' models."
        )
        + " Balanced accuracy is taken where the logit is above 0.",
        "Chance: the AUROC's 95 % range for labels dealt anew among the patients of a fold, p for "
        "a score above it. Site alone: its mean for labels dealt anew among the patients of a fold "
        "and site, p for a score above it: what is left when sites are known.",
        "Brier score of the probability after the class weight is undone (that of the share of "
        "positives as a constant).",
    ]
    over = list(dict.fromkeys(row["ci_over"] for row in rows if row["ci_over"]))
    if over:
        notes.append(f"In brackets the 95 % interval over {'; '.join(over)}.")
    baselines = [f"{row['model']}: {row['baseline']}" for row in rows if row["baseline"]]
    if baselines:
        ways = "; ".join(dict.fromkeys(r["change_over"] for r in rows if r["change_over"]))
        notes.append(
            "Gain: difference of the AUROC to the same encoder before pretraining, or untrained "
            f"({'; '.join(dict.fromkeys(baselines))}), 95 % interval over {ways}."
        )
    if any(row["auroc"] is None for row in rows):
        notes.append(f"{layout.NOT_RUN}: not run.")
    for balance in balances:
        same = (balance["cohort"], str(bool(balance["leaking"])).lower())
        known = same == (first["cohort"], first["leaking"]) and balance["target"] in targets
        if tested and known:
            words = site_folds.balance_words(balance)
            notes.append(f"Folds of {balance['target']}: {words}.")
    title = f"{first['mutation']}: {first['cohort']}, {where}"
    header = ["Target", "Sites", "Model", *METRIC_WORDS.values(), "Chance (AUROC)", "p"]
    header += ["Site alone", "p given site", "Brier", "Gain (AUROC)", "Patients (positive)"]
    return layout.section(title, header, body, notes, chance=rules)


def _leaked(leaked: Sequence[Mapping], rows: Sequence[Mapping]) -> dict:
    kept = {(row["mutation"], row["target"], row["model"]): row for row in rows if _tested(row)}
    body = []
    for row in filter(_tested, leaked):
        other = kept.get((row["preserved"], row["target"], row["model"]), dict.fromkeys(COLUMNS))
        body.append(
            [row["cohort"], _patients(row), row["target"], row["model"]]
            + [_value(entry, "auroc") for entry in (other, row)]
            + [_change(row, "auroc_leak")]
            + [layout.number(entry["auroc_site_chance"]) for entry in (other, row)]
        )
    over = "; ".join(dict.fromkeys(row["change_over"] for row in leaked if row["change_over"]))
    header = ["Cohort", "Patients (positive)", "Target", "Model", "Preserved", "Leaked"]
    header += ["Leaked - preserved", "Site alone, preserved", "Site alone, leaked"]
    notes = [
        "Leaked: patients are dealt to folds whatever their site, so that the model may learn "
        "the site and with it the site's share of positives. Site alone: what these predictions "
        "score when labels are dealt anew among the patients of each fold and site.",
        f"Differences with their 95 % interval over {over}.",
    ]
    return layout.section("Leaked against preserved sites (AUROC)", header, body, notes)


def _tested(row: Mapping) -> bool:
    return row["role"] == TEST


def _folds(row: Mapping) -> str:
    return "leaked" if row["leaking"] == "true" else "preserved"


def _value(row: Mapping, metric: str) -> str:
    spread, low, high = (row[metric + part] for part in ("_sd", "_ci_low", "_ci_high"))
    return layout.number(row[metric]) + layout.deviation(spread) + layout.interval(low, high)


def _range(row: Mapping, name: str) -> str:
    if row[name + "_low"] is None:
        return layout.NOT_RUN
    return f"{row[name + '_low']:.3f}{layout.MINUS_TO}{row[name + '_high']:.3f}"


def _brier(row: Mapping) -> str:
    if row["brier"] is None:
        return layout.NOT_RUN
    return layout.number(row["brier"]) + layout.deviation(row["brier_chance"])


def _change(row: Mapping, name: str) -> str:
    if row[name] is None:
        return ""
    text = f"{row[name]:+.3f}"
    text += layout.interval(row[name + "_ci_low"], row[name + "_ci_high"], "+.3f", " to ")
    return text + (
        f", p {_p(row[name + '_p_value'])}" if row[name + "_p_value"] is not None else ""
    )


def _p(value: float | None) -> str:
    return layout.number(value, ".2g")


def _patients(row: Mapping) -> str:
    return f"{row['patients']:.0f} ({row['positives']:.0f})" if row["patients"] else layout.NOT_RUN


def short_model(name: str) -> str:
    """A model's name on two lines, for axes."""
    parts = name.split(".")
    if len(parts) != 4:
        return name
    experiment, dataset, pair, seed = parts
    return f"{pair}\n{experiment}, {dataset}, {seed}"


def says(rows: Sequence[Mapping]) -> str:
    """The best model of each entry, cohort and target."""
    parts = []
    scored = [row for row in rows if row["auroc"] is not None]
    for (entry, cohort, target), models in split_by(scored, "mutation", "cohort", "target").items():
        best = max(models, key=lambda row: row["auroc"])
        parts.append(
            f"{entry}, {target} in {cohort}: best is {best['model']}, AUROC {best['auroc']:.3f}."
        )
    return " ".join(parts)


CHAPTER = Chapter(
    name="mutation",
    heading="Mutation prediction",
    about="Labels of whole slides predicted from frozen patch embeddings, by folds that share no site.",
    tables=(Shown("mutation", "Mutation prediction", TABLE, mutation_sections, says=says),),
    caption="{name}: AUROC of a slide's label from frozen patch embeddings, mean over folds with its "
    "interval over patients; dots: folds.",
)
