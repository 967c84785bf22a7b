"""The table of slide-level prediction: one row per entry, cohort, target and model."""

from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import tsv
from pairscape.report.layout import MINUS_TO, NOT_RUN
from pairscape.slides import site_folds
from pairscape.slides.mutation_scores import RANKED
from pairscape.slides.predictions import TEST

TITLE = "Slide-level mutation prediction"

HEAD = ("mutation", "leaking", "cohort", "target", "model", "role")
PARTS = ("", "_sd", "_ci_low", "_ci_high", "_chance", "_chance_low", "_chance_high")
ALONE = ("brier", "brier_chance", "calibration_in_the_large", "calibration_slope")
TESTS = ("auroc_ranks", "auroc_p_value", "auroc_site_chance", "auroc_site_p_value")
CHANGE = ("", "_ci_low", "_ci_high", "_p_value")
TEXTS = (*HEAD, "baseline", "preserved", "ci_over", "change_over")
COLUMNS = (
    *HEAD,
    *("patients", "positives"),
    *(metric + part for metric in RANKED for part in PARTS),
    *(*TESTS, *ALONE, "ci_over"),
    *("baseline", *(f"{metric}_gain{part}" for metric in RANKED for part in CHANGE)),
    *("preserved", *(f"{metric}_leak{part}" for metric in RANKED for part in CHANGE)),
    "change_over",
)
METRIC_WORDS = {"auroc": "AUROC", "auprc": "AUPRC", "balanced_accuracy": "Balanced accuracy"}


