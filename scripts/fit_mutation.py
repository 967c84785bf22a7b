"""Predict a mutation from the patches of a patient's slides: all folds of one cohort and model.

IN   the cohort table, its folds for one target, the features of its slides by one model; tables
     and features of external cohorts
OUT  predictions.tsv: patients of the test folds and of external cohorts; training.tsv: the losses;
     attention/: heat maps of a few slides, and which they are (slides.tsv)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from pairscape.core import devices, files, logs
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.core.tsv import Table, counts, numbers, text
from pairscape.jobs import program
from pairscape.slides import cohorts, site_folds, slide_features
from pairscape.slides.predictions import EXTERNAL, PREDICTIONS, TEST

RESULT_VERSION = 1
DRAWN = Table(
    "attention/slides.tsv",
    "fit_mutation",
    (
        *text(slide="the slide", patient="whose"),
        *counts(label="of the patient", fold="that it is tested in"),
        *numbers(probability="that is predicted"),
        *counts(patches="of the slide"),
        *numbers(share="of the patient's attention", highest="of a patch, times an average one's"),
    ),
)
THUMBNAIL_PX = 1200


@dataclass(frozen=True)
class Labelled:
    """The patients of a cohort that have a label and an embedded slide."""

    patients: list[dict]  # rows of patient, site, label
    labels: Mapping  # by patient
    files: Mapping  # feature files of all embedded slides, by patient
    pictures: Mapping  # rows of the slides that aren't feature files, by slide
    um_per_px: Mapping  # by slide
    slides: Mapping  # feature files by slide
    without: list[str]  # patients with a label, but no such file


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
    options, target = args.options, args.options["target"]
    training = resolve_part("mutation_training", options["training"])
    tables = args.external_cohorts or [], args.external_slides or []
    for flag, given in zip(("--external-cohorts", "--external-slides"), tables, strict=True):
        if len(given) != len(options["external"]):
            remedy = f"give one for each of {len(options['external'])} external cohorts"
            raise InputError(flag, "number", str(len(given)), remedy)

    import torch

    from pairscape.slides import mutation_fitting as fitting

    torch.set_num_threads(args.threads)
    device = devices.pick()
    training = fitting.MutationTraining(**training)
    home = read_cohort(args.cohort, args.slides, target)
    patients, number = read_folds(args.folds, home)
    folds = {name: row["fold"] for name, row in patients.items()}
    fitting.check_folds(args.folds, folds, home.labels, number)
    external = {
        name: read_cohort(table, slides, target)
        for name, table, slides in zip(options["external"], *tables, strict=True)
    }
    every = {
        (name, patient): paths
        for name, cohort in [(None, home), *external.items()]
        for patient, paths in cohort.files.items()
    }
    width = fitting.common_width(every)
    bags = fitting.Bags({patient: home.files[patient] for patient in folds})

    rows, curve, fitted = [], [], []
    for fold in range(number):
        parts = fitting.fold_parts(folds, fold, number)
        seed = options["seed"], fold
        fit = fitting.fit_fold(bags, home.labels, parts, width, training, seed, device)
        fitted.append(fit)
        curve += [{"fold": fold, **row} for row in fit.curve]
        tested = [patients[name] for name in parts["test"]]
        rows += predict(fit, bags, tested, fold, TEST)
        selected = next(row for row in fit.curve if row["selected"])
        logs.log.info(
            "fold %d: selected step %d of %d, validation loss %.4f",
            *(fold, selected["step"], fit.curve[-1]["step"], selected["loss"]),
        )
    for name, cohort in external.items():
        others = fitting.Bags(cohort.files)
        for fold, fit in enumerate(fitted):
            rows += predict(fit, others, cohort.patients, fold, f"{EXTERNAL}{name}")
    with files.atomic_path(args.attention) as folder:
        folder.mkdir()
        chosen = choose(rows, training.attention_slides)
        drawn = draw_attention(folder, chosen, fitted, bags, home, options)
        DRAWN.write(folder / "slides.tsv", drawn)
    fitting.TRAINING.write(args.training, curve, digits=None)
    PREDICTIONS.write(args.predictions, rows)
    logs.log.info(
        "%s by %s: %d patients (%d with label 1) of %s predicted in %d folds%s",
        *(target, options["model"], len(folds), sum(home.labels[name] for name in folds)),
        *(options["cohort"], len(fitted)),
        "".join(f", {len(cohort.patients)} of {name}" for name, cohort in external.items()),
    )


def read_cohort(table, slides, target: str) -> Labelled:
    """Read a cohort's table and its slides.tsv."""
    cohort = cohorts.read_cohort(table)
    known = cohorts.labelled_patients(cohort, target, table, sites=False)
    listed = {row["slide"]: row for row in slide_features.read_slides(slides, verify=True)}
    for row in cohort:
        if row["slide"] not in listed:
            remedy = f"embed the slides of {table} again: it has it"
            raise InputError(slides, f"slide {row['slide']}", "no row", remedy)
    embedded = {name: row["file"] for name, row in listed.items() if row["file"] and row["patches"]}
    by_patient = {
        row["patient"]: [embedded[name] for name in row["slides"] if name in embedded]
        for row in known
    }
    patients = [row for row in known if by_patient[row["patient"]]]
    without = [name for name, paths in by_patient.items() if not paths]
    if not patients:
        fault = "no embedded slide of a patient with a label"
        raise InputError(slides, "column status", fault, "mend the slides")
    if without:
        names = ", ".join(without[:10]) + (" ..." if len(without) > 10 else "")
        words = "%s: %d patients without an embedded slide are left out: %s"
        logs.log.warning(words, slides, len(without), names)
    return Labelled(
        patients=patients,
        labels={row["patient"]: row["label"] for row in patients},
        files={row["patient"]: by_patient[row["patient"]] for row in patients},
        pictures={row["slide"]: row for row in cohort if not cohorts.is_features(row)},
        um_per_px={name: row["um_per_px"] for name, row in listed.items()},
        slides=embedded,
        without=without,
    )


