"""Cut the H&E patch around each pseudo-spot of a sample and write the image-gene pairs.

IN   spots.zarr, the H&E image, its alignment (or `identity` or `microns` in the sample table),
     genes.tsv
OUT  one Arrow shard; its rows stand in the order of the spots

Options: sample (its row of the sample table), dataset, patches (um_per_px, patch_px, encoding,
quality), labels (all class names of name, source, tissue).

A patch's centre goes through the alignment; its axes are those of the H&E. Spots whose patch
doesn't lie wholly within the H&E are left out, counted and said.
"""

from pathlib import Path

import numpy as np

from pairscape import pairs, program
from pairscape.alignment import decompose, read_alignment, um_to_he_px
from pairscape.errors import InputError
from pairscape.files import sha256_json
from pairscape.program import log

RESULT_VERSION = 1
SCALE_TOLERANCE = 0.02  # between the alignment's µm per pixel and what the image says of itself


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots="spots.zarr of the sample",
        he_image="optional: the H&E image",
        he_alignment="optional: matrix of H&E pixels to morphology pixels (CSV)",
        genes="genes.tsv of the dataset",
        shard="Arrow shard to write",
    )
    sample, patches = args.options["sample"], args.options["patches"]
    name = sample["sample"]
    if sample.get("he_image") == "none" or not args.he_image:
        raise InputError(
            "sample table",
            f"sample {name}, he_image",
            "none: it has no H&E, so there are no image-gene pairs of it",
            "give its H&E image or take it out of the dataset",
        )
    genes = [gene["gene_symbol"] for gene in pairs.read_genes(args.genes)]

    from pairscape.slide import Slide, patches_inside
    from pairscape.spots import read_spots

    spots = read_spots(args.spots)
    made_by = spots.uns["pairscape"]
    if made_by.get("sample", name) != name:
        raise InputError(args.spots, "sample", made_by["sample"], f"give the spots of {name}")
    pixel_size_um = made_by["pixel_size_um"]
    positions = spots.var_names.get_indexer(genes)
    if (positions < 0).any():
        missing = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
        raise InputError(
            args.spots,
            "genes",
            f"no {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}",
            f"make {args.genes} again from the spots of all samples",
        )

    with Slide(args.he_image) as slide:
        matrix = _he_matrix(args.he_alignment, sample, pixel_size_um, slide)
        placed = decompose(matrix, pixel_size_um)
        _warn_of_scale(args.he_image, placed["um_per_px"], slide.um_per_px)
        side_px = patches["patch_px"] * patches["um_per_px"] / placed["um_per_px"]
        centres_px = um_to_he_px(matrix, pixel_size_um, spots.obs[["x_um", "y_um"]].to_numpy())
        inside = patches_inside(slide, centres_px, side_px)
        if not inside.any():
            raise InputError(
                args.he_alignment or args.he_image,
                "alignment",
                f"none of {len(inside)} patches of {side_px:.0f} pixels within the H&E of "
                f"{slide.width} x {slide.height} pixels",
                "give the alignment of this image and this bundle",
            )
        features = pairs.pair_features(len(genes), args.options["labels"])
        metadata = {
            "sample": name,
            "dataset": args.options["dataset"],
            "genes": genes,
            "patches": {**patches, "side_px": side_px},
            "spots": made_by,
            "spots_left_out": int((~inside).sum()),
            "alignment": {"matrix": matrix.tolist(), **placed},
            "labels_sha256": sha256_json(args.options["labels"]),
            "result_version": RESULT_VERSION,
        }
        shard = Path(args.shard)
        shard.parent.mkdir(parents=True, exist_ok=True)
        rows = pairs.iter_pairs(
            slide,
            spots[inside],
            positions,
            centres_px[inside],
            patches,
            side_px,
            pairs.sample_columns(sample),
            shard.parent,
        )
        written = pairs.write_shard(shard, rows, features, metadata)
    log.info(
        "%s: %d pairs of %d genes and %d px patches (%.1f H&E px a side)",
        name,
        written,
        len(genes),
        patches["patch_px"],
        side_px,
    )
    if not inside.all():
        log.info(
            "%s: %d of %d spots are left out: their patch reaches beyond the H&E",
            name,
            (~inside).sum(),
            len(inside),
        )


def _he_matrix(path, sample, pixel_size_um: float, slide) -> np.ndarray:
    """The alignment of the file, or of the word that stands in the sample table for one."""
    if path:
        return read_alignment(path)
    word = sample.get("he_alignment", "")
    if word == "identity":  # the H&E lies on the pixel grid of the morphology image
        return np.eye(3)
    if word == "microns":  # the H&E begins where the Xenium micrometres do, without a turn
        um_per_px = float(sample.get("he_um_per_px") or 0) or slide.um_per_px
        if um_per_px:
            return np.diag([um_per_px / pixel_size_um, um_per_px / pixel_size_um, 1.0])
        raise InputError(
            "sample table",
            f"sample {sample['sample']}, he_um_per_px",
            "nothing, and the image doesn't say its pixel size",
            "give the µm per pixel of the H&E",
        )
    raise InputError(
        "sample table",
        f"sample {sample['sample']}, he_alignment",
        repr(word) + " and no file",
        "give the alignment file, or `identity` or `microns` where the H&E lies so: a missing "
        "alignment is never taken for the identity",
    )


def _warn_of_scale(path, aligned: float, stated: float | None) -> None:
    if stated and abs(aligned / stated - 1) > SCALE_TOLERANCE:
        log.warning(
            "%s: it says %.4f µm per pixel, its alignment %.4f; the alignment's is used",
            path,
            stated,
            aligned,
        )


if __name__ == "__main__":
    program.run(main)
