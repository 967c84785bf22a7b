"""Check that the alignment of a sample's H&E is the right one, before pairs are made with it.

IN   a Xenium bundle, its H&E, its alignment (or `identity` or `microns` in the sample table)
OUT  a report (JSON): what the matrix does to the H&E, its score and its rivals'; and a figure. Of an
     alignment that is refused there is neither under that name, so that nothing goes on from it:
     they are kept in <report>.failed.json and <overlay>.failed.png

Options: sample (its row of the sample table), seed, trusted (somebody has looked at this alignment:
a better rival is a warning).
"""

from pathlib import Path

import numpy as np

from pairscape.acquire import alignment, refusals
from pairscape.acquire import bundle as xenium
from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.images.tiff import TiffImage
from pairscape.jobs import program
from pairscape.spots import alignment_figure, registration, registration_maps

RESULT_VERSION = 3
MAX_ANISOTROPY = 1.02
METHOD = {
    "pixel_um": registration_maps.PIXEL_UM,
    "smoothing_um": registration_maps.SMOOTHING_UM,
    "block_um": registration_maps.BLOCK_UM,
    "resamples": registration.RESAMPLES,
    "confidence": registration.CONFIDENCE,
    "margin": registration.MARGIN,
    "same_within_um": registration_maps.SPOT_UM,
}
MIN_INSIDE = 0.05  # share of the tissue that has to lie on the H&E; export_pairs counts the rest


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        bundle="folder of the bundle",
        he_image="H&E image",
        he_alignment="optional: alignment file, H&E pixels to morphology pixels",
        report=program.Output("alignment.json to write"),
        overlay=program.Output("overlay.png to write"),
    )
    with refusals.kept(args.report, args.options.get("sample", {})):
        _check(args)


def _check(args) -> None:
    sample, trusted = args.options.get("sample", {}), args.options.get("trusted", False)
    pixel_size_um = xenium.pixel_size_um(xenium.read_experiment(args.bundle))
    with TiffImage(args.he_image, cache_bytes=0) as image:
        size_px, stated_um = (image.width, image.height), image.um_per_px
        key = image.um_per_px_key
    aligned = alignment.resolve_alignment(args.he_alignment, sample, pixel_size_um, stated_um)
    name = sample.get("sample", "")
    source = args.he_alignment or "sample table"
    field = "matrix" if args.he_alignment else f"sample {name}, he_alignment"
    for path in (args.report, args.overlay):
        files.remove(path)
        files.remove(_failed(path))

    region = registration_maps.read_region(args.bundle)
    with TiffImage(args.he_image, cache_bytes=0) as image:
        thumbnail = image.thumbnail(registration_maps.THUMBNAIL_PX)
    picture = registration_maps.read_picture(*thumbnail, size_px)
    he_um_per_px, seed = alignment.he_um_per_px(sample, stated_um), args.options.get("seed", 0)
    verdict = registration.judge(aligned.matrix, picture, region, pixel_size_um, he_um_per_px, seed)
    inside = _share_inside(aligned.matrix, region, pixel_size_um, size_px)
    placed = alignment.decompose(aligned.matrix, pixel_size_um)
    warnings = _warnings(aligned, placed, verdict)
    warnings += _other_sizes(placed["um_per_px"], sample, stated_um, key)
    refusal = _refusal(verdict, inside, placed["um_per_px"], he_um_per_px)
    if refusal and trusted:
        warnings.append(f"{refusal}; accepted all the same, as it is listed in alignment.trusted")
    refused = bool(refusal) and not trusted

    report = {
        "sample": name,
        "verdict": "error" if refused else "warning" if warnings else "ok",
        "warnings": warnings,
        "how": aligned.how,
        "matrix": aligned.matrix.tolist(),
        "keypoints": aligned.keypoints,
        "keypoint_residual_um": aligned.residual_um,
        **placed,
        "he_um_per_px_stated": stated_um,
        "tissue_on_the_he": inside,
        "points": region.counts,
        "evidence": registration.as_json(verdict),
        "method": METHOD,
        "result_version": RESULT_VERSION,
    }
    overlay = _failed(args.overlay) if refused else args.overlay
    _draw(args, overlay, name, aligned.matrix, region, pixel_size_um, verdict)
    files.write_json(_failed(args.report) if refused else args.report, report)
    if refused:
        remedy = (
            f"correct it (look at {overlay}), or, where it is right all the same, name the sample "
            "in alignment.trusted of the configuration"
        )
        raise InputError(source, field, refusal, remedy)
    for warning in warnings:
        logs.log.warning("%s: %s", name or source, warning)
    logs.log.info(
        "%s: %s, %.4f µm a pixel, turned by %.1f degrees%s; %s",
        name or source,
        aligned.how,
        placed["um_per_px"],
        placed["rotation_degrees"],
        ", mirrored" if placed["mirrored"] else "",
        _scores(verdict) or verdict["why"],
    )


def _failed(path) -> Path:
    path = Path(path)
    return path.with_suffix(".failed" + path.suffix)


def _share_inside(matrix, region, pixel_size_um: float, size_px) -> float:
    """Share of the tissue's pixels that an alignment puts on the H&E."""
    here = region.centres_um[region.tissue.ravel()]
    px = alignment.um_to_he_px(matrix, pixel_size_um, here)
    return float(((px >= 0) & (px <= size_px)).all(axis=1).mean()) if len(px) else 0.0