def read_folds(path, cohort: Labelled) -> tuple[dict[str, dict], int]:
    """The rows of a table of folds by patient, of those with an embedded slide; how many folds."""
    refuse = partial(InputError, path, remedy="run split_sites again")
    rows = {row["patient"]: row for row in site_folds.read_folds(path)}
    for name in rows:
        if name not in cohort.labels and name not in cohort.without:
            raise refuse(field=f"patient {name}", found="nobody of the cohort with a label")
    for name, label in cohort.labels.items():
        if name not in rows:
            raise refuse(field=f"patient {name}", found="no row")
        if rows[name]["label"] != label:
            fault = f"{rows[name]['label']}, where the cohort has {label}"
            raise refuse(field=f"patient {name}, column label", found=fault)
    number = 1 + max(row["fold"] for row in rows.values())
    return {name: row for name, row in rows.items() if name in cohort.labels}, number


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

    def surest(label, sign):
        tested = (row for row in rows if row["role"] == TEST and row["label"] == label)
        return sorted(tested, key=lambda row: sign * float(row["probability"]))

    first = (number + 1) // 2
    return surest(1, -1)[:first] + surest(0, 1)[: number - first]


def draw_attention(folder, chosen, fitted, bags, cohort: Labelled, options) -> list[dict]:
    """Draw the most attended slide of each chosen patient; return the rows of DRAWN."""
    import numpy as np

    from pairscape.images import grids
    from pairscape.slides import aggregator, attention_map

    names = {file: slide for slide, file in cohort.slides.items()}
    drawn = []
    for row in chosen:
        model = fitted[row["fold"]].aggregator
        bag = bags.read(row["patient"]).to(model.cls_token.device)
        relative = aggregator.patch_attention(model, bag).cpu().numpy() * len(bag)
        paths = cohort.files[row["patient"]]
        facts = [slide_features.read_slide_facts(path) for path in paths]
        parts = np.split(relative, np.cumsum([shape[0] for shape, *_ in facts])[:-1])
        most = int(np.argmax([part.sum() for part in parts]))
        slide, (shape, coords, attributes) = names[paths[most]], facts[most]
        if coords is None:
            logs.log.warning("%s: no coordinates, so no heat map", paths[most])
            continue
        um_per_px = attributes.get("um_per_px") or cohort.um_per_px[slide]
        attention_map.plot_attention(
            folder / f"{slide}.png",
            parts[most],
            coords,
            grids.side_px(attributes),
            um_per_px,
            thumbnail(options["slides_root"], cohort.pictures.get(slide), um_per_px),
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
