"""What an H&E's file says of itself: pixel size, colours; none of it taken for well-formed.

What can't be read is said in one warning that names the key, and the image is then read as if the
file said nothing there. No other module reads metadata of images.
"""

import math
import re
from xml.etree import ElementTree

from pairscape.core.logs import log
from pairscape.images.pixel_size import is_scan

_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
_NUMBER = re.compile(
    rf"([0-9]+[.,]?[0-9]*|[.,][0-9]+)(e[+-]?[0-9]+)?\s*({'|'.join(_UM)})?", re.IGNORECASE
)
_PHOTOMETRIC = 262  # the tag that says what the samples of a pixel are
_SEPARATE = 2


def um_per_px_of_tiff(tiff, number: int, page) -> float | None:
    """The µm per pixel that an open TIFF states of its image ``number``, whose page is given."""
    if tiff.ome_metadata:
        return um_per_px_of_ome(tiff, number)
    if match := re.search(r"\bMPP\s*=([^|\r\n]*)", tiff.pages[0].description or ""):
        return _um(tiff, "MPP", match[1])  # Aperio
    return _um_of_resolution(tiff, page)


def key_of_um_per_px(tiff) -> str:
    """Where the file states its pixel size, for messages."""
    if tiff.ome_metadata:
        return "PhysicalSizeX"
    return "MPP" if re.search(r"\bMPP\s*=", tiff.pages[0].description or "") else "XResolution"


def um_per_px_of_ome(tiff, number: int) -> float | None:
    """The µm per pixel of an OME-TIFF's image ``number``, by its metadata."""
    images = ome_images(tiff)
    attributes = images[number].find("{*}Pixels").attrib if number < len(images) else {}
    if (text := attributes.get("PhysicalSizeX")) is None:
        return None
    return _um(tiff, "PhysicalSizeX", text, attributes.get("PhysicalSizeXUnit", "µm"))


def ome_images(tiff) -> list:
    """The images of an open TIFF by its OME metadata, as XML elements; none without them.

    A bare ``&`` and what stands before the root element, as a comment may, do no harm.
    """
    text = tiff.ome_metadata
    if not text:
        return []
    root = re.search(r"<(\w+:)?OME\b", text)
    text = re.sub(r"&(?!(#\w+|amp|lt|gt|quot|apos);)", "&amp;", text[root.start() if root else 0 :])
    try:
        images = ElementTree.fromstring(text).findall("{*}Image")
    except ElementTree.ParseError as error:
        _say_unread(tiff, "OME-XML", f"text that isn't XML ({error})")
        return []
    return [image for image in images if image.find("{*}Pixels") is not None]


def channel_names(tiff, number: int | None) -> list[str]:
    """The names of the channels of image ``number``, or of all, by the OME metadata."""
    images = ome_images(tiff)
    return [
        channel.get("Name", "")
        for image in (images if number is None else images[number : number + 1])
        for channel in image.findall("{*}Pixels/{*}Channel")
    ]


def is_rgb(page) -> bool:
    """Whether a pixel is red, green and blue, maybe with alpha, or doubtless meant to be."""
    kind = getattr(page.photometric, "name", None) if _PHOTOMETRIC in page.tags else None
    if kind in ("RGB", "YCBCR"):
        return page.samplesperpixel in (3, 4)
    return page.samplesperpixel == 3 and kind in (None, "MINISBLACK")


def doubt_of_rgb(page) -> str | None:
    """What else than RGB a page says of its pixels of three samples, which are read as RGB."""
    if page.samplesperpixel == 1 or getattr(page.photometric, "name", "") in ("RGB", "YCBCR"):
        return None
    stated = page.tags.valueof(_PHOTOMETRIC)
    return "nothing" if stated is None else str(getattr(stated, "name", stated))


def is_grey(page) -> bool:
    """Whether a pixel is one sample that is brighter the larger it is."""
    return page.samplesperpixel == 1 and getattr(page.photometric, "name", "") == "MINISBLACK"


def has_planes(page) -> bool:
    """Whether the colours stand one after the other, not pixel by pixel (the tag's default)."""
    return page.samplesperpixel > 1 and page.planarconfig == _SEPARATE


def orientation(page) -> int:
    """How the page asks to be turned before it is shown; 1 for not at all, or where nobody knows."""
    stated = page.tags.valueof("Orientation", 1)
    return int(stated) if isinstance(stated, int) and 1 <= stated <= 8 else 1


def _um(tiff, key: str, text: str, unit: str = "µm") -> float | None:
    """A length as the file writes it; a decimal comma and a unit behind it are understood."""
    match = _NUMBER.fullmatch(text.strip())
    if not match:
        _say_unread(tiff, key, f"{text.strip()[:60]!r}, which is no number")
        return None
    size = float(match[1].replace(",", ".") + (match[2] or ""))
    factor = _UM.get((match[3] or unit).strip())
    if factor is None:  # such as OME's `pixel`, which tells nothing
        return None
    return size * factor if math.isfinite(size) and size > 0 else None


def _um_of_resolution(tiff, page) -> float | None:
    """The µm per pixel of the tags for printers, where they hold a scanner's."""
    resolution = page.tags.valueof("XResolution")
    if not resolution:
        return None
    try:
        pixels, per = map(int, resolution)
        unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.tags.valueof("ResolutionUnit", 2)))
    except (TypeError, ValueError):
        _say_unread(tiff, "XResolution", f"{str(resolution)[:60]}, which is no resolution")
        return None
    if tiff.is_imagej:
        unit = _UM.get(str((tiff.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ"))
    size = unit * per / pixels if unit and pixels else 0
    return size if is_scan(size) else None


def _say_unread(tiff, key: str, found: str) -> None:
    words = "%s: %s: found %s; the image is read as if it said nothing there"
    log.warning(words, tiff.filehandle.path, key, " ".join(found.split()))
