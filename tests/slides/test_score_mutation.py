"""Slide-level scores: metrics, folds kept apart, intervals, chance, comparisons, table and figure."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics

import score_mutation
import show_mutation
from pairscape.core.errors import InputError
from pairscape.report import mutation_table
from pairscape.slides import mutation_metrics as mm
from pairscape.slides import mutation_scores as ms
from pairscape.slides.predictions import PREDICTIONS, ensemble, read_predictions


def predictions(
    signal=1.0, seed=0, patients=60, folds=5, site_effect=0.0, leak=0.0, prevalence=0.5
):
    """Rows of the test folds of a model that sees the label (signal) and the site (leak)."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(patients):
        site = i % 6
        label = int(rng.random() < prevalence + (site_effect if site < 3 else -site_effect))
        logit = rng.normal() + signal * (label - 0.5) * 2 + leak * (1 if site < 3 else -1)
        fold = (i // 6) % folds if leak else site % folds
        rows.append(row(f"p{i:03d}", f"s{site}", label, fold, "test", logit))
    return rows


def row(patient, site, label, fold, role, logit, weight=1.0):
    probability = 1 / (1 + np.exp(-(logit - np.log(weight))))
    return {
        **{"patient": patient, "site": site, "label": label, "fold": fold, "role": role},
        **{"logit": f"{logit:.7g}", "probability": f"{probability:.7g}"},
    }


def outside(signal=1.0, seed=1, patients=40, folds=5, cohort="cptac"):
    rng = np.random.default_rng(seed)
    labels, base = rng.integers(0, 2, patients), rng.normal(size=patients)
    base += signal * (labels - 0.5) * 2
    return [
        row(f"x{i:03d}", "", labels[i], fold, f"external:{cohort}", base[i] + rng.normal() / 3)
        for i in range(patients)
        for fold in range(folds)
    ]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as handle:
        writer = csv.DictWriter(handle, PREDICTIONS.names, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def table_of(tmp_path, rows, role="test"):
    return read_predictions(write(tmp_path / "predictions.tsv", rows))[role]


def score_files(tmp_path, given, name="kept", **changes):
    """Run the program on what is given: (mutation, model, rows) each."""
    paths = [str(write(tmp_path / m / k / "predictions.tsv", rows)) for m, k, rows in given]
    options = {
        "mutation": name,
        "cohort": "tcga",
        "leaking": False,
        "runs": [{"mutation": m, "target": "MSI", "model": k} for m, k, _ in given],
        "bootstrap": 200,
        "permutations": 199,
        "seed": 0,
        **changes,
    }
    out = tmp_path / f"{name}.tsv"
    score_mutation.main(
        ["--predictions", *paths, "--scores", str(out), "--options", json.dumps(options)]
    )
    return out


def find(rows, **wanted):
    found = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    assert len(found) == 1, (wanted, len(found))
    return found[0]


def test_metrics_equal_those_of_scikit_learn_with_ties_and_weights():
    rng = np.random.default_rng(0)
    for _ in range(20):
        values = rng.integers(-4, 5, 40) / 2
        labels = rng.integers(0, 2, 40)
        weights = rng.integers(0, 3, (5, 40))
        given = {"y_true": labels, "y_score": values}
        for name, own in (("auroc", metrics.roc_auc_score), ("auprc", None)):
            own = own or metrics.average_precision_score
            found = mm.score(name, values, weights * labels, weights * (1 - labels))
            expected = [own(**given, sample_weight=w) for w in weights]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        found = mm.score("balanced_accuracy", values, weights * labels, weights * (1 - labels))
        expected = [
            metrics.balanced_accuracy_score(labels, values > 0, sample_weight=w) for w in weights
        ]
        np.testing.assert_allclose(found, expected)


def test_a_draw_without_a_label_has_no_score():
    for name in ms.RANKED:
        assert np.isnan(mm.score(name, np.arange(3.0), np.ones((1, 3)), np.zeros((1, 3))))[0]
        assert np.isnan(mm.score(name, np.arange(3.0), np.zeros((1, 3)), np.ones((1, 3))))[0]


def test_the_mean_is_that_of_the_folds_and_scores_of_folds_are_not_pooled(tmp_path):
    rows = predictions(signal=0.7)
    shifted = [{**r, "logit": float(r["logit"]) + 100 * r["fold"]} for r in rows]
    one, other = (ms.score_test(table_of(tmp_path, r), 50, 50, 0) for r in (rows, shifted))
    folds = [r["value"] for r in one if r["metric"] == "auroc" and r["group"].startswith("fold")]
    mean = find(one, metric="auroc", group="mean")
    assert mean["value"] == pytest.approx(np.mean(folds))
    assert mean["sd"] == pytest.approx(np.std(folds, ddof=1))
    for group in ("mean", "ranks"):
        for metric in ("auroc", "auprc"):
            value = find(one, metric=metric, group=group)["value"]
            assert find(other, metric=metric, group=group)["value"] == pytest.approx(value)
    labels = [r["label"] for r in rows]  # the shift would have changed pooled scores
    pooled = [
        metrics.roc_auc_score(labels, [float(r["logit"]) for r in of]) for of in (rows, shifted)
    ]
    assert abs(pooled[0] - pooled[1]) > 0.05


def naive_delong(scores, labels):
    """The structural components, pair by pair, as the paper of 1988 writes them."""
    ones, zeros = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    psi = np.array(
        [[[(s[i] > s[j]) + (s[i] == s[j]) / 2 for j in zeros] for i in ones] for s in scores]
    )
    auc, m, n = psi.mean((1, 2)), len(ones), len(zeros)
    v10, v01 = psi.mean(2) - auc[:, None], psi.mean(1) - auc[:, None]
    return auc, v10 @ v10.T / (m - 1) / m + v01 @ v01.T / (n - 1) / n


def test_delong_equals_the_definition_with_ties_and_correlated_scores():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 50)
    base = rng.normal(size=50) + labels
    scores = [np.round(base + rng.normal(size=50), 1), base, -base]
    found, expected = mm.delong(scores, labels), naive_delong(scores, labels)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-10)
    assert found[1][0, 1] > 0
    assert found[1][1, 2] == pytest.approx(-found[1][1, 1])


