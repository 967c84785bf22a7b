"""Batch effects for the reader: the table over datasets, and the points of the figure over panels."""

import itertools
import statistics
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from pairscape.core import tsv
from pairscape.evaluate.batch_effect import BATCHES, CONFOUNDERS
from pairscape.report import layout, words
from pairscape.report.chapter import Chapter, Shown
from pairscape.report.columns import columns
from pairscape.report.rank_correlation import permuted

AT = "silhouette_batch_at_"
CONFOUNDING = tuple(f"cramers_v_{fact}" for fact in CONFOUNDERS)
WORDS = ("note", "representation", "clustering")
_CONFOUNDING = tsv.numbers(
    **{name: f"Cramér's V of the split and {name[10:]}, over spots" for name in CONFOUNDING}
)
TABLE = tsv.Table(
    "batch_effect.tsv",
    "show_batch_effect",
    (
        *columns("dataset", "batch"),
        *tsv.text(label="leiden clusters or given labels"),
        *columns("resolution"),
        *tsv.numbers(
            batches="batches",
            spots="spots",
            silhouette_batch="1: mixed, 0: apart",
            clusters="labels",
            spots_skipped="share of spots in labels of one batch",
            bras="the same by cosine distance to all other batches",
            ilisi="mixing among neighbours, without labels",
        ),
        *_CONFOUNDING,
        *tsv.text(
            note="why a score isn't defined",
            representation="what the spots were compared by",
            clustering="how they were clustered",
        ),
    ),
    "silhouette_batch at each resolution",
    others_after="ilisi",
)
POINTS = tsv.Table(
    "batch_effect_<experiment>.tsv",
    "show_batch_effect",
    (
        *columns("gallery", "image_encoder", "gene_encoder", "dataset", "panel", "batch"),
        *columns("resolution"),
        *tsv.numbers(
            silhouette_batch="1: mixed, 0: apart",
            spots_skipped="share of spots in clusters of one batch",
        ),
        *_CONFOUNDING,
        *columns("recall_at"),
        *tsv.numbers(
            recall="mean over seeds and directions",
            recall_i2g="mean over seeds",
            recall_g2i="mean over seeds",
            chance="chance of recall",
            seeds="least seeds of a direction",
            pairs="encoder pairs of the mean",
            panels="points of the correlation",
            spearman="of silhouette and recall over the panels",
            p_value="two-sided, by permutation",
        ),
        *columns("p_test"),
    ),
)
EVERY_PAIR = "mean"  # stands in place of encoders' names
_EXACT_PANELS = 9  # 362,880 orders
_DRAWS = 99_999
FEWEST_PANELS = 4


# ---------------------------------------------------------------------------------------- the table


def tabulate(scores: Iterable[Mapping], resolutions: Mapping[str, float]) -> list[dict]:
    """One row per dataset, batch and kind of label, of scores as ``batch_effect.read_scores`` has them.

    ``resolutions``: the main one by dataset.
    """
    scores = [row for row in scores if row["group"] == "all"]
    at = sorted({row["resolution"] for row in scores if row["resolution"] is not None})
    table = []
    for dataset, batch, label in itertools.product(
        dict.fromkeys(row["dataset"] for row in scores), BATCHES, ("leiden", "given")
    ):
        of_batch = [r for r in scores if (r["dataset"], r["batch"]) == (dataset, batch)]
        of_label = [row for row in of_batch if row["label"] == label]
        if not of_label:
            continue
        main = resolutions[dataset] if label == "leiden" else None
        scored = {row["metric"]: row for row in of_label if row["resolution"] == main}
        silhouette = scored["silhouette_batch"]
        row = {"dataset": dataset, "batch": batch, "label": label, "resolution": main}
        row |= {name: silhouette[name] for name in ("batches", "spots")}
        row |= {
            "silhouette_batch": silhouette["value"],
            "clusters": silhouette["labels"],
            "spots_skipped": silhouette["spots_skipped"],
            "bras": scored["bras"]["value"],
            "ilisi": next((r["value"] for r in of_batch if r["metric"] == "ilisi"), None),
        }
        values = {
            r["resolution"]: r["value"] for r in of_label if r["metric"] == "silhouette_batch"
        }
        row |= {f"{AT}{one:g}": values.get(one) for one in at}
        facts = {r["label"]: r["value"] for r in of_batch[::-1] if r["metric"] == "cramers_v"}
        row |= {f"cramers_v_{fact}": facts.get(fact) for fact in CONFOUNDERS}
        row |= {name: silhouette[name] for name in WORDS}
        table.append(row)
    return table


