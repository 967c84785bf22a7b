"""Read a configuration: fill its defaults, refuse what is unknown, check what crosses files.

Light on imports: the workflow calls it while Snakemake parses.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from pairscape.audit import protocols
from pairscape.core.errors import InputError
from pairscape.core.files import read_tsv
from pairscape.dataset import splits
from pairscape.encoders import specs as encoders
from pairscape.slides import cohorts

SCHEMAS = Path(__file__).parents[3] / "workflow" / "schemas"
NO_FILE = {"none"}
ALIGNMENT_WORDS = ("identity", "microns")  # what he_alignment may say instead of naming a file


def resolve_config(config: Mapping, source) -> dict:
    """Return the configuration with all defaults filled in.

    Parameters
    ----------
    config
        The parsed configuration file.
    source
        Its path, for messages.

    Raises
    ------
    InputError
        A key is unknown, missing, misspelt or has a value that the schema doesn't allow.
    """
    schema = read_schema("config")
    resolved = _with_defaults(_apply_protocols(dict(config), schema, source), schema, schema)
    _refuse_invalid(resolved, schema, source, "")
    for name in resolved["datasets"]:
        _inherit(name, resolved["datasets"], source)
    return resolved


def _apply_protocols(config: dict, schema: Mapping, source) -> dict:
    """The configuration with the experiments of its audits, and each experiment by its protocol."""
    part = {**schema["properties"]["audit"], "$defs": schema["$defs"]}
    audits = _with_defaults(config.get("audit") or {}, part, schema)
    _refuse_invalid(audits, part, source, "audit")
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


def read_schema(name: str) -> dict:
    """One of the JSON schemas of ``workflow/schemas``, by its name."""
    return yaml.safe_load((SCHEMAS / f"{name}.schema.yaml").read_text())


def resolve_part(part: str, values: Mapping, source="--options") -> dict:
    """One part of the configuration (``training``, ``simulation``, ...) with its defaults, checked.

    For programs that are run by hand: the schema is the only place of defaults and ranges.

    Raises
    ------
    InputError
        As ``resolve_config``.
    """
    if not isinstance(values, Mapping):
        raise InputError(source, part, repr(values), "give an object of keys and values")
    root = read_schema("config")
    schema = {**root["$defs"][part], "$defs": root["$defs"]}
    resolved = _with_defaults(dict(values), schema, root)
    _refuse_invalid(resolved, schema, source, part)
    return resolved


def read_samples(path) -> dict[str, dict[str, str]]:
    """Read the sample table: rows by sample name, every column of the schema present.

    Raises
    ------
    InputError
        A column is unknown or missing, a value isn't allowed, or a sample stands twice.
    """
    schema = read_schema("samples")
    samples = {}
    for number, row in enumerate(read_tsv(path, schema["required"]), start=2):
        _refuse_invalid(row, schema, path, f"line {number}")
        if row["sample"] in samples:
            raise InputError(
                path,
                f"line {number}, column sample",
                f"{row['sample']} for the second time",
                "give each sample one row and one name",
            )
        samples[row["sample"]] = {column: row.get(column, "") for column in schema["properties"]}
    return samples


def check_config(config: Mapping, source, samples: Mapping[str, Mapping]) -> None:
    """Check what a schema can't: names that point elsewhere, and rules between files.

    Raises
    ------
    InputError
        The first fault, with the path of the key and what is allowed.
    """
    for name, sample in samples.items():
        if sample["source"] == "simulated":
            _known(
                sample["simulation"],
                config["simulations"],
                config["samples"],
                f"sample {name}, column simulation",
                "simulations of the configuration",
            )
        _check_bundle_place(name, sample, config)
    for i, item in enumerate(config["pool_also"]):
        _known(item["sample"], samples, source, f"pool_also[{i}].sample", "samples of the table")
        _known(item["spots"], config["spots"], source, f"pool_also[{i}].spots", "spot presets")
        preset = config["spots"][item["spots"]]
        needs = preset["frame"] == "he_pixels" or preset["min_tissue"] is not None
        if needs and samples[item["sample"]]["he_image"] in NO_FILE:
            raise InputError(
                source,
                f"pool_also[{i}].spots",
                f"{item['spots']}, which needs an H&E, for {item['sample']}, which has none",
                "name a preset with frame: xenium_um and min_tissue: null",
            )
    for i, name in enumerate(config["alignment"]["trusted"]):
        _known(name, samples, source, f"alignment.trusted[{i}]", "samples of the table")
    for name, preset in config["spots"].items():
        _check_spots(name, preset, source)
    for name, preset in config["patches"].items():
        _check_patches(name, preset, source)
    for name, dataset in config["datasets"].items():
        _check_dataset(f"datasets.{name}", dataset, config, source, samples)
    gene, used = config["overlay_gene"], {d["panel"] for d in config["datasets"].values()}
    if gene and not any(gene in panel_genes(config, panel) for panel in used):
        raise InputError(
            source, "overlay_gene", repr(gene), f"name a gene of {', '.join(sorted(used))}, or null"
        )
    for name, experiment in config["experiments"].items():
        place = f"experiments.{name}"
        for i, dataset in enumerate(experiment["datasets"]):
            _known(dataset, config["datasets"], source, f"{place}.datasets[{i}]", "datasets")
        for kind in ("image", "gene"):
            allowed = encoders.list_encoders(config["encoders"], kind)
            for i, encoder in enumerate(experiment[f"{kind}_encoders"]):
                _known(
                    encoder, allowed, source, f"{place}.{kind}_encoders[{i}]", f"{kind} encoders"
                )
            for i, control in enumerate(experiment["controls"]):
                _known(
                    control[kind],
                    allowed,
                    source,
                    f"{place}.controls[{i}].{kind}",
                    f"{kind} encoders",
                )
    _check_batch_effect(config, source)
    _check_calibration(config, source)
    allowed = encoders.list_encoders(config["encoders"], "image")
    for i, encoder in enumerate(config["expression"]["also"]):
        _known(encoder, allowed, source, f"expression.also[{i}]", "image encoders")
    for name, cohort in config["cohorts"].items():
        if bool(cohort["table"]) == bool(cohort["simulation"]):
            raise InputError(
                source,
                f"cohorts.{name}",
                "both a table and a simulation" if cohort["table"] else "nothing",
                "give a table, or the knobs of a simulation",
            )
        if cohort["simulation"]:
            check_slide_simulation(f"cohorts.{name}.simulation", cohort["simulation"], source)
    if config["mutation"]:
        rows = read_cohorts(config)
        specs = read_encoders(config["encoders"])["image"]
        for name in config["mutation"]:
            _check_mutation(name, config, source, rows, specs)


def _check_batch_effect(config: Mapping, source) -> None:
    """The figure of batch effects shows a recall that is scored, of encoders that there are."""
    shown, scored = config["batch_effect"]["recall_at"], config["retrieval"]["recall_at"]
    if shown not in scored:
        raise InputError(
            source,
            "batch_effect.recall_at",
            str(shown),
            f"allowed (retrieval.recall_at): {', '.join(map(str, scored))}",
        )
    for key, encoder in (config["batch_effect"]["pair"] or {}).items():
        kind = key.removesuffix("_encoder")
        allowed = encoders.list_encoders(config["encoders"], kind)
        _known(encoder, allowed, source, f"batch_effect.pair.{key}", f"{kind} encoders")


def _check_calibration(config: Mapping, source) -> None:
    """The calibration's panel has a list, and its encoders are declared and can run there."""
    grid = config["calibration"]
    if grid is None:
        return
    panels = [path.stem for path in sorted(Path(config["panels"]).glob("*.tsv"))]
    _known(grid["panel"], panels, source, "calibration.panel", f"lists of {config['panels']}")
    for kind in encoders.KINDS:
        place, allowed = (
            f"calibration.{kind}_encoder",
            encoders.list_encoders(config["encoders"], kind),
        )
        _known(grid[f"{kind}_encoder"], allowed, source, place, f"{kind} encoders")
    gene = encoders.read_encoder(config["encoders"], "gene", grid["gene_encoder"])
    if gene["learned_from"] != "pair":
        raise InputError(
            source,
            "calibration.gene_encoder",
            f"{grid['gene_encoder']}, learned from {gene['learned_from']}",
            "name one that is learned with the pair, such as mlp",
        )


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