def test_delongs_interval_covers_the_true_auroc_in_about_95_of_100_cohorts():
    rng, truth, covered = np.random.default_rng(2), 0.7602, 0  # Phi(1 / sqrt 2)
    for _ in range(400):
        labels = np.repeat([0, 1], 50)
        low, high = mm.delong_interval({"logit": rng.normal(size=100) + labels, "label": labels})
        covered += low <= truth <= high
    assert 0.915 <= covered / 400 <= 0.98


def test_random_scores_lie_within_chance_and_good_ones_above_it(tmp_path):
    inside = 0
    for seed in range(20):
        rows = ms.score_test(table_of(tmp_path, predictions(0, seed)), 0, 199, 0)
        mean = find(rows, metric="auroc", group="mean")
        assert mean["chance"] == pytest.approx(0.5, abs=0.02)
        inside += mean["chance_low"] <= mean["value"] <= mean["chance_high"]
    assert inside >= 17
    mean = find(
        ms.score_test(table_of(tmp_path, predictions(1.5)), 0, 199, 0), metric="auroc", group="mean"
    )
    assert mean["value"] > mean["chance_high"]
    assert mean["p_value"] == pytest.approx(1 / 200)


def test_what_the_site_alone_gives_is_told_apart_from_the_label(tmp_path):
    site_only = predictions(0, patients=240, site_effect=0.35, leak=2.0)
    mean = find(
        ms.score_test(table_of(tmp_path, site_only), 0, 199, 0), metric="auroc", group="mean"
    )
    assert mean["value"] > 0.7
    assert mean["p_value"] < 0.01  # above chance,
    assert mean["site_chance"] == pytest.approx(mean["value"], abs=0.05)  # but only by the site
    assert mean["site_p_value"] > 0.05
    label = predictions(1.0, patients=240, site_effect=0.35, leak=2.0)
    mean = find(ms.score_test(table_of(tmp_path, label), 0, 199, 0), metric="auroc", group="mean")
    assert mean["site_p_value"] < 0.01


