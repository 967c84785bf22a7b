"""The experiments of a configuration: pairs, protocols and models of slides."""

from collections.abc import Mapping

from pairscape.audit import protocols
from pairscape.core.errors import InputError, one_of
from pairscape.core.options import refuse_invalid, with_defaults
from pairscape.encoders.specs import sees_patches
from pairscape.slides import cohorts


def apply_protocols(config: dict, schema: Mapping, source) -> dict:
    """The configuration with the experiments of its audits, and each experiment by its protocol."""
    part = {**schema["properties"]["audit"], "$defs": schema["$defs"]}
    audits = with_defaults(config.get("audit") or {}, part, schema)
    refuse_invalid(audits, part, source, "audit")
    experiments = config.get("experiments") or {}
    if not all(isinstance(of, Mapping) for of in (experiments, *experiments.values())):
        return config  # the schema refuses it
    experiments = dict(experiments)
    for name, audit in audits.items():
        protocols.check_flags(audit["flags"] or (), f"audit.{name}.flags", source, protocols.FLAGS)
        about_data = [flag for flag, of in protocols.FLAGS.items() if of.dataset]
        protocols.check_flags(audit["data_flags"], f"audit.{name}.data_flags", source, about_data)
        experiments |= protocols.audit_experiments(name, audit)
    default = config.get("protocol") or protocols.CORRECTED
    config["experiments"] = {
        name: protocols.resolve_experiment(name, plan, default, source)
        for name, plan in experiments.items()
    }
    return config


def experiment_pairs(plan: Mapping) -> list[tuple[str, str]]:
    """Image and gene encoder of each pair of an experiment: its grid, then its controls."""
    grid = [(image, gene) for image in plan["image_encoders"] for gene in plan["gene_encoders"]]
    return list(dict.fromkeys(grid + [(of["image"], of["gene"]) for of in plan["controls"]]))


def embedding_models(config: Mapping, mutation: str, specs: Mapping[str, Mapping]) -> dict:
    """The models of one entry of ``mutation``: what their embeddings come from, by their names.

    Parameters
    ----------
    config
        A resolved configuration.
    mutation
        The entry's name.
    specs
        The image encoders by name.

    Returns
    -------
    ``{name: {"image", "experiment", "dataset", "gene", "seed"}}``, in the order of the list; the
    last four are None for an encoder as it came, whose name is the model's.
    """
    found = {}
    for item in config["mutation"][mutation]["models"]:
        if "experiment" not in item:
            found[item["image"]] = {
                "image": item["image"],
                **dict.fromkeys(("experiment", "dataset", "gene", "seed")),
            }
            continue
        experiment = item["experiment"]
        plan = config["experiments"][experiment]
        for dataset in plan["datasets"]:
            for image, gene in experiment_pairs(plan):
                for seed in plan["seeds"]:
                    model = {"image": image, "experiment": experiment, "dataset": dataset}
                    model |= {"gene": gene, "seed": seed}
                    chosen = all(item.get(key, value) == value for key, value in model.items())
                    if chosen and sees_patches(specs[image]):
                        found[f"{experiment}.{dataset}.{image}-{gene}.seed{seed}"] = model
    return found


def check_mutation(name: str, config: Mapping, source, rows: Mapping, specs: Mapping) -> None:
    place, entry = f"mutation.{name}", config["mutation"][name]
    given = [("cohort", entry["cohort"])]
    given += [(f"external[{i}]", cohort) for i, cohort in enumerate(entry["external"])]
    for field, cohort in given:
        one_of(cohort, config["cohorts"], source, f"{place}.{field}", "cohorts")
        if field != "cohort" and cohort == entry["cohort"]:
            raise InputError(
                source, f"{place}.{field}", f"{cohort}, which also trains", "name another cohort"
            )
        if not rows.get(cohort, True):
            continue  # a table that is still empty: the programs say so
        simulation = config["cohorts"][cohort]["simulation"]
        targets = simulation["targets"] if simulation else cohorts.targets_of(rows[cohort])
        for i, target in enumerate(entry["targets"]):
            one_of(target, targets, source, f"{place}.targets[{i}]", f"targets of {cohort}")
    for other, also in config["mutation"].items():
        same_file = all(also[key] == entry[key] for key in ("cohort", "leaking"))
        if same_file and also["folds"] != entry["folds"]:
            raise InputError(
                source,
                f"{place}.folds",
                f"{entry['folds']}, where {other} splits {entry['cohort']} into {also['folds']}",
                "split a cohort into the same number of folds everywhere",
            )
    for i, item in enumerate(entry["models"]):
        _check_model(f"{place}.models[{i}]", item, config, source, specs)


def _check_model(place: str, item: Mapping, config: Mapping, source, specs: Mapping) -> None:
    if "experiment" in item:
        experiment = item["experiment"]
        one_of(experiment, config["experiments"], source, f"{place}.experiment", "experiments")
        plan = config["experiments"][experiment]
        pairs = [pair for pair in experiment_pairs(plan) if sees_patches(specs[pair[0]])]
        allowed = {
            "dataset": plan["datasets"],
            "image": dict.fromkeys(image for image, _ in pairs),
            "gene": dict.fromkeys(
                gene for image, gene in pairs if item.get("image", image) == image
            ),
            "seed": plan["seeds"],
        }
        for key, values in allowed.items():
            if key in item:
                values = list(map(str, values))
                one_of(str(item[key]), values, source, f"{place}.{key}", f"of {experiment}")
        return
    for key in ("dataset", "gene", "seed"):
        if key in item:
            raise InputError(source, place, f"{key} but no experiment", "add experiment")
    if "image" not in item:
        raise InputError(source, place, "neither image nor experiment", "add one of them")
    usable = [
        name for name, spec in specs.items() if sees_patches(spec) and not spec.get("shuffle_pairs")
    ]
    one_of(item["image"], usable, source, f"{place}.image", "image encoders that embed patches")
