"""What the stages from bundles to spots ask for: the files, facts and options of samples."""

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path

from pairscape.acquire import by_hand
from pairscape.acquire.by_hand import TRANSCRIPTS
from pairscape.acquire.samples import ALIGNMENT_WORDS, FROM_BUNDLE, NO_FILE, REGISTER
from pairscape.core.errors import InputError, one_of
from pairscape.plan import datasets, missing
from pairscape.plan.plan import Plan

SOURCE_FACTS = (
    *("source", "he_alignment", "landing_page", "bundle_name", "geo_accession"),
    *("bundle_url", "bundle_bytes", "bundle_checksum"),
    *("he_image", "he_image_url", "he_image_bytes", "he_image_checksum"),
    *("he_alignment_url", "he_alignment_bytes", "he_alignment_checksum"),
)


def is_packed(plan: Plan, sample: str) -> bool:
    """Whether the user gave the published zip in place of the bundle's folder."""
    return plan.samples[sample]["bundle"].lower().endswith(".zip")


def _place(plan: Plan, path: str) -> str:
    """A path of the sample table: from <bundles>, unless it is absolute."""
    return str(Path(plan.bundles, path))  # an absolute path replaces <bundles>


def bundle_folder(plan: Plan, sample: str) -> str:
    """Where the bundle lies; a zip of the user's is unpacked to where a fetched one goes."""
    given = plan.samples[sample]["bundle"]
    standard = f"{plan.bundles}/{sample}"
    return _place(plan, given) if given and not is_packed(plan, sample) else standard


def is_untiled(plan: Plan, sample: str) -> bool:
    """Whether a sample's H&E has to be retiled; a fetched one is as it comes."""
    return plan.samples[sample]["he_layout"] == "untiled"


def tiled_image(plan: Plan, sample: str) -> str:
    """Where a retiled H&E lies."""
    return f"{plan.results}/samples/{sample}/he_tiled.ome.tif"


def is_registered(plan: Plan, sample: str) -> bool:
    """Whether the alignment of a sample's H&E is found from the images."""
    row = plan.samples[sample]
    return row["he_alignment"] == REGISTER and row["he_image"] not in NO_FILE


def registered_file(plan: Plan, sample: str) -> str:
    """Where the alignment that was found lies."""
    return f"{plan.results}/samples/{sample}/he_registered.csv"


def tiled_files(plan: Plan, sample: str) -> dict[str, str]:
    """The H&E image, tiled, and its alignment matrix, where the sample came with them."""
    files = he_as_given(plan, sample)
    if "he_image" in files and is_untiled(plan, sample):
        files["he_image"] = tiled_image(plan, sample)
    return files


def he_files(plan: Plan, sample: str) -> dict[str, str]:
    """The H&E image, tiled, and its alignment matrix, given or found, where the sample has them."""
    files = tiled_files(plan, sample)
    if is_registered(plan, sample):
        files["he_alignment"] = registered_file(plan, sample)
    return files


def he_as_given(plan: Plan, sample: str) -> dict[str, str]:
    """The H&E image and its alignment matrix as the sample table names them."""
    row = plan.samples[sample]
    if row["he_image"] in NO_FILE:
        return {}
    folder = bundle_folder(plan, sample)
    if is_packed(plan, sample):
        # What belongs to a zip lies beside it: the folder it is unpacked to is made anew.
        folder = Path(_place(plan, row["bundle"])).parent
    standard = f"{folder}/{sample}_he_image"
    image, matrix = row["he_image"], row["he_alignment"]
    files = {"he_image": _place(plan, image) if image else f"{standard}.ome.tif"}
    if matrix not in ALIGNMENT_WORDS:
        files["he_alignment"] = _place(plan, matrix) if matrix else f"{standard}alignment.csv"
    return files


def archive_file(plan: Plan, sample: str) -> dict[str, str]:
    """The zip that the user gave for the bundle, if it is one."""
    given = plan.samples[sample]["bundle"]
    return {"archive": _place(plan, given)} if is_packed(plan, sample) else {}


def simulated_transcripts(plan: Plan, sample: str) -> str:
    """The file of transcripts that a simulated sample's layout has."""
    layout = plan.config["simulations"][plan.samples[sample]["simulation"]]["layout"] or ""
    return TRANSCRIPTS[layout.endswith("csv")]


def simulated_with(plan: Plan, parquet: bool) -> list[str]:
    """The simulated samples whose transcripts are Parquet, or those whose are text."""
    return [
        name
        for name in plan.simulated
        if (simulated_transcripts(plan, name) == TRANSCRIPTS[0]) == parquet
    ]


