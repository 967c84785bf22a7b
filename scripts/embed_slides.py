"""Embed the patches of a cohort's whole slides by one model, slide by slide.

The model is an image encoder as it came, or the image side of a pretrained pair (--pair). A slide
that was embedded before is taken as it is; one that can't be is named, skipped and listed.

IN   the cohort table and its slides or feature files; the encoder's weights; for a pair its
     model.ckpt and, where its encoder was frozen, the encoder's slides.tsv (--base)
OUT  slides.tsv: one row per slide of the table; beside it <slide>.h5 of each that was embedded;
     figures: the patches of the first slides over their thumbnails
"""

from pathlib import Path

from pairscape.core import files, logs
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.encoders import specs
from pairscape.jobs import program
from pairscape.slides import cohorts, slide_features
from pairscape.slides.slide_features import EMBEDDED, SKIPPED

RESULT_VERSION = 1


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        cohort="the cohort table",
        slides=program.Output("the list of slides to write (slides.tsv)"),
        weights="optional: the image encoder's fetched weights; not for those in a Python package",
        pair="optional: model.ckpt of the pretrained pair whose image side embeds",
        base="optional: slides.tsv of the same cohort by the pair's frozen encoder",
        figures=program.Output("optional: folder of the figures to draw"),
    )
    options = args.options
    policy = resolve_part("slide_embedding", options["slide_embedding"])
    cohort = cohorts.read_cohort(args.cohort)
    model = build_model(args)

    from pairscape.slides.slide_embedding import SlideEmbedding

    policy = SlideEmbedding(**policy)
    base = None
    if model.tower is None:
        base = read_base(args, cohort)
    elif args.base is not None:
        remedy = f"{model.name} embeds the patches itself: leave it out"
        raise InputError("--base", "flag", args.base, remedy)
    rows, drawn, unverified = [], 0, 0
    for row in logs.progress(cohort, f"embed {options['cohort']}", unit="slide"):
        target = Path(args.slides).parent / f"{row['slide']}.h5"
        try:
            if base is not None:
                entry = project_slide(model, base[row["slide"]], target)
            elif cohorts.is_features(row):
                entry = take_features(model, row, options, policy)
            else:
                entry = embed_slide(model, row, target, policy, args)
            if args.figures and drawn < policy.figures:
                drawn += draw_slide(row, entry["file"], args)
            if entry["file"] == target:  # not the user's own
                program.also_made(target, sha256=entry["sha256"])
            unverified += not entry.pop("verified")
            logs.log.debug("%s: %d patches", row["slide"], entry["patches"])
        except InputError as error:
            if policy.bad_slides == "stop":
                raise
            # What an earlier run made of it must not be taken for this one's.
            files.remove(target)
            logs.log.warning("slide %s is skipped: %s", row["slide"], error)
            reason = f"{error.field}: found {error.found}; {error.remedy}"
            entry = {"status": SKIPPED, "reason": reason, "patches": 0, "um_per_px": None}
            entry |= {"file": "", "sha256": ""}
        rows.append({"slide": row["slide"], **entry})
    embedded = [row for row in rows if row["status"] == EMBEDDED]
    if not embedded:
        fault = f"none of {len(rows)} that can be embedded (the first: {rows[0]['reason']})"
        remedy = "mend the slides or correct the table"
        raise InputError(args.cohort, f"slides for {model.name}", fault, remedy)
    refuse_twins(args.cohort, cohort, rows)
    slide_features.write_slides(args.slides, rows)
    if unverified:
        logs.log.warning(
            "%d feature files don't tell the weights they were made with: that these are of %s"
            " rests on their width and their encoder's name where they give it",
            *(unverified, options["encoder_name"]),
        )
    skipped = len(rows) - len(embedded)
    logs.log.info(
        "%d of %d slides of %s embedded by %s: %d patches, %d numbers each%s",
        *(len(embedded), len(rows), options["cohort"], model.name),
        *(sum(row["patches"] for row in embedded), model.width),
        f"; {skipped} skipped, listed in {args.slides}" if skipped else "",
    )


