"""The H&E and morphology images of a simulated bundle."""

import uuid

import numpy as np

from pairscape.core.logs import progress
from pairscape.simulation import histology
from pairscape.simulation import knobs as knob

_HE_TILE_PX = 512
_DAPI_TILE_PX = 1024


def _ome_xml(name, rows, columns, samples, kind, um_per_px, channel, identifier) -> bytes:
    order = "XYCZT" if samples > 1 else "XYZCT"
    interleaved = ' Interleaved="true"' if samples > 1 else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" '
        f'UUID="urn:uuid:{identifier}" Creator="Pairscape">'
        '<Instrument ID="Instrument:0"><Microscope Manufacturer="Pairscape" '
        'Model="simulation"/></Instrument>'
        f'<Image ID="Image:0" Name="{name}"><InstrumentRef ID="Instrument:0"/>'
        f'<Pixels ID="Pixels:0" DimensionOrder="{order}" Type="{kind}" SizeX="{columns}" '
        f'SizeY="{rows}" SizeC="{samples}" SizeZ="1" SizeT="1"{interleaved} '
        f'PhysicalSizeX="{um_per_px!r}" PhysicalSizeXUnit="µm" '
        f'PhysicalSizeY="{um_per_px!r}" PhysicalSizeYUnit="µm">'
        f'<Channel ID="Channel:0:0" Name="{channel}" SamplesPerPixel="{samples}"/>'
        '<TiffData IFD="0" PlaneCount="1"/></Pixels></Image></OME>'
    ).encode()


def _identifier(seeds, name) -> str:
    return str(uuid.UUID(bytes=knob.rng(seeds["molecules"], name).bytes(16), version=4))


def _levels(picture, least: int) -> list[np.ndarray]:
    """The picture's smaller versions, each half the one before, down to ``least`` pixels."""
    levels = []
    while min(picture.shape[:2]) >= 2 * least:
        picture = histology.halve(picture)
        levels.append(picture)
    return levels


def write_he(path, picture, um_per_px, seeds):
    import tifffile

    rows, columns = picture.shape[:2]
    levels = _levels(picture, 256)
    identifier = _identifier(seeds, "he image")
    options = {
        "photometric": "rgb",
        "tile": (_HE_TILE_PX, _HE_TILE_PX),
        "compression": "jpeg",
        "compressionargs": {"level": 90, "subsampling": "420"},
        "subsampling": (2, 2),
        "resolutionunit": "CENTIMETER",
        "software": "pairscape",
        "metadata": None,
        "maxworkers": 1,
    }
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            picture,
            subifds=len(levels),
            resolution=(1e4 / um_per_px, 1e4 / um_per_px),
            description=_ome_xml(
                path.name, rows, columns, 3, "uint8", um_per_px, "RGB", identifier
            ),
            **options,
        )
        for i, level in enumerate(levels):
            density = 1e4 / um_per_px / 2 ** (i + 1)
            tif.write(level, subfiletype=1, resolution=(density, density), **options)


def write_dapi(path, tissue, rows, columns, seeds):
    import tifffile

    texture = histology.dapi_texture(seeds["expression"])
    half = np.zeros((rows // 2, columns // 2), np.uint16)
    side = _DAPI_TILE_PX

    def tiles():
        for start in progress(range(0, rows, side), "DAPI", unit="strip"):
            strip = histology.draw_dapi(tissue, start, min(side, rows - start), columns, texture)
            smaller = histology.halve(strip)
            half[start // 2 : start // 2 + len(smaller)] = smaller
            for left in range(0, columns, side):
                cut = strip[:, left : left + side]
                tile = np.zeros((side, side), np.uint16)
                tile[: cut.shape[0], : cut.shape[1]] = cut
                yield tile

    options = {
        "photometric": "minisblack",
        "tile": (side, side),
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "predictor": True,
        "software": "pairscape",
        "metadata": None,
        "maxworkers": 1,
    }
    n_levels = 0
    while min(rows, columns) // 2 ** (n_levels + 1) >= 128:
        n_levels += 1
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        tif.write(
            tiles(),
            shape=(rows, columns),
            dtype=np.uint16,
            subifds=n_levels,
            description=_ome_xml(
                path.name, rows, columns, 1, "uint16", knob.PIXEL_SIZE_UM, "DAPI",
                _identifier(seeds, "dapi image"),
            ),
            **options,
        )  # fmt: skip
        level = half
        for i in range(n_levels):
            tif.write(level, subfiletype=1, **options)
            if i + 1 < n_levels:
                level = histology.halve(level)
