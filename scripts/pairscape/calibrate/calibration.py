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
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, numbers, text
from pairscape.dataset import expression_counts
from pairscape.evaluate import batch_effect, clustering, expression, retrieval
from pairscape.evaluate.clustering import BatchEffectOptions
from pairscape.evaluate.targets import ExpressionOptions, Source, make_targets
from pairscape.pretrain.options import Training

KNOBS = ("morphology_signal", "batch_effect")
DONORS = ("apart", "shared")
EITHER = "either"  # of scores that don't know of the split
KEYS = (*KNOBS, "donors", "seed", "score", "of", "gallery")
SCORES = Table(
    "calibration/batch-effect<b>_seed<s>.tsv",
    "calibrate_scores",
    (
        *numbers(morphology_signal="how much the image shows of what makes the transcripts"),
        *numbers(batch_effect="how much donors differ"),
        *text(donors="apart or shared between train and test; either, where the split isn't known"),
        *text(seed="of the simulation and the training"),
        *text(score="recall@5, pearson, silhouette_batch or bras", of="what is scored"),
        *text(gallery="among whom a query looks for its partner"),
        *numbers(value="the score; empty where there is none", chance="of a recall"),
        *numbers(spots="spots that are scored", skipped="share in labels that count for nothing"),
        *text(options_sha256="of the options"),
    ),
)
RECALL, PEARSON, SILHOUETTE, BRAS = "recall@5", "pearson", "silhouette_batch", "bras"
SECTIONS_PER_DONOR = 2
PATCH_PX = 224
_TRUE, _LEIDEN = "true cell types", "Leiden clusters"


@dataclass(frozen=True)
class CalibrationGrid:
    """The configuration's part ``calibration``, which says what each means."""

    panel: str
    image_encoder: str
    gene_encoder: str
    morphology_signal: Sequence[float]
    batch_effect: Sequence[float]
    seeds: Sequence[int]
    donors: int
    simulation: Mapping
    training: Mapping


@dataclass(frozen=True)
class GridRow:
    """One batch effect and seed of the grid, and how its datasets are trained on and scored."""

    image_encoder: Mapping  # the encoders' files
    gene_encoder: Mapping
    seed: int
    batch_effect: float
    morphology_signal: Sequence[float]
    donors: int
    simulation: Mapping  # further knobs
    training: Training
    batch_effect_scoring: BatchEffectOptions
    expression_scoring: ExpressionOptions


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
        last = range(donors - tested + 1, donors + 1)
        test = {f"donor{number}{section}" for number in last for section in "ab"}
    else:
        last = range(donors - SECTIONS_PER_DONOR * tested + 1, donors + 1)
        test = {f"donor{number}b" for number in last}
    return {name: "test" if name in test else "train" for name in sample_names(donors)}


def simulate(grid: GridRow, panel) -> Simulated:
    """Grow the sections; ``panel`` is that of ``simulation.panel.read_panel_table``."""
    import pandas as pd

    from pairscape.simulation import knobs, sections

    resolved = knobs.resolve_knobs({**grid.simulation, "batch_effect": grid.batch_effect})
    grown, parts = {}, []
    for sample, donor in sample_names(grid.donors).items():
        seeds = knobs.sample_seeds(grid.seed, sample, donor)
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


def draw_patches(data: Simulated, grid: GridRow, signal: float) -> np.ndarray:
    """The patches (N, ``PATCH_PX``, ``PATCH_PX``, 3) uint8 at one ``morphology_signal``."""
    from pairscape.simulation import knobs, sections

    shown = {"batch_effect": grid.batch_effect, "morphology_signal": signal}
    resolved = knobs.resolve_knobs({**grid.simulation, **shown})
    names = sample_names(grid.donors)
    patches = []
    for sample, section in data.sections.items():
        seeds = knobs.sample_seeds(grid.seed, sample, names[sample])
        patches.append(sections.draw_patches(section, resolved, seeds, PATCH_PX))
    return np.concatenate(patches)


def split_of(data: Simulated, donors: int, arrangement: str) -> np.ndarray:
    """The split of each spot (N,)."""
    return data.index["sample"].map(split_samples(donors, arrangement)).to_numpy(str)


def rows_of(data: Simulated, donors: int, arrangement: str) -> dict[str, np.ndarray]:
    """The spots of each split; the validation split is empty."""
    split = split_of(data, donors, arrangement)
    return {name: np.flatnonzero(split == name) for name in ("train", "val", "test")}


# --------------------------------------------------------------------------------------------- scores


def score_counts(
    data: Simulated, batch: str, batch_of: np.ndarray, grid: GridRow, space
) -> list[dict]:
    """Batch effects on true cell types and on clusters.

    ``batch`` says what the batches are, ``batch_of`` (N,) that of each spot; ``space`` is that of
    ``embed_counts``.
    """
    settings = replace(grid.batch_effect_scoring, resolutions=[])
    batches = {batch: (np.arange(len(data.counts)), batch_of)}
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


def embed_counts(data: Simulated, grid: GridRow) -> clustering.Space:
    """The spots as points and graph."""
    return clustering.embed_counts([data.counts], data.counts.shape[1], grid.batch_effect_scoring)


