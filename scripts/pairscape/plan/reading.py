"""Read a configuration: defaults, schema, protocols, then what crosses files; the outcome is a Plan.

Light on imports: the workflow calls it while Snakemake parses.
"""

from collections.abc import Mapping

from pairscape.acquire.samples import read_samples
from pairscape.core.logs import log
from pairscape.core.options import read_schema, refuse_invalid, with_defaults
from pairscape.encoders import user_code
from pairscape.encoders.specs import read_encoders
from pairscape.plan import (
    dataset_reading,
    datasets,
    experiments,
    missing,
    paths,
    presets,
    samples,
    scores,
    slides,
)
from pairscape.plan.plan import Mutation, Plan


def resolve_config(config: Mapping, source) -> dict:
    """The configuration, checked by the schema, with all defaults and its experiments by protocol.

    ``source`` is its path, for messages.
    """
    schema = read_schema("config")
    resolved = with_defaults(config, schema, schema)
    refuse_invalid(resolved, schema, source, "")
    named = experiments.with_smoke(config["experiments"], resolved["smoke"], resolved["seed"])
    config = {**config, "experiments": named}
    part = {"properties": {"experiments": schema["properties"]["experiments"]}}
    by_protocol = experiments.apply_protocols(
        config, resolved["audit"], resolved["protocol"], source
    )
    filled = with_defaults({"experiments": by_protocol}, part, schema)
    # Again: options that an audit gives all its runs are only checked as theirs.
    refuse_invalid(filled, {**part, "$defs": schema["$defs"]}, source, "")
    resolved["experiments"] = filled["experiments"]
    for name in resolved["datasets"]:
        dataset_reading.inherit(name, resolved["datasets"], source)
    return resolved


def read_plan(config: Mapping, source) -> Plan:
    """Resolve and check a configuration; the first fault is refused with the path of its key."""
    config = resolve_config(config, source)
    rows = read_samples(config["samples"])
    encoders = read_encoders(config["encoders"])
    encoders["gene"] = {
        name: user_code.with_code(spec, config["encoders"], config["allow_code_in"])
        for name, spec in encoders["gene"].items()
    }
    samples.check_samples(config, source, rows)
    presets.check_presets(config, source)
    parts = dataset_reading.part_rows(config, rows, source)
    left_out = missing.left_out(config, rows)
    config["pool_also"] = [one for one in config["pool_also"] if one["sample"] not in left_out]
    without = {part: left_out.get(row["part_of"]) for part, row in parts.items()}
    left_out |= {part: reason for part, reason in without.items() if reason}
    plan_datasets = {
        name: dataset_reading.read_dataset(name, config, source, {**rows, **parts}, left_out)
        for name in config["datasets"]
    }
    chosen = {sample for one in plan_datasets.values() for sample in (*one.samples, *one.lost)}
    chosen |= {parts[sample]["part_of"] for sample in chosen & parts.keys()}
    for words in (*presets.odd_fields(config), *samples.unused_samples(config, chosen, rows)):
        log.warning("%s", words)
    dataset_reading.check_overlay_gene(config, source)
    plan_experiments = {
        name: experiments.read_experiment(name, config, source, encoders)
        for name in config["experiments"]
    }
    for name, experiment in plan_experiments.items():
        experiments.check_splits(name, experiment, plan_datasets, source)
        experiments.check_given(name, experiment, encoders, source)
    scores.check_batch_effect(config, source, encoders)
    scores.check_calibration(config, source, encoders)
    scores.check_expression(config, source, encoders)
    cohorts = {
        name: slides.read_cohort(f"cohorts.{name}", options, source)
        for name, options in config["cohorts"].items()
    }
    for name, entry in config["mutation"].items():
        slides.check_mutation(name, config, source, cohorts)
        for i, item in enumerate(entry["models"]):
            place = f"mutation.{name}.models[{i}]"
            slides.check_model(place, item, plan_experiments, encoders, source)
    mutation = {
        name: Mutation(
            **{
                **entry,
                "models": slides.models_of(entry["models"], plan_experiments, encoders),
            }
        )
        for name, entry in config["mutation"].items()
    }
    plan = Plan(
        source=str(source),
        config=config,
        samples=rows,
        parts=parts,
        encoders=encoders,
        datasets=plan_datasets,
        experiments=plan_experiments,
        cohorts=cohorts,
        mutation=mutation,
        published=datasets.published_splits(config),
    )
    paths.refuse_shared_paths(plan)
    return plan
