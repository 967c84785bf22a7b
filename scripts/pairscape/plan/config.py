"""Read a configuration: fill its defaults, refuse what is unknown, check what crosses files.

Light on imports: the workflow calls it while Snakemake parses.
"""

from collections.abc import Mapping
from pathlib import Path

from pairscape.acquire.samples import NO_FILE, check_bundle_place
from pairscape.core.errors import InputError, one_of
from pairscape.core.options import read_schema, refuse_invalid, with_defaults
from pairscape.encoders import specs as encoders
from pairscape.encoders.specs import read_encoders
from pairscape.plan.datasets import check_dataset, inherit, panel_genes
from pairscape.plan.experiments import apply_protocols, check_mutation
from pairscape.plan.presets import check_patches, check_spots
from pairscape.slides.cohorts import check_slide_simulation, read_cohorts


def resolve_config(config: Mapping, source) -> dict:
    """Return the configuration with all defaults filled in.

    Parameters
    ----------
    config
        The parsed configuration file.
    source
        Its path, for messages.
    """
    schema = read_schema("config")
    resolved = with_defaults(apply_protocols(dict(config), schema, source), schema, schema)
    refuse_invalid(resolved, schema, source, "")
    for name in resolved["datasets"]:
        inherit(name, resolved["datasets"], source)
    return resolved


def check_config(config: Mapping, source, samples: Mapping[str, Mapping]) -> None:
    """Check what a schema can't: names that point elsewhere, and rules between files."""
    for name, sample in samples.items():
        if sample["source"] == "simulated":
            one_of(
                sample["simulation"],
                config["simulations"],
                config["samples"],
                f"sample {name}, column simulation",
                "simulations of the configuration",
            )
        check_bundle_place(name, sample, config)
    for i, item in enumerate(config["pool_also"]):
        one_of(item["sample"], samples, source, f"pool_also[{i}].sample", "samples of the table")
        one_of(item["spots"], config["spots"], source, f"pool_also[{i}].spots", "spot presets")
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
        one_of(name, samples, source, f"alignment.trusted[{i}]", "samples of the table")
    for name, preset in config["spots"].items():
        check_spots(name, preset, source)
    for name, preset in config["patches"].items():
        check_patches(name, preset, source)
    for name, dataset in config["datasets"].items():
        check_dataset(f"datasets.{name}", dataset, config, source, samples)
    gene, used = config["overlay_gene"], {d["panel"] for d in config["datasets"].values()}
    if gene and not any(gene in panel_genes(config, panel) for panel in used):
        raise InputError(
            source, "overlay_gene", repr(gene), f"name a gene of {', '.join(sorted(used))}, or null"
        )
    for name, experiment in config["experiments"].items():
        place = f"experiments.{name}"
        for i, dataset in enumerate(experiment["datasets"]):
            one_of(dataset, config["datasets"], source, f"{place}.datasets[{i}]", "datasets")
        for kind in ("image", "gene"):
            allowed = encoders.list_encoders(config["encoders"], kind)
            for i, encoder in enumerate(experiment[f"{kind}_encoders"]):
                one_of(
                    encoder, allowed, source, f"{place}.{kind}_encoders[{i}]", f"{kind} encoders"
                )
            for i, control in enumerate(experiment["controls"]):
                one_of(
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
        one_of(encoder, allowed, source, f"expression.also[{i}]", "image encoders")
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
            check_mutation(name, config, source, rows, specs)


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
        one_of(encoder, allowed, source, f"batch_effect.pair.{key}", f"{kind} encoders")


def _check_calibration(config: Mapping, source) -> None:
    """The calibration's panel has a list, and its encoders are declared and can run there."""
    grid = config["calibration"]
    if grid is None:
        return
    panels = [path.stem for path in sorted(Path(config["panels"]).glob("*.tsv"))]
    one_of(grid["panel"], panels, source, "calibration.panel", f"lists of {config['panels']}")
    for kind in encoders.KINDS:
        place, allowed = (
            f"calibration.{kind}_encoder",
            encoders.list_encoders(config["encoders"], kind),
        )
        one_of(grid[f"{kind}_encoder"], allowed, source, place, f"{kind} encoders")
    gene = encoders.read_encoder(config["encoders"], "gene", grid["gene_encoder"])
    if gene["learned_from"] != "pair":
        raise InputError(
            source,
            "calibration.gene_encoder",
            f"{grid['gene_encoder']}, learned from {gene['learned_from']}",
            "name one that is learned with the pair, such as mlp",
        )
