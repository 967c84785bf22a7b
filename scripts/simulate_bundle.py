"""Simulate one Xenium sample: a bundle as the instrument writes it, its H&E, and the truth.

IN   a gene panel: a table of gene_symbol, ensembl_id, mean_count_per_spot
     options: sample (its row of the sample table), seed, simulation (knobs; see
     the schema of the configuration)
OUT  a bundle folder: the files of analysis software 3.0, <sample>_he_image.ome.tif,
     <sample>_he_imagealignment.csv, and truth/ with the exact counts of each 55 µm tile
"""

import functools
import re

from pairscape.core.errors import InputError
from pairscape.core.files import atomic_path
from pairscape.core.logs import log
from pairscape.jobs import program

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        panel="table of the panel's genes and their mean counts per spot",
        bundle=program.OutputShared("folder of the bundle to make"),
    )
    from pairscape.simulation import bundle_writer, knobs, layouts, tissue
    from pairscape.simulation.panel import read_panel_table
    from pairscape.simulation.sample import draw_sample

    sample, seed = _check_options(args.options)
    chosen = knobs.resolve_knobs(args.options.get("simulation", {}))
    panel = read_panel_table(args.panel)

    seeds = knobs.sample_seeds(seed, sample["sample"], sample["donor"])
    drawn = draw_sample(chosen, seeds, panel)
    shown = tissue.mix_tissues(chosen, drawn.tissue, seeds["image"])
    with atomic_path(args.bundle) as folder:
        folder.mkdir()
        made = bundle_writer.write_bundle(folder, sample, seed, drawn, shown)
        if chosen["layout"]:
            layouts.change_layout(folder, chosen["layout"])
    log.info(
        "%s: %d cells, %d transcripts of %d genes, %g × %g µm",
        sample["sample"],
        made["cells"],
        made["transcripts"],
        drawn.genes,
        chosen["width_um"],
        chosen["height_um"],
    )


def _check_options(options: dict) -> tuple[dict, int]:
    refuse = functools.partial(InputError, "--options")
    unknown = sorted(set(options) - {"sample", "seed", "simulation"})
    if unknown:
        raise refuse(unknown[0], "an unknown key", "leave it out")
    sample = options.get("sample")
    if not isinstance(sample, dict):
        raise refuse("sample", repr(sample), "give the sample's row as an object")
    for key in ("sample", "donor"):
        if not isinstance(sample.get(key), str) or not sample[key]:
            raise refuse(f"sample.{key}", repr(sample.get(key)), "give it a name in the table")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", sample["sample"]):
        remedy = "use letters, digits, underscores and hyphens"
        raise refuse("sample.sample", repr(sample["sample"]), remedy)
    seed = options.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise refuse("seed", repr(seed), "give a whole number of 0 or more")
    return sample, seed


if __name__ == "__main__":
    program.run(main)
