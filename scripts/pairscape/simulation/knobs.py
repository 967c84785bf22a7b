"""What a simulated sample can be asked to be, and the seeds that follow from its name."""

import zlib

import numpy as np

from pairscape.errors import InputError

DEFAULTS = {
    # Size of the Xenium region. The H&E covers MARGIN_UM more on every side.
    "width_um": 2000.0,
    "height_um": 2000.0,
    # Mean number of gene transcripts of quality 20 or more in a 55 µm tile of tissue.
    "transcripts_per_spot": 250.0,
    # How much of the image comes from the tissue that makes the transcripts: 1 all, 0 nothing.
    "morphology_signal": 1.0,
    # Scale of the donor's shift of stain and expression: 0 none, 1 as strong as between sites.
    "batch_effect": 0.3,
    # Share of the region that is tissue; the rest is bare glass.
    "tissue_cover": 0.95,
    # Multiplies the number of cells per area.
    "cell_density": 1.0,
    # Standard deviation of the smoothing kernel of a typical domain: larger, fewer domains.
    "domain_um": 80.0,
    # Full-resolution pixel of the H&E.
    "he_um_per_px": 0.5,
    # Turn of the H&E against the Xenium frame; null draws a quarter turn and some degrees.
    "rotation_degrees": None,
    # Whether the H&E is mirrored; null draws it.
    "mirrored": None,
    # Share of all transcripts with a quality below 20.
    "low_quality_fraction": 0.2,
    # Share of control probes and control codewords among transcripts of quality 20 or more.
    "control_fraction": 0.01,
}
"""Every knob with its default."""

RANGES = {
    "width_um": (110.0, 20_000.0),
    "height_um": (110.0, 20_000.0),
    "transcripts_per_spot": (1.0, 20_000.0),
    "morphology_signal": (0.0, 1.0),
    "batch_effect": (0.0, 3.0),
    "tissue_cover": (0.05, 1.0),
    "cell_density": (0.1, 2.0),
    "domain_um": (20.0, 500.0),
    "he_um_per_px": (0.2, 2.0),
    "rotation_degrees": (-360.0, 360.0),
    "low_quality_fraction": (0.0, 0.9),
    "control_fraction": (0.0, 0.5),
}
"""The lowest and highest value of each number among the knobs, both allowed."""

MARGIN_UM = 150.0
"""How far the H&E reaches beyond the Xenium region."""

PIXEL_SIZE_UM = 0.2125
"""Pixel of the instrument's morphology images (10x Genomics)."""

SPOT_UM = 55.0
"""Side of the tiles for which ``transcripts_per_spot`` and the truth hold."""


def resolve_knobs(given: dict) -> dict:
    """Fill in the defaults.

    Raises
    ------
    InputError
        An unknown knob, or a value that is out of range or of another type.
    """
    if not isinstance(given, dict):
        raise _refusal("simulation", repr(given), "give an object of knobs and values")
    knobs = dict(DEFAULTS)
    for name, value in given.items():
        field = f"simulation.{name}"
        if name not in DEFAULTS:
            raise _refusal(field, "an unknown knob", f"use one of {', '.join(sorted(DEFAULTS))}")
        if value is None and DEFAULTS[name] is None:
            continue
        if name == "mirrored":
            if not isinstance(value, bool):
                raise _refusal(field, repr(value), "give true, false or null")
            knobs[name] = value
            continue
        low, high = RANGES[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not low <= value <= high:
            raise _refusal(field, repr(value), f"give a number from {low:g} to {high:g}")
        knobs[name] = float(value)
    return knobs


def sample_seeds(run_seed: int, sample: str, donor: str) -> dict[str, list[int]]:
    """Seeds of all random streams, as lists for ``np.random.default_rng``.

    ``expression`` grows the tissue of the transcripts, ``image`` the independent tissue that takes
    over where ``morphology_signal`` is below 1 (and all that only the picture has), ``molecules``
    draws the transcripts. ``programmes`` is common to all samples of a run, ``donor`` to all
    samples of a donor; ``image_donor`` is the stand-in that the image follows instead of its donor
    where ``morphology_signal`` is below 1.
    """
    sample_code, donor_code = zlib.crc32(sample.encode()), zlib.crc32(donor.encode())
    return {
        "expression": [run_seed, sample_code, 1],
        "image": [run_seed, sample_code, 2],
        "molecules": [run_seed, sample_code, 3],
        "programmes": [run_seed, 4],
        "donor": [run_seed, donor_code, 5],
        "image_donor": [run_seed, sample_code, 6],
    }


def rng(seed: list[int], *tags: int | str) -> np.random.Generator:
    """A random stream of its own for each list of tags under one seed."""
    codes = [zlib.crc32(tag.encode()) if isinstance(tag, str) else tag for tag in tags]
    return np.random.default_rng([*seed, *codes])


def _refusal(field: str, found: str, remedy: str) -> InputError:
    return InputError("--options", field, found, remedy)