def tabulate_mutation(scores: Iterable[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """Bring tidy scores to one row per entry, cohort, target and model.

    Test folds give the mean over folds, external cohorts the models' mean score. ``_gain`` is the
    difference to the ``baseline``: the encoder before pretraining, or its untrained control;
    ``_leak`` that of leaked to ``preserved`` sites.

    Parameters
    ----------
    scores
        Rows of ``mutation_scores.read_scores``, of any number of entries.
    expected
        The planned runs: ``mutation``, ``leaking``, ``cohort``, ``target``, ``model``. What isn't
        among the scores gets a row without values.
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


def write_table(path, rows: Sequence[Mapping]) -> None:
    """Write the table as TSV, numbers with 6 significant digits, ``None`` as an empty field."""
    tsv.write_numbers(path, rows, COLUMNS)


def is_mutation_table(columns: Iterable[str]) -> bool:
    """Whether a TSV with these columns was written by ``write_table``."""
    return set(COLUMNS) <= set(columns)


def read_table(path) -> list[dict]:
    """Read what ``write_table`` wrote; numbers as float, empty ones as None."""
    return tsv.read_numbers(path, COLUMNS, "delete it and tabulate again", texts=TEXTS)


# ----------------------------------------------------------------------------------- for the reader


def mutation_sections(rows: Sequence[Mapping], balances: Iterable[Mapping] = ()) -> list[dict]:
    """Lay the table out for a reader, in the form that ``tables.to_markdown`` takes.

    A section per entry and cohort, and one of leaked against preserved sites where both were run.

    Parameters
    ----------
    rows
        Rows of ``tabulate_mutation``.
    balances
        What ``site_folds.read_balance`` read, for the notes.
    """
    balances = list(balances)
    names = list(dict.fromkeys(row["mutation"] for row in rows))
    places = dict.fromkeys((row["mutation"], row["role"], row["cohort"]) for row in rows)
    places = sorted(places, key=lambda place: names.index(place[0]))  # stable
    sections = [
        _scores(
            [row for row in rows if (row["mutation"], row["role"], row["cohort"]) == place],
            balances,
        )
        for place in places
    ]
    leaked = [row for row in rows if row["preserved"]]
    return sections + ([_leaked(leaked, rows)] if leaked else [])


def _scores(rows: Sequence[Mapping], balances: Sequence[Mapping]) -> dict:
    first, body, rules = rows[0], [], []
    targets = list(dict.fromkeys(row["target"] for row in rows))
    for target in targets:
        rules.append(len(body))
        for row in (row for row in rows if row["target"] == target):
            body.append(
                [target, _folds(row), row["model"]]
                + [_value(row, metric) for metric in RANKED]
                + [_range(row, "auroc_chance"), _p(row["auroc_p_value"])]
                + [_number(row["auroc_site_chance"]), _p(row["auroc_site_p_value"])]
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
        notes.append(f"{NOT_RUN}: not run.")
    for balance in balances:
        same = (balance["cohort"], str(bool(balance["leaking"])).lower())
        known = same == (first["cohort"], first["leaking"]) and balance["target"] in targets
        if tested and known:
            words = site_folds.balance_words(balance)
            notes.append(f"Folds of {balance['target']}: {words}.")
    return {
        "title": f"{first['mutation']}: {first['cohort']}, {where}",
        "header": [
            *("Target", "Sites", "Model", *METRIC_WORDS.values(), "Chance (AUROC)", "p"),
            *("Site alone", "p given site", "Brier", "Gain (AUROC)", "Patients (positive)"),
        ],
        "rows": body,
        "chance": rules,
        "notes": notes,
    }


def _leaked(leaked: Sequence[Mapping], rows: Sequence[Mapping]) -> dict:
    kept = {(row["mutation"], row["target"], row["model"]): row for row in rows if _tested(row)}
    body = []
    for row in filter(_tested, leaked):
        other = kept.get((row["preserved"], row["target"], row["model"]), dict.fromkeys(COLUMNS))
        body.append(
            [row["cohort"], _patients(row), row["target"], row["model"]]
            + [_value(of, "auroc") for of in (other, row)]
            + [_change(row, "auroc_leak")]
            + [_number(of["auroc_site_chance"]) for of in (other, row)]
        )
    over = "; ".join(dict.fromkeys(row["change_over"] for row in leaked if row["change_over"]))
    return {
        "title": "Leaked against preserved sites (AUROC)",
        "header": [
            *("Cohort", "Patients (positive)", "Target", "Model", "Preserved", "Leaked"),
            *("Leaked - preserved", "Site alone, preserved", "Site alone, leaked"),
        ],
        "rows": body,
        "chance": [],
        "notes": [
            "Leaked: patients are dealt to folds whatever their site, so that the model may learn "
            "the site and with it the site's share of positives. Site alone: what these predictions "
            "score when labels are dealt anew among the patients of each fold and site.",
            f"Differences with their 95 % interval over {over}.",
        ],
    }


def _tested(row: Mapping) -> bool:
    return row["role"] == TEST


def _folds(row: Mapping) -> str:
    return "leaked" if row["leaking"] == "true" else "preserved"


def _number(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.3f}"


def _value(row: Mapping, metric: str) -> str:
    text = _number(row[metric])
    if row[metric + "_sd"] is not None:
        text += f" ({row[metric + '_sd']:.3f})"
    if row[metric + "_ci_low"] is not None:
        text += f" [{row[metric + '_ci_low']:.3f}{MINUS_TO}{row[metric + '_ci_high']:.3f}]"
    return text


def _range(row: Mapping, name: str) -> str:
    if row[name + "_low"] is None:
        return NOT_RUN
    return f"{row[name + '_low']:.3f}{MINUS_TO}{row[name + '_high']:.3f}"


def _brier(row: Mapping) -> str:
    if row["brier"] is None:
        return NOT_RUN
    chance = "" if row["brier_chance"] is None else f" ({row['brier_chance']:.3f})"
    return f"{row['brier']:.3f}{chance}"


def _change(row: Mapping, name: str) -> str:
    if row[name] is None:
        return ""
    text = f"{row[name]:+.3f}"
    if row[name + "_ci_low"] is not None:
        text += f" [{row[name + '_ci_low']:+.3f} to {row[name + '_ci_high']:+.3f}]"
    if row[name + "_p_value"] is not None:
        text += f", p {_p(row[name + '_p_value'])}"
    return text


def _p(value: float | None) -> str:
    return NOT_RUN if value is None else f"{value:.2g}"


def _patients(row: Mapping) -> str:
    return f"{row['patients']:.0f} ({row['positives']:.0f})" if row["patients"] else NOT_RUN


def short_model(name: str) -> str:
    """A model's name on two lines, for axes."""
    parts = name.split(".")
    if len(parts) != 4:
        return name
    experiment, dataset, pair, seed = parts
    return f"{pair}\n{experiment}, {dataset}, {seed}"