def sees_patches(spec: Mapping) -> bool:
    """Whether an image encoder can embed any patch: expression in an image's place can't."""
    return spec["builder"] != "expression"


def read_cohorts(config: Mapping) -> dict[str, list[dict]]:
    """The rows of each cohort that is given by a table; none for a table that is still empty."""
    return {
        name: cohorts.read_cohort(cohort["table"], may_be_empty=True)
        for name, cohort in config["cohorts"].items()
        if cohort["table"]
    }


def check_slide_simulation(place: str, knobs: Mapping, source) -> None:
    """Check what a schema can't in the knobs of a simulated cohort, at ``place`` of ``source``.

    Raises
    ------
    InputError
        More sites than patients, a target named as a column of the table, or a prevalence out of
        range at some site.
    """
    if knobs["sites"] > knobs["patients"]:
        raise InputError(
            source,
            f"{place}.sites",
            f"{knobs['sites']} for {knobs['patients']} patients",
            "give each site a patient at least",
        )
    for name, target in knobs["targets"].items():
        if name in cohorts.COLUMNS:
            raise InputError(
                source,
                f"{place}.targets",
                f"the name {name}",
                f"choose another: {', '.join(cohorts.COLUMNS)} are columns of the table",
            )
        low, high = (target["prevalence"] + sign * target["site_spread"] for sign in (-1, 1))
        if not 0 <= low <= high <= 1:
            raise InputError(
                source,
                f"{place}.targets.{name}.site_spread",
                f"{target['site_spread']:g} around a prevalence of {target['prevalence']:g}",
                "choose it so that no site leaves the range from 0 to 1",
            )


