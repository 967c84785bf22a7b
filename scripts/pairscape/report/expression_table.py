"""Expression scores for the reader: each encoder as it came beside itself after pretraining.

The table asks one question, whether contrastive pretraining made the frozen embeddings better or
worse for a task, so that either answer can stand in it. Its column ``task`` leaves room for others
(mutation prediction) in the same columns.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from pairscape.core import tsv
from pairscape.evaluate.expression import AFTER, ALL, AS_IT_CAME, SHARED
from pairscape.evaluate.intervals import DONORS_NEEDED
from pairscape.evaluate.statistics import TOO_FEW, sign_flip
from pairscape.evaluate.targets import RECIPES
from pairscape.report import layout, words
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.columns import columns
from pairscape.report.rows import mean_sd, split_by

TASK = "expression"
METRICS = ("pearson", "spearman", "r2")  # of r2_train_mean there is no before and after
RUN = ("dataset", "image_encoder", "gene_encoder")
HEAD = ("task", "recipe", "metric", *RUN, "representation")
TABLE = tsv.Table(
    "expression_<experiment>.tsv",
    "show_expression",
    (
        *tsv.text(
            task="what is predicted",
            recipe="published, within_test or corrected",
            metric="mean over genes of this",
        ),
        *columns("dataset", "image_encoder", "gene_encoder"),
        *tsv.text(representation="of which embedding"),
        *columns("control"),
        *tsv.text(target="what is made of the counts"),
        *tsv.numbers(
            before="from the encoder's own features",
            after="from those after pretraining, mean over seeds",
            after_sd="standard deviation over seeds",
            difference="after less before, all test spots",
            difference_sd="standard deviation over seeds",
            difference_over_donors="mean of the donors'",
        ),
        *tsv.text(difference_by_donor="each donor's, mean over seeds"),
        *tsv.numbers(donors="donors with both", donors_up="above 0", donors_down="below 0"),
        *tsv.text(reads="the difference in words"),
        *tsv.numbers(p_value="two-sided, by flipping the donors' signs"),
        *columns("p_test"),
        *tsv.numbers(
            train_mean="R² of the train mean",
            genes="genes predicted",
            before_undefined="of them without a correlation, before",
            after_undefined="and after",
        ),
        *columns("spots", "seeds_run", "seeds_planned", "seeds_missing"),
        *tsv.text(note="why not"),
        *columns("donors_shared"),
    ),
)
COLUMNS = TABLE.names
_AFTER_COLUMN = 5
_MINUS = "\N{MINUS SIGN}"


# ---------------------------------------------------------------------------------------- the table


def tabulate(scores: Sequence[Mapping], expected: Iterable[Mapping]) -> list[dict]:
    """One row per recipe, metric and encoder as it came, and one per run's pair after pretraining.

    ``before`` is the score of the encoder's own features over all test spots, ``after`` the mean over
    seeds of the pretrained pair's; ``difference`` is theirs, by donor and over all spots. Seeds don't
    make donors more: a donor's difference is the mean over seeds.

    ``scores``: rows of ``expression.read_experiment_scores``; ``expected``: the planned runs.
    """
    planned: dict[tuple, list[str]] = {}
    for run in expected:
        planned.setdefault(tuple(str(run[key]) for key in RUN), []).append(str(run["seed"]))
    cells: dict[tuple, dict] = {}
    facts: dict[tuple, Mapping] = {}
    for row in scores:
        key = (row["recipe"], *(row[name] for name in RUN), row["representation"])
        facts.setdefault(key, row)
        groups = cells.setdefault(key, {}).setdefault(row["metric"], {})
        groups.setdefault(row["group"], {})[row["seed"]] = row
    recipes = [name for name in RECIPES if any(key[0] == name for key in cells)] or list(RECIPES)
    table = []
    for recipe in recipes:
        came = {
            (key[1], key[2]): key
            for key, row in facts.items()
            if key[0] == recipe and row["stage"] == AS_IT_CAME
        }
        after = [key for key, row in facts.items() if key[0] == recipe and row["stage"] == AFTER]
        known = {key[1:4] for key in after}
        after += [(recipe, *run, SHARED) for run in planned if run not in known]
        # As a reader looks for them: each encoder as it came, then its pairs.
        order = list(dict.fromkeys([*((r, d) for d, r in came), *((k[2], k[1]) for k in after)]))
        for metric in METRICS:
            for key in came.values():
                table.append(_row(metric, key, cells[key], None, facts[key], None))
            for key in sorted(after, key=lambda key: order.index((key[2], key[1]))):
                fact = facts.get(key)
                base = came.get((key[1], fact["features_of"] if fact else key[2]))
                before = cells[base] if base else None
                table.append(_row(metric, key, before, cells.get(key, {}), fact, planned))
    return table


def _row(metric, key, before, after, fact, planned) -> dict:
    row = dict.fromkeys(COLUMNS)
    row |= {"task": TASK, "metric": metric} | dict(zip(("recipe", *RUN), key[:4], strict=True))
    row |= {"representation": key[4]}
    row |= {name: fact[name] if fact else "" for name in ("control", "target", "donors_shared")}
    row |= dict.fromkeys(("difference_by_donor", "p_test", "seeds_missing", "note", "reads"), "")
    before_by_group = _by_group(before, metric)
    if ALL in before_by_group:
        score = next(iter(before_by_group[ALL].values()))
        row |= {"before": score["value"], "before_undefined": score["undefined"]} | _counts(score)
    if metric == "r2":
        for cell in (before, after):
            base = next(iter(_by_group(cell, "r2_train_mean").get(ALL, {}).values()), None)
            row["train_mean"] = base["value"] if base else row["train_mean"]
    if after is None:
        return row
    after_by_group = _by_group(after, metric)
    seeds = after_by_group.get(ALL, {})
    unscored = [r for r in after.get("pearson", {}).get(ALL, {}).values() if r["note"]]
    known = [*seeds, *(score["seed"] for score in unscored)]
    wanted = planned.get(key[1:4], []) or known
    row["seeds_run"], row["seeds_planned"] = len(seeds), len({*wanted, *known})
    row["seeds_missing"] = " ".join(seed for seed in wanted if seed not in seeds)
    row["note"] = "; ".join(dict.fromkeys(score["note"] for score in unscored))
    if seeds:
        row["after_undefined"] = max(score["undefined"] for score in seeds.values())
        row |= _counts(next(iter(seeds.values())))
    values = [score["value"] for score in seeds.values() if score["value"] is not None]
    if values:
        row["after"], row["after_sd"] = mean_sd(values)
    if values and row["before"] is not None:
        differences = [value - row["before"] for value in values]
        row["difference"], row["difference_sd"] = mean_sd(differences)
    return row | _over_donors(before_by_group, after_by_group)


def _counts(score: Mapping) -> dict:
    return {"genes": score["genes"] + score["undefined"], "spots": score["spots"]}


def _by_group(cells: Mapping | None, metric: str) -> dict:
    """Scored rows of a metric by group and seed."""
    return {
        group: scored
        for group, seeds in (cells or {}).get(metric, {}).items()
        if (scored := {seed: row for seed, row in seeds.items() if not row["note"]})
    }


def donor_differences(before: Mapping, after: Mapping) -> dict[str, float]:
    """After less before of each donor where both are defined, after as the mean over seeds."""
    differences = {}
    for donor, seeds in after.items():
        values = [row["value"] for row in seeds.values() if row["value"] is not None]
        came = next((row["value"] for row in before.get(donor, {}).values()), None)
        if donor != ALL and values and came is not None:
            differences[donor] = statistics.fmean(values) - came
    return differences


def _over_donors(before: Mapping, after: Mapping) -> dict:
    differences = donor_differences(before, after)
    count = len(differences)
    if not count:
        return {"reads": "not scored" if not after else "nothing to compare with"}
    up = sum(value > 0 for value in differences.values())
    down = sum(value < 0 for value in differences.values())
    p, test = sign_flip(list(differences.values()))
    whose = "the one donor" if count == 1 else f"all {count} donors"
    if up == count:
        reads = f"improves for {whose}"
    elif down == count:
        reads = f"degrades for {whose}"
    elif not up and not down:
        reads = "no difference"
    else:
        reads = f"mixed: improves for {up} of {count} donors, degrades for {down}"
    return {
        "difference_over_donors": statistics.fmean(differences.values()),
        "difference_by_donor": "; ".join(f"{d} {_signed(v)}" for d, v in differences.items()),
        "donors": count,
        "donors_up": up,
        "donors_down": down,
        "reads": reads,
        "p_value": p,
        "p_test": test,
    }


# ----------------------------------------------------------------------------------- for the reader


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """The table laid out for a reader.

    First the encoders as they came; then, by recipe, what pretraining did to the mean Pearson.
    """
    came = [row for row in rows if not row["gene_encoder"]]
    pairs = [row for row in rows if row["gene_encoder"]]
    laid_out = [_came_section(came)] if came else []
    return laid_out + [_pairs_section(*group) for group in split_by(pairs, "recipe").items()]


def _came_section(rows: Sequence[Mapping]) -> dict:
    recipes = list(dict.fromkeys(row["recipe"] for row in rows))
    body, scores = [], {}
    for (dataset, _), encoder_rows in split_by(rows, "dataset", "image_encoder").items():
        cells = {(row["recipe"], row["metric"]): row for row in encoder_rows}
        first = encoder_rows[0]
        line = [dataset, _named(first)]
        for recipe in recipes:
            for column, metric in enumerate(METRICS, start=len(line)):
                if not first["control"]:
                    of_column = scores.setdefault((dataset, column), {})
                    of_column[len(body), column] = cells[recipe, metric]["before"]
            line += [_number(cells[recipe, metric]["before"]) for metric in METRICS]
            line.append(_undefined(cells[recipe, "pearson"], "before_undefined"))
        baseline = cells.get((recipes[-1], "r2"), {}).get("train_mean")
        body.append([*line, _number(baseline)])
    named = {"pearson": "Pearson", "spearman": "Spearman", "r2": "R²"}
    header = ["Dataset", "Image encoder"]
    for recipe in recipes:
        header += [*(f"{named[metric]}, {recipe}" for metric in METRICS), "undefined"]
    header.append(f"R² of the train mean, {recipes[-1]}")
    notes = [
        *_notes(rows),
        "R² of the published recipe is far below 0 since its ridge has no intercept; its target, "
        "genes and those of the corrected recipe differ, so their numbers don't compare.",
    ]
    title = "Expression from image embeddings as they came"
    return layout.section(title, header, body, notes, marks=_marks(scores))


def _pairs_section(recipe: str, rows: Sequence[Mapping]) -> dict:
    rows = [row for row in rows if row["metric"] == "pearson"]
    scores: dict[tuple, dict] = {}
    for place, row in enumerate(rows):
        if not row["control"]:
            scores.setdefault((row["dataset"],), {})[place, _AFTER_COLUMN] = row["after"]
    notes = [
        "Before: the encoder's own features. After: the same encoder's features after contrastive "
        f"pretraining, mean (standard deviation) over seeds; {SHARED}: after the projection, trunk: "
        "before it, where the encoder itself was tuned. Difference: after less before, over all test "
        "spots; by donor: within each test donor, as the mean over seeds.",
    ]
    if any(row["p_test"].startswith(TOO_FEW) for row in rows):
        notes.append(f"p: from {DONORS_NEEDED} donors on; with fewer no p-value could be small.")
    for row in rows:
        if row["seeds_missing"]:
            why = f" ({row['note']})" if row["note"] else ""
            pair = f"{row['dataset']}, {words.pair_words(row)}"
            notes.append(f"{layout.NOT_RUN}: {pair}: no score of seed {row['seeds_missing']}{why}.")
    header = ["Dataset", "Image encoder", "Gene encoder", "Embedding", "Before", "After"]
    header += ["Difference", "By donor", "Reads", "p", "Undefined before, after", "Seeds"]
    body = [
        [
            *(row["dataset"], _named(row), row["gene_encoder"], row["representation"]),
            _number(row["before"]),
            _number(row["after"]) + layout.deviation(row["after_sd"]),
            _signed(row["difference"]) + layout.deviation(row["difference_sd"]),
            row["difference_by_donor"] or layout.NOT_RUN,
            row["reads"],
            row["p_test"] or layout.NOT_RUN
            if row["p_value"] is None
            else layout.number(row["p_value"], ".2g"),
            f"{_undefined(row, 'before_undefined')}, {_undefined(row, 'after_undefined')}",
            layout.seeds(row),
        ]
        for row in rows
    ]
    title = f"What contrastive pretraining does to it: mean Pearson, {recipe} recipe"
    notes = [*_notes(rows), *dict.fromkeys(notes)]
    return layout.section(title, header, body, notes, marks=_marks(scores))


def _marks(scores: Mapping[tuple, Mapping]) -> dict[tuple, str]:
    """The best and the second of each group of cells, as far as the table's digits tell them apart."""
    marks = {}
    for cells in scores.values():
        marks |= layout.mark_two_best({k: round(v, 3) for k, v in cells.items() if v is not None})
    return marks


