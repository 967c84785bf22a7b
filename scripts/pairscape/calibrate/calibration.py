"""Calibration: do the scores follow what is known of simulated data?

A grid of small simulated datasets: how much of the image shows the tissue that makes the transcripts
(``morphology_signal``), how much donors differ in stain and expression (``batch_effect``), and whether
donors of the test split stand in the train split too. On each of them the scores of the benchmark are
taken, by the functions that take them elsewhere.

Of each donor there are two sections. ``apart``: a third of the donors are tested on, with both
sections. ``shared``: as many sections are tested on, each the second of a donor whose first section is
trained on; this is how donors leak in published splits.

The counts of a dataset don't depend on ``morphology_signal``, so no score of the counts alone can.
"""

import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.dataset import expression_counts
from pairscape.evaluate import batch_effect, expression, retrieval
from pairscape.evaluate.targets import Source, make_targets

KNOBS = ("morphology_signal", "batch_effect")
DONORS = ("apart", "shared")
EITHER = "either"  # of scores that don't know of the split
KEYS = (*KNOBS, "donors", "seed", "score", "of", "gallery")
COLUMNS = (*KEYS, "value", "chance", "spots", "skipped", "options_sha256")
NUMBERS = (*KNOBS, "value", "chance", "spots", "skipped")
RECALL, PEARSON, SILHOUETTE, BRAS = "recall@5", "pearson", "silhouette_batch", "bras"
SECTIONS_PER_DONOR = 2
PATCH_PX = 224
_TRUE, _LEIDEN = "true cell types", "Leiden clusters"


class Simulated(NamedTuple):
    """A simulated dataset but for its images; N spots, in the order of the sections.

    ``sections`` by sample (``simulation.sections.Section``); ``counts`` (N, genes); ``index``, a table
    with the columns of embedded pairs; ``cell_type`` (N,).
    """

    sections: dict
    counts: np.ndarray
    index: object
    cell_type: np.ndarray


class HeldCounts(expression_counts.Counts):
    """Counts that are in memory, read like those of shards."""

    def __init__(self, counts: np.ndarray, name: str):
        self.shards, self.row_counts, self.shape = [name], [len(counts)], counts.shape
        self._parts, self._starts = [counts], np.array([0, len(counts)])


def sample_names(donors: int) -> dict[str, str]:
    """The donor of each section: ``donor1a`` and ``donor1b`` are those of ``donor1``."""
    return {
        f"donor{number}{'ab'[section]}": f"donor{number}"
        for number in range(1, donors + 1)
        for section in range(SECTIONS_PER_DONOR)
    }


def split_samples(donors: int, arrangement: str) -> dict[str, str]:
    """``train`` or ``test`` by sample; both arrangements test on the same number of sections."""
    tested = donors // 3
    if arrangement == "apart":
        test = {name for name, of in sample_names(donors).items() if int(of[5:]) > donors - tested}
    else:
        test = {f"donor{n}b" for n in range(donors - SECTIONS_PER_DONOR * tested + 1, donors + 1)}
    return {name: "test" if name in test else "train" for name in sample_names(donors)}


def simulate(options: Mapping, panel) -> Simulated:
    """Grow the sections of one ``batch_effect`` and seed.

    Parameters
    ----------
    options
        ``seed``, ``batch_effect``, ``donors`` and ``simulation`` (further knobs).
    panel
        Of ``simulation.transcripts.read_panel_table``.
    """
    import pandas as pd

    from pairscape.simulation import knobs, sections

    resolved = knobs.resolve_knobs(
        {**options["simulation"], "batch_effect": options["batch_effect"]}
    )
    grown, parts = {}, []
    for sample, donor in sample_names(options["donors"]).items():
        seeds = knobs.sample_seeds(options["seed"], sample, donor)
        section = sections.draw_section(resolved, seeds, panel)
        if not len(section.counts):
            raise InputError("--options", "simulation", f"no spot in {sample}", "enlarge width_um")
        grown[sample] = section
        x_um, y_um = section.xy_um.T
        names = {"sample": sample, "donor": donor, "organ": "", "disease_state": ""}
        parts.append(pd.DataFrame({**names, "x_um": x_um, "y_um": y_um}))
    return Simulated(
        grown,
        np.concatenate([section.counts for section in grown.values()]),
        pd.concat(parts, ignore_index=True),
        np.concatenate([section.cell_type for section in grown.values()]),
    )


