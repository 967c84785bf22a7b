"""Checks of a bundle's morphology image, its H&E and its alignment."""

from pathlib import Path

import numpy as np

from pairscape.acquire import bundle as xenium
from pairscape.acquire.alignment import (
    MAX_SIZE_GAP,
    WRONG_SIZE_GAP,
    decompose,
    resolve_alignment,
)
from pairscape.core.errors import InputError
from pairscape.images.stated import um_per_px_of_ome

MAX_ANISOTROPY = 1.02
TILES_TRIED = 4  # along each side of the H&E
MORPHOLOGY_TILES_TRIED = 6
MAX_CHUNK_BYTES = 1 << 28  # a strip beyond it isn't decoded to try it


def check_morphology(
    findings, facts, bundle, experiment: dict, from_geo: bool
) -> tuple[int, int] | None:
    """Width and height of the morphology image; of each channel a few tiles are decoded.

    A sample that is published file by file (``from_geo``) comes without it.
    """
    paths = morphology_files(bundle, experiment)
    facts["morphology_files"] = [str(path.relative_to(bundle)) for path in paths]
    if not paths:
        level, remedy = "warning", "fetch the whole bundle again"
        if from_geo:
            level, remedy = "note", "nothing to do: GEO publishes none, and pairs don't need it"
        place = Path(bundle) / "morphology_focus"
        findings.add(level, place, "image", "nothing", remedy, "the morphology image")
        return None
    sizes = {}
    for path in paths:
        size, um_per_px = _read_channel(path)
        sizes[path.name] = size
        pixel_size = facts.get("pixel_size_um")
        if um_per_px and pixel_size and abs(um_per_px / pixel_size - 1) > MAX_SIZE_GAP:
            findings.add(
                "error",
                path,
                "PhysicalSizeX",
                f"{um_per_px:g} um",
                "make sure that image and experiment.xenium are of one bundle",
                f"{pixel_size:g} um (pixel_size of experiment.xenium)",
            )
    size = sizes[paths[0].name]
    for path in paths[1:]:
        if sizes[path.name] != size:
            findings.add(
                "error",
                path,
                "size",
                "{} x {} px".format(*sizes[path.name]),
                "make sure that all channels are of one bundle",
                "{} x {} px as in {}".format(*size, paths[0].name),
            )
    facts["morphology_size_px"] = list(size)
    return size


def morphology_files(bundle, experiment: dict) -> list[Path]:
    """The morphology image in focus, one file a channel, DAPI first, whatever the layout.

    The file that ``experiment.xenium`` names comes first, if it is there.
    """
    bundle = Path(bundle)
    images = experiment.get("images")
    named = images.get("morphology_focus_filepath") if isinstance(images, dict) else None
    path = bundle / named if isinstance(named, str) and ".." not in Path(named).parts else None
    if path and path.is_file() and path.suffix == ".tif":
        others = sorted(path.parent.glob("*.ome.tif")) if path.parent != bundle else []
        return [path, *(other for other in others if other != path)]
    for pattern in (
        "morphology_focus/ch[0-9]*.ome.tif",
        "morphology_focus/*.ome.tif",
        "morphology_focus.ome.tif",
        "morphology_mip.ome.tif",
        "morphology.ome.tif",
    ):
        found = sorted(bundle.glob(pattern))
        if found:
            return found
    return []


def _read_channel(path) -> tuple[tuple[int, int], float | None]:
    """Size and stated µm per pixel of a morphology file; a seeded sample of tiles is decoded."""
    import tifffile

    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            size = page.imagewidth, page.imagelength
            chunks = [
                (offset + count)
                for level in (page, *(page.pages or ()))
                for offset, count in zip(level.dataoffsets, level.databytecounts, strict=True)
            ]
            if max(chunks) > path.stat().st_size:
                found = f"{path.stat().st_size} of at least {max(chunks)} bytes"
                raise InputError(path, "image", found, xenium.DAMAGED)
            if np.prod(page.chunks, dtype=np.int64) * page.dtype.itemsize <= MAX_CHUNK_BYTES:
                number = len(page.dataoffsets)
                few = min(MORPHOLOGY_TILES_TRIED, number)
                for index in np.random.default_rng(0).choice(number, few, replace=False):
                    handle = tiff.filehandle
                    handle.seek(page.dataoffsets[index])
                    data = handle.read(page.databytecounts[index])
                    tables = {"jpegtables": page.jpegtables} if page.jpegtables else {}
                    page.decode(data, int(index), **tables)
            return size, um_per_px_of_ome(tiff, 0)
    except InputError:
        raise
    except Exception as error:  # tifffile raises whatever the damaged part makes it raise
        raise InputError(path, "image", f"{type(error).__name__} {error}", xenium.DAMAGED) from None


