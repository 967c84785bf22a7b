"""Slide-level prediction: what is learned, from whom, how it is selected, drawn and refused."""

import json

import numpy as np
import pytest
import torch
from small_bags import PATCHES, TARGET, WIDTH, write_features, write_slides

import fit_mutation
from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.slides import attention_map, site_folds, slide_features
from pairscape.slides import mutation_fitting as fitting
from pairscape.slides import predictions as predictions_table

PATIENTS = 26
TRAINING = {"latent_dim": 16, "heads": 2, "head_dim": 8, "epochs": 6, "learning_rate": 3e-3}
TRAINING |= {"attention_slides": 2}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_slides(tmp_path_factory.mktemp("slides") / "own", PATIENTS)


@pytest.fixture(scope="module")
def external(tmp_path_factory):
    return write_slides(tmp_path_factory.mktemp("slides") / "other", 12, seed=5)


def fit(out, cohort, external=(), training=TRAINING, seed=1, named=None):
    """Run the program; its outputs by name."""
    out.mkdir(parents=True, exist_ok=True)
    found = {name: out / f"{name}.tsv" for name in ("predictions", "training")}
    found["attention"] = out / "attention"
    options = {"target": TARGET, "model": "tests", "cohort": "own", "seed": seed}
    options |= {"external": named or ["other"] * len(external), "training": training}
    options["slides_root"] = str(out)
    flags = {"cohort": [cohort["cohort"]], "slides": [cohort["slides"]], "folds": [cohort["folds"]]}
    if external:
        flags["external-cohorts"] = [of["cohort"] for of in external]
        flags["external-slides"] = [of["slides"] for of in external]
    argv = [str(x) for name, given in flags.items() for x in (f"--{name}", *given)]
    argv += [str(x) for name, path in found.items() for x in (f"--{name}", path)]
    fit_mutation.main([*argv, "--options", json.dumps(options)])
    return found


def predictions(found, role="test"):
    rows = tsv.read_tsv(found["predictions"], predictions_table.PREDICTIONS.names)
    return [row for row in rows if row["role"] == role]


def auroc(rows):
    """Of all pairs of a positive and a negative patient, the share in the right order."""
    by = {label: [float(r["logit"]) for r in rows if r["label"] == label] for label in "01"}
    return np.mean([high > low for high in by["1"] for low in by["0"]])


@pytest.fixture(scope="module")
def done(cohort, external, tmp_path_factory):
    return fit(tmp_path_factory.mktemp("fit"), cohort, [external])


def test_each_patient_is_tested_once_in_its_own_fold(done, cohort):
    folds = {row["patient"]: row for row in tsv.read_tsv(cohort["folds"])}
    rows = predictions(done)
    # The last but one has no features, the last no label.
    assert sorted(row["patient"] for row in rows) == sorted(folds)[:-1]
    assert len(folds) == PATIENTS - 1
    for row in rows:
        expected = folds[row["patient"]]
        assert all(row[name] == expected[name] for name in ("site", "label", "fold"))


def test_a_planted_signal_is_found_in_unseen_patients_and_cohorts(done):
    for fold in "012":
        assert auroc([row for row in predictions(done) if row["fold"] == fold]) > 0.85
    for fold in "012":
        assert auroc([r for r in predictions(done, "external:other") if r["fold"] == fold]) > 0.85


def test_an_external_cohort_is_predicted_by_the_model_of_each_fold(done):
    rows = predictions(done, "external:other")
    by_fold = {fold: [r["patient"] for r in rows if r["fold"] == fold] for fold in "012"}
    assert by_fold["0"] == by_fold["1"] == by_fold["2"]
    assert len(by_fold["0"]) == 10
    logits = {fold: [r["logit"] for r in rows if r["fold"] == fold] for fold in "012"}
    assert logits["0"] != logits["1"] != logits["2"]


def test_what_is_scored_reads_the_predictions(done):
    read = predictions_table.read_predictions(done["predictions"])
    assert {role: len(table["patient"]) for role, table in read.items()} == {
        "test": PATIENTS - 2,
        "external:other": 30,
    }