def fetched_transcripts(plan: Plan, sample: str) -> str:
    """The file of transcripts that a fetched sample has, or will have by what the user downloaded."""
    there = [name for name in TRANSCRIPTS if Path(bundle_folder(plan, sample), name).is_file()]
    if there:
        return there[0]
    return by_hand.transcripts(plan.config["downloads"], plan.samples[sample])


def fetched_with(plan: Plan, *he: str, parquet: bool) -> list[str]:
    """The fetched samples that come with these files of an H&E and transcripts of this form."""
    return [
        name
        for name in plan.fetched
        if tuple(he_as_given(plan, name)) == he
        and (fetched_transcripts(plan, name) == TRANSCRIPTS[0]) == parquet
    ]


def bundle_files(plan: Plan, sample: str, he=he_files) -> dict[str, str]:
    """The files of a sample that make its steps run again when they change.

    ``he`` is which of the H&E's: ``he_as_given``, ``tiled_files`` or ``he_files``.
    """
    folder = bundle_folder(plan, sample)
    files = {"experiment": f"{folder}/experiment.xenium", **he(plan, sample)}
    if is_packed(plan, sample):
        return files  # which transcripts a zip holds is known when it is unpacked
    if plan.samples[sample]["source"] == "simulated":
        name = simulated_transcripts(plan, sample)
    elif sample in plan.fetched:
        name = fetched_transcripts(plan, sample)
    else:
        there = [name for name in TRANSCRIPTS if Path(folder, name).is_file()]
        name = (there or TRANSCRIPTS)[0]
    return files | {"transcripts": f"{folder}/{name}"}


def on_disk(plan: Plan, sample: str, files: Mapping[str, str]) -> dict[str, str]:
    """Of the files of a sample that no rule makes, those that are there.

    What a user's own sample lacks is told by check_bundle, which names the row of the table and
    what to do; Snakemake would only name the file.
    """
    if sample in plan.simulated or sample in plan.fetched:
        return dict(files)
    made = [tiled_image(plan, sample), registered_file(plan, sample)]
    if is_packed(plan, sample):
        made.append(f"{bundle_folder(plan, sample)}/experiment.xenium")
    return {name: file for name, file in files.items() if file in made or Path(file).is_file()}


def he_on_disk(plan: Plan, sample: str) -> dict[str, str]:
    """The H&E and its alignment, those that are there."""
    return on_disk(plan, sample, he_files(plan, sample))


def bundle_inputs(plan: Plan, sample: str, he=he_files) -> dict[str, str]:
    """The files of a sample that are there, its H&E tiled (``he`` as in ``bundle_files``)."""
    return on_disk(plan, sample, bundle_files(plan, sample, he))


def experiment_files(plan: Plan, dataset: str) -> list[str]:
    """The `experiment.xenium` of each sample, if all have one: it tells the slide."""
    if plan.datasets[dataset].is_imported:
        return []
    names = plan.datasets[dataset].samples
    files = [bundle_inputs(plan, plan.whole(sample)) for sample in names]
    return [one["experiment"] for one in files] if all("experiment" in one for one in files) else []


def panel_file(plan: Plan, sample: str) -> dict[str, str]:
    """The gene list of a sample's panel; panels of samples in no dataset need none."""
    return datasets.panel_file(plan.config, plan.samples[sample]["panel"])


def overlay_gene(plan: Plan, sample: str) -> str | None:
    """The gene of the QC figure, where the sample's panel holds it."""
    gene, panel = plan.config["overlay_gene"], plan.samples[sample]["panel"]
    if panel == FROM_BUNDLE:
        return gene
    known = gene and panel_file(plan, sample) and gene in datasets.panel_genes(plan.config, panel)
    return gene if known else None


def used_samples(plan: Plan) -> list[tuple[str, str]]:
    """Each sample with each spot preset that something asks for."""
    pairs = {
        (plan.whole(sample), plan.datasets[name].spots)
        for name in datasets.reported_datasets(plan)
        if not plan.datasets[name].is_imported
        for sample in plan.datasets[name].samples
    }
    return sorted(pairs | {(item["sample"], item["spots"]) for item in plan.config["pool_also"]})


def sample_files(plan: Plan, file: str) -> list[str]:
    """A file of check_bundle for each used sample."""
    return [f"{plan.results}/samples/{sample}/{file}" for sample in dict(used_samples(plan))]


def aligned_files(plan: Plan, file: str) -> list[str]:
    """A file of check_alignment for each used sample that has an H&E."""
    return [
        f"{plan.results}/samples/{sample}/{file}"
        for sample in dict(used_samples(plan))
        if "he_image" in he_files(plan, sample)
    ]


