"""The presets of spots and patches, checked beyond their schema."""

from collections.abc import Mapping

from pairscape.core.errors import InputError

MIN_FIELD, MAX_FIELD = 0.5, 20.0  # of a patch, in sides of its spot; the published one is 2
_NEUTRAL = {  # what says nothing beside given centres
    "pitch_um": None,
    "lattice": None,
    "frame": "xenium_um",
    "origin": "zero",
    "min_tissue": None,
}


def check_presets(config: Mapping, source) -> None:
    """Refuse spots that would overlap or contradict themselves, and patches of no one size."""
    for name, preset in config["spots"].items():
        fault = _fault_of_spots(preset)
        if fault:
            raise InputError(source, f"spots.{name}.{fault[0]}", *fault[1:])
    for name, preset in config["patches"].items():
        keys = [key for key in ("um_per_px", "patch_px", "native_px") if key in preset]
        if keys not in (["um_per_px", "patch_px"], ["native_px"]):
            given = f"only {keys[0]}" if len(keys) == 1 else ", ".join(keys) or "no size"
            remedy = "give um_per_px and patch_px, or native_px alone"
            raise InputError(source, f"patches.{name}", given, remedy)


def odd_fields(config: Mapping) -> list[str]:
    """What to say of datasets whose patches show far less or far more than their spots hold."""
    told = []
    for name, dataset in config["datasets"].items():
        patches = config["patches"].get(dataset.get("patches"), {})
        spots = config["spots"].get(dataset.get("spots"))
        if spots and not patches.get("native_px") and patches:
            field_um = patches["um_per_px"] * patches["patch_px"]
            if not MIN_FIELD <= field_um / spots["size_um"] <= MAX_FIELD:
                told.append(
                    f"datasets.{name}: patches of {field_um:g} µm ({patches['patch_px']} px of "
                    f"{patches['um_per_px']:g} µm) around spots of {spots['size_um']:g} µm: correct "
                    f"um_per_px or patch_px of patches.{dataset['patches']}, unless that is meant"
                )
    return told


def _fault_of_spots(preset: Mapping) -> tuple[str, str, str] | None:
    """The key that is wrong in a preset of spots, what stands there and what to do."""
    shape, size_um = preset["shape"], preset["size_um"]
    if preset["centres"]:
        if shape != "circle":
            return "centres", f"centres for {shape}s", "use shape: circle or drop them"
        for key, neutral in _NEUTRAL.items():
            if preset[key] != neutral:
                remedy = "drop it: given centres are all kept, where they are"
                return key, f"{preset[key]} beside given centres", remedy
    pitch_um = preset["pitch_um"] or size_um
    if pitch_um < size_um:
        remedy = f"give at least size_um, {size_um:g}"
        return "pitch_um", f"{pitch_um:g}, so that spots overlap", remedy
    if shape == "hexagon" and pitch_um != size_um:
        given = f"{pitch_um:g} for hexagons of {size_um:g}"
        return "pitch_um", given, "drop it: hexagons lie side by side"
    wrong = {"square": "hexagonal", "hexagon": "square"}.get(shape)
    if preset["lattice"] is not None and preset["lattice"] == wrong:
        return "lattice", f"{wrong} for {shape}s", "drop it: only circles may choose"
    return None