def read_encoders(root) -> dict[str, dict[str, dict]]:
    """All declared encoders, checked: ``{"image": {name: spec}, "gene": {name: spec}}``.

    Citations and notes are left out: they change nothing that is computed.

    Raises
    ------
    InputError
        A file doesn't follow the schema.
    """
    schema = read_schema("encoder")
    found = {}
    for kind in encoders.KINDS:
        found[kind] = {}
        for name in encoders.list_encoders(root, kind):
            spec = encoders.read_encoder(root, kind, name)
            _refuse_invalid(spec, schema, encoders.encoder_file(root, kind, name), "")
            found[kind][name] = {
                key: value for key, value in spec.items() if key not in ("citation", "notes")
            }
    return found


def runs_once(training: Mapping, gene_encoder: Mapping) -> dict[str, bool]:
    """Which sides of a pair are frozen, so that they are embedded once and read from disk.

    Parameters
    ----------
    training
        The resolved training options.
    gene_encoder
        The gene encoder's file.

    Returns
    -------
    ``image``: a frozen trunk under a head that needs one vector per patch, without augmentation or
    with stored views of it. ``gene``: a frozen encoder that doesn't learn with the pair. Neither where
    frozen trunks stay in training mode.
    """
    plain = encoders.augmentation_kind(training) is None or training["stored_views"] > 0
    quiet = training["frozen_trunks"] == "eval"
    return {
        "image": encoders.takes_stored_images(training)
        and training["evaluation_crop"] == "whole"
        and plain,
        "gene": training["gene_tuning"] == "frozen"
        and gene_encoder["learned_from"] != "pair"
        and quiet,
    }


def stored_views(training: Mapping) -> int:
    """How many views of each patch an experiment reads from disk: one, or more with augmentation.

    View 0 is the patch as it is; it is the one that is validated and tested on.
    """
    augmented = encoders.augmentation_kind(training) is not None
    return 1 + training["stored_views"] if augmented else 1


def dataset_samples(config: Mapping, samples: Mapping[str, Mapping], name: str) -> list[str]:
    """The samples of a dataset, sorted: those it lists, or else those its split or panel implies."""
    dataset = config["datasets"][name]
    method = dataset["split"]["method"]
    if dataset.get("samples"):
        chosen = dataset["samples"]
    elif method == "listed":
        chosen = {sample for split in splits.SPLITS for sample in dataset["split"][split]}
    elif method in ("published", "file"):
        chosen = {row["sample"] for row in split_rows(config, name)}
    elif dataset["shards_of"]:
        return dataset_samples(config, samples, dataset["shards_of"])
    elif dataset["source"] == "published":
        chosen = {row["sample"] for row in published_rows(config, dataset["panel"])}
    else:
        chosen = {key for key, row in samples.items() if row["panel"] == dataset["panel"]}
    return sorted(chosen)


