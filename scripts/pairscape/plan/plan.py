"""The plan: a configuration read, checked and resolved. Rules ask it for paths, files and options.

It touches no data. ``pairscape.plan.reading`` makes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pairscape.encoders.specs import features_name, takes_stored_images


@dataclass(frozen=True)
class Dataset:
    """A recipe: the keys of the schema, its samples, sorted, and the splits that have any of them.

    ``lost`` are samples that ``missing_samples: leave_out`` left out of it, with the reason.
    """

    panel: str
    spots: str | None
    patches: str | None
    source: str
    published_data: str | None
    on_request: bool
    shards_of: str | None
    min_panel_share: float
    split: Mapping
    samples: tuple[str, ...]
    filled_splits: frozenset[str]
    lost: Mapping[str, str]

    @property
    def is_imported(self) -> bool:
        """Whether the pairs come from a copy of the published data set, not from bundles."""
        return self.source == "published"


@dataclass(frozen=True)
class Experiment:
    """Datasets × encoders × seeds and how they are trained: the schema's keys, by its protocol."""

    datasets: list[str]
    image_encoders: list[str]
    gene_encoders: list[str]
    seeds: list[int]
    controls: list[Mapping]
    on_request: bool
    retrieval_only: bool
    protocol: str
    flags: Mapping[str, bool]
    training: Mapping

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Image and gene encoder of each pair: its grid, then its controls."""
        grid = [(image, gene) for image in self.image_encoders for gene in self.gene_encoders]
        controls = [(control["image"], control["gene"]) for control in self.controls]
        return list(dict.fromkeys(grid + controls))


@dataclass(frozen=True)
class Model:
    """What slides are embedded by: an image encoder as it came, or the image side of a pair."""

    image: str
    experiment: str | None = None
    dataset: str | None = None
    gene: str | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Mutation:
    """Labels of a cohort predicted from patch embeddings: the schema's keys, and its models by name."""

    cohort: str
    external: list[str]
    targets: list[str]
    folds: int
    leaking: bool
    on_request: bool
    training: Mapping
    models: Mapping[str, Model]


@dataclass(frozen=True)
class Cohort:
    """Whole slides with labels: a table with its rows, or the knobs of a simulation."""

    table: str | None
    simulation: Mapping | None
    fetch: Mapping | None
    rows: list[Mapping]


