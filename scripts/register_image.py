"""Register an H&E that came without an alignment: the similarity that brings it to the bundle.

IN   a Xenium bundle, its H&E
OUT  the matrix (CSV, as Xenium Explorer writes it), used only where the checks of check_alignment
     accept it by a clear margin; a report (JSON) with its score, its rivals and what is left block by
     block; and a figure of that. Of a fit that isn't used there is neither under that name: the
     report is kept in <report>.failed.json

Options: sample (its row of the sample table), seed.
"""

from pathlib import Path

import numpy as np

from pairscape.acquire import alignment, refusals
from pairscape.acquire import bundle as xenium
from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.images.tiff import TiffImage
from pairscape.jobs import program
from pairscape.spots import alignment_figure, registration, registration_fit, registration_maps

RESULT_VERSION = 1
CLOSE_PX = 6144  # of the thumbnail that single nuclei are told from
METHOD = {
    "clear_margin": registration_fit.CLEAR_MARGIN,
    "clear_ratio": registration_fit.CLEAR_RATIO,
    "max_residual_um": registration_fit.MAX_RESIDUAL_UM,
    "block_um": registration_maps.BLOCK_UM,
    "nucleus_um": registration_fit.NUCLEUS_UM,
    "around_um": registration_fit.AROUND_UM,
}


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="H&E image",
        matrix=program.Output("alignment to write, H&E pixels to morphology pixels (.csv)"),
        report=program.Output("registration.json to write"),
        figure=program.Output("figure of what is left (.png)"),
    )
    with refusals.kept(args.report, args.options.get("sample", {})):
        _register(args)


def _register(args) -> None:
    sample, seed = args.options.get("sample", {}), args.options.get("seed", 0)
    failed = Path(args.report).with_suffix(".failed.json")
    for path in (args.matrix, args.report, args.figure, failed):
        files.remove(path)
    pixel_size_um = xenium.pixel_size_um(xenium.read_experiment(args.bundle))
    with TiffImage(args.he_image, cache_bytes=0) as image:
        size_px, stated_um = (image.width, image.height), image.um_per_px
        small = image.thumbnail(registration_maps.THUMBNAIL_PX)
        close = image.thumbnail(CLOSE_PX)
    he_um_per_px = alignment.he_um_per_px(sample, stated_um)
    region = registration_maps.read_region(args.bundle)
    picture = registration_maps.read_picture(*small, size_px)
    if not region.maps or not picture.density.any():
        found = "too few nuclei and transcripts" if not region.maps else "an H&E without contrast"
        raise InputError(args.he_image, "registration", found, _remedy(sample))

    fine = registration_maps.read_close_picture(*close, size_px)
    fitted = registration_fit.fit(picture, fine, region, pixel_size_um, he_um_per_px=he_um_per_px)
    if fitted is None:
        found = "an H&E far larger than the bundle's region"
        raise InputError(args.he_image, "registration", found, _remedy(sample))
    verdict = registration.judge(fitted.matrix, picture, region, pixel_size_um, he_um_per_px, seed)
    refusal = registration_fit.refusal(fitted, verdict)
    placed = alignment.decompose(fitted.matrix, pixel_size_um)
    report = {
        "sample": sample.get("sample", ""),
        "used": refusal is None,
        "why": refusal or "check_alignment accepts it by a clear margin",
        "matrix": fitted.matrix.tolist(),
        **placed,
        "he_um_per_px_stated": he_um_per_px,
        "residual_um": fitted.residual_um,
        "contrast": fitted.contrast,
        "rival_contrast": fitted.rival_contrast,
        "residuals": np.hstack([fitted.blocks, fitted.residuals]).round(2).tolist(),
        "points": region.counts,
        "evidence": registration.as_json(verdict),
        "method": METHOD,
        "result_version": RESULT_VERSION,
    }
    files.write_json(failed if refusal else args.report, report)
    if refusal:
        raise InputError(args.he_image, "registration", refusal, _remedy(sample))
    with files.atomic_path(args.figure) as temporary:
        alignment_figure.draw_residuals(temporary, report["sample"], fitted, region)
    with files.atomic_path(args.matrix) as temporary:
        np.savetxt(temporary, fitted.matrix, delimiter=",")
    logs.log.info(
        "%s: registered: %.4f µm a pixel, turned by %.1f degrees%s, score %.2f, its best rival %.2f,"
        " residual %.1f µm",
        report["sample"] or args.he_image,
        placed["um_per_px"],
        placed["rotation_degrees"],
        ", mirrored" if placed["mirrored"] else "",
        verdict["score"],
        verdict["rival"]["score"],
        fitted.residual_um,
    )


def _remedy(sample) -> str:
    return (
        "give the alignment file that Xenium Explorer writes, in column he_alignment of sample "
        f"{sample.get('sample', '')}"
    )


if __name__ == "__main__":
    program.run(main)