def draw_patches(data: Simulated, options: Mapping, signal: float) -> np.ndarray:
    """The patches (N, ``PATCH_PX``, ``PATCH_PX``, 3) uint8 at one ``morphology_signal``."""
    from pairscape.simulation import knobs, sections

    resolved = knobs.resolve_knobs(
        {
            **options["simulation"],
            "batch_effect": options["batch_effect"],
            "morphology_signal": signal,
        }
    )
    names = sample_names(options["donors"])
    return np.concatenate(
        [
            sections.draw_patches(
                section,
                resolved,
                knobs.sample_seeds(options["seed"], sample, names[sample]),
                PATCH_PX,
            )
            for sample, section in data.sections.items()
        ]
    )


def split_of(data: Simulated, donors: int, arrangement: str) -> np.ndarray:
    """The split of each spot (N,)."""
    return data.index["sample"].map(split_samples(donors, arrangement)).to_numpy(str)


def rows_of(data: Simulated, donors: int, arrangement: str) -> dict[str, np.ndarray]:
    """The spots of each split; the validation split is empty."""
    split = split_of(data, donors, arrangement)
    return {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}


# --------------------------------------------------------------------------------------------- scores


def score_counts(
    data: Simulated, batch: str, of: np.ndarray, options: Mapping, space
) -> list[dict]:
    """Batch effects on true cell types and on clusters.

    Parameters
    ----------
    batch, of
        What the batches are, and the batch of each spot (N,).
    space
        Of ``embed_counts``.
    """
    settings = {**options["batch_effect_scoring"], "resolutions": []}
    batches = {batch: (np.arange(len(data.counts)), of)}
    return [
        {
            "score": row["metric"],
            "of": f"{_TRUE if row['label'] == 'given' else _LEIDEN}, {batch} as batch",
            "value": row["value"],
            "spots": row["spots"],
            "skipped": row["spots_skipped"],
        }
        for row in batch_effect.score_dataset(space, batches, settings, data.cell_type)
        if row["metric"] in (SILHOUETTE, BRAS) and row["group"] == "all"
    ]


def embed_counts(data: Simulated, options: Mapping):
    """The spots as points and graph."""
    return batch_effect.embed_counts(
        [data.counts], data.counts.shape[1], options["batch_effect_scoring"]
    )


def score_expression(
    data: Simulated, features: np.ndarray, rows: Mapping, genes: Sequence[Mapping], options
) -> list[dict]:
    """Mean Pearson over genes of expression predicted from the frozen features, by both recipes."""
    samples = data.index["sample"].to_numpy(str)
    splits = expression.split_spots(rows, data.index["donor"].to_numpy(str))
    targets = make_targets(
        HeldCounts(data.counts, "simulated counts"),
        [gene["gene_symbol"] for gene in genes],
        splits,
        samples,
        options["expression_scoring"],
    )
    source = Source(dict.fromkeys(splits, features), dict(rows))
    return [
        {
            "score": PEARSON,
            "of": f"{row['recipe']} recipe",
            "value": row["value"],
            "spots": row["spots"],
        }
        for row in expression.score_source(source, targets, splits, options["expression_scoring"])
        if (row["metric"], row["gene"], row["group"]) == (PEARSON, expression.MEAN, expression.ALL)
    ]


def score_retrieval(
    data: Simulated, features: np.ndarray, rows: Mapping, genes: Sequence[Mapping], options
) -> list[dict]:
    """Train the heads of a pair on the train split; Recall@5 of the test split by gallery.

    The value is the mean of both directions.
    """
    embedded = _train_pair(data, features, rows, genes, options)
    embedded["index"] = data.index.iloc[rows["test"]].reset_index(drop=True)
    settings = retrieval.check_options(
        {
            "recall_at": [5],
            "radius_um": [],
            "bootstrap": 0,
            "permutations": 0,
            "device": "cpu",
            "in_batch_ranks": [4],
        }
    )
    scored = [
        row
        for row in retrieval.score_run(embedded, settings)
        if row["group_by"] == retrieval.ALL and row["metric"] == RECALL
    ]
    return [
        {
            "score": RECALL,
            "of": "both directions",
            "gallery": gallery,
            "value": statistics.fmean(row["value"] for row in scored if row["gallery"] == gallery),
            "chance": next(row["chance"] for row in scored if row["gallery"] == gallery),
            "spots": len(rows["test"]),
        }
        for gallery in dict.fromkeys(row["gallery"] for row in scored)
    ]


