"""The µm per pixel of an image to go by: the user's word before what its file says."""

from pairscape.core.errors import InputError
from pairscape.core.logs import log

UM_PER_PX_RANGE = (0.05, 20.0)  # of a scan; printers' resolutions (72 dpi) lie beyond it
MAX_OFF = 0.02  # between x and y, and between the user's word and the file's


def is_scan(um_per_px: float) -> bool:
    """Whether a pixel size may be a scanner's."""
    return UM_PER_PX_RANGE[0] <= um_per_px <= UM_PER_PX_RANGE[1]


def settle(path, given: float | None, stated: tuple[float, float] | None, remedy: str) -> float:
    """The µm per pixel to go by: the user's word, else what the file states along x and y.

    ``remedy`` tells where to give it, in case that neither says so.
    """
    if given is not None:
        if stated and abs(given / stated[0] - 1) > MAX_OFF:
            words = "%s: the user says %g um/px, the file %g: the user's word is taken"
            log.warning(words, path, given, stated[0])
        return float(given)
    if not stated:
        raise InputError(path, "um_per_px", "nothing", remedy)
    if abs(stated[0] / stated[1] - 1) > MAX_OFF:
        found = f"{stated[0]:g} along x and {stated[1]:g} along y"
        remedy = "pixels that aren't square aren't read: export the slide with square ones"
        raise InputError(path, "um_per_px", found, remedy)
    return (stated[0] + stated[1]) / 2
