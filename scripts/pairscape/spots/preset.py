"""How transcripts become spots: a preset of the configuration."""

import dataclasses
import math
from collections.abc import Mapping

from pairscape.core.errors import InputError

LATTICES = {"square": ("square",), "hexagon": ("hexagonal",), "circle": ("square", "hexagonal")}
WORDS = {
    "shape": tuple(LATTICES),
    "lattice": (None, "square", "hexagonal"),
    "frame": ("xenium_um", "he_pixels"),
    "origin": ("zero", "min_transcript"),
    "assigned": ("all", "cells", "nuclei", "cells_within"),
}


@dataclasses.dataclass(frozen=True)
class SpotPreset:
    """A spot preset; the schema of the configuration explains its fields."""

    shape: str = "square"
    size_um: float = 55.0  # side of squares, diameter of circles, distance of sides of hexagons
    pitch_um: float | None = None  # distance of neighbouring centres; none: the size
    lattice: str | None = None  # that of the shape
    frame: str = "xenium_um"
    origin: str = "zero"
    centres: Mapping[str, str] | None = None
    assigned: str = "all"
    min_qv: float = 20
    min_transcripts: int = 1
    min_tissue: float | None = None  # no mask


def read_preset(given: Mapping) -> SpotPreset:
    """The preset that the options give, checked; pitch and lattice are those of size and shape."""
    defaults = dataclasses.asdict(SpotPreset())
    if unknown := sorted(given.keys() - defaults):
        allowed = f"use {', '.join(defaults)}"
        raise InputError("--options", f"spots.{unknown[0]}", "an unknown key", allowed)
    preset = SpotPreset(**given)
    if preset.pitch_um is None:
        preset = dataclasses.replace(preset, pitch_um=preset.size_um)
    check_words(preset, *WORDS)
    for key in ("size_um", "pitch_um", "min_qv", "min_transcripts", "min_tissue"):
        value = getattr(preset, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value)) and not (key == "min_tissue" and value is None):
            raise InputError("--options", f"spots.{key}", repr(value), "give a number")
    if preset.centres:
        for key in ("lattice", "frame", "origin", "min_tissue"):
            if (value := getattr(preset, key)) != defaults[key]:
                remedy = "drop it: given centres are all kept, where they are"
                raise InputError(
                    "--options", f"spots.{key}", f"{value} beside given centres", remedy
                )
    elif preset.lattice is None:
        preset = dataclasses.replace(preset, lattice=LATTICES[preset.shape][0])
    return preset


def check_words(preset: SpotPreset, *keys: str) -> None:
    """Refuse a word that isn't among those of its key."""
    for key in keys:
        if getattr(preset, key) not in WORDS[key]:
            words = f"use one of {', '.join(word for word in WORDS[key] if word)}"
            raise InputError("--options", f"spots.{key}", getattr(preset, key), words)