def _train_pair(data, features, rows, genes, options) -> dict:
    import torch

    from pairscape.pretrain import batches, evaluation, pair, training_loop
    from pairscape.pretrain.options import Training
    from pairscape.pretrain.processes import World

    training, seed = Training(**options["training"]), options["seed"]
    counts = HeldCounts(data.counts, "simulated counts")
    description = pair.describe(
        options["image_encoder"],
        options["gene_encoder"],
        training,
        [dict(gene) for gene in genes],
        {"images": features.shape[1], "genes": None},
        expression_counts.train_facts(counts, rows["train"], "simulated counts"),
    )
    torch.manual_seed(seed)
    towers = {**pair.build_towers(description), "images": None}
    torch.manual_seed(seed)
    module = pair.Pair(description, towers)
    world = World(0, 1, torch.device("cpu"))
    read = batches.PairRows(features, counts, len(features), seed)
    with tempfile.TemporaryDirectory() as folder:
        selected, _ = training_loop.train(module, read, rows, folder, "calibration", seed, world)
    module.load_kept_state(selected["state"])
    return evaluation.embed_pairs(module, read, rows["test"], world)


# -------------------------------------------------------------------------------------------- reading


def write_scores(path, rows: Iterable[Mapping]) -> None:
    """Write the scores of one or more datasets of the grid, a row per dataset, score and kind."""
    tsv.write_numbers(path, rows, COLUMNS)


def read_scores(paths: Iterable) -> list[dict]:
    """Read what ``write_scores`` wrote."""
    found: dict[tuple, dict] = {}
    for path in paths:
        tsv.require_end(path, "delete it and calibrate again")
        for row in tsv.read_numbers(path, COLUMNS, "delete it and calibrate again", NUMBERS):
            key = tuple(row[name] for name in KEYS)
            if key in found:
                raise InputError(
                    path, "rows", f"{row['score']} of seed {row['seed']} twice", "give it once"
                )
            found[key] = row
    return list(found.values())


def follow(rows: Sequence[Mapping]) -> list[dict]:
    """How each score follows each knob over the grid.

    Returns
    -------
    A row per score, kind, gallery and arrangement of the donors: ``datasets`` and how many of them are
    ``undefined``, without a score; the mean over the datasets at the least and the greatest value of
    each knob; Spearman's coefficient with each knob over all datasets, and the least and greatest of
    single seeds, None where score or knob is the same throughout; ``skipped``, the mean share of spots
    in labels that count for nothing, where there is one.
    """
    groups: dict[tuple, list] = {}
    for row in rows:
        groups.setdefault((row["score"], row["of"], row["gallery"], row["donors"]), []).append(row)
    table = []
    for key, members in groups.items():
        known = [row for row in members if row["value"] is not None]
        found = dict(zip(("score", "of", "gallery", "donors"), key, strict=True))
        found |= {"datasets": len(members), "undefined": len(members) - len(known)}
        for knob in KNOBS:
            levels = sorted({row[knob] for row in members})
            for end, level in (("least", levels[0]), ("greatest", levels[-1])):
                values = [row["value"] for row in known if row[knob] == level]
                found[f"{knob}_{end}"] = statistics.fmean(values) if values else None
            found[f"{knob}_spearman"] = spearman(known, knob)
            by_seed = [
                spearman([row for row in known if row["seed"] == seed], knob)
                for seed in sorted({row["seed"] for row in known})
            ]
            by_seed = [value for value in by_seed if value is not None]
            found[f"{knob}_spearman_low"] = min(by_seed, default=None)
            found[f"{knob}_spearman_high"] = max(by_seed, default=None)
        skipped = [row["skipped"] for row in members if row["skipped"] is not None]
        found["skipped"] = statistics.fmean(skipped) if skipped else None
        table.append(found)
    return table


def spearman(rows: Sequence[Mapping], knob: str) -> float | None:
    """Spearman's rank correlation of value and knob; None where one of them doesn't vary."""
    from scipy.stats import spearmanr

    pairs = [(row[knob], row["value"]) for row in rows]
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
