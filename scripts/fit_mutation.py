"""Predict a mutation from the patches of a patient's slides: all folds of one cohort and model.

IN   the cohort table, its folds for one target, the features of its slides by one model; tables
     and features of external cohorts
OUT  predictions.tsv: patients of the test folds and of external cohorts; training.tsv: the losses;
     attention/: heat maps of a few slides, and which they are (slides.tsv)
"""

from pairscape.core import files, logs, tsv
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.jobs import program
from pairscape.slides import cohorts, mutation_scores, site_folds, slide_features

RESULT_VERSION = 1
DRAWN = ("slide", "patient", "label", "fold", "probability", "patches", "share", "highest")
THUMBNAIL_PX = 1200


def main(argv=None):
    args = program.parse(
        argv,
        __doc__,
        RESULT_VERSION,
        cohort="the cohort's table",
        slides="its slides.tsv, with the features beside it",
        folds="its folds for the target (.tsv)",
        external_cohorts=program.Many("optional: tables of the cohorts of the option external"),
        external_slides=program.Many("optional: their slides.tsv, in the same order"),
        predictions=program.Output("the predictions to write (.tsv)"),
        training=program.Output("the losses to write (.tsv)"),
        attention=program.Output("the folder of heat maps to write"),
    )
    options = args.options
    training = resolve_part("mutation_training", options["training"])
    tables = args.external_cohorts or [], args.external_slides or []
    for flag, given in zip(("--external-cohorts", "--external-slides"), tables, strict=True):
        if len(given) != len(options["external"]):
            raise InputError(
                flag,
                "number",
                str(len(given)),
                f"give one for each of {len(options['external'])} external cohorts",
            )

    import torch

    from pairscape.slides import mutation_fitting as fitting

    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    target = options["target"]
    own = read_cohort(args.cohort, args.slides, target)
    patients, number = read_folds(args.folds, own)
    folds = {name: row["fold"] for name, row in patients.items()}
    fitting.check_folds(args.folds, folds, own["labels"], number)
    external = {
        name: read_cohort(table, slides, target)
        for name, table, slides in zip(options["external"], *tables, strict=True)
    }
    every = {
        (name, patient): paths
        for name, of in [(None, own), *external.items()]
        for patient, paths in of["files"].items()
    }
    width = fitting.common_width(every)
    bags = fitting.Bags({patient: own["files"][patient] for patient in folds})

    rows, curve, fitted = [], [], []
    for fold in range(number):
        parts = fitting.fold_parts(folds, fold, number)
        found = fitting.fit_fold(
            bags, own["labels"], parts, width, training, (options["seed"], fold), device
        )
        fitted.append(found)
        curve += [{"fold": fold, **row} for row in found.curve]
        tested = [patients[name] for name in parts["test"]]
        rows += predict(found, bags, tested, fold, "test")
        selected = next(row for row in found.curve if row["selected"])
        logs.log.info(
            "fold %d: selected step %d of %d, validation loss %.4f",
            fold,
            selected["step"],
            found.curve[-1]["step"],
            selected["loss"],
        )
    for name, of in external.items():
        others = fitting.Bags(of["files"])
        for fold, found in enumerate(fitted):
            rows += predict(found, others, of["patients"], fold, f"external:{name}")
    with files.atomic_path(args.attention) as folder:
        folder.mkdir()
        drawn = draw_attention(
            folder, choose(rows, training["attention_slides"]), fitted, bags, own, options
        )
        tsv.write_tsv(folder / "slides.tsv", drawn, DRAWN)
    tsv.write_tsv(args.training, curve, fitting.CURVE_COLUMNS)
    tsv.write_tsv(args.predictions, rows, mutation_scores.PREDICTIONS)
    logs.log.info(
        "%s by %s: %d patients (%d with label 1) of %s predicted in %d folds%s",
        target,
        options["model"],
        len(folds),
        sum(own["labels"][name] for name in folds),
        options["cohort"],
        len(fitted),
        "".join(f", {len(of['patients'])} of {name}" for name, of in external.items()),
    )


def read_cohort(table, slides, target: str) -> dict:
    """The patients of a cohort that have a label and an embedded slide.

    Returns
    -------
    ``patients`` (rows of patient, site, label), ``labels`` and ``files`` (of all embedded slides)
    by patient; ``pictures`` (rows of the slides that aren't feature files), ``um_per_px`` and
    ``slides`` (feature files) by slide; ``without`` (patients with a label, but no such file).
    """
    cohort = cohorts.read_cohort(table)
    known = cohorts.labelled_patients(cohort, target, table, sites=False)
    listed = {row["slide"]: row for row in slide_features.read_slides(slides, verify=True)}
    for slide in [row["slide"] for row in cohort if row["slide"] not in listed]:
        raise InputError(
            slides, f"slide {slide}", "no row", f"embed the slides of {table} again: it has it"
        )
    embedded = {name: row["file"] for name, row in listed.items() if row["file"] and row["patches"]}
    by_patient = {
        row["patient"]: [embedded[name] for name in row["slides"] if name in embedded]
        for row in known
    }
    patients = [row for row in known if by_patient[row["patient"]]]
    without = [row["patient"] for row in known if not by_patient[row["patient"]]]
    if not patients:
        raise InputError(
            slides,
            "column status",
            "no embedded slide of a patient with a label",
            "mend the slides",
        )
    if without:
        logs.log.warning(
            "%s: %d patients without an embedded slide are left out: %s",
            slides,
            len(without),
            ", ".join(without[:10]) + (" ..." if len(without) > 10 else ""),
        )
    return {
        "patients": patients,
        "labels": {row["patient"]: row["label"] for row in patients},
        "files": {row["patient"]: by_patient[row["patient"]] for row in patients},
        "pictures": {row["slide"]: row for row in cohort if not cohorts.is_features(row)},
        "um_per_px": {name: row["um_per_px"] for name, row in listed.items()},
        "slides": embedded,
        "without": without,
    }


