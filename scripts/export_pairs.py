"""Cut the H&E patch around each pseudo-spot of a sample and write the image-gene pairs.

IN   spots.zarr, the H&E image, its alignment (or `identity` or `microns` in the sample table),
     genes.tsv
OUT  one Arrow shard; its rows stand in the order of the spots

Options: sample (its row of the sample table; of a block also part and part_of), dataset, patches
(um_per_px and patch_px, or native_px; encoding, quality), labels (all class names of name, source,
tissue); of a block also split (fractions, seed).

A patch's centre goes through the alignment; its axes are those of the H&E. With native_px a patch is
a square of the slide's own pixels, not resampled, the one whose middle is nearest the spot. Spots
whose patch doesn't lie wholly within the H&E are left out, counted and said.
"""

from pathlib import Path

import numpy as np

from pairscape.acquire.alignment import decompose, resolve_alignment, um_to_he_px
from pairscape.core.errors import InputError
from pairscape.core.files import sha256_json
from pairscape.core.logs import log
from pairscape.core.splits import SPLITS
from pairscape.dataset import blocks, cutting, gene_lists, pair_shards
from pairscape.images.he_image import MAX_UPSAMPLING
from pairscape.jobs import program

RESULT_VERSION = 3
SCALE_TOLERANCE = 0.02  # between the alignment's µm per pixel and what the image says of itself


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        spots="spots.zarr of the sample",
        he_image="optional: the H&E image",
        he_alignment="optional: alignment file of H&E pixels to morphology pixels",
        genes="genes.tsv of the dataset",
        shard=program.Output("Arrow shard to write"),
    )
    sample, preset = args.options["sample"], cutting.read_preset(args.options["patches"])
    name = sample["sample"]
    if sample.get("he_image") == "none" or not args.he_image:
        fault = "none: it has no H&E, so there are no image-gene pairs of it"
        remedy = "give its H&E image or take it out of the dataset"
        raise InputError("sample table", f"sample {name}, he_image", fault, remedy)
    genes = [gene["gene_symbol"] for gene in gene_lists.read_genes(args.genes)]

    from pairscape.images.tiff import TiffImage

    spots, positions = _read_spots(args, name, genes)
    made_by = spots.uns["pairscape"]
    pixel_size_um = made_by["pixel_size_um"]
    with TiffImage(args.he_image) as slide:
        aligned = resolve_alignment(args.he_alignment, sample, pixel_size_um, slide.um_per_px)
        placed = decompose(aligned.matrix, pixel_size_um)
        _warn_of_scale(slide, placed["um_per_px"])
        xy_um = spots.obs[["x_um", "y_um"]].to_numpy()
        centres_px = um_to_he_px(aligned.matrix, pixel_size_um, xy_um)
        cut = cutting.plan_cut(preset, centres_px, placed["um_per_px"])
        _say_field(slide, cut, placed["um_per_px"], made_by.get("preset", {}).get("size_um"))
        inside = slide.holds(cut.middles_px, cut.side_px)
        asked = np.ones(len(inside), bool)
        if "part" in sample:
            asked = _in_block(args.options, xy_um, cut.side_px, aligned.matrix * pixel_size_um)
        chosen, left_out = asked & inside, int((asked & ~inside).sum())
        if not chosen.any():
            raise _none_inside(args, preset, cut, slide)
        features = cutting.pair_features(len(genes), args.options["labels"])
        keys = ("patch_px", "um_per_px", "encoding")
        patches = {key: getattr(cut.patches, key) for key in keys}
        metadata = {
            "sample": name,
            "dataset": args.options["dataset"],
            "genes": genes,
            "patches": {**args.options["patches"], **patches, "side_px": cut.side_px},
            "spots": made_by,
            "spots_left_out": left_out,
            "alignment": {
                "how": aligned.how,
                "matrix": aligned.matrix.tolist(),
                "keypoint_residual_um": aligned.residual_um,
                **placed,
            },
            "labels_sha256": sha256_json(args.options["labels"]),
            "result_version": RESULT_VERSION,
        }
        shard = Path(args.shard)
        shard.parent.mkdir(parents=True, exist_ok=True)
        constant, cut = cutting.sample_columns(sample), cut.select(chosen)
        rows = cutting.iter_pairs(slide, spots[chosen], positions, cut, constant, shard.parent)
        written = pair_shards.write_shard(shard, rows, features, metadata)
    log.info(
        "%s: %d pairs of %d genes and %d px patches (%.1f H&E px a side)",
        name,
        written,
        len(genes),
        cut.patches.patch_px,
        cut.side_px,
    )
    if left_out:
        words = "%s: %d of %d spots are left out: their patch reaches beyond the H&E"
        log.info(words, name, left_out, asked.sum())