def test_intervals_narrow_with_patients_and_keep_labels_in_each_fold(tmp_path):
    widths = []
    for patients in (60, 960):
        table = table_of(tmp_path, predictions(0.7, patients=patients))
        weights = mm.bootstrap_weights(table, 50, np.random.default_rng(0))
        for fold in range(5):
            for label in (0, 1):
                held = (table["fold"] == fold) & (table["label"] == label)
                assert set(weights[:, held].sum(1)) == {held.sum()}
        mean = find(ms.score_test(table, 300, 0, 0), metric="auroc", group="mean")
        assert mean["ci_low"] < mean["value"] < mean["ci_high"]
        widths.append(mean["ci_high"] - mean["ci_low"])
    assert 2.5 < widths[0] / widths[1] < 6  # about the root of 16


def test_the_interval_of_the_auprc_is_not_that_of_its_upward_biased_draws(tmp_path):
    above = below = 0
    for seed in range(30):
        rows = ms.score_test(table_of(tmp_path, predictions(0.5, seed)), 200, 0, 0)
        mean = find(rows, metric="auprc", group="mean")
        above += mean["ci_high"] - mean["value"]
        below += mean["value"] - mean["ci_low"]
    assert below > 1.5 * above  # its draws repeat patients, which raises precision


def test_undoing_the_class_weight_lowers_the_brier_score(tmp_path):
    rng = np.random.default_rng(0)
    rows, weighted = [], []
    for i in range(2000):
        logit = rng.normal(-1.5, 1)
        label = int(rng.random() < 1 / (1 + np.exp(-logit)))
        of = (f"p{i:04d}", "s", label, i % 5, "test", logit + np.log(5))
        rows.append(row(*of, weight=5))
        weighted.append(row(*of))
    right, wrong = (ms.score_test(table_of(tmp_path, r), 0, 0, 0) for r in (rows, weighted))
    brier = find(right, metric="brier", group="mean")
    assert brier["value"] < brier["chance"] < find(wrong, metric="brier", group="mean")["value"]
    large = {"metric": "calibration_in_the_large", "group": "mean"}
    assert abs(find(right, **large)["value"]) < 0.02 < 0.2 < find(wrong, **large)["value"]
    slope = {"metric": "calibration_slope", "group": "mean"}
    assert find(right, **slope)["value"] == pytest.approx(1, abs=0.15)