def spot_files(plan: Plan, file: str) -> list[str]:
    """A file of pool_spots for each used sample and preset."""
    return [
        f"{plan.results}/samples/{sample}/{spots}/{file}" for sample, spots in used_samples(plan)
    ]


def pooled_also(plan: Plan) -> list[str]:
    """The audits of what is pooled though no dataset holds it."""
    return [
        f"{plan.results}/samples/{item['sample']}/{item['spots']}/audit.json"
        for item in plan.config["pool_also"]
    ]


def preset_of(plan: Plan, sample: str, spots: str) -> dict:
    """A spot preset for a sample: the file of its centres is named."""
    preset = dict(plan.config["spots"][spots])
    if preset["centres"]:
        file = preset["centres"]["file"].replace("{sample}", sample)
        preset["centres"] = {**preset["centres"], "file": file}
    return preset


def centres_of(plan: Plan, sample: str, spots: str) -> list[str]:
    """The file of given centres, if the preset has one."""
    centres = preset_of(plan, sample, spots)["centres"]
    return [centres["file"]] if centres else []


def absent_files(plan: Plan) -> list[str]:
    """A line for each file that the table gives, of a sample nothing was made of, and that isn't there.

    It is no refusal: what is made without that sample can be made.
    """
    lines = []
    for sample in dict(used_samples(plan)):
        row = plan.samples[sample]
        if Path(f"{plan.results}/samples/{sample}/check.json").exists():
            continue
        if sample in plan.simulated or sample in plan.fetched:
            continue
        for column, path in missing.given_files(plan.config, row).items():
            if not Path(path).exists():
                place = f"{plan.config['samples']}: sample {sample}, column {column}"
                lines.append(f"{place}: found nothing at {path}; put it there or correct the path")
    return lines


# ------------------------------------------------------------------------------------------ checks


def check_samples(config: Mapping, source, samples: Mapping[str, Mapping]) -> None:
    """Simulations are there; a zip isn't where it is unpacked; what is pooled or trusted is known."""
    table = config["samples"]
    for name, row in samples.items():
        field = f"sample {name}, column"
        if row["source"] == "simulated":
            what = "simulations of the configuration"
            one_of(row["simulation"], config["simulations"], table, f"{field} simulation", what)
        _check_bundle_place(
            row["bundle"], Path(config["bundles"], name), table, field, row["source"]
        )
    for i, item in enumerate(config["pool_also"]):
        place = f"pool_also[{i}]"
        one_of(item["sample"], samples, source, f"{place}.sample", "samples of the table")
        one_of(item["spots"], config["spots"], source, f"{place}.spots", "spot presets")
        preset = config["spots"][item["spots"]]
        needs = preset["frame"] == "he_pixels" or preset["min_tissue"] is not None
        if needs and samples[item["sample"]]["he_image"] in NO_FILE:
            fault = f"{item['spots']}, which needs an H&E, for {item['sample']}, which has none"
            remedy = "name a preset with frame: xenium_um and min_tissue: null"
            raise InputError(source, f"{place}.spots", fault, remedy)
    for i, name in enumerate(config["alignment"]["trusted"]):
        one_of(name, samples, source, f"alignment.trusted[{i}]", "samples of the table")


def unused_samples(
    config: Mapping, chosen: Iterable[str], samples: Mapping[str, Mapping]
) -> list[str]:
    """What to say of the samples that nothing asks for, panel by panel; a misspelt panel is named.

    ``chosen`` are the samples of the datasets.
    """
    used = {*chosen, *(item["sample"] for item in config["pool_also"])}
    panels = datasets.panel_names(config)
    unused = {}
    for name, row in samples.items():
        if name not in used:
            unused.setdefault(row["panel"], []).append(name)
    told = []
    for panel, names in unused.items():
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        why = "no dataset and no pool_also uses them"
        if panel not in (*panels, FROM_BUNDLE):
            near = difflib.get_close_matches(panel, panels, n=1)
            hint = f": did you mean {near[0]}?" if near else f", only for {', '.join(panels)}"
            why += f"; there is no gene list of panel {panel}{hint}"
        told.append(f"{config['samples']}: samples {some} of panel {panel}: {why}")
    return told


def _check_bundle_place(given: str, folder: Path, table, field: str, source: str) -> None:
    """A zip is unpacked to <bundles>/<sample>, so it can neither lie there nor be simulated."""
    if given.lower().endswith(".zip") and Path(folder.parent, given).is_relative_to(folder):
        remedy = f"move it out of {folder}, where it is unpacked to, e.g. to {folder}.zip"
        raise InputError(table, f"{field} bundle", repr(given), remedy)
    if given and source == "simulated":
        remedy = "leave it empty: the bundle is simulated"
        raise InputError(table, f"{field} bundle", repr(given), remedy)