def split_rows(config: Mapping, name: str) -> list[dict[str, str]]:
    """The rows of ``sample`` and ``split`` that a dataset's split is given by, if it is by a table."""
    dataset = config["datasets"][name]
    split = dataset["split"]
    if split["method"] == "published":
        return published_rows(config, dataset["panel"])
    if split["method"] == "file":
        rows = read_tsv(split["file"], ["sample", "split"])
        return [{"sample": row["sample"], "split": row["split"]} for row in rows]
    return []


def published_splits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of published splits; none where the table isn't there."""
    path = config["published_splits"]
    return read_tsv(path, ["panel", "sample", "split"]) if Path(path).exists() else []


def published_fits(config: Mapping) -> list[dict[str, str]]:
    """All rows of the table of what published encoders were fitted on; none where it isn't there."""
    path = config["published_fits"]
    return read_tsv(path, ["encoder", "panel", "sample"]) if Path(path).exists() else []


def published_rows(config: Mapping, panel: str) -> list[dict[str, str]]:
    """The published train, val and test samples of a panel, as rows of ``sample`` and ``split``."""
    rows = read_tsv(config["published_splits"], ["panel", "sample", "split"])
    return [
        {"sample": row["sample"], "split": row["split"]}
        for row in rows
        if row["panel"] == panel and row["split"] in splits.SPLITS
    ]


def panel_genes(config: Mapping, panel: str) -> list[str]:
    """The gene symbols of a panel's list."""
    rows = read_tsv(Path(config["panels"]) / f"{panel}.tsv", ["gene_symbol", "ensembl_id"])
    return [row["gene_symbol"] for row in rows]


def _check_bundle_place(name: str, sample: Mapping, config: Mapping) -> None:
    """A zip is unpacked to <bundles>/<sample>, so it can neither lie there nor be simulated."""
    given = sample["bundle"]
    field = f"sample {name}, column bundle"
    if given.lower().endswith(".zip"):
        folder = Path(config["bundles"], name)
        if Path(config["bundles"], given).is_relative_to(folder):
            remedy = f"move it out of {folder}, where it is unpacked to, e.g. to {folder}.zip"
            raise InputError(config["samples"], field, repr(given), remedy)
    if given and sample["source"] == "simulated":
        raise InputError(
            config["samples"], field, repr(given), "leave it empty: the bundle is simulated"
        )


def _check_spots(name: str, preset: Mapping, source) -> None:
    place, shape = f"spots.{name}", preset["shape"]
    if preset["centres"]:
        if shape != "circle":
            raise InputError(
                source,
                f"{place}.centres",
                f"centres for {shape}s",
                "use shape: circle or drop them",
            )
        for key, neutral in (
            ("pitch_um", None),
            ("lattice", None),
            ("frame", "xenium_um"),
            ("origin", "zero"),
            ("min_tissue", None),
        ):
            if preset[key] != neutral:
                raise InputError(
                    source,
                    f"{place}.{key}",
                    f"{preset[key]} beside given centres",
                    "drop it: given centres are all kept, where they are",
                )
    pitch_um = preset["pitch_um"] or preset["size_um"]
    if pitch_um < preset["size_um"]:
        raise InputError(
            source,
            f"{place}.pitch_um",
            f"{pitch_um:g}, so that spots overlap",
            f"give at least size_um, {preset['size_um']:g}",
        )
    if shape == "hexagon" and pitch_um != preset["size_um"]:
        raise InputError(
            source,
            f"{place}.pitch_um",
            f"{pitch_um:g} for hexagons of {preset['size_um']:g}",
            "drop it: hexagons lie side by side",
        )
    wrong = {"square": "hexagonal", "hexagon": "square"}.get(shape)
    if preset["lattice"] is not None and preset["lattice"] == wrong:
        raise InputError(
            source,
            f"{place}.lattice",
            f"{wrong} for {shape}s",
            "drop it: only circles may choose",
        )


