"""Fit the aggregator to the labels of patients, fold by fold, and predict those it hasn't seen.

The paper's training (facts, section 7.2): one patient per step, all patches of all its slides; a
weighted loss; the weights with the lowest validation loss are kept.
"""

import collections
import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from pairscape.core.errors import InputError
from pairscape.core.logs import progress
from pairscape.core.tsv import Table, counts, numbers, text
from pairscape.slides import slide_features
from pairscape.slides.aggregator import Aggregator

PARTS = ("train", "val", "test")
KEPT_BYTES = 2 << 30  # of features that stay in memory between the epochs
TRAINING = Table(
    "training.tsv",
    "fit_mutation",
    (
        *counts(fold="that is tested", epoch="from 1", step="patients trained on so far"),
        *text(split="train or val"),
        *numbers(loss="mean over the patients"),
        *counts(patients="that it is a mean of"),
        *numbers(pos_weight="what a patient with label 1 counts for"),
        *counts(selected="1 where the weights were kept"),
    ),
)


@dataclass(frozen=True)
class MutationTraining:
    """The configuration's part ``mutation_training``, which says what each means."""

    latent_dim: int
    layers: int
    heads: int
    head_dim: int
    epochs: int
    learning_rate: float
    weight_decay: float
    validate_every: int
    attention_slides: int


class Fitted(NamedTuple):
    """What a fold has learned."""

    aggregator: Aggregator  # with the selected weights
    pos_weight: float  # of the loss: negatives per positive among those it trained on
    curve: list[dict]  # rows of TRAINING but `fold`


class Bags:
    """Bags of patch embeddings by patient: all patches of all slides, in the order given.

    Read when asked for; the latest stay in memory, up to ``kept_bytes``. ``slides`` are the feature
    files (``slide_features``) by patient.
    """

    def __init__(self, slides: Mapping[str, Sequence[Path]], kept_bytes: int = KEPT_BYTES):
        self.slides = {patient: list(files) for patient, files in slides.items()}
        self.kept_bytes = kept_bytes
        self.kept: collections.OrderedDict[str, torch.Tensor] = collections.OrderedDict()

    def read(self, patient: str) -> torch.Tensor:
        """(N, width) float32."""
        if patient in self.kept:
            self.kept.move_to_end(patient)
            return self.kept[patient]
        parts = [slide_features.read_slide_features(file).features for file in self.slides[patient]]
        bag = torch.from_numpy(np.concatenate(parts))
        self.kept[patient] = bag
        while sum(bag.nbytes for bag in self.kept.values()) > self.kept_bytes:
            self.kept.popitem(last=False)
        return bag


def common_width(slides: Mapping[str, Sequence[Path]]) -> int:
    """Numbers per patch, the same in all files."""
    width, first = None, None
    for file in itertools.chain.from_iterable(slides.values()):
        (_, held), _, _ = slide_features.read_slide_facts(file)
        if width is None:
            width, first = held, file
        elif held != width:
            fault = f"{held} numbers per patch, where {first} has {width}"
            raise InputError(
                file, "features", fault, "embed all slides of all cohorts by one model"
            )
    return width


def fold_parts(folds: Mapping[str, int], fold: int, number: int) -> dict[str, list[str]]:
    """Who trains, validates and tests in a fold: fold f tests, the next validates, the rest train.

    ``folds`` are numbers below ``number`` by patient; the order of patients is kept.
    """
    roles = {fold: "test", (fold + 1) % number: "val"}
    parts = {part: [] for part in PARTS}
    for patient, of_patient in folds.items():
        parts[roles.get(of_patient, "train")].append(patient)
    return parts


def check_folds(path, folds: Mapping[str, int], labels: Mapping[str, int], number: int) -> None:
    """Refuse folds that can't be trained, selected or scored on."""
    if number < len(PARTS):
        remedy = "three train, validate and test: make more"
        raise InputError(path, "column fold", f"{number} folds", remedy)
    for fold in range(number):
        known = collections.Counter(labels[name] for name in folds if folds[name] == fold)
        if len(known) < 2:
            fault = "no patient with an embedded slide"
            if known:
                fault = f"only the label {min(known)} among its {known.total()} patients"
            remedy = "nothing can be scored on it: make fewer folds, or add patients and sites"
            raise InputError(path, f"fold {fold}", fault, remedy)