def check_he_image(findings, facts, path, sample):
    """Size of the H&E, and its stated pixel size with the key that states it.

    A few tiles are decoded, drawn from a fixed seed.
    """
    from pairscape.images.tiff import TiffImage

    rng = np.random.default_rng(0)
    with TiffImage(path, any_layout=sample.get("he_layout") == "untiled") as slide:
        facts["he_size_px"] = [slide.width, slide.height]
        facts["he_um_per_px_stated"] = slide.um_per_px
        size, stated = (slide.width, slide.height), (slide.um_per_px, slide.um_per_px_key)
        if slide.needs_retiling:
            found, remedy = "strips of any size", "nothing to do: it is retiled before it is read"
            findings.add("note", path, "tiles", found, remedy)
            return size, stated
        check_has_tiles(path, slide)
        # One point in each field of a chequerboard, so that no large part goes untried.
        fields = np.stack(np.divmod(np.arange(TILES_TRIED**2), TILES_TRIED), axis=1)
        for x, y in (fields + rng.random(fields.shape)) / TILES_TRIED:
            slide.read_region(int(x * slide.width), int(y * slide.height), 1, 1)
        # Whatever is cut off is missing at the end.
        slide.read_region(slide.width - 1, slide.height - 1, 1, 1)
        return size, stated


def check_has_tiles(path, slide) -> None:
    """Refuse an image that states a size and holds no pixels: tiles without bytes read as white."""
    full = slide.levels[0]
    held = [sum(size > 0 for size in page.databytecounts) for page in full.pages]
    if not all(held):
        found = f"{slide.width} x {slide.height} px, of which no tile holds a byte"
        raise InputError(path, "tiles", found, "give the image itself: this file is empty")


def check_alignment(findings, facts, he_image, path, pixel_size, stated, sample):
    """The matrix of H&E pixels to morphology pixels, or None where there is no H&E."""
    if not he_image:
        findings.add(
            "warning",
            path,
            "H&E image",
            "none",
            "name the H&E in he_image",
            "the H&E it aligns",
        )
    alignment = resolve_alignment(path, sample, pixel_size, stated[0])
    matrix, place = alignment.matrix, path or he_image
    parts = facts["alignment"] = {"how": alignment.how, **decompose(matrix, pixel_size)}
    if alignment.residual_um is not None:
        parts["residual_um"] = alignment.residual_um
    if parts["anisotropy"] > MAX_ANISOTROPY:
        findings.add(
            "warning",
            place,
            "matrix",
            f"a stretch of {parts['anisotropy']:.3f}",
            "look at the alignment in Xenium Explorer",
            f"at most {MAX_ANISOTROPY}",
        )
    if not 0.05 <= parts["um_per_px"] <= 5:
        findings.add(
            "error",
            place,
            "matrix",
            f"H&E pixels of {parts['um_per_px']:.4g} um",
            "give the matrix that takes H&E pixels to morphology pixels",
            "0.05 to 5 um",
        )
    _compare_sizes(findings, parts["um_per_px"], pixel_size, place, he_image, stated, sample)
    return matrix


def _compare_sizes(findings, by_matrix, pixel_size, place, he_image, stated, sample) -> None:
    """The pixel size by the matrix against those of the sample table and of the image's header.

    Which of them is right, the tissue tells later (``check_alignment``); only of a matrix the wrong
    way round the numbers alone do.
    """
    listed_um, (stated_um, key) = float(sample.get("he_um_per_px") or 0), stated
    table = "sample table", f"sample {sample.get('sample', '')}, he_um_per_px", listed_um
    header = he_image, key, stated_um
    trusted_um = listed_um or stated_um
    inverse_um = pixel_size**2 / by_matrix
    far = trusted_um and abs(trusted_um / by_matrix - 1) > WRONG_SIZE_GAP
    if far and abs(trusted_um / inverse_um - 1) <= MAX_SIZE_GAP:
        findings.add(
            "error",
            place,
            "matrix",
            f"H&E pixels of {by_matrix:.4g} um",
            "give its inverse: this one takes morphology pixels to H&E pixels",
            f"{trusted_um:.4g} um as {table[1] if listed_um else f'{key} of the image'} says",
        )
        return
    for file, field, size in (header, table):
        if size and abs(size / by_matrix - 1) > MAX_SIZE_GAP:
            findings.add(
                "warning",
                file,
                field,
                f"{size:.4g} um",
                "the tissue decides (check_alignment); if the matrix isn't right, give that of this "
                "very image at full resolution",
                f"H&E pixels of {by_matrix:.4g} um as its matrix says",
            )


def check_identity(findings, facts, he_image, he_size, image_size, sample) -> None:
    """An H&E on the pixel grid of the morphology image has its size."""
    if any(abs(a - b) > 0.01 * b for a, b in zip(he_size, image_size, strict=True)):
        fault = "{} x {} px where the morphology image has {} x {}".format(*he_size, *image_size)
        remedy = (
            f"give an alignment file: `identity` in he_alignment of sample "
            f"{sample.get('sample', '')} says that both share one pixel grid"
        )
        raise InputError(he_image, "size", fault, remedy)