def _check_patches(name: str, preset: Mapping, source) -> None:
    given = [key for key in ("um_per_px", "patch_px", "native_px") if key in preset]
    if given not in (["um_per_px", "patch_px"], ["native_px"]):
        raise InputError(
            source,
            f"patches.{name}",
            f"only {given[0]}" if len(given) == 1 else ", ".join(given) or "no size",
            "give um_per_px and patch_px, or native_px alone",
        )


def _inherit(name: str, datasets: Mapping, source) -> None:
    """Give a dataset what it takes from ``shards_of``, and refuse what is missing or too much."""
    place, dataset = f"datasets.{name}", datasets[name]
    taken = ("panel", "spots", "patches", "source", "published_data", "min_panel_share")
    if dataset["shards_of"]:
        base = dataset["shards_of"]
        own = [other for other in datasets if not datasets[other]["shards_of"]]
        _known(base, own, source, f"{place}.shards_of", "datasets with shards of their own")
        for key in taken:
            value = datasets[base].get(key)
            if key in taken[:3] and dataset.get(key, value) != value:
                raise InputError(
                    source,
                    f"{place}.{key}",
                    f"{dataset[key]!r}, where {base} has {value!r}",
                    "leave it out, or drop shards_of: its shards are those of that dataset",
                )
            if value is not None or key in dataset:
                dataset[key] = value
        return
    needed = ("panel", "published_data") if dataset["source"] == "published" else taken[:3]
    for key in needed:
        if not dataset.get(key):
            raise InputError(source, place, f"no key {key!r}", f"add {key}")
    for key in ("spots", "patches", "published_data"):
        if key not in needed and dataset.get(key):
            raise InputError(
                source,
                f"{place}.{key}",
                f"a value, with source {dataset['source']}",
                "leave it out",
            )


def _check_dataset(place: str, dataset: Mapping, config: Mapping, source, samples) -> None:
    name = place.split(".", 1)[1]
    imported = dataset["source"] == "published"
    if not imported:
        _known(dataset["spots"], config["spots"], source, f"{place}.spots", "spot presets")
        _known(dataset["patches"], config["patches"], source, f"{place}.patches", "patch presets")
    panels = sorted(path.stem for path in Path(config["panels"]).glob("*.tsv"))
    _known(dataset["panel"], panels, source, f"{place}.panel", f"gene lists in {config['panels']}")
    if dataset["split"]["method"] == "file" and not dataset["split"]["file"]:
        raise InputError(source, f"{place}.split", "no key 'file'", "name the table of the split")
    chosen = dataset_samples(config, samples, name)
    for sample in chosen:
        _known(sample, samples, source, f"{place}.samples", f"samples of {config['samples']}")
        if samples[sample]["he_image"] in NO_FILE and not imported:
            raise InputError(
                config["samples"],
                f"sample {sample}, column he_image",
                f"`none`, but {place} of {source} wants image-gene pairs of it",
                "give its H&E image or take it out of that dataset",
            )
        if imported and not float(samples[sample]["he_um_per_px"] or 0):
            raise InputError(
                config["samples"],
                f"sample {sample}, column he_um_per_px",
                f"nothing, but {place} of {source} imports its pairs, which don't tell their scale",
                "give the µm per pixel of its H&E",
            )
        if samples[sample]["panel"] != dataset["panel"]:
            raise InputError(
                source,
                f"{place}.samples",
                f"{sample}, measured with panel {samples[sample]['panel']}",
                f"list only samples of panel {dataset['panel']}",
            )
    if not chosen:
        raise InputError(
            source,
            f"{place}.panel",
            f"no sample of panel {dataset['panel']}",
            f"add rows to {config['samples']} or list samples",
        )
    if dataset["shards_of"]:
        known = dataset_samples(config, samples, dataset["shards_of"])
        for sample in chosen:
            _known(sample, known, source, f"{place}.samples", f"samples of {dataset['shards_of']}")
    splits.make_splits(
        [samples[sample] for sample in chosen],
        {**dataset["split"], "seed": config["seed"]},
        split_rows(config, name),
        place=f"{place}.split",
        source=str(source),
    )