def test_too_extreme_probabilities_have_a_slope_below_one_and_separated_ones_none(tmp_path):
    rows = predictions(0.7, patients=400)
    plain, extreme = (
        mm.calibration_slope(table_of(tmp_path, r))
        for r in (
            rows,
            [row(*(r[n] for n in PREDICTIONS.names[:5]), 3 * float(r["logit"])) for r in rows],
        )
    )
    assert extreme == pytest.approx(plain / 3, rel=0.01)
    split = [row(f"p{i}", "s", i % 2, i // 4, "test", 5.0 * (i % 2) - i // 4) for i in range(12)]
    assert mm.calibration_slope(table_of(tmp_path, split)) is None


def test_the_paired_comparison_sees_what_two_intervals_would_not(tmp_path):
    rows = predictions(0.8, patients=120)
    rng = np.random.default_rng(5)
    worse = [{**r, "logit": float(r["logit"]) + rng.normal() * 1.2} for r in rows]
    one, other = table_of(tmp_path, rows), table_of(tmp_path, worse)
    change = find(ms.compare_test(one, other, 500, 0), metric="auroc")
    values = [find(ms.score_test(t, 500, 0, 0), metric="auroc", group="mean") for t in (one, other)]
    assert change["value"] == pytest.approx(values[0]["value"] - values[1]["value"])
    assert change["ci_low"] < change["value"] < change["ci_high"]
    spread = sum(value["ci_high"] - value["ci_low"] for value in values)
    assert change["ci_high"] - change["ci_low"] < spread * 0.75
    back = find(ms.compare_test(other, one, 500, 0), metric="auroc")
    assert back["value"] == pytest.approx(-change["value"])
    same = find(ms.compare_test(one, one, 100, 0), metric="auroc")
    assert (same["value"], same["p_value"]) == (0, 1)


def test_leaked_and_preserved_folds_are_compared_on_the_same_patients(tmp_path):
    rows = predictions(0.8, patients=120)
    redealt = [{**r, "fold": (int(r["patient"][1:]) * 7) % 5} for r in rows[:-2]]
    change = ms.compare_test(table_of(tmp_path, redealt), table_of(tmp_path, rows), 200, 0)
    found = find(change, metric="auroc")
    assert found["patients"] == 118
    assert found["ci_low"] < 0.1
    strange = [{**r, "patient": "other" + r["patient"]} for r in rows]
    assert ms.compare_test(table_of(tmp_path, strange), table_of(tmp_path, rows), 9, 0) == []


def test_external_patients_are_scored_by_the_mean_of_the_models_with_delong(tmp_path):
    rows = predictions() + outside()
    table = table_of(tmp_path, rows, "external:cptac")
    merged = ensemble(table)
    assert len(merged["patient"]) == 40
    logits = [float(r["logit"]) for r in rows if r["patient"] == "x007"]
    assert merged["logit"][merged["patient"] == "x007"] == pytest.approx(np.mean(logits))
    scored = ms.score_external(table, 100, 99, 0)
    found = find(scored, metric="auroc", group="ensemble")
    assert found["value"] == pytest.approx(metrics.roc_auc_score(merged["label"], merged["logit"]))
    assert found["ci_over"] == "patients (DeLong)"
    assert (found["ci_low"], found["ci_high"]) == mm.delong_interval(merged)
    assert "DeLong" not in find(scored, metric="auprc", group="ensemble")["ci_over"]
    mean = find(scored, metric="auroc", group="mean")
    folds = [r["value"] for r in scored if r["metric"] == "auroc" and "fold" in r["group"]]
    assert len(folds) == 5
    assert mean["value"] == pytest.approx(np.mean(folds))
    assert "ci_low" not in mean
    strange = table_of(tmp_path, predictions() + outside(seed=9), "external:cptac")
    assert ms.compare_external(table, strange, 50, 0) == []  # other labels for these patients
    noisy = table | {"logit": table["logit"] + 2 * np.sin(np.arange(200) % 40 * 9.7)}
    change = find(ms.compare_external(table, noisy, 50, 0), metric="auroc")
    both = [ensemble(t)["logit"] for t in (table, noisy)]
    auc, covariance = naive_delong(both, merged["label"])
    reach = 1.959964 * np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert change["value"] == pytest.approx(auc[0] - auc[1])
    assert change["ci_high"] == pytest.approx(auc[0] - auc[1] + reach, abs=1e-6)
    assert change["p_test"] == "DeLong's paired test"


def test_the_program_writes_every_metric_of_every_model_and_is_deterministic(tmp_path):
    runs = [
        ("kept", "uni", predictions(0.2) + outside(0.2)),
        ("kept", "bench.breast.uni-mlp.seed1", predictions(1.0) + outside(1.0, seed=1)),
        ("other", "uni", predictions(0.1, seed=0)),
    ]
    comparisons = [
        {
            **{"target": "MSI", "model": "bench.breast.uni-mlp.seed1"},
            **{"compared_mutation": "kept", "compared_model": "uni"},
        },
        {
            **{"target": "MSI", "model": "uni"},
            **{"compared_mutation": "other", "compared_model": "uni"},
        },
    ]
    path = score_files(tmp_path, runs, comparisons=comparisons)
    first = path.read_bytes()
    assert score_files(tmp_path, runs, comparisons=comparisons).read_bytes() == first
    rows = ms.read_scores(path)
    assert {row["mutation"] for row in rows} == {"kept"}
    assert {row["cohort"] for row in rows} == {"tcga", "cptac"}
    plain = [row for row in rows if not row["compared_model"]]
    assert {row["metric"] for row in plain} == {
        *ms.RANKED,
        *("brier", "calibration_in_the_large", "calibration_slope"),
    }
    keys = [tuple(row[n] for n in ms.SCORES.names[:8]) for row in plain]
    assert len(set(keys)) == len(keys)
    after = find(
        plain, model="bench.breast.uni-mlp.seed1", group="mean", metric="auroc", role="test"
    )
    before = find(plain, model="uni", group="mean", metric="auroc", role="test")
    gain = find(rows, compared_model="uni", compared_mutation="kept", metric="auroc", role="test")
    assert gain["value"] == pytest.approx(after["value"] - before["value"], abs=1e-5)
    assert {r["role"] for r in rows if r["compared_mutation"] == "other"} == {"test"}


def break_rows(rows, **changes):
    return [{**rows[0], **changes}, *rows[1:]]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (break_rows(predictions(), label=2), "line 2: found label '2'"),
        (break_rows(predictions(), logit="nan"), "logit 'nan'"),
        (break_rows(predictions(), probability="1.5"), "probability '1.5'"),
        (break_rows(predictions(), role="val"), "role: found 'val'"),
        (break_rows(predictions(), patient="p001"), "p001 twice"),
        (
            [r for r in predictions() if r["fold"] or r["label"]],
            "fold 0: found .* all with label 1",
        ),
        (outside(), "no test"),
        (predictions() + outside()[1:], "patients that lack a fold's score"),
        (predictions() + [{**r, "label": 1} for r in outside()], "external:cptac, fold 0"),
    ],
)
def test_broken_predictions_are_refused_in_words(tmp_path, rows, said):
    with pytest.raises(InputError, match=said) as caught:
        score_files(tmp_path, [("kept", "uni", rows)])
    assert "predictions.tsv" in str(caught.value)
    assert not (tmp_path / "kept.tsv").exists()