@dataclass(frozen=True)
class Plan:
    """A checked configuration.

    ``config`` is the resolved file, for the parts that are options as they stand there; ``samples``
    are the rows of the sample table, ``parts`` those of the blocks that sections are split into by
    ``within_sample``, ``encoders`` the encoder files by kind, all by name.
    """

    source: str
    config: Mapping
    samples: Mapping[str, Mapping[str, str]]
    parts: Mapping[str, Mapping[str, str]]
    encoders: Mapping[str, Mapping[str, Mapping]]
    datasets: Mapping[str, Dataset]
    experiments: Mapping[str, Experiment]
    cohorts: Mapping[str, Cohort]
    mutation: Mapping[str, Mutation]
    published: list[Mapping[str, str]]

    # ------------------------------------------------------------------------------------- places

    @property
    def results(self) -> str:
        """The folder of everything made."""
        return self.config["results"]

    @property
    def bundles(self) -> str:
        """The folder of raw bundles."""
        return self.config["bundles"]

    @property
    def weights(self) -> str:
        """The folder of fetched weights."""
        return self.config["weights"]

    @property
    def slides(self) -> str:
        """The folder of whole slides."""
        return self.config["slides"]

    @property
    def run(self) -> str:
        """The pattern of run folders."""
        return f"{self.results}/runs/{{experiment}}/{{dataset}}/{{image}}-{{gene}}/seed{{seed}}"

    @property
    def image_features(self) -> str:
        """The pattern of folders of stored image features."""
        return f"{self.results}/datasets/{{dataset}}/embeddings/images/{{image}}"

    @property
    def gene_features(self) -> str:
        """The pattern of folders of stored gene features."""
        return f"{self.results}/datasets/{{dataset}}/embeddings/genes/{{gene}}"

    @property
    def fitted_encoder(self) -> str:
        """The pattern of folders of gene encoders that are fitted to a dataset."""
        return f"{self.results}/datasets/{{dataset}}/encoders/{{gene}}"

    @property
    def mutation_fit(self) -> str:
        """The pattern of folders of slide-level predictions."""
        return f"{self.results}/mutation/{{mutation}}/{{target}}/{{model}}"

    # ----------------------------------------------------------------------- what a plain run makes

    @cached_property
    def simulated(self) -> list[str]:
        """Samples whose bundles are simulated."""
        return [name for name, row in self.samples.items() if row["source"] == "simulated"]

    @cached_property
    def fetched(self) -> list[str]:
        """Samples whose bundles are fetched."""
        return [
            name
            for name, row in self.samples.items()
            if row["source"] in ("10x", "geo") and not row["bundle"]
        ]

    @cached_property
    def published_samples(self) -> set[str]:
        """Samples of the published splits."""
        return {row["sample"] for row in self.published}

    def row(self, sample: str) -> Mapping[str, str]:
        """The row of a sample, or of a part of one."""
        return self.parts.get(sample) or self.samples[sample]

    def whole(self, sample: str) -> str:
        """The sample that a part belongs to, or the sample itself."""
        return self.row(sample).get("part_of", sample)

    def label_source(self, sample: str) -> str:
        """The `source` of a pair: that of the published data set for the samples it holds."""
        return "hest" if sample in self.published_samples else self.row(sample)["source"]

    def facts(self, sample: str, *columns: str) -> dict[str, str]:
        """The named columns of a sample's row: a step depends on no more of it than it uses."""
        return {column: self.row(sample)[column] for column in ("sample", *columns)}

    def encoder(self, kind: str, name: str) -> dict:
        """The file of an encoder as jobs get it: its name in the place of its title, which is shown."""
        return {**self.encoders[kind][name], "title": name}

    @cached_property
    def datasets_in_all(self) -> list[str]:
        """Datasets of a plain run."""
        return [name for name, dataset in self.datasets.items() if not dataset.on_request]

    @cached_property
    def in_all(self) -> list[str]:
        """Experiments of a plain run."""
        return [name for name, plan in self.experiments.items() if not plan.on_request]

    @cached_property
    def fully_scored(self) -> list[str]:
        """Experiments of a plain run that are scored by more than retrieval."""
        return [name for name in self.in_all if not self.experiments[name].retrieval_only]

    @cached_property
    def shown(self) -> dict[str, tuple[str, list[str]]]:
        """What a table or figure can show, by name: an experiment, or one of its datasets."""
        whole = {name: (name, plan.datasets) for name, plan in self.experiments.items()}
        return whole | {
            f"{name}.{dataset}": (name, [dataset])
            for name, plan in self.experiments.items()
            for dataset in plan.datasets
        }

    @cached_property
    def with_expression(self) -> list[str]:
        """What tables of expression can show."""
        return [
            name
            for name, (experiment, _) in self.shown.items()
            if not self.experiments[experiment].retrieval_only
        ]

    @property
    def calibration(self) -> Mapping | None:
        """The grid of the calibration, or None."""
        return self.config["calibration"]

    @property
    def audits(self) -> Mapping[str, Mapping]:
        """The audits by name."""
        return self.config["audit"]

    @cached_property
    def audits_in_all(self) -> list[str]:
        """Audits of a plain run."""
        return [name for name, audit in self.audits.items() if not audit["on_request"]]

    @cached_property
    def mutation_in_all(self) -> list[str]:
        """Slide-level predictions of a plain run."""
        return [name for name, entry in self.mutation.items() if not entry.on_request]

    @cached_property
    def models(self) -> dict[str, Model]:
        """Every model of slides; of pairs on stored features also the encoder that they project."""
        models = {}
        for entry in self.mutation.values():
            models |= entry.models
        for model in list(models.values()):
            if model.experiment and takes_stored_images(
                self.experiments[model.experiment].training
            ):
                base = features_name(self.encoders["image"][model.image], model.image)
                models[base] = Model(base)
        return models