def fit_fold(
    bags: Bags,
    labels: Mapping[str, int],
    parts: Mapping[str, Sequence[str]],
    width: int,
    training: MutationTraining,
    seed: Sequence[int],
    device: torch.device | str = "cpu",
) -> Fitted:
    """Train an aggregator on one fold and keep the weights with the lowest validation loss.

    ``bags`` and ``labels`` are by patient; ``parts`` the patients that train and those that validate;
    ``width`` the numbers per patch; ``seed`` that of the first weights and of the order of patients.
    The latter doesn't depend on the model whose embeddings are read, so models are compared on the
    same course.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(int(rng.integers(1 << 62)))
    aggregator = Aggregator(
        width,
        dim=training.latent_dim,
        depth=training.layers,
        heads=training.heads,
        head_dim=training.head_dim,
    ).to(device)
    optimizer = torch.optim.AdamW(
        aggregator.parameters(),
        lr=training.learning_rate,
        weight_decay=training.weight_decay,
        fused=True,
    )
    train, val = parts["train"], parts["val"]
    positives = sum(labels[patient] for patient in train)
    pos_weight = (len(train) - positives) / positives
    every = min(training.validate_every, len(train))
    steps = training.epochs * len(train)
    best, best_loss, curve, since = None, math.inf, [], []

    def add_row(split, loss, patients):
        row = {"epoch": (step - 1) // len(train) + 1, "step": step, "split": split, "loss": loss}
        curve.append({**row, "patients": patients, "pos_weight": pos_weight, "selected": 0})

    for step, patient in enumerate(_course(train, training.epochs, rng), start=1):
        logit = aggregator(bags.read(patient)[None].to(device))
        loss = weighted_loss(logit, labels[patient], pos_weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        since.append(loss.detach())
        if step % every == 0 or step == steps:
            add_row("train", float(torch.stack(since).mean()), len(since))
            since.clear()
            add_row("val", mean_loss(aggregator, bags, labels, val, pos_weight), len(val))
            if curve[-1]["loss"] < best_loss:
                best, best_loss = copy.deepcopy(aggregator.state_dict()), curve[-1]["loss"]
                selected = curve[-1]
    if best is None:
        fault = f"{training.learning_rate:g}, by which the validation loss is never a number"
        raise InputError("--options", "training.learning_rate", fault, "lower it")
    selected["selected"] = 1
    aggregator.load_state_dict(best)
    return Fitted(aggregator, pos_weight, curve)


def weighted_loss(logit: torch.Tensor, label: int, pos_weight: float) -> torch.Tensor:
    """Binary cross-entropy of one patient, a positive one weighted."""
    return functional.binary_cross_entropy_with_logits(
        logit, torch.full_like(logit, label), pos_weight=logit.new_tensor(pos_weight)
    )


def predict(aggregator: Aggregator, bags: Bags, patients: Sequence[str]) -> np.ndarray:
    """The logit of each patient, float64."""
    device = aggregator.cls_token.device
    with torch.no_grad():  # what inference_mode reads couldn't be trained on afterwards
        logits = [aggregator(bags.read(patient)[None].to(device)) for patient in patients]
    return torch.cat(logits).flatten().double().cpu().numpy()


def mean_loss(
    aggregator: Aggregator,
    bags: Bags,
    labels: Mapping[str, int],
    patients: Sequence[str],
    pos_weight: float,
) -> float:
    """The weighted loss as the mean over patients."""
    logits = torch.from_numpy(predict(aggregator, bags, patients))
    given = [labels[patient] for patient in patients]
    losses = [weighted_loss(x, label, pos_weight) for x, label in zip(logits, given, strict=True)]
    return float(torch.stack(losses).mean())


def calibrated(logits: np.ndarray, pos_weight: float) -> np.ndarray:
    """Probabilities with the class weight undone.

    A loss that counts positives w times is least at odds w times too high, so the logit is too
    high by ln w.
    """
    shifted = np.asarray(logits, np.float64) - math.log(pos_weight)
    return np.exp(-np.logaddexp(0, -shifted))


def _course(patients: Sequence[str], epochs: int, rng: np.random.Generator) -> Iterator[str]:
    """The patients of every step, each once per epoch, in an order drawn anew."""
    for _ in progress(range(epochs), "train", unit="epoch"):
        for index in rng.permutation(len(patients)):
            yield patients[index]