def test_options_that_do_not_fit_the_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="runs: found 0 for 1 files"):
        score_files(tmp_path, [("kept", "uni", predictions())], runs=[])
    lost = {"target": "MSI", "model": "uni", "compared_mutation": "kept", "compared_model": "gone"}
    with pytest.raises(InputError, match="kept MSI gone; give its predictions too"):
        score_files(tmp_path, [("kept", "uni", predictions())], comparisons=[lost])


# --------------------------------------------------------------------------------- table and figure


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """Scores of preserved and leaked sites, and the planned runs."""
    folder = tmp_path_factory.mktemp("scores")
    trained = "bench.breast.uni-mlp.seed1"
    kept = [
        ("kept", "uni", predictions(0.2) + outside(0.2)),
        ("kept", trained, predictions(1.0) + outside(1.0)),
    ]
    gain = {"target": "MSI", "model": trained, "compared_mutation": "kept", "compared_model": "uni"}
    leak = {"target": "MSI", "model": "uni", "compared_mutation": "kept", "compared_model": "uni"}
    leaked = [("leaked", "uni", predictions(0.2, leak=1.0, site_effect=0.0)), kept[0]]
    paths = [
        score_files(folder, kept, comparisons=[gain]),
        score_files(folder, leaked, "leaked", leaking=True, comparisons=[leak]),
    ]
    expected = [
        {"mutation": m, "leaking": m == "leaked", "cohort": "tcga", "target": "MSI", "model": model}
        for m, model in (("kept", "uni"), ("kept", trained), ("kept", "gone"), ("leaked", "uni"))
    ]
    return paths, expected


def tabulate(tmp_path, paths, expected, balance=()):
    out = [tmp_path / f"mutation.{ext}" for ext in ("tsv", "md", "tex")]
    given = ["--balance", *map(str, balance)] if balance else []
    given += ["--table", str(out[0]), "--markdown", str(out[1]), "--latex", str(out[2])]
    options = json.dumps({"expected": expected})
    show_mutation.main(["--scores", *map(str, paths), *given, "--options", options])
    return out


