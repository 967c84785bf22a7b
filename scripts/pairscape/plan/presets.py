"""The presets of spots and patches, checked beyond their schema."""

from collections.abc import Mapping

from pairscape.core.errors import InputError


def check_spots(name: str, preset: Mapping, source) -> None:
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


def check_patches(name: str, preset: Mapping, source) -> None:
    given = [key for key in ("um_per_px", "patch_px", "native_px") if key in preset]
    if given not in (["um_per_px", "patch_px"], ["native_px"]):
        raise InputError(
            source,
            f"patches.{name}",
            f"only {given[0]}" if len(given) == 1 else ", ".join(given) or "no size",
            "give um_per_px and patch_px, or native_px alone",
        )
