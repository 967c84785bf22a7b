"""The µm per pixel of an image: what its file says, and what the user does."""

import math
import re
from xml.etree import ElementTree

from pairscape.core.errors import InputError
from pairscape.core.logs import log

UM_PER_PX_RANGE = (0.05, 20.0)  # of a scan; printers' resolutions (72 dpi) lie beyond it
MAX_OFF = 0.02  # between x and y, and between the user's word and the file's
_UM = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


def is_scan(um_per_px: float) -> bool:
    """Whether a pixel size may be a scanner's."""
    return UM_PER_PX_RANGE[0] <= um_per_px <= UM_PER_PX_RANGE[1]


def stated_by_tiff(tiff, number: int, page) -> float | None:
    """The µm per pixel that an open TIFF states of its image ``number``, whose page is given."""
    if tiff.ome_metadata:
        return stated_by_ome(tiff, number)
    if match := re.search(r"\bMPP\s*=\s*([0-9.]+)", tiff.pages[0].description or ""):
        return _positive(float(match[1]))  # Aperio
    return _um_of_resolution(tiff, page)


def stated_by_ome(tiff, number: int) -> float | None:
    """The µm per pixel of an OME-TIFF's image ``number``, by its metadata."""
    images = ome_images(tiff)
    attributes = images[number].find("{*}Pixels").attrib if number < len(images) else {}
    unit = _UM.get(attributes.get("PhysicalSizeXUnit", "µm"))
    return _positive(float(attributes.get("PhysicalSizeX", 0)) * unit) if unit else None


def ome_images(tiff) -> list:
    """The images of an open TIFF by its OME metadata, as XML elements; none without them."""
    if not tiff.ome_metadata:
        return []
    images = ElementTree.fromstring(tiff.ome_metadata).findall("{*}Image")
    return [image for image in images if image.find("{*}Pixels") is not None]


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


def _positive(number: float) -> float | None:
    return number if math.isfinite(number) and number > 0 else None


def _um_of_resolution(tiff, page) -> float | None:
    """The µm per pixel of the tags for printers, where they hold a scanner's."""
    resolution = page.tags.valueof("XResolution")
    if not resolution or not all(resolution):
        return None
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 2)))
    if tiff.is_imagej:
        unit = _UM.get(str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ"))
    stated = unit * resolution[1] / resolution[0] if unit else 0
    return stated if is_scan(stated) else None