def test_the_table_holds_the_scores_and_names_what_was_not_run(tmp_path, scored):
    paths, expected = scored
    out = tabulate(tmp_path, paths, expected)
    rows = mutation_table.TABLE.read(out[0])
    scores = [row for path in paths for row in ms.read_scores(path)]
    model = "bench.breast.uni-mlp.seed1"
    mine = find(rows, mutation="kept", model=model, role="test")
    plain = {"mutation": "kept", "model": model, "compared_model": ""}
    for metric in ms.RANKED:
        source = find(scores, **plain, role="test", group="mean", metric=metric)
        for part in mutation_table.PARTS:
            assert mine[metric + part] == source[part.removeprefix("_") or "value"]
    gain = find(scores, compared_mutation="kept", mutation="kept", role="test", metric="auroc")
    assert mine["auroc_gain"] == gain["value"]
    assert mine["baseline"] == "uni"
    external = find(rows, mutation="kept", model=model, role="external:cptac")
    source = find(scores, **plain, role="external:cptac", group="ensemble", metric="auroc")
    assert external["auroc"] == source["value"]
    assert find(rows, model="gone")["auroc"] is None
    leaked = find(rows, mutation="leaked", model="uni")
    assert leaked["preserved"] == "kept"
    assert leaked["auroc_leak"] == pytest.approx(
        leaked["auroc"] - find(rows, mutation="kept", model="uni", role="test")["auroc"], abs=1e-5
    )


def test_the_table_reads_well_in_markdown_and_latex(tmp_path, scored):
    paths, expected = scored
    balance = {
        **{"cohort": "tcga", "target": "MSI", "patients": 60, "positives": 31, "sites": 6},
        **{"folds": 5, "leaking": False, "optimal": True, "cost": 0.5, "cost_at_least": 0.5},
        "by_fold": [{"fold": f, "patients": 12, "positives": 6, "lacks": []} for f in range(5)],
        "off_by": {"positives": 4.2, "negatives": 0.2},
        **{"unavoidable": {"positives": 0.8, "negatives": 0.8}, "sites_in_two_folds": 0},
    }
    (tmp_path / "MSI.json").write_text(json.dumps(balance))
    out = tabulate(tmp_path, paths, expected, [tmp_path / "MSI.json"])
    text = out[1].read_text()
    assert "## kept: tcga, test folds" in text
    assert "## kept: cptac, external" in text
    assert "## Leaked against preserved sites (AUROC)" in text
    assert "off an even share by up to 4.2 positives" in text
    assert text.count("not run") == 1
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") == lines[0].count("|") for line in lines[:5])
    latex = out[2].read_text()
    assert latex.count(r"\begin{table}") == 4
    assert not any(c in latex for c in ("—", "–"))


def test_the_figure_shows_every_model_and_what_was_not_run(tmp_path, scored):
    paths, expected = scored
    out = [tmp_path / f"mutation.{ext}" for ext in ("png", "svg")]
    flags = ["--scores", str(paths[0]), "--png", str(out[0]), "--svg", str(out[1]), "--options"]
    show_mutation.main([*flags, json.dumps({"mutation": "kept", "expected": expected[:3]})])
    with Image.open(out[0]) as image:
        assert image.size[0] > 1000
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50
    with pytest.raises(InputError, match="no score of gone"):
        show_mutation.main([*flags, json.dumps({"mutation": "gone"})])


def test_a_damaged_table_of_scores_is_refused(tmp_path, scored):
    text = scored[0][0].read_text().splitlines()
    fields = text[3].split("\t")
    fields[ms.SCORES.names.index("value")] = "high"
    (tmp_path / "bad.tsv").write_text("\n".join([*text[:3], "\t".join(fields)]) + "\n")
    with pytest.raises(InputError, match=r"bad\.tsv: line 4, value: found 'high'"):
        tabulate(tmp_path, [tmp_path / "bad.tsv"], [])