def score_expression(
    data: Simulated, features: np.ndarray, rows: Mapping, genes: Sequence[Mapping], grid: GridRow
) -> list[dict]:
    """Mean Pearson over genes of expression predicted from the frozen features, by both recipes."""
    samples, donors = (data.index[name].to_numpy(str) for name in ("sample", "donor"))
    splits, options = expression.split_spots(rows, donors), grid.expression_scoring
    counts = HeldCounts(data.counts, "simulated counts")
    symbols = [gene["gene_symbol"] for gene in genes]
    targets = make_targets(counts, symbols, splits, samples, options)
    source = Source(dict.fromkeys(splits, features), dict(rows))
    kept = {"metric": PEARSON, "gene": expression.MEAN, "group": expression.ALL}
    return [
        {"score": PEARSON, "of": f"{row['recipe']} recipe"}
        | {name: row[name] for name in ("value", "spots")}
        for row in expression.score_source(source, targets, splits, options)
        if kept.items() <= row.items()
    ]


def score_retrieval(
    data: Simulated, features: np.ndarray, rows: Mapping, genes: Sequence[Mapping], grid: GridRow
) -> list[dict]:
    """Train the heads of a pair on the train split; Recall@5 of the test split by gallery.

    The value is the mean of both directions.
    """
    embedded = _train_pair(data, features, rows, genes, grid)
    embedded["index"] = data.index.iloc[rows["test"]].reset_index(drop=True)
    settings = {"recall_at": [5], "radius_um": [], "bootstrap": 0, "permutations": 0}
    settings |= {"device": "cpu", "in_batch_ranks": [4]}
    by_gallery: dict[str, list] = {}
    for row in retrieval.score_run(embedded, retrieval.RetrievalOptions.of(settings)):
        if row["group_by"] == retrieval.ALL and row["metric"] == RECALL:
            by_gallery.setdefault(row["gallery"], []).append(row)
    return [
        {
            "score": RECALL,
            "of": "both directions",
            "gallery": gallery,
            "value": statistics.fmean(row["value"] for row in scored),
            "chance": scored[0]["chance"],
            "spots": len(rows["test"]),
        }
        for gallery, scored in by_gallery.items()
    ]


def _train_pair(data, features, rows, genes, grid: GridRow) -> dict:
    import torch

    from pairscape.pretrain import batches, evaluation, pair, training_loop
    from pairscape.pretrain.processes import World

    counts = HeldCounts(data.counts, "simulated counts")
    description = pair.describe(
        grid.image_encoder,
        grid.gene_encoder,
        grid.training,
        [dict(gene) for gene in genes],
        {"images": features.shape[1], "genes": None},
        expression_counts.train_facts(counts, rows["train"], "simulated counts"),
    )
    torch.manual_seed(grid.seed)
    towers = {**pair.build_towers(description), "images": None}
    torch.manual_seed(grid.seed)
    module = pair.Pair(description, towers)
    world = World(0, 1, torch.device("cpu"))
    read = batches.PairRows(features, counts, len(features), grid.seed)
    with tempfile.TemporaryDirectory() as folder:
        selected, _ = training_loop.train(
            module, read, rows, folder, "calibration", grid.seed, world
        )
    module.load_kept_state(selected["state"])
    return evaluation.embed_pairs(module, read, rows["test"], world)


# -------------------------------------------------------------------------------------------- reading


write_scores = SCORES.write


def read_scores(paths: Iterable) -> list[dict]:
    """Read the scores of one or more datasets of the grid."""
    by_key: dict[tuple, dict] = {}
    for path in paths:
        for row in SCORES.read(path):
            key = tuple(row[name] for name in KEYS)
            if key in by_key:
                twice = f"{row['score']} of seed {row['seed']} twice"
                raise InputError(path, "rows", twice, "give it once")
            by_key[key] = row
    return list(by_key.values())


def follow(rows: Sequence[Mapping]) -> list[dict]:
    """How each score follows each knob over the grid.

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
        line = dict(zip(("score", "of", "gallery", "donors"), key, strict=True))
        line |= {"datasets": len(members), "undefined": len(members) - len(known)}
        for knob in KNOBS:
            levels = sorted({row[knob] for row in members})
            for end, level in (("least", levels[0]), ("greatest", levels[-1])):
                line[f"{knob}_{end}"] = _mean(r["value"] for r in known if r[knob] == level)
            line[f"{knob}_spearman"] = spearman(known, knob)
            seeds = sorted({row["seed"] for row in known})
            by_seed = [spearman([r for r in known if r["seed"] == seed], knob) for seed in seeds]
            by_seed = [value for value in by_seed if value is not None]
            line[f"{knob}_spearman_low"] = min(by_seed, default=None)
            line[f"{knob}_spearman_high"] = max(by_seed, default=None)
        line["skipped"] = _mean(r["skipped"] for r in members if r["skipped"] is not None)
        table.append(line)
    return table


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return statistics.fmean(values) if values else None


def spearman(rows: Sequence[Mapping], knob: str) -> float | None:
    """Spearman's rank correlation of value and knob; None where one of them doesn't vary."""
    from scipy.stats import spearmanr

    pairs = [(row[knob], row["value"]) for row in rows]
    if len(pairs) < 3 or any(len(set(column)) < 2 for column in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