def _none_inside(args, preset: cutting.PatchPreset, cut: cutting.Cut, slide) -> InputError:
    """The refusal of a sample none of whose patches lies wholly within its H&E."""
    fault = (
        f"none of {len(cut.middles_px)} patches of {cut.side_px:.0f} pixels within the H&E of "
        f"{slide.width} x {slide.height} pixels"
    )
    if cut.side_px > min(slide.width, slide.height) / 2:
        key = "native_px" if preset.native_px else "um_per_px, patch_px"
        remedy = "make the patches smaller: they show more than the H&E does"
        return InputError("--options", f"patches.{key}", fault, remedy)
    remedy = "give the alignment of this image and this bundle"
    return InputError(args.he_alignment or args.he_image, "alignment", fault, remedy)


def _in_block(options: dict, xy_um: np.ndarray, side_px: float, he_to_um: np.ndarray) -> np.ndarray:
    """Which spots belong to the block of the section that is asked for, (N,) bool."""
    sample, split = options["sample"], options["split"]
    gap_um = np.abs(he_to_um[:2, :2]).sum(axis=1) * side_px  # of patches, along x and along y
    placed = blocks.place(xy_um, split["fractions"], gap_um, split["seed"])
    sizes = {name: int((placed == name).sum()) for name in SPLITS}
    if not all(sizes.values()):
        width, height = np.ptp(xy_um, axis=0)
        fault = f"a section of {width:.0f} x {height:.0f} µm, too short for three blocks"
        remedy = (
            f"take smaller patches: blocks lie {gap_um.max():.0f} µm apart, as much as they show"
        )
        raise InputError(f"sample {sample['part_of']}", "split within_sample", fault, remedy)
    left_out = len(placed) - sum(sizes.values())
    log.info("blocks: %s, %d spots in the gaps", sizes, left_out)
    return placed == sample["part"]


def _read_spots(args, name: str, genes: list[str]):
    """The spots of the sample, and the columns of the genes in them."""
    from pairscape.spots.spots_zarr import read_spots

    spots = read_spots(args.spots)
    name = args.options["sample"].get("part_of", name)
    stated = spots.uns["pairscape"].get("sample", name)
    if stated != name:
        raise InputError(args.spots, "sample", stated, f"give the spots of {name}")
    positions = spots.var_names.get_indexer(genes)
    missing = [gene for gene, position in zip(genes, positions, strict=True) if position < 0]
    if missing:
        some = f"no {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''}"
        raise InputError(
            args.spots, "genes", some, f"make {args.genes} again from the spots of all samples"
        )
    return spots, positions


def _say_field(slide, cut: cutting.Cut, um_per_px: float, spot_um: float | None) -> None:
    """Say what a patch shows, beside its spot, and where it is finer than the scan."""
    field_um = cut.side_px * um_per_px
    beside = f", the spots {spot_um:g} µm" if spot_um else ""
    log.info("a patch shows %.4g µm%s", field_um, beside)
    if um_per_px > MAX_UPSAMPLING * cut.patches.um_per_px:
        log.warning(
            "%s: the scan has %.4g µm a pixel, its patches %.4g: they are interpolated, and show no "
            "more than the scan",
            slide.path,
            um_per_px,
            cut.patches.um_per_px,
        )


def _warn_of_scale(slide, aligned: float) -> None:
    stated = slide.um_per_px
    if stated and abs(aligned / stated - 1) > SCALE_TOLERANCE:
        words = "%s: its %s says %.4f µm per pixel, its alignment %.4f; the alignment's is used"
        log.warning(words, slide.path, slide.um_per_px_key, stated, aligned)


if __name__ == "__main__":
    program.run(main)
