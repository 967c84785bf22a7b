"""What a simulated sample can be asked to be, and the seeds that follow from its name."""

import zlib

import numpy as np

from pairscape.core.options import resolve_part

MARGIN_UM = 150.0
"""How far the H&E reaches beyond the Xenium region."""

PIXEL_SIZE_UM = 0.2125
"""Pixel of the instrument's morphology images (10x Genomics)."""

SPOT_UM = 55.0
"""Side of the tiles for which ``transcripts_per_spot`` and the truth hold."""


def resolve_knobs(given: dict) -> dict:
    """Fill in the defaults of the configuration's part ``simulation``, the only place of them."""
    return resolve_part("simulation", given)


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


def in_region(x_um, y_um, knobs: dict, beyond_um: float = 0.0) -> np.ndarray:
    """Which points lie in the region, or not further than ``beyond_um`` from it."""
    width_um, height_um = knobs["width_um"] + beyond_um, knobs["height_um"] + beyond_um
    return (x_um >= -beyond_um) & (x_um < width_um) & (y_um >= -beyond_um) & (y_um < height_um)