def refuse_twins(table, cohort, rows) -> None:
    """Refuse one slide under two patients, whatever its files are called: they would share a label's
    evidence between folds.
    """
    patient = {row["slide"]: row["patient"] for row in cohort}
    seen = {}
    for row in (row for row in rows if row["status"] == EMBEDDED):
        slide = row["slide"]
        first = seen.setdefault(slide_features.first_rows_sha256(row["file"]), slide)
        if patient[first] != patient[slide]:
            found = f"the features of slide {first}, of patient {patient[first]}"
            remedy = f"correct file or patient of one of them, or drop one row ({patient[slide]})"
            raise InputError(table, f"slide {slide}, column file", found, remedy)


def build_model(args):
    """The model that the flags name."""
    options = args.options
    spec, name = options["encoder"], options["encoder_name"]
    file = f"config/encoders/image/{name}.yaml"
    specs.require_built(spec, file)
    if not specs.sees_patches(spec):
        raise InputError(file, "builder", spec["builder"], "it sees no patches: choose another")

    from pairscape.encoders.weights import find_weights
    from pairscape.slides import slide_embedding

    if args.pair is not None:
        model = slide_embedding.pair_model(options["model"], args.pair, args.weights)
        if specs.spec_sha256(model.spec) != specs.spec_sha256(spec):
            fault = f"another than {name} is now ({model.spec.get('title')})"
            remedy = "pretrain again, or take back the change of the encoder's file"
            raise InputError(args.pair, "image encoder", fault, remedy)
        return model
    if spec["weights"] is None and not spec.get("control"):
        remedy = "declare its weights; only a control may run without any"
        raise InputError(file, "weights", "null", remedy)
    weights = None if spec["weights"] is None else find_weights(spec, args.weights)
    return slide_embedding.encoder_model(options["model"], spec, weights)


def read_base(args, cohort) -> dict[str, dict]:
    """The rows of the frozen encoder's slides.tsv, by slide."""
    encoder = args.options["encoder_name"]
    if args.base is None:
        remedy = f"give the slides.tsv of {encoder}, which was frozen in this pair"
        raise InputError("--base", "flag", "nothing", remedy)
    base = {row["slide"]: row for row in slide_features.read_slides(args.base)}
    for row in cohort:
        if row["slide"] not in base:
            remedy = f"embed the cohort by {encoder} again"
            raise InputError(args.base, f"slide {row['slide']}", "no row", remedy)
    return base


def project_slide(model, row, target) -> dict:
    """Project the encoder's features of one slide; a row of slides.tsv."""
    from pairscape.slides import slide_embedding

    file = row["file"]
    if row["status"] != EMBEDDED:
        raise InputError(target, "features of the encoder", "none", row["reason"])
    if files.sha256_file(file) != row["sha256"]:
        fault = "another than its slides.tsv holds"
        raise InputError(file, "sha256", fault, "embed the slide again")
    (_, width), coords, attributes = slide_features.read_slide_facts(file)
    expected = {"width": model.spec["width"], "weights_sha256": model.facts["weights_sha256"]}
    name = attributes.get("encoder", model.name)  # the encoder's slides.tsv vouches for its name
    slide_embedding.check_features(file, name, width, expected, attributes)
    made_from = files.sha256_json([RESULT_VERSION, model.facts, row["sha256"]])
    if not slide_embedding.is_made(target, made_from):
        blocks = map(model.project, slide_features.iter_slide_features(file))
        more = {**model.facts, "made_from": made_from}
        dropped = {"name", "savetodir", "encoder", "encoder_sha256", *more}
        kept = {key: value for key, value in attributes.items() if key not in dropped}
        slide_features.write_slide_features(
            target, blocks, coords, model.width, model.name, kept, more
        )
    return {**listed(target, row["um_per_px"]), "verified": "weights_sha256" in attributes}