def sections(rows: Sequence[Mapping]) -> list[dict]:
    """Lay the table out for a reader."""
    main = {f"{AT}{row['resolution']:g}" for row in rows if row["label"] == "leiden"}
    at = [name for name in rows[0] if name.startswith(AT) and main != {name}]
    body = [
        [row["dataset"], f"{row['batch']} ({row['batches']:.0f})", _label_words(row)]
        + [f"{row['spots']:.0f}", f"{row['clusters']:.0f}", layout.number(row["silhouette_batch"])]
        + [f"{row['spots_skipped']:.0%}"]
        + [layout.number(row[name]) if row["label"] == "leiden" else "" for name in at]
        + [layout.number(row["bras"]), layout.number(row["ilisi"])]
        + [layout.number(row[name]) if row["batch"] == "split" else "" for name in CONFOUNDING]
        for row in rows
    ]
    notes = [
        "Silhouette-batch (scib): 1 - |silhouette| of the batches within each label, mean over the "
        "labels; 1: mixed, 0: apart. Labels that hold one batch are skipped, and clusters of counts "
        "that aren't integrated follow the batches: read the score with the share of spots in "
        "skipped labels. It falls where batches differ in tissue as well as where they differ in "
        "handling.",
        "BRAS: the same with the cosine distance to all spots of other batches. iLISI: mixing among "
        "the nearest neighbours, without labels; 0: one batch, 1: all alike.",
        "V: Cramér's V of the split with organ and with disease state, over spots; 1: one tells the "
        f"other. {layout.NOT_RUN}: not defined (one batch, one organ, one disease state).",
    ]
    choices = dict.fromkeys((row["representation"], row["clustering"]) for row in rows)
    notes += [f"Made by: {representation}; {clustering}." for representation, clustering in choices]
    noted: dict[str, list[str]] = {}
    for row in rows:
        if row["note"]:
            noted.setdefault(row["note"], []).append(f"{row['dataset']} by {row['batch']}")
    notes += [f"{', '.join(dict.fromkeys(whose))}: {note}." for note, whose in noted.items()]
    header = ["Dataset", "Batch (number)", "Labels", "Spots", "Number of labels"]
    header += ["Silhouette-batch", "In skipped labels"]
    header += [f"at resolution {name.removeprefix(AT)}" for name in at]
    header += ["BRAS", "iLISI", "V organ", "V disease state"]
    return [layout.section("How well batches mix within clusters of spots", header, body, notes)]


def _label_words(row: Mapping) -> str:
    return f"Leiden {row['resolution']:g}" if row["label"] == "leiden" else "as given"


def says(rows: Sequence[Mapping]) -> str:
    """How well splits mix, over the datasets."""
    values = [
        row["silhouette_batch"]
        for row in rows
        if row["batch"] == "split" and row["silhouette_batch"] is not None
    ]
    if not values:
        return ""
    span = f"{min(values):.2f} to {max(values):.2f}"
    return f"Silhouette-batch of the splits: {span} (1: mixed, 0: apart)."


CHAPTER = Chapter(
    name="batch_effects",
    heading="Batch effects",
    about="Whether the expression of spots tells which split or donor they are from: silhouette-batch "
    "and its kin, 1 for well mixed, from counts alone.",
    tables=(Shown("batch_effect", "Batch effects", TABLE, sections, says=says),),
    caption="{name}: silhouette-batch of each panel's splits and the mean recall on that panel. V: "
    "Cramér's V of the split with organ and disease state. The numbers, for each encoder pair, "
    "batch and resolution, are in {stem}.tsv beside the figure.",
)


# ------------------------------------------------------------------------- against recall, over panels


def spearman(first: Sequence[float], second: Sequence[float], seed: int = 0):
    """Spearman's rank correlation with its two-sided permutation p-value.

    Up to nine points the p-value is exact: over all orders of one against the other. Beyond, over
    99,999 random ones and the one that was found. Returns the coefficient, p, and the name of the
    test; the numbers are None for fewer than four points (no order of three is rarer than one in
    three) and where one side is constant.
    """
    count = len(first)
    if count < FEWEST_PANELS:
        return None, None, f"too few panels: {count}"
    rng = np.random.default_rng([seed, 5])

    def deal(values):
        return np.array([rng.permutation(values) for _ in range(_DRAWS)])

    value, null, is_exact = permuted(first, second, _EXACT_PANELS, deal)
    if value is None:
        return None, None, "no correlation: all values are equal"
    beyond = np.abs(null) >= abs(value) - 1e-9
    if is_exact:
        return value, float(np.mean(beyond)), f"exact, {len(null)} orders of {count} panels"
    p = (1 + np.count_nonzero(beyond)) / (1 + _DRAWS)
    return value, float(p), f"{_DRAWS} random orders of {count} panels"