def _notes(rows: Sequence[Mapping]) -> list[str]:
    notes = [
        "Mean over genes of the correlation between predicted and measured expression over the test "
        "spots. Published: the HEST benchmark's recipe (genes chosen on all samples, test included; "
        "PCA of 256; ridge without intercept). Corrected: genes, scaling, PCA and penalty without the "
        "test split, the penalty by donors that the fit hasn't seen. Undefined: genes without a "
        "correlation (constant over the spots), of those predicted; they are left out of the mean, "
        "which the published code would have made undefined. Best and second of a dataset are marked, "
        "controls aside.",
    ]
    if any(row["recipe"] == "within_test" for row in rows):
        notes.append(
            "Within test: the published recipe cross-validated within the test split, whose spots are "
            "dealt to folds at random, so that neighbours and whole donors stand on both sides: no "
            "measure of what a new section would get."
        )
    targets = dict.fromkeys((row["recipe"], row["target"]) for row in rows if row["target"])
    notes += [f"Target, {recipe}: {target}." for recipe, target in targets]
    notes += [
        f"{dataset}: donors are shared between splits: {why}."
        for dataset, why in dict.fromkeys((row["dataset"], row["donors_shared"]) for row in rows)
        if why
    ]
    return notes


def _named(row: Mapping) -> str:
    control = f" ({row['control']})" if row["control"] else ""
    return row["image_encoder"] + control


