"""The experiments of a configuration, by their protocols."""

from collections.abc import Mapping

from pairscape.audit import protocols
from pairscape.core.errors import one_of
from pairscape.plan.plan import Experiment


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
    for i, dataset in enumerate(options["datasets"]):
        one_of(dataset, config["datasets"], source, f"{place}.datasets[{i}]", "datasets")
    for kind, known in encoders.items():
        what = f"{kind} encoders"
        for i, encoder in enumerate(options[f"{kind}_encoders"]):
            one_of(encoder, known, source, f"{place}.{kind}_encoders[{i}]", what)
        for i, control in enumerate(options["controls"]):
            one_of(control[kind], known, source, f"{place}.controls[{i}].{kind}", what)
    return Experiment(**options)