def _refusal(verdict: dict, inside: float, by_alignment, he_um_per_px) -> str | None:
    """Why an alignment isn't taken; both sizes are µm per pixel of the H&E, the last maybe None."""
    if verdict["verdict"] == "refused":
        return f"an alignment that another one beats: {_scores(verdict)}"
    if inside < MIN_INSIDE:
        return f"an alignment that puts {100 * inside:.0f} % of the tissue on the H&E"
    gap = abs(he_um_per_px / by_alignment - 1) if he_um_per_px else 0.0
    if gap > alignment.WRONG_SIZE_GAP and verdict["verdict"] != "accepted":
        return (
            f"{by_alignment:.4g} µm a pixel where the H&E is said to have {he_um_per_px:.4g}, and "
            "the tissue doesn't tell which is right (give he_um_per_px in the sample table)"
        )
    return None


def _other_sizes(by_alignment: float, sample: dict, stated_um: float | None, key: str) -> list[str]:
    """What contradicts the pixel size of the alignment, which outranks it."""
    listed_um = float(sample.get("he_um_per_px") or 0)
    sources = {"he_um_per_px of the sample table": listed_um, f"{key} of the image": stated_um}
    return [
        f"{source} says {size:.4g} µm a pixel, the alignment {by_alignment:.4g}, which is used"
        for source, size in sources.items()
        if size and abs(size / by_alignment - 1) > alignment.MAX_SIZE_GAP
    ]


def _scores(verdict: dict) -> str:
    if "score" not in verdict:
        return ""
    rival, lead = verdict["rival"], verdict["lead"]
    words = f"its score is {verdict['score']:.2f}, that of {rival['name']} {rival['score']:.2f}"
    sure = f"{100 * registration.CONFIDENCE:.1f} % sure of {lead['low']:.2f}"
    return words + (f" (lead {lead['value']:.2f}, {sure})" if lead["low"] > 0 else "")


def _warnings(aligned, placed: dict, verdict: dict) -> list[str]:
    warnings = []
    if verdict["verdict"] == "undecided":
        scores = f" ({_scores(verdict)})" if _scores(verdict) else ""
        warnings.append(f"whether the alignment is right can't be told: {verdict['why']}{scores}")
    if placed["anisotropy"] > MAX_ANISOTROPY:
        warnings.append(f"it stretches the H&E by {placed['anisotropy']:.3f}")
    if aligned.keypoints == 3:
        warnings.append("three keypoints fit without a residual: set more to see how good they are")
    if (aligned.residual_um or 0) > registration_maps.SPOT_UM / 2:
        warnings.append(
            f"the keypoints lie {aligned.residual_um:.0f} µm off (root mean square), more than "
            "half a spot"
        )
    return warnings


def _draw(args, path, name: str, matrix: np.ndarray, region, pixel_size_um, verdict) -> None:
    given = f": score {verdict['score']:.2f}" if "score" in verdict else ""
    panels = [(f"As given{given}", matrix)]
    if rival := verdict.get("rival"):
        words = rival["name"][:1].upper() + rival["name"][1:]
        panels.append((f"Best rival: score {rival['score']:.2f}\n{words}", rival["matrix"]))
    with TiffImage(args.he_image, cache_bytes=0) as image:
        picture, scale = image.thumbnail(alignment_figure.THUMBNAIL_PX)
        details = read_details(args.bundle, image, matrix, region, pixel_size_um)
    with files.atomic_path(path) as temporary:
        alignment_figure.draw_alignment(
            temporary,
            title=f"{name or Path(args.he_image).name}: where the alignment puts the bundle on the "
            f"H&E ({verdict['verdict']})",
            thumbnail=picture,
            scale=scale,
            region=region,
            pixel_size_um=pixel_size_um,
            panels=panels,
            details=details,
        )


def read_details(bundle, image: TiffImage, matrix: np.ndarray, region, pixel_size_um) -> list:
    """Squares of the H&E with most nuclei, and the nuclei that the alignment puts there."""
    side_um, margin_um = alignment_figure.DETAIL_UM, alignment_figure.MARGIN_UM
    side_px = round(side_um / alignment.decompose(matrix, pixel_size_um)["um_per_px"])

    def he_px(xy_um):
        return alignment.um_to_he_px(matrix, pixel_size_um, xy_um)

    centres_um = alignment_figure.choose_details(
        region.nuclei_um, side_um, lambda xy_um: image.holds(he_px(xy_um), side_px)
    )
    details = []
    for centre_um, centre_px in zip(centres_um, he_px(centres_um), strict=True):
        reach_um = side_um / np.sqrt(2) + margin_um  # the H&E may be turned against the bundle
        box_um = centre_um - reach_um, centre_um + reach_um
        try:
            outlines_um = xenium.read_nuclei(bundle, *box_um) or []
        except InputError as error:  # nothing but this picture is made of them
            logs.log.info("the figure has no outlines of nuclei (%s)", error)
            outlines_um = []
        here = ((region.nuclei_um >= box_um[0]) & (region.nuclei_um <= box_um[1])).all(axis=1)
        corner_px = np.round(centre_px - side_px / 2).astype(int)
        details.append(
            alignment_figure.Detail(
                image.read_region(*corner_px.tolist(), side_px, side_px),
                corner_px,
                [he_px(outline_um) for outline_um in outlines_um],
                he_px(region.nuclei_um[here]),
            )
        )
    return details


if __name__ == "__main__":
    program.run(main)
