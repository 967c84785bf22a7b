"""The experiments of a configuration, by their protocols."""

from collections.abc import Mapping

from pairscape.audit import protocols
from pairscape.core.errors import InputError, one_of
from pairscape.core.splits import SPLITS
from pairscape.encoders import user_code
from pairscape.encoders.specs import has_network
from pairscape.plan.plan import Dataset, Experiment
from pairscape.pretrain.experiment import runs_once

# Of a smoke run, where no experiment named `smoke` says otherwise.
_SMOKE_TRAINING = {
    "image_tuning": "frozen",
    "max_steps": 200,
    "warmup_steps": 40,
    "learning_rate": 5e-4,
    "validate_every": 20,
    "early_stopping": None,
}


# Of `controls: default`: what needs no training, and what is had from place and colour alone.
_CLOSED_FORM = "linear_alignment"
_PLAIN_CONTROLS = ("coordinates", "colours")


def with_smoke(experiments: Mapping, chosen: Mapping | None, seed: int) -> dict:
    """The experiments with `smoke` on the dataset and the pair that the key `smoke` chooses."""
    if chosen is None:
        return dict(experiments)
    smoke = {"on_request": True, "seeds": [seed], "training": _SMOKE_TRAINING}
    smoke |= experiments.get("smoke", {})
    smoke |= {"datasets": [chosen["dataset"]]}
    smoke |= {f"{kind}_encoders": [chosen[kind]] for kind in ("image", "gene")}
    return {**experiments, "smoke": smoke}


def apply_protocols(config: Mapping, audits: Mapping, default: str, source) -> dict[str, dict]:
    """The experiments of a configuration and those of its audits, each by its protocol and flags.

    ``config`` is the file as it was written, so that it is known which options are set there;
    ``audits`` have their defaults.
    """
    experiments = dict(config["experiments"])
    for name, audit in audits.items():
        place = f"audit.{name}"
        protocols.check_flags(audit["flags"] or (), f"{place}.flags", source, protocols.FLAGS)
        about_data = [name for name, flag in protocols.FLAGS.items() if flag.dataset]
        protocols.check_flags(audit["data_flags"], f"{place}.data_flags", source, about_data)
        experiments |= protocols.audit_experiments(name, audit)
    return {
        name: protocols.resolve_experiment(name, options, default, source)
        for name, options in experiments.items()
    }


def read_experiment(name: str, config: Mapping, source, encoders: Mapping) -> Experiment:
    """An experiment whose datasets and encoders are there."""
    options, place = config["experiments"][name], f"experiments.{name}"
    if options["controls"] == "default":
        images = [*options["image_encoders"], *_PLAIN_CONTROLS]
        closed = [{"image": image, "gene": _CLOSED_FORM} for image in images]
        options = {**options, "controls": closed}
    for i, dataset in enumerate(options["datasets"]):
        one_of(dataset, config["datasets"], source, f"{place}.datasets[{i}]", "datasets")
    for kind, known in encoders.items():
        what = f"{kind} encoders"
        for i, encoder in enumerate(options[f"{kind}_encoders"]):
            at = f"{place}.{kind}_encoders[{i}]"
            one_of(encoder, known, source, at, what)
            user_code.require_allowed(known[encoder], encoder, source, at)
        for i, control in enumerate(options["controls"]):
            at = f"{place}.controls[{i}].{kind}"
            one_of(control[kind], known, source, at, what)
            user_code.require_allowed(known[control[kind]], control[kind], source, at)
    return Experiment(**options)


def check_splits(
    name: str, experiment: Experiment, datasets: Mapping[str, Dataset], source
) -> None:
    """Every dataset of an experiment has samples in the splits that its runs train and score on."""
    needed = set(SPLITS) if experiment.training["select"] == "best_val_loss" else {"train", "test"}
    for i, dataset in enumerate(experiment.datasets):
        for split in SPLITS:
            if split in needed - datasets[dataset].filled_splits:
                fault = f"{dataset}, which has no sample in its split {split}"
                remedy = f"put one into {split} (datasets.{dataset}), or take the dataset out"
                if split == "val":
                    remedy += ", or set training.select to last"
                raise InputError(source, f"experiments.{name}.datasets[{i}]", fault, remedy)


def check_given(name: str, experiment: Experiment, encoders: Mapping, source) -> None:
    """What has no network is frozen, and embeddings of one space stand in a pair."""
    for image, gene in experiment.pairs:
        chosen = {"image": image, "gene": gene}
        specs = {kind: encoders[kind][one] for kind, one in chosen.items()}
        once = runs_once(experiment.training, specs["gene"])
        for kind, spec in specs.items():
            closed = kind == "image" and specs["gene"]["builder"] == _CLOSED_FORM
            if (closed or not has_network(spec)) and not once[kind]:
                why = (
                    f"{gene} is fitted to stored features"
                    if closed
                    else "it has no network to tune"
                )
                remedy = f"frozen is what {chosen[kind]} can be here: {why}"
                tuning = f"{kind}_tuning"
                place = f"experiments.{name}.training.{tuning}"
                raise InputError(source, place, str(experiment.training[tuning]), remedy)
        partner = specs["gene"]["arguments"].get("paired_with", image)
        if partner != image:
            remedy = f"{gene} is in the space of {partner}: name that pair alone, under controls"
            raise InputError(source, f"experiments.{name}", f"{image} with {gene}", remedy)