def points(
    batch_scores: Iterable[Mapping],
    retrieval_scores: Iterable[Mapping],
    panels: Mapping[str, str],
    recall_at: int = 5,
    seed: int = 0,
) -> list[dict]:
    """Silhouette-batch beside recall: the numbers behind the figure.

    Recall is the mean over seeds and the two directions, in the galleries of equal size (in-batch):
    in the whole split, chance differs between panels.

    ``panels``: the panel of each dataset. Datasets of one panel aren't independent: no correlation
    then. A row is a point per gallery, encoder pair, batch, resolution and dataset, with the
    correlation over the datasets of the group. The pair ``mean`` is the mean over the pairs that have
    a score on every dataset.
    """
    silhouettes = {}
    confounding: dict[str, dict] = {}
    for row in batch_scores:
        if row["group"] != "all":
            continue
        if row["metric"] == "silhouette_batch" and row["label"] == "leiden":
            group = silhouettes.setdefault((row["batch"], row["resolution"]), {})
            group[row["dataset"]] = row
        elif row["metric"] == "cramers_v":
            confounding.setdefault(row["dataset"], {})["cramers_v_" + row["label"]] = row["value"]
    rows = []
    for (gallery, *pair), recalls in _recalls(retrieval_scores, recall_at).items():
        for (batch, resolution), scored in silhouettes.items():
            both = [name for name in panels if name in scored and name in recalls]
            measured = [name for name in both if scored[name]["value"] is not None]
            values = [scored[name]["value"] for name in measured]
            result = spearman(values, [recalls[name]["recall"] for name in measured], seed)
            if len({panels[name] for name in measured}) < len(measured):
                result = (None, None, "no correlation: datasets of one panel aren't independent")
            rows += [
                {
                    "gallery": gallery,
                    "image_encoder": pair[0],
                    "gene_encoder": pair[1],
                    "dataset": name,
                    "panel": panels[name],
                    "batch": batch,
                    "resolution": resolution,
                    "silhouette_batch": scored[name]["value"],
                    "spots_skipped": scored[name]["spots_skipped"],
                    **{key: confounding.get(name, {}).get(key) for key in CONFOUNDING},
                    "recall_at": recall_at,
                    **recalls[name],
                    "panels": len(measured),
                    **dict(zip(("spearman", "p_value", "p_test"), result, strict=True)),
                }
                for name in both
            ]
    return rows


def _recalls(scores: Iterable[Mapping], recall_at: int) -> dict[tuple, dict]:
    """By gallery, image and gene encoder, and by dataset: recall and what it is the mean of."""
    cells: dict[tuple, dict] = {}
    chances, datasets = {}, {}
    for row in scores:
        if row["group"] != "all" or row["metric"] != f"recall@{recall_at}" or row["value"] is None:
            continue
        if not row["gallery"].startswith("in_batch"):
            continue
        key = (row["gallery"], row["image_encoder"], row["gene_encoder"])
        of_dataset = cells.setdefault(key, {}).setdefault(row["dataset"], {})
        of_dataset.setdefault(row["direction"], {})[row["seed"]] = row["value"]
        chances[row["gallery"], row["dataset"]] = row["chance"]
        datasets[row["dataset"]] = None
    recalls: dict[tuple, dict] = {}
    for key, of_pair in cells.items():
        recalls[key] = {}
        for dataset, directions in of_pair.items():
            means = {d: statistics.fmean(values.values()) for d, values in directions.items()}
            recalls[key][dataset] = {
                "recall": statistics.fmean(means.values()),
                **{f"recall_{direction}": means.get(direction) for direction in words.DIRECTIONS},
                "chance": chances[key[0], dataset],
                "seeds": min(map(len, directions.values())),
                "pairs": 1,
            }
    for gallery in dict.fromkeys(key[0] for key in cells):
        pairs = [k for k in recalls if k[0] == gallery and set(recalls[k]) == set(datasets)]
        if len(pairs) > 1:
            recalls[gallery, EVERY_PAIR, EVERY_PAIR] = {
                dataset: _mean_of_pairs([recalls[pair][dataset] for pair in pairs])
                for dataset in datasets
            }
    return recalls


def _mean_of_pairs(recalls: Sequence[Mapping]) -> dict:
    means = {
        name: statistics.fmean(values)
        for name in ("recall", "recall_i2g", "recall_g2i")
        if None not in (values := [one[name] for one in recalls])
    }
    seeds = min(one["seeds"] for one in recalls)
    return {**recalls[0], **means, "seeds": seeds, "pairs": len(recalls)}
