"""Embed the patches of a new H&E image by a pretrained pair, and look up their gene profiles.

Patches have the field of view that the pair was trained on and lie side by side, or where --centres
says. No rule runs this program: it is for images beyond the benchmark.

IN   model.ckpt of a run; an H&E image (PNG, JPEG, TIFF, OME-TIFF, SVS, or what OpenSlide reads);
     a run's embeddings/<split>_genes.npy with what lies beside it (--gallery)
OUT  embeddings (.npy), one row per patch, of unit length; their index (.tsv): patch, x_px and y_px
     of its centre in the image, side_px, tissue_fraction; for each patch the five spots of the
     gallery with the most similar gene profiles (.tsv)
"""

import math

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.jobs import program

RESULT_VERSION = 1
MIN_TISSUE = 0.1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        model="the pretrained pair (model.ckpt)",
        image="the H&E image",
        image_weights="optional: the image encoder's fetched weights; not for those in a package",
        um_per_px="optional: µm per pixel of the image, where the file doesn't say",
        patch_px="optional: side of a patch in its own pixels; by default as the pair was trained",
        patch_um_per_px="optional: µm per pixel of a patch; by default as the pair was trained",
        step_um="optional: distance of neighbouring patches; by default they lie side by side",
        min_tissue=f"optional: least share of tissue in a patch of the grid; {MIN_TISSUE:g}",
        centres="optional: table (.tsv) with x_px and y_px of the patches, in place of a grid",
        gallery="optional: the run's embeddings/<split>_genes.npy",
        embeddings=program.Output("embeddings to write (.npy)"),
        index=program.Output("index of the patches to write (.tsv)"),
        nearest=program.Output("optional: the most similar gene profiles to write (.tsv)"),
    )
    numbers = read_numbers(args)
    if (args.gallery is None) != (args.nearest is None):
        missing = "--gallery" if args.gallery is None else "--nearest"
        raise InputError(missing, "flag", "nothing", "give --gallery and --nearest, or neither")
    if args.centres is not None and args.step_um is not None:
        remedy = "leave it out: --centres has the places"
        raise InputError("--step-um", "flag", args.step_um, remedy)

    import numpy as np

    from pairscape.images import any_image, grids
    from pairscape.slides import new_image

    meta = new_image.read_facts(args.model)
    gallery = new_image.read_gallery(args.gallery, meta) if args.gallery is not None else None
    field = find_field(args, numbers, meta)
    with any_image.open_image(args.image, numbers["um_per_px"]) as image:
        image.check_scale(field.um_per_px)
        side_px = field.side_um / image.um_per_px
        if args.centres is None:
            step_px = (numbers["step_um"] or field.side_um) / image.um_per_px
            centres = grids.lay_grid(image, side_px, step_px) + side_px / 2
            least = MIN_TISSUE if numbers["min_tissue"] is None else numbers["min_tissue"]
        else:
            centres = grids.read_centres(args.centres, image, side_px)
            least = numbers["min_tissue"] or 0.0
        model = new_image.load_model(args.model, args.image_weights)
        places, embeddings, tissue = new_image.embed_patches(
            model, image, centres, field, least, args.threads
        )
    with files.atomic_path(args.embeddings) as temporary, open(temporary, "wb") as handle:
        np.save(handle, embeddings.astype(np.float32))
    kept = zip(centres[places].tolist(), tissue.tolist(), strict=True)
    rows = (
        {"patch": row, "x_px": x, "y_px": y, "side_px": side_px, "tissue_fraction": share}
        for row, ((x, y), share) in enumerate(kept)
    )
    tsv.write_numbers(args.index, rows, new_image.INDEX_COLUMNS, digits=9)
    if gallery is not None:
        nearest = new_image.nearest_profiles(embeddings, gallery)
        tsv.write_numbers(args.nearest, nearest, new_image.NEAREST_COLUMNS)
    left_out = len(centres) - len(embeddings)
    logs.log.info(
        "%s: %d of %d patches of %g um embedded into %d numbers each%s",
        args.image,
        len(embeddings),
        len(centres),
        field.side_um,
        embeddings.shape[1],
        f"; {left_out} have too little tissue" if left_out else "",
    )


def read_numbers(args) -> dict[str, float | None]:
    """The flags that are numbers, all positive; only ``min_tissue`` may be 0, ``patch_px`` is whole."""
    numbers = {}
    for name in ("um_per_px", "patch_px", "patch_um_per_px", "step_um", "min_tissue"):
        text = getattr(args, name)
        try:
            number = numbers[name] = None if text is None else float(text)
            least = 0 if name == "min_tissue" else 1e-9
            if number is not None and (
                not least <= number < math.inf or (name == "patch_px" and number % 1)
            ):
                raise ValueError
        except ValueError:
            flag = "--" + name.replace("_", "-")
            raise InputError(flag, "flag", repr(text), "give a positive number") from None
    return numbers


def find_field(args, numbers, meta):
    """The field of view: the user's, or that of the pair's dataset."""
    from pairscape.slides.new_image import Field, find_field

    given = numbers["patch_px"], numbers["patch_um_per_px"]
    if None not in given:
        return Field(int(given[0]), given[1])
    if any(given):
        remedy = "give --patch-px and --patch-um-per-px, or neither"
        raise InputError("--patch-px", "flags", "one of two", remedy)
    return find_field(args.model, meta["dataset"])


if __name__ == "__main__":
    program.run(main)