def read_folds(path, own) -> tuple[dict[str, dict], int]:
    """The rows of a table of folds by patient, of those with an embedded slide; how many folds."""
    again = "run split_sites again"
    rows = {row["patient"]: row for row in site_folds.read_folds(path)}
    for name in rows:
        if name not in own["labels"] and name not in own["without"]:
            raise InputError(path, f"patient {name}", "nobody of the cohort with a label", again)
    for name, label in own["labels"].items():
        if name not in rows:
            raise InputError(path, f"patient {name}", "no row", again)
        if rows[name]["label"] != label:
            raise InputError(
                path,
                f"patient {name}, column label",
                f"{rows[name]['label']}, where the cohort has {label}",
                again,
            )
    number = 1 + max(row["fold"] for row in rows.values())
    return {name: row for name, row in rows.items() if name in own["labels"]}, number


def predict(fitted, bags, patients, fold: int, role: str) -> list[dict]:
    """Rows of predictions.tsv for these patients, by the model of a fold."""
    from pairscape.slides import mutation_fitting as fitting

    logits = fitting.predict(fitted.aggregator, bags, [row["patient"] for row in patients])
    probabilities = fitting.calibrated(logits, fitted.pos_weight)
    return [
        {
            **{column: row[column] for column in ("patient", "site", "label")},
            "fold": fold,
            "role": role,
            "logit": f"{logit:.7g}",
            "probability": f"{probability:.7g}",
        }
        for row, logit, probability in zip(patients, logits, probabilities, strict=True)
    ]


def choose(rows, number: int) -> list[dict]:
    """Test predictions to look into: the surest of label 1, and the surest of label 0."""
    tested = [row for row in rows if row["role"] == "test"]
    by_label = [
        sorted(
            (row for row in tested if row["label"] == label),
            key=lambda row: float(row["probability"]),
            reverse=label == 1,
        )
        for label in (1, 0)
    ]
    first = (number + 1) // 2
    return by_label[0][:first] + by_label[1][: number - first]


def draw_attention(folder, chosen, fitted, bags, own, options) -> list[dict]:
    """Draw the most attended slide of each chosen patient; return the rows of DRAWN."""
    import numpy as np

    from pairscape.images import grids
    from pairscape.slides import aggregator, attention_map

    names = {file: slide for slide, file in own["slides"].items()}
    drawn = []
    for row in chosen:
        model = fitted[row["fold"]].aggregator
        bag = bags.read(row["patient"]).to(model.cls_token.device)
        relative = aggregator.patch_attention(model, bag).cpu().numpy() * len(bag)
        files_of = own["files"][row["patient"]]
        facts = [slide_features.read_slide_facts(file) for file in files_of]
        parts = np.split(relative, np.cumsum([shape[0] for shape, *_ in facts])[:-1])
        most = int(np.argmax([part.sum() for part in parts]))
        slide, (shape, coords, attributes) = names[files_of[most]], facts[most]
        if coords is None:
            logs.log.warning("%s: no coordinates, so no heat map", files_of[most])
            continue
        um_per_px = attributes.get("um_per_px") or own["um_per_px"][slide]
        attention_map.plot_attention(
            folder / f"{slide}.png",
            parts[most],
            coords,
            grids.side_px(attributes),
            um_per_px,
            thumbnail(options["slides_root"], own["pictures"].get(slide), um_per_px),
            f"{slide}: {options['target']} {row['label']}, predicted"
            f" {float(row['probability']):.2f} (fold {row['fold']}, {options['model']})",
        )
        drawn.append(
            {
                **{name: row[name] for name in ("patient", "label", "fold", "probability")},
                "slide": slide,
                "patches": shape[0],
                "share": f"{parts[most].sum() / relative.sum():.4f}",
                "highest": f"{parts[most].max():.4f}",
            }
        )
    return drawn


def thumbnail(root, row, um_per_px):
    """The whole slide of a cohort's row (``HEImage.thumbnail``), or None where none opens."""
    from pairscape.images.whole_slide import WholeSlide

    if row is None:
        return None
    try:
        with WholeSlide(cohorts.slide_file(root, row), um_per_px) as slide:
            return slide.thumbnail(THUMBNAIL_PX)
    except InputError as error:
        logs.log.warning("no thumbnail under a heat map: %s", error)
        return None


if __name__ == "__main__":
    program.run(main)