def test_probabilities_undo_the_class_weight_of_the_patients_trained_on(done, cohort):
    folds = {r["patient"]: r for r in predictions(done)}
    curve = tsv.read_tsv(done["training"], fitting.TRAINING.names)
    for row in predictions(done):
        trained = [
            of["label"]
            for of in folds.values()
            if (int(of["fold"]) - int(row["fold"])) % 3 not in (0, 1)
        ]
        weight = trained.count("0") / trained.count("1")
        told = [float(c["pos_weight"]) for c in curve if c["fold"] == row["fold"]]
        assert told == pytest.approx([weight] * len(told))
        assert weight > 1
        odds = np.exp(float(row["logit"])) / weight
        assert float(row["probability"]) == pytest.approx(odds / (1 + odds), rel=1e-5)


def test_undoing_the_class_weight_gives_back_the_prevalence():
    labels = [1] * 3 + [0] * 17
    logit, weight = torch.zeros(1, requires_grad=True), 17 / 3
    optimizer = torch.optim.LBFGS([logit], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        total = sum(fitting.weighted_loss(logit, label, weight) for label in labels)
        total.backward()
        return total

    optimizer.step(loss)
    assert float(logit.detach()) == pytest.approx(0, abs=1e-3)  # the weight has evened them out
    assert fitting.calibrated(logit.detach().numpy(), weight) == pytest.approx(3 / 20, abs=1e-3)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(done, cohort, external, tmp_path):
    again = fit(tmp_path / "again", cohort, [external])
    for name in ("predictions", "training"):
        assert again[name].read_bytes() == done[name].read_bytes()
    for picture in sorted(done["attention"].iterdir()):
        assert (again["attention"] / picture.name).read_bytes() == picture.read_bytes()
    other = fit(tmp_path / "other", cohort, [external], seed=2)
    assert other["predictions"].read_bytes() != done["predictions"].read_bytes()


def test_labels_of_a_fold_change_nothing_in_what_is_predicted_for_it(done, cohort, tmp_path):
    """Two patients of fold 0 swap labels: fold 0 is predicted as before, fold 1 isn't."""
    swapped = {"P00": "1", "P03": "0"}
    changed = dict(cohort)
    for name, key in (("cohort", TARGET), ("folds", "label")):
        rows = tsv.read_tsv(cohort[name])
        for row in rows:
            row[key] = swapped.get(row["patient"], row[key])
        changed[name] = tmp_path / f"{name}.tsv"
        tsv.write_tsv(changed[name], rows, list(rows[0]))
    found = predictions(fit(tmp_path / "fit", changed))
    before = {row["patient"]: row for row in predictions(done)}
    same = {fold: [] for fold in "012"}
    for row in found:
        same[row["fold"]].append(row["logit"] == before[row["patient"]]["logit"])
    assert all(same["0"])
    assert not any(same["1"])  # it trains on fold 0


def bags_of(cohort, **more):
    own = fit_mutation.read_cohort(cohort["cohort"], cohort["slides"], TARGET)
    return own, fitting.Bags(own.files, **more)


def test_a_bag_holds_all_patches_of_all_slides_of_a_patient(cohort):
    own, bags = bags_of(cohort)
    assert [file.name for file in own.files["P02"]] == ["P02-0.h5", "P02-1.h5"]
    bag = bags.read("P02")
    assert bag.shape == (2 * PATCHES, WIDTH)
    parts = [slide_features.read_slide_features(file).features for file in own.files["P02"]]
    assert np.array_equal(bag.numpy(), np.concatenate(parts))


def test_memory_for_bags_is_bounded_and_changes_nothing(cohort):
    own, whole = bags_of(cohort)
    limit = 3 * PATCHES * WIDTH * 4
    bounded = fitting.Bags(own.files, kept_bytes=limit)
    for patient in [*own.files, *own.files]:
        assert torch.equal(bounded.read(patient), whole.read(patient))
        assert sum(bag.nbytes for bag in bounded.kept.values()) <= limit
    assert len(bounded.kept) > 1
    assert len(whole.kept) == len(own.files)


def fold_zero(cohort, **changes):
    own, bags = bags_of(cohort)
    training = resolve_part("mutation_training", {**TRAINING, **changes})
    training = fitting.MutationTraining(**training)
    folds = {row["patient"]: int(row["fold"]) for row in tsv.read_tsv(cohort["folds"])}
    folds = {name: fold for name, fold in folds.items() if name in own.labels}
    parts = fitting.fold_parts(folds, 0, 3)
    return own, bags, parts, fitting.fit_fold(bags, own.labels, parts, WIDTH, training, (1, 0))


def test_the_weights_with_the_lowest_validation_loss_are_kept(cohort):
    own, bags, parts, found = fold_zero(cohort, learning_rate=0.03, epochs=5)
    val = [row for row in found.curve if row["split"] == "val"]
    lowest = min(val, key=lambda row: row["loss"])
    assert [row for row in found.curve if row["selected"]] == [lowest]
    assert lowest is not val[-1]  # else the last weights would do as well
    loss = fitting.mean_loss(found.aggregator, bags, own.labels, parts["val"], found.pos_weight)
    assert loss == pytest.approx(lowest["loss"], abs=1e-7)


@pytest.mark.parametrize(("every", "steps"), [(500, [8, 16]), (5, [5, 10, 15, 16]), (8, [8, 16])])
def test_validation_comes_every_so_many_steps_or_every_epoch(cohort, every, steps):
    _, _, parts, found = fold_zero(cohort, validate_every=every, epochs=2)
    assert len(parts["train"]) == 8
    assert [row["step"] for row in found.curve if row["split"] == "val"] == steps
    trained = [row for row in found.curve if row["split"] == "train"]
    assert sum(row["patients"] for row in trained) == 16


def test_each_epoch_takes_every_patient_once_in_an_order_of_its_own():
    course = list(fitting._course("abcdef", 3, np.random.default_rng(0)))
    epochs = [course[at : at + 6] for at in (0, 6, 12)]
    assert all(sorted(epoch) == list("abcdef") for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_parts_of_a_fold_are_the_fold_the_next_and_the_rest():
    folds = {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4, "f": 4}
    assert fitting.fold_parts(folds, 4, 5) == {
        "test": ["e", "f"],
        "val": ["a"],
        "train": ["b", "c", "d"],
    }


@pytest.mark.slow
def test_heat_maps_show_the_surest_of_each_label_over_the_slide(cohort, tmp_path):
    import tifffile
    from PIL import Image

    found = fit(tmp_path, cohort)
    rows = tsv.read_tsv(found["attention"] / "slides.tsv", fit_mutation.DRAWN.names)
    tested = predictions(found)
    for row, label, most in ((rows[0], "1", max), (rows[1], "0", min)):
        surest = most(
            (p for p in tested if p["label"] == label), key=lambda p: float(p["probability"])
        )
        assert (row["patient"], row["label"]) == (surest["patient"], label)
        assert row["patches"] == str(PATCHES)
        assert float(row["highest"]) > 1
        with Image.open(found["attention"] / f"{row['slide']}.png") as picture:
            picture.load()
    assert {path.name for path in found["attention"].iterdir()} == {
        "slides.tsv",
        *(f"{row['slide']}.png" for row in rows),
    }
    # Again with a slide of one colour to see it under: nothing else in the figure has that colour.
    colour = (90, 200, 40)
    for row in rows:
        pixels = np.full((4 * 256, 4 * 256, 3), colour, np.uint8)
        path = tmp_path / f"{row['slide']}.tif"
        tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb")
    again = fit(tmp_path, cohort)
    for row in rows:
        pixels = np.asarray(Image.open(again["attention"] / f"{row['slide']}.png").convert("RGB"))
        shown = np.flatnonzero((np.abs(pixels - np.array(colour)).max(axis=2) < 4).any(axis=0))
        assert len(shown) > 200
        assert shown.max() < pixels.shape[1] / 2  # all of it on the left: patches lie on the right


def test_a_patch_is_coloured_where_it_lies(tmp_path):
    from PIL import Image

    coords = np.array([[0, 0], [256, 0], [0, 256], [256, 256]])
    pixels = []
    for high in range(4):
        relative = np.full(4, 0.1)
        relative[high] = 3.7
        attention_map.plot_attention(
            tmp_path / "map.png", relative, coords, 256, None, None, "four"
        )
        with Image.open(tmp_path / "map.png") as picture:
            pixels.append(np.asarray(picture.convert("RGB")).astype(int))
    # Where the four figures differ is where the patches are.
    changed = np.argwhere(np.ptp(np.stack(pixels), axis=0).max(axis=2) > 60)
    low, top = changed.min(axis=0), changed.max(axis=0)
    centre = (low + top) // 2
    for high, picture in enumerate(pixels):
        yellow = np.argwhere((picture[..., 0] > 200) & (picture[..., 2] < 130))
        inside = yellow[((yellow > low) & (yellow < top)).all(axis=1)]
        y, x = inside.mean(axis=0) > centre
        assert (x, y) == (high % 2, high // 2)


def change_rows(path, column, value, **where):
    rows = tsv.read_tsv(path)
    for row in rows:
        if all(row[key] == wanted for key, wanted in where.items()):
            row[column] = value
    tsv.write_tsv(path, rows, list(rows[0]))


@pytest.fixture
def own(tmp_path):
    return write_slides(tmp_path / "own", 14)


def refused(out, cohort, *words, **more):
    with pytest.raises(InputError) as error:
        fit(out, cohort, **more)
    for word in words:
        assert word in str(error.value)
    assert not (out / "predictions.tsv").exists()


def test_a_table_edited_so_that_a_site_or_a_label_stands_wrong_is_refused_in_words(own, tmp_path):
    change_rows(own["folds"], "fold", "0", label="1", fold="1")
    refused(tmp_path / "edited", own, "site: found", "run split_sites again: a site stands in one")
    beside = own["folds"].with_suffix(".json")
    beside.write_text(json.dumps(dict.fromkeys(site_folds.BALANCE, True)))
    refused(tmp_path / "fit", own, "fold 1: found only the label 0 among its", "fewer folds")


def test_a_fold_that_lost_all_its_slides_is_refused(own, tmp_path):
    for row in tsv.read_tsv(own["folds"]):
        if row["fold"] == "2":
            for part in "01":
                change_rows(own["slides"], "status", "skipped", slide=f"{row['patient']}-{part}")
    refused(tmp_path / "fit", own, "fold 2: found no patient with an embedded slide")


def test_fewer_than_three_folds_are_refused(own, tmp_path):
    change_rows(own["folds"], "fold", "0", fold="2")
    refused(tmp_path / "fit", own, "column fold: found 2 folds")


def test_folds_of_other_patients_or_labels_are_refused(own, tmp_path):
    before = own["folds"].read_text()
    change_rows(own["folds"], "patient", "Q", patient="P00")
    refused(tmp_path / "fit", own, "patient Q: found nobody of the cohort", "split_sites")
    own["folds"].write_text(before)
    change_rows(own["folds"], "label", "1", patient="P00")
    refused(tmp_path / "fit", own, "P00, column label: found 1, where the cohort has 0")
    own["folds"].write_text("\n".join(before.splitlines()[:-2]) + "\n")
    refused(tmp_path / "fit", own, "patient P11: found no row")


def test_features_of_another_width_or_state_are_refused(own, tmp_path):
    other = write_slides(tmp_path / "other", 12, width=WIDTH + 1)
    refused(tmp_path / "fit", own, f"found {WIDTH + 1} numbers per patch", external=[other])
    write_features(own["slides"].parent / "P01-0.h5", np.zeros((PATCHES, WIDTH), np.float32))
    refused(tmp_path / "fit", own, "P01-0.h5: sha256")


def test_a_cohort_without_features_or_another_number_of_cohorts_is_refused(own, tmp_path):
    refused(tmp_path / "fit", own, "--external-cohorts: number", named=["x"])
    change_rows(own["slides"], "status", "skipped")
    refused(tmp_path / "fit", own, "no embedded slide of a patient with a label")


def test_slides_that_were_never_listed_are_told(own, tmp_path):
    rows = tsv.read_tsv(own["slides"])
    tsv.write_tsv(own["slides"], rows[1:], list(rows[0]))
    refused(tmp_path / "fit", own, "slide P00-0: found no row", "again")


def test_a_training_that_diverges_is_refused(own, tmp_path):
    bad = {**TRAINING, "learning_rate": 1e30}
    refused(tmp_path / "fit", own, "training.learning_rate", "lower it", training=bad)