def _check_mutation(name: str, config: Mapping, source, rows: Mapping, specs: Mapping) -> None:
    place, entry = f"mutation.{name}", config["mutation"][name]
    given = [("cohort", entry["cohort"])]
    given += [(f"external[{i}]", cohort) for i, cohort in enumerate(entry["external"])]
    for field, cohort in given:
        _known(cohort, config["cohorts"], source, f"{place}.{field}", "cohorts")
        if field != "cohort" and cohort == entry["cohort"]:
            raise InputError(
                source, f"{place}.{field}", f"{cohort}, which also trains", "name another cohort"
            )
        if not rows.get(cohort, True):
            continue  # a table that is still empty: the programs say so
        simulation = config["cohorts"][cohort]["simulation"]
        targets = simulation["targets"] if simulation else cohorts.targets_of(rows[cohort])
        for i, target in enumerate(entry["targets"]):
            _known(target, targets, source, f"{place}.targets[{i}]", f"targets of {cohort}")
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
        _known(experiment, config["experiments"], source, f"{place}.experiment", "experiments")
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
                _known(str(item[key]), values, source, f"{place}.{key}", f"of {experiment}")
        return
    for key in ("dataset", "gene", "seed"):
        if key in item:
            raise InputError(source, place, f"{key} but no experiment", "add experiment")
    if "image" not in item:
        raise InputError(source, place, "neither image nor experiment", "add one of them")
    usable = [
        name for name, spec in specs.items() if sees_patches(spec) and not spec.get("shuffle_pairs")
    ]
    _known(item["image"], usable, source, f"{place}.image", "image encoders that embed patches")


def _known(name: str, allowed: Iterable[str], source, place: str, what: str) -> None:
    allowed = list(allowed)
    if name in allowed:
        return
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        source, place, f"{name!r}", f"{hint}allowed ({what}): {', '.join(allowed) or 'none'}"
    )


def _with_defaults(value, schema: Mapping, root: Mapping):
    """A copy of ``value`` in which every missing key has its schema's default."""
    schema = _follow(schema, root)
    for option in (_follow(option, root) for option in schema.get("oneOf", [])):
        if option.get("type") == "object" and isinstance(value, Mapping):
            schema = option
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        filled = {}
        for key, part in known.items():
            part = {**_follow(part, root), **{k: v for k, v in part.items() if k != "$ref"}}
            if key in value:
                filled[key] = _with_defaults(value[key], part, root)
            elif "default" in part:
                filled[key] = _with_defaults(part["default"], part, root)
        others = schema.get("additionalProperties")
        for key in value:
            if key not in known:
                filled[key] = (
                    _with_defaults(value[key], others, root)
                    if isinstance(others, Mapping)
                    else value[key]
                )
        return filled
    if isinstance(value, list) and "items" in schema:
        return [_with_defaults(item, schema["items"], root) for item in value]
    return value


def _follow(schema: Mapping, root: Mapping) -> Mapping:
    while "$ref" in schema:
        target = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **rest}
    return schema


def _refuse_invalid(value, schema: Mapping, source, place: str) -> None:
    errors = sorted(Draft202012Validator(schema).iter_errors(value), key=lambda e: list(e.path))
    if not errors:
        return
    error = errors[0]
    while error.context:  # inside an anyOf/oneOf: the branch that fits best
        error = max(error.context, key=lambda e: (len(e.path), e.validator != "type"))
    field = ".".join([place] if place else []) + _dotted(error.absolute_path, bool(place))
    described = error.schema.get("description", "")
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        extra = next(key for key in error.instance if key not in allowed)
        close = difflib.get_close_matches(str(extra), allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            source,
            field or "top level",
            f"the unknown key {extra!r}",
            f"{hint}allowed: {', '.join(allowed)}",
        )
    if error.validator == "required":
        missing = re.match(r"'(.*?)' is a required", error.message).group(1)
        raise InputError(source, field or "top level", f"no key {missing!r}", f"add {missing}")
    if error.validator == "enum":
        allowed = ", ".join(str(item) for item in error.schema["enum"] if item != "")
        raise InputError(source, field, repr(error.instance), f"allowed: {allowed}")
    raise InputError(
        source,
        field or "top level",
        f"{error.instance!r} ({error.message})",
        f"give what the schema asks for: {described or error.validator}",
    )


def _dotted(path, after: bool) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text or after else ''}{part}"
    return text
