"""The H&E and morphology images of a simulated bundle."""

import uuid
from pathlib import Path

import numpy as np

from pairscape.core.logs import progress
from pairscape.simulation import histology
from pairscape.simulation import knobs as knob
from pairscape.simulation.histology import TIFF_OPTIONS
from pairscape.simulation.tissue import Tissue

_HE_TILE_PX = 512
_DAPI_TILE_PX = 1024


def write_he(path: Path, picture: np.ndarray, um_per_px: float, seeds: dict) -> None:
    """Write the H&E as an OME-TIFF of JPEG tiles with a pyramid."""
    import tifffile

    levels = list(histology.halvings(picture, 256))
    options = {
        **TIFF_OPTIONS,
        "photometric": "rgb",
        "tile": (_HE_TILE_PX, _HE_TILE_PX),
        "compression": "jpeg",
        "compressionargs": {"level": 90, "subsampling": "420"},
        "subsampling": (2, 2),
        "resolutionunit": "CENTIMETER",
    }
    text = _ome_xml(path.name, picture.shape, "uint8", "RGB", um_per_px, seeds)
    density = 1e4 / um_per_px
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        first = {"subifds": len(levels), "description": text}
        tif.write(picture, resolution=(density, density), **first, **options)
        for level in levels:
            density /= 2
            tif.write(level, subfiletype=1, resolution=(density, density), **options)


def write_dapi(path: Path, tissue: Tissue, rows: int, columns: int, seeds: dict) -> None:
    """Draw the DAPI image strip by strip and write it as a deflated OME-TIFF with a pyramid."""
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
        **TIFF_OPTIONS,
        "photometric": "minisblack",
        "tile": (side, side),
        "compression": "zlib",
        "compressionargs": {"level": 1},
        "predictor": True,
    }
    shape = (rows, columns)
    halvings = max((min(shape) // 128).bit_length() - 1, 0)  # none is smaller than 128 px
    text = _ome_xml(path.name, shape, "uint16", "DAPI", knob.PIXEL_SIZE_UM, seeds)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        first = {"shape": shape, "dtype": np.uint16, "subifds": halvings, "description": text}
        tif.write(tiles(), **first, **options)
        if halvings:
            for level in (half, *histology.halvings(half, 128)):
                tif.write(level, subfiletype=1, **options)


def _ome_xml(name: str, shape: tuple, kind: str, channel: str, um_per_px: float, seeds) -> bytes:
    """What an OME-TIFF says of an image of that shape; ``channel`` is RGB or DAPI."""
    rows, columns, samples = (*shape, 1)[:3]
    tag = "he" if samples > 1 else "dapi"
    identity = knob.rng(seeds["molecules"], f"{tag} image").bytes(16)
    order = "XYCZT" if samples > 1 else "XYZCT"
    interleaved = ' Interleaved="true"' if samples > 1 else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        'xsi:schemaLocation="http://www.openmicroscopy.org/Schemas/OME/2016-06 '
        'http://www.openmicroscopy.org/Schemas/OME/2016-06/ome.xsd" '
        f'UUID="urn:uuid:{uuid.UUID(bytes=identity, version=4)}" Creator="Pairscape">'
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