def take_features(model, row, options, policy) -> dict:
    """Take a feature file of the user's as it is; a row of slides.tsv."""
    from pairscape.slides import slide_embedding

    path = cohorts.slide_file(options["root"], row)
    if "pair_sha256" in model.facts:
        why = f"the encoder of {model.name} was trained with the pair, and needs the slide itself"
        raise InputError(path, "file", "features", why)
    (count, width), _, attributes = slide_features.read_slide_facts(path)
    expected = {"width": model.width, "weights_sha256": model.facts["weights_sha256"]}
    slide_embedding.check_features(path, model.name, width, expected, attributes)
    slide_embedding.check_patches(path, attributes, policy.patch_px, policy.um_per_px)
    if not count:
        raise InputError(path, "features", "no patch", "look at the slide: there may be no tissue")
    slide_features.verify(path)
    um_per_px = row["um_per_px"] or attributes.get("um_per_px")
    return {**listed(path, um_per_px), "verified": "weights_sha256" in attributes}


def embed_slide(model, row, target, policy, args) -> dict:
    """Find the patches of one slide and embed them; a row of slides.tsv."""
    from pairscape.encoders import image_encoders
    from pairscape.images import grids, whole_slide
    from pairscape.slides import slide_embedding

    patches = {key: getattr(policy, key) for key in ("patch_px", "um_per_px", "min_tissue")}
    path = cohorts.slide_file(args.options["root"], row)
    made_from = files.sha256_json(
        [RESULT_VERSION, model.facts, patches, whole_slide.digest(path), row["um_per_px"]]
    )
    if slide_embedding.is_made(target, made_from):
        _, _, attributes = slide_features.read_slide_facts(target)
        return {**listed(target, attributes["um_per_px"]), "verified": True}
    with whole_slide.WholeSlide(path, row["um_per_px"]) as slide:
        _, mask = grids.find_tissue(slide)
        grid = grids.lay_on_tissue(slide, mask, **patches)
        size = args.options.get("batch") or image_encoders.batch_size()
        blocks = slide_embedding.embed_patches(model, slide, grid, size, args.threads)
        slide_features.write_slide_features(
            target,
            logs.progress(blocks, row["slide"], -(-len(grid.coords) // size), "batch"),
            grid.coords,
            model.width,
            model.name,
            grids.trident_attributes(slide, grid, patches["um_per_px"]),
            {**model.facts, "made_from": made_from},
        )
        um_per_px = slide.um_per_px
    return {**listed(target, um_per_px), "verified": True}


def draw_slide(row, features, args) -> bool:
    """Draw the patches of one slide over its thumbnail; False where there is no picture."""
    from pairscape.images import grids, whole_slide
    from pairscape.slides import patch_figure

    path = cohorts.slide_file(args.options["root"], row)
    _, coords, attributes = slide_features.read_slide_facts(features)
    if cohorts.is_features(row) or coords is None:
        return False
    with whole_slide.WholeSlide(path, row["um_per_px"]) as slide:
        picture, mask = grids.find_tissue(slide)
        with files.atomic_path(Path(args.figures) / f"{row['slide']}.png") as temporary:
            patch_figure.draw_patches(
                temporary,
                title=row["slide"],
                picture=picture,
                mask=mask,
                coords=coords,
                side_px=grids.side_px(attributes),
                um_per_px=slide.um_per_px,
            )
    return True


def listed(path, um_per_px) -> dict:
    """The row of slides.tsv of an embedded slide."""
    (patches, _), _, _ = slide_features.read_slide_facts(path)
    return {
        "status": EMBEDDED,
        "reason": "",
        "patches": patches,
        "um_per_px": um_per_px,
        "file": path,
        "sha256": files.sha256_file(path),
    }


if __name__ == "__main__":
    program.run(main)