def _number(value: float | None, form: str = ".3f") -> str:
    return layout.number(value, form).replace("-", _MINUS)


def _signed(value: float | None) -> str:
    return _number(value, "+.3f")


def _undefined(row: Mapping, name: str) -> str:
    if row[name] is None:
        return layout.NOT_RUN
    return f"{row[name]:.0f} of {row['genes']:.0f}"


def missing(rows: Sequence[Mapping]) -> list[str]:
    """The runs that are missing, and why."""
    return [
        f"{row['dataset']}, {words.pair_words(row)}, {words.seeds_missing_words(row)}"
        + (f" ({row['note']})" if row["note"] else "")
        for row in rows
        if row["seeds_missing"]
    ]


def says(rows: Sequence[Mapping]) -> str:
    """The best pair of each dataset and recipe beside its encoder as it came."""
    parts = []
    scored = [
        row
        for row in rows
        if row["metric"] == "pearson" and row["after"] is not None and not row["control"]
    ]
    for (dataset, recipe), pairs in split_by(scored, "dataset", "recipe").items():
        best = max(pairs, key=lambda row: row["after"])
        came = f" ({best['before']:.3f} as it came)" if best["before"] is not None else ""
        parts.append(
            f"{dataset}, {recipe} recipe: best is {words.pair_words(best)}, mean Pearson "
            f"{best['after']:.3f}{came}."
        )
    return " ".join(parts)


CHAPTER = Chapter(
    name="expression",
    heading="Expression prediction",
    about="Genes of a spot predicted from its image by a linear model on frozen features, before and "
    "after contrastive pretraining.",
    tables=(Shown("expression", "Expression prediction", TABLE, sections, missing, says),),
    caption="{name}: correlation of predicted and measured expression, mean over genes, from each "
    "encoder's features as they came and after contrastive pretraining, by recipes whose "
    "targets differ. Large marks: all test spots, mean over seeds, with their standard "
    "deviation where there are several; dots: test donors, over their range; orange strokes: the "
    "encoder as it came.",
)
