"""Cohorts of whole slides: patients of several sites, labels that may show, and stains that do."""

import zlib
from pathlib import Path

import numpy as np

from pairscape.simulation import histology, tissue
from pairscape.simulation import knobs as knob
from pairscape.simulation.kinds import KINDS

# What each target with a label_signal of 1 moves apart, in standard deviations of the fields of a
# tissue; the fourth target starts over. Unstable tumours are poorly differentiated and draw
# lymphocytes, hence the first.
DIRECTIONS = (
    {"immune": 1.5, "grade": 1.5},
    {"collagen": 2.0, "oedema": -1.0},
    {"hypoxia": 1.5, "macrophage": 1.5},
)
# How much patients differ besides, whatever their labels.
PATIENT_SD = 0.3

TILE_PX = 256
JPEG_LEVEL = 90


def plan_cohort(knobs: dict, cohort: str, seed: int) -> list[dict]:
    """Who has which slides, at which site, with which labels: a row for each slide.

    It holds slide, patient, site and each target as 0 or 1. A target's labels depend on its own
    knobs and name alone; half the sites (rounded down) have the higher prevalence.
    """
    seeds = _seeds(cohort, seed)
    patients, sites = knobs["patients"], knobs["sites"]
    digits = len(str(patients))
    site_of = np.arange(patients) * sites // patients
    dealt = {}
    for target, options in knobs["targets"].items():
        random = knob.rng(seeds["labels"], target)
        high = np.isin(np.arange(sites), random.permutation(sites)[: sites // 2])
        share = options["prevalence"] + options["site_spread"] * np.where(high, 1, -1)
        # Each patient is drawn for itself. Labels dealt to exact numbers would tell on each other:
        # a site whose training patients have many would have few left to test on, so that leaking
        # sites would score below chance where they should score at it.
        dealt[target] = (random.random(patients) < share[site_of]).astype(int)
    twice = knob.rng(seeds["slides"]).permutation(patients)
    twice = set(twice[: round(knobs["second_slides"] * patients)].tolist())
    return [
        {
            "slide": f"{cohort}-{i + 1:0{digits}d}-{number}",
            "patient": f"{cohort}-{i + 1:0{digits}d}",
            "site": f"site{site_of[i] + 1:0{len(str(sites))}d}",
            **{target: int(values[i]) for target, values in dealt.items()},
        }
        for i in range(patients)
        for number in range(1, 3 if i in twice else 2)
    ]


def field_shifts(knobs: dict, row: dict, cohort: str, seed: int) -> dict[str, float]:
    """What a patient adds to the fields of a tissue: a part of its own, and what its labels do."""
    names = list(dict.fromkeys(name for direction in DIRECTIONS for name in direction))
    patient = knob.rng(_seeds(cohort, seed)["patients"], row["patient"]).standard_normal(len(names))
    shifts = dict(zip(names, PATIENT_SD * patient, strict=True))
    for i, (target, options) in enumerate(knobs["targets"].items()):
        for name, size in DIRECTIONS[i % len(DIRECTIONS)].items():
            shifts[name] += options["label_signal"] * size * (row[target] - 0.5)
    return shifts


def draw_slide(knobs: dict, row: dict, cohort: str, seed: int) -> tuple[np.ndarray, dict]:
    """Grow the tissue of one slide and stain it the way its site does.

    The H&E, uint8 (rows, columns, 3), and what is in it: cells, and how many of some types.
    """
    seeds = _seeds(cohort, seed)
    region_um = knobs["width_um"] - 2 * knob.MARGIN_UM
    region = {"width_um": region_um, "height_um": region_um, "cell_density": 1.0}
    grown = tissue.grow_tissue(
        region | {name: knobs[name] for name in ("tissue_cover", "domain_um")},
        [*seeds["slides"], _code(row["slide"])],
        field_shifts(knobs, row, cohort, seed),
    )
    side_px = round(knobs["width_um"] / knobs["um_per_px"])
    frame = histology.Frame(
        np.eye(2) * knobs["um_per_px"], np.full(2, -knob.MARGIN_UM), side_px, side_px
    )
    site = knob.rng(seeds["sites"], row["site"]).standard_normal(11)
    slide = knob.rng(seeds["stains"], row["slide"]).standard_normal(11)
    stain = histology.shifted_stain(knobs["site_stain"] * site + knobs["slide_stain"] * slide)
    picture = histology.draw_he(grown, frame, stain, [*seeds["stains"], _code(row["slide"])])
    counts = np.bincount(grown.cells["kind"], minlength=len(KINDS)).tolist()
    content = {name: counts[KINDS.index(name)] for name in ("tumour", "lymphocyte")}
    return picture, {"cells": sum(counts), **content}


def write_slide(path: Path, picture: np.ndarray, um_per_px: float) -> None:
    """Write a tiled TIFF pyramid as OpenSlide reads it, its pixel size in the resolution tags."""
    import tifffile

    density = 1e4 / um_per_px
    options = {
        **histology.TIFF_OPTIONS,
        "photometric": "rgb",
        "tile": (TILE_PX, TILE_PX),
        "compression": "jpeg",
        "compressionargs": {"level": JPEG_LEVEL},
        "resolutionunit": "CENTIMETER",
    }
    with tifffile.TiffWriter(path) as tif:
        tif.write(picture, resolution=(density, density), **options)
        for level in histology.halvings(picture, TILE_PX):
            density /= 2
            tif.write(level, subfiletype=1, resolution=(density, density), **options)


def _seeds(cohort: str, seed: int) -> dict[str, list[int]]:
    names = ("labels", "slides", "patients", "sites", "stains")
    return {name: [seed, _code(cohort), i] for i, name in enumerate(names, start=11)}


def _code(name: str) -> int:
    return zlib.crc32(name.encode())
