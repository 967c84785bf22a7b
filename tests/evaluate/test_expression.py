"""Prediction of expression: gene choice, the two recipes, the scores, and the programs around them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_pairs import write_splits

import score_expression
import show_expression
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.dataset import cutting, expression_counts, gene_lists, pair_shards, stored_features
from pairscape.dataset.shards import Shards
from pairscape.evaluate import expression, ridge, targets
from pairscape.images import encoding
from pairscape.pretrain import failures, run_embeddings
from pairscape.report import expression_figure, expression_table

OPTIONS = targets.ExpressionOptions.of({"genes": 12, "components": 8})
GENES = [f"GENE{i:02d}" for i in range(30)]
# sample: donor, split, spots
SAMPLES = {
    "S1": ("D1", "train", 150),
    "S2": ("D2", "train", 120),
    "S3": ("D3", "val", 80),
    "S4": ("D4", "test", 90),
    "S5": ("D5", "test", 70),
}
LATENT, WIDTH = 4, 20


class Numbers:
    """What of ``pair_data.Counts`` the scores use, on an array."""

    def __init__(self, counts):
        self.counts, self.shape, self.shards = counts, counts.shape, ["counts"]

    def __len__(self):
        return len(self.counts)

    def __getitem__(self, rows):
        return self.counts[rows]

    def blocks(self, rows, size):
        for at in range(0, len(rows), size):
            yield self.counts[rows[at : at + size]]


def make_data(samples=SAMPLES, seed=0, noise=0.02):
    """Counts and features with one linear cause, and the splits."""
    rng = np.random.default_rng(seed)
    spots = sum(rows for _, _, rows in samples.values())
    cause = rng.standard_normal((spots, LATENT))
    loading = 0.5 * rng.standard_normal((LATENT, len(GENES)))
    rate = np.exp(rng.uniform(1.5, 4, len(GENES)) + cause @ loading)
    counts = rng.poisson(rate).astype(np.int32)
    features = cause @ rng.standard_normal((LATENT, WIDTH))
    features = (3 + features + noise * rng.standard_normal(features.shape)).astype(np.float32)
    sample_of = np.repeat(list(samples), [rows for _, _, rows in samples.values()])
    donor_of = np.array([samples[name][0] for name in sample_of])
    split_of = np.array([samples[name][1] for name in sample_of])
    rows = {split: np.flatnonzero(split_of == split) for split in ("train", "val", "test")}
    return counts, features, expression.split_spots(rows, donor_of), sample_of


def source_of(features, splits):
    places = {name: split.rows for name, split in splits.items()}
    return targets.Source(dict.fromkeys(places, features), places)


def targets_of(counts, splits, sample_of, **options):
    return targets.make_targets(
        Numbers(counts), GENES, splits, sample_of, replace(OPTIONS, **options)
    )


# ------------------------------------------------------------------------------------- gene choice


@pytest.mark.parametrize("seed", range(4))
def test_the_most_variable_genes_are_those_of_scanpy(seed):
    import anndata
    import scanpy

    rng = np.random.default_rng(seed)
    counts = rng.negative_binomial(2, rng.uniform(0.05, 0.9, 120), (200, 120)).astype(np.int32)
    counts[:, 7] = 3  # without any dispersion
    chosen = targets.choose_genes(Numbers(counts), {"S1": np.arange(200)}, np.ones(200), 25, 0.0)
    table = anndata.AnnData(np.log1p(counts.astype(np.float64)))
    scanpy.pp.highly_variable_genes(table, n_top_genes=25)
    expected = np.flatnonzero(table.var["highly_variable"].to_numpy())[:25]
    np.testing.assert_array_equal(chosen, expected)


def test_a_gene_must_be_in_a_tenth_of_the_spots_of_every_sample():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5, (100, 4)).astype(np.int32)
    counts[:40, 1] = 0
    counts[:4, 1] = 9  # exactly a tenth of S1
    counts[:40, 2] = 0
    counts[:3, 2] = 90  # one spot too few in S1, plenty in S2
    samples = {"S1": np.arange(40), "S2": np.arange(40, 100)}
    chosen = targets.choose_genes(Numbers(counts), samples, np.ones(100), 50, 0.1)
    assert chosen.tolist() == [0, 1, 3]


def test_published_genes_look_at_the_test_split_and_corrected_genes_do_not():
    counts, _, splits, sample_of = make_data()
    before = targets_of(counts, splits, sample_of)
    changed = counts.copy()
    changed[np.ix_(splits["test"].rows, np.arange(10))] *= np.random.default_rng(1).integers(
        0, 40, (len(splits["test"].rows), 10), dtype=np.int32
    )
    after = targets_of(changed, splits, sample_of)
    assert after["corrected"].genes == before["corrected"].genes
    assert after["corrected"].words == before["corrected"].words
    assert after["published"].genes != before["published"].genes


def test_library_size_is_the_train_median_and_an_empty_spot_stays_empty():
    counts, _, splits, sample_of = make_data()
    counts[splits["test"].rows[0]] = 0
    target = targets_of(counts, splits, sample_of)["corrected"]
    median = np.median(counts[splits["train"].rows].sum(1))
    places = [GENES.index(gene) for gene in target.genes]
    assert f"{median:g}" in target.words
    row = splits["test"].rows[3]
    expected = np.log1p(counts[row, places] * median / counts[row].sum())
    np.testing.assert_allclose(target.values[row], expected, rtol=1e-6)
    assert not target.values[splits["test"].rows[0]].any()
    raw = targets_of(counts, splits, sample_of, normalise="raw")["corrected"]
    places = [GENES.index(gene) for gene in raw.genes]
    np.testing.assert_allclose(raw.values[row], np.log1p(counts[row, places]), rtol=1e-6)


# ------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("components", [8, 256])
def test_the_published_recipe_is_the_plain_scikit_learn_pipeline(components):
    counts, features, splits, sample_of = make_data()
    target = targets_of(counts, splits, sample_of)["published"]
    train, test = splits["train"].rows, splits["test"].rows
    reduce = make_pipeline(StandardScaler(), PCA(min(components, WIDTH), random_state=1))
    reduced = reduce.fit_transform(features[train])
    model = Ridge(
        solver="lsqr",
        alpha=100 / (reduced.shape[1] * len(target.genes)),
        fit_intercept=False,
        max_iter=1000,
    )
    model.fit(reduced, target.values[train])
    expected = model.predict(reduce.transform(features[test]))
    source = source_of(features, splits)
    fit = ridge.fit_published(source, target, splits["train"], components)
    found = ridge.predict(fit, source, "test")
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert fit.penalty == 100 / (reduced.shape[1] * len(target.genes))


def test_the_published_recipe_on_more_than_memory_holds_is_the_same_model(monkeypatch):
    counts, features, splits, sample_of = make_data(noise=2.0)
    target, source = targets_of(counts, splits, sample_of)["published"], source_of(features, splits)
    whole = ridge.fit_published(source, target, splits["train"], 8)
    monkeypatch.setattr(ridge, "DENSE_NUMBERS", 0)
    summed = ridge.fit_published(source, target, splits["train"], 8)
    assert whole.fitted_by.startswith("scikit-learn")
    assert "moments" in summed.fitted_by
    a, b = (ridge.predict(fit, source, "test") for fit in (whole, summed))
    np.testing.assert_allclose(a, b, atol=1e-2)  # lsqr stops early


def test_within_the_test_split_each_spot_is_predicted_by_the_fit_to_the_other_folds():
    from sklearn.model_selection import KFold

    counts, features, splits, sample_of = make_data(noise=2.0)
    features[splits["train"].rows] = np.nan  # never looked at
    target = targets_of(counts, splits, sample_of, within_test=4)
    assert list(target) == ["published", "corrected", "within_test"]
    assert target["within_test"] is target["published"]
    source, options = source_of(features, splits), replace(OPTIONS, within_test=4)
    test = splits["test"]
    expected = np.empty((len(test.rows), len(target["published"].genes)))
    for others, fold in KFold(4, shuffle=True, random_state=1).split(test.rows):
        fitted, held_out = test.rows[others], test.rows[fold]
        reduce = make_pipeline(StandardScaler(), PCA(8, random_state=1))
        reduced = reduce.fit_transform(features[fitted])
        model = Ridge(solver="lsqr", alpha=100 / (8 * 12), fit_intercept=False, max_iter=1000)
        model.fit(reduced, target["published"].values[fitted])
        expected[fold] = model.predict(reduce.transform(features[held_out]))
    rows = expression.score_source(source, {"within_test": target["within_test"]}, splits, options)
    truth = target["published"].values[test.rows]
    for group, chosen in (("all", slice(None)), ("D4", test.donor == "D4")):
        of = {
            row["gene"]: row for row in rows if (row["metric"], row["group"]) == ("pearson", group)
        }
        for place, gene in enumerate(target["published"].genes):
            one = stats.pearsonr(truth[chosen, place], expected[chosen, place])[0]
            assert of[gene]["value"] == pytest.approx(one, abs=2e-3)
    assert {row["train_spots"] for row in rows} == {len(test.rows) - len(test.rows) // 4}
    assert {row["penalty_from"] for row in rows} == {
        "100 / (components × genes); 4 folds of the test split's spots"
    }
    base = [
        row["value"] for row in rows if row["metric"] == "r2_train_mean" and row["group"] == "all"
    ]
    assert max(base) < 0  # no spot's own count is in its mean


def test_the_recipe_within_the_test_split_leaves_the_others_as_they_are():
    counts, features, splits, sample_of = make_data()
    source = source_of(features, splits)
    alone, beside = (
        expression.score_source(
            source,
            targets_of(counts, splits, sample_of, within_test=folds),
            splits,
            replace(OPTIONS, within_test=folds),
        )
        for folds in (None, 500)  # more folds than spots: each by itself
    )
    assert [row for row in beside if row["recipe"] != "within_test"] == alone
    third = [row for row in beside if row["recipe"] == "within_test"]
    assert {row["train_spots"] for row in third} == {len(splits["test"].rows) - 1}
    assert "within_test" not in OPTIONS.deciding
    assert replace(OPTIONS, within_test=5).deciding["within_test"] == 5


def sklearn_fit(features, target, rows, alpha, components=8):
    reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full"))
    reduced = reduce.fit_transform(features[rows].astype(np.float64))
    model = Ridge(alpha=alpha).fit(reduced, target.values[rows].astype(np.float64))
    return lambda wanted: model.predict(reduce.transform(features[wanted].astype(np.float64)))


def sklearn_alpha(features, rows, penalty, components=8):
    reduce = make_pipeline(StandardScaler(), PCA(components, svd_solver="full"))
    return penalty * np.mean((reduce.fit_transform(features[rows].astype(np.float64)) ** 2).sum(0))


def held_out_error(features, target, rows, held_out, penalty, spread):
    predict = sklearn_fit(features, target, rows, sklearn_alpha(features, rows, penalty))
    return np.mean((target.values[held_out] - predict(held_out)).var(0) / spread)


def noisy(seed=3):
    """Features whose noise makes some penalties better than others."""
    counts, features, splits, sample_of = make_data(noise=6.0, seed=seed)
    return counts, features, splits, sample_of


def test_the_corrected_recipe_is_scikit_learns_with_the_penalty_that_suits_unseen_donors():
    counts, features, splits, sample_of = noisy()
    target, source = targets_of(counts, splits, sample_of)["corrected"], source_of(features, splits)
    fit = ridge.fit_corrected(source, target, splits, OPTIONS)
    train, val = splits["train"].rows, splits["val"].rows
    spread = target.values[train].astype(np.float64).var(0)
    errors = {
        penalty: held_out_error(features, target, train, val, penalty, spread)
        for penalty in OPTIONS.penalties
    }
    best = min(errors, key=errors.get)
    alpha = sklearn_alpha(features, train, best)
    assert fit.penalty == pytest.approx(alpha, rel=1e-5)
    expected = sklearn_fit(features, target, train, alpha)(splits["test"].rows)
    found = ridge.predict(fit, source, "test")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert fit.penalty_from.startswith("1 validation donors")


def test_without_a_validation_donor_each_train_donor_is_left_out_in_turn():
    counts, features, splits, sample_of = noisy(4)
    splits["val"] = targets.Split(np.zeros(0, np.int64), np.zeros(0, str))
    target, source = targets_of(counts, splits, sample_of)["corrected"], source_of(features, splits)
    fit = ridge.fit_corrected(source, target, splits, OPTIONS)
    train = splits["train"]
    spread = target.values[train.rows].astype(np.float64).var(0)
    errors = {
        penalty: np.mean(
            [
                held_out_error(
                    features,
                    target,
                    train.rows[train.donor != donor],
                    train.rows[train.donor == donor],
                    penalty,
                    spread,
                )
                for donor in ("D1", "D2")
            ]
        )
        for penalty in OPTIONS.penalties
    }
    best = min(errors, key=errors.get)
    assert fit.penalty == pytest.approx(sklearn_alpha(features, train.rows, best), rel=1e-5)
    assert fit.penalty_from.startswith("2 train donors left out in turn")


def test_validation_donors_that_train_or_test_knows_are_not_validated_on():
    counts, features, splits, sample_of = make_data()
    val = splits["val"]
    for known in ("D1", "D4"):
        splits["val"] = targets.Split(val.rows, np.full(len(val.rows), known))
        assert ridge.unseen_donors(splits) == []
    splits["train"] = targets.Split(splits["train"].rows, np.full(len(splits["train"].rows), "D1"))
    target = targets_of(counts, splits, sample_of)["corrected"]
    fit = ridge.fit_corrected(source_of(features, splits), target, splits, OPTIONS)
    assert fit.penalty_from.startswith("not validated")


def test_test_spots_change_nothing_in_the_corrected_fit():
    counts, features, splits, sample_of = noisy()
    fits = []
    for changed in (False, True):
        if changed:
            rng = np.random.default_rng(9)
            test = splits["test"].rows
            counts[test] = rng.poisson(50, (len(test), len(GENES)))
            features[test] = 100 * rng.standard_normal((len(test), WIDTH))
        target = targets_of(counts, splits, sample_of)["corrected"]
        fits.append(ridge.fit_corrected(source_of(features, splits), target, splits, OPTIONS))
    np.testing.assert_array_equal(fits[0].weights, fits[1].weights)
    np.testing.assert_array_equal(fits[0].intercept, fits[1].intercept)


def test_blocks_change_nothing(monkeypatch):
    counts, features, splits, sample_of = noisy()
    target, source = targets_of(counts, splits, sample_of), source_of(features, splits)
    whole = ridge.fit_corrected(source, target["corrected"], splits, OPTIONS)
    monkeypatch.setattr(targets, "_BLOCK_NUMBERS", 1)  # 256 rows, the least
    again = targets_of(counts, splits, sample_of)
    assert again["published"].genes == target["published"].genes
    np.testing.assert_array_equal(again["corrected"].values, target["corrected"].values)
    parts = ridge.fit_corrected(source, target["corrected"], splits, OPTIONS)
    np.testing.assert_allclose(parts.weights, whole.weights, rtol=1e-8, atol=1e-12)


def test_a_constant_feature_and_more_components_than_features_do_no_harm():
    counts, features, splits, sample_of = make_data()
    features = np.column_stack([features, np.full(len(features), 7.3, np.float32), features[:, 0]])
    target, source = targets_of(counts, splits, sample_of), source_of(features, splits)
    options = replace(OPTIONS, components=256)
    rows = expression.score_source(source, target, splits, options)
    values = [r["value"] for r in rows if (r["metric"], r["gene"]) == ("pearson", "mean")]
    assert min(values) > 0.7
    corrected = next(row for row in rows if row["recipe"] == "corrected")
    assert corrected["components"] == WIDTH  # the copy and the constant add no axis


# ------------------------------------------------------------------------------------------- scores


def test_a_planted_signal_is_found_and_noise_is_not():
    counts, features, splits, sample_of = make_data()
    target = targets_of(counts, splits, sample_of)
    noise = np.random.default_rng(5).standard_normal(features.shape).astype(np.float32)
    found = {}
    for name, of in (("signal", features), ("noise", noise)):
        for row in expression.score_source(source_of(of, splits), target, splits, OPTIONS):
            if row["gene"] == "mean":
                found[name, row["recipe"], row["group"], row["metric"]] = row["value"]
    for recipe in ("published", "corrected"):
        for group in ("all", "D4", "D5"):
            assert found["signal", recipe, group, "pearson"] > 0.85
            assert found["signal", recipe, group, "spearman"] > 0.8
            assert abs(found["noise", recipe, group, "pearson"]) < 0.12
    assert found["signal", "corrected", "all", "r2"] > 0.7
    assert found["signal", "published", "all", "r2"] < 0  # it has no intercept
    assert -0.2 < found["noise", "corrected", "all", "r2"] < 0.05
    assert -0.1 < found["signal", "corrected", "all", "r2_train_mean"] <= 0


def test_each_metric_equals_its_library_for_every_gene():
    rng = np.random.default_rng(0)
    truth = rng.poisson(3, (50, 6)).astype(np.float32)
    predicted = truth + rng.standard_normal(truth.shape)
    found = expression.score_predictions(truth, predicted, np.full(6, 2.5))
    for gene in range(6):
        one = truth[:, gene], predicted[:, gene]
        assert found["pearson"][gene] == pytest.approx(stats.pearsonr(*one)[0])
        assert found["spearman"][gene] == pytest.approx(stats.spearmanr(*one)[0])
        assert found["r2"][gene] == pytest.approx(r2_score(*one))
        baseline = r2_score(one[0], np.full(50, 2.5))
        assert found["r2_train_mean"][gene] == pytest.approx(baseline)


def test_an_undefined_correlation_is_counted_and_not_averaged():
    counts, features, splits, sample_of = make_data()
    target = targets_of(counts, splits, sample_of, normalise="raw")
    gene = target["corrected"].genes[0]
    place = target["corrected"].genes.index(gene)
    d5 = splits["test"].rows[splits["test"].donor == "D5"]
    target["corrected"].values[d5, place] = 1.0  # constant within one donor alone
    rows = expression.score_source(source_of(features, splits), target, splits, OPTIONS)
    rows = [row for row in rows if (row["recipe"], row["metric"]) == ("corrected", "pearson")]
    by = {(row["group"], row["gene"]): row for row in rows}
    assert by["D5", gene]["value"] is None
    assert by["D5", gene]["undefined"] == 1
    assert by["D5", "mean"]["undefined"] == 1
    assert by["D5", "mean"]["genes"] == 11
    rest = [by["D5", name]["value"] for name in target["corrected"].genes if name != gene]
    assert by["D5", "mean"]["value"] == pytest.approx(np.mean(rest))
    assert by["D4", "mean"]["undefined"] == 0


def test_a_constant_prediction_and_a_single_spot_are_undefined():
    truth = np.arange(10.0)[:, None]
    noise = 1e-12 * np.random.default_rng(0).standard_normal((10, 1))
    found = expression.score_predictions(truth, 4 + noise, np.array([4.5]))
    assert np.isnan(found["pearson"][0])
    assert np.isnan(found["spearman"][0])
    assert found["r2"][0] == pytest.approx(r2_score(truth, np.full((10, 1), 4.0)))
    alone = expression.score_predictions(truth[:1], truth[:1], np.array([0.0]))
    assert all(np.isnan(values).all() for values in alone.values())


# ----------------------------------------------------------------------------------------- programs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Shards, splits, genes, features of two encoders, and three runs; one stored no train images."""
    folder = tmp_path_factory.mktemp("expression")
    counts, features, splits, _sample_of = make_data()
    labels = {"name": list(SAMPLES), "source": ["simulated"], "tissue": ["breast"]}
    image = encoding.encode_patch(np.zeros((2, 2, 3), np.uint8), "png")
    columns, at = cutting.pair_features(len(GENES), labels), 0
    shards = []
    for sample, (donor, _, rows) in SAMPLES.items():
        constant = cutting.sample_columns(
            {"sample": sample, "donor": donor, "source": "simulated", "organ": "breast"}
        )
        path = folder / "shards" / f"{sample}.arrow"
        pair_shards.write_shard(
            path,
            (
                {
                    **constant,
                    "image": image,
                    "gexp": counts[at + i],
                    "cell_coords": np.float32([i, i]),
                    "spot": f"{i:03d}x000",
                    "array_row": i,
                    "array_col": 0,
                    "x_um": 55.0 * i,
                    "y_um": 0.0,
                    "um_per_px": 0.5,
                    "tissue_fraction": 1.0,
                }
                for i in range(rows)
            ),
            columns,
            {key: None for key in pair_shards.METADATA_KEYS} | {"sample": sample, "genes": GENES},
        )
        at += rows
        shards.append({"sample": sample, "rows": rows, "sha256": files.sha256_file(path)})
    placed = [(s, d, split) for s, (d, split, _) in SAMPLES.items()]
    rows = write_splits(folder / "splits.tsv", placed)
    gene_lists.write_genes(folder / "genes.tsv", [(gene, f"ENSG{gene}") for gene in GENES])
    rng = np.random.default_rng(2)
    noisy_features = features + 3 * rng.standard_normal(features.shape).astype(np.float32)
    for name, array in (("good", features), ("poor", noisy_features)):
        place = folder / "images" / name
        meta = {"encoder": name, "dataset": "d", "views": 1}
        stored_features.write_features(
            place / "features.npy", place / "features.json", [array], shards, WIDTH, meta
        )
    for (image_name, seed), array in {("good", 1): noisy_features, ("poor", 1): features}.items():
        write_run(folder, image_name, seed, array, splits, shards, rows)
    write_run(folder, "poor", 2, features, splits, shards, rows, without="train")
    return folder, shards, rows, splits, features


def write_run(folder, image, seed, array, splits, shards, rows, without=None, trunk=None):
    run_dir = folder / "runs" / f"{image}-mlp" / f"seed{seed}"
    unit = (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)
    paths = [folder / "shards" / f"{shard['sample']}.arrow" for shard in shards]
    for name, split in splits.items():
        if name == without:
            continue
        of = unit[split.rows]
        index = expression_counts.run_index(paths, rows, split.rows)
        run_embeddings.write_run_embeddings(run_dir, name, of, of, index, {"logit_scale": 1.0})
        if trunk is not None:
            meta_path = run_embeddings.run_files(run_dir, name)["meta"]
            place = meta_path.with_name(f"{name}_trunk.npy")
            np.save(place, trunk[split.rows])
            meta = files.read_json(meta_path)
            meta["sha256"]["trunk"] = files.sha256_file(place)
            files.write_json(meta_path, {**meta, "trunk_width": trunk.shape[1]})
    names = {"experiment": "e", "dataset": "d", "image_encoder": image, "gene_encoder": "mlp"}
    run = {**names, "seed": seed, "shards": shards, "splits": rows}
    files.write_json(run_dir / "options.json", run)
    return run_dir / "options.json"


def score(folder, out, features=("good", "poor"), runs=None, encoders=None, **options):
    if runs is None:
        runs = sorted((folder / "runs").glob("*/*/options.json"))
    known = {name: {"features_of": name, "control": None} for name in ("good", "poor")}
    options = {"genes": 12, "components": 8, **options}
    options |= {"experiment": "e", "dataset": "d", "encoders": encoders or known}
    arguments = ["--shards", *(str(folder / "shards" / f"{s}.arrow") for s in SAMPLES)]
    arguments += ["--splits", str(folder / "splits.tsv"), "--genes", str(folder / "genes.tsv")]
    if features:
        paths = (str(folder / "images" / name / "features.npy") for name in features)
        arguments += ["--features", *paths]
    if runs:
        arguments += ["--runs", *map(str, runs)]
    score_expression.main([*arguments, "--scores", str(out), "--options", json.dumps(options)])
    return expression.read_scores(out)


def means(rows):
    return {
        (r["stage"], r["image_encoder"], r["seed"], r["recipe"], r["group"], r["metric"]): r
        for r in rows
        if r["gene"] == "mean"
    }


def test_the_program_scores_encoders_as_they_came_and_after_pretraining(dataset, tmp_path):
    folder, _, _, splits, features = dataset
    rows = score(folder, tmp_path / "expression.tsv")
    found = means(rows)
    for recipe in ("published", "corrected"):
        for group in ("all", "D4", "D5"):
            good = found["as it came", "good", "", recipe, group, "pearson"]["value"]
            poor = found["as it came", "poor", "", recipe, group, "pearson"]["value"]
            after = found["after pretraining", "poor", "1", recipe, group, "pearson"]["value"]
            assert good > poor + 0.05
            assert after > poor
        missing = found["after pretraining", "poor", "2", recipe, "all", "pearson"]
        assert missing["value"] is None
        assert "no images of its train split" in missing["note"]
    shards = Shards.open([folder / "shards" / f"{s}.arrow" for s in SAMPLES])
    counts = expression_counts.Counts(shards, GENES)
    sample_of = np.repeat(list(SAMPLES), [n for _, _, n in SAMPLES.values()])
    wanted = targets.make_targets(counts, GENES, splits, sample_of, OPTIONS)
    direct = expression.score_source(source_of(features, splits), wanted, splits, OPTIONS)
    written = [r for r in rows if (r["stage"], r["image_encoder"]) == ("as it came", "good")]
    assert len(direct) == len(written) == 2 * 3 * 4 * 13
    for one, other in zip(direct, written, strict=True):
        assert (one["gene"], one["group"]) == (other["gene"], other["group"])
        assert one["value"] == pytest.approx(other["value"], rel=1e-6)


def test_a_tuned_trunk_is_scored_beside_the_shared_space(dataset, tmp_path):
    folder, shards, rows, splits, features = dataset
    noise = np.random.default_rng(0).standard_normal(features.shape).astype(np.float32)
    (tmp_path / "shards").symlink_to(folder / "shards")
    run = write_run(tmp_path, "good", 5, noise, splits, shards, rows, trunk=features)
    scored = score(folder, tmp_path / "out.tsv", (), [run])
    of = {
        row["representation"]: row["value"]
        for row in scored
        if (row["recipe"], row["group"], row["metric"], row["gene"])
        == ("corrected", "all", "pearson", "mean")
    }
    assert of["trunk"] > 0.8
    assert abs(of["shared space"]) < 0.2
    run_embeddings.run_files(run.parent, "val")["meta"].with_name("val_trunk.npy").write_bytes(b"x")
    with pytest.raises(InputError, match=r"val_trunk\.npy: sha256"):
        score(folder, tmp_path / "out.tsv", (), [run])


def test_only_the_first_view_of_stored_features_is_used(dataset, tmp_path, monkeypatch):
    folder = dataset[0]
    expected = score(folder, tmp_path / "one.tsv", ("good",), ())
    read = stored_features.read_features

    def two_views(*paths):
        array, index = read(*paths)
        return np.concatenate([array, -50 * array]), {**index, "views": 2}

    monkeypatch.setattr(stored_features, "read_features", two_views)
    assert score(folder, tmp_path / "two.tsv", ("good",), ()) == expected


def test_a_run_out_of_memory_is_told_and_not_scored(dataset, tmp_path):
    folder = dataset[0]
    names = dict(zip(failures.RUN_KEYS, ("e", "d", "good", "mlp", 9), strict=True))
    failures.write(tmp_path / "run", names, failures.OUT_OF_MEMORY)
    rows = score(folder, tmp_path / "out.tsv", ("good",), [tmp_path / "run" / "options.json"])
    told = [row for row in rows if row["seed"] == "9"]
    assert [row["note"] for row in told] == ["out of memory"] * 2
    table = expression_table.tabulate([r for r in rows if r["gene"] == "mean"], [])
    row = next(r for r in table if r["gene_encoder"] and r["metric"] == "pearson")
    assert (row["seeds_run"], row["seeds_planned"], row["note"]) == (0, 1, "out of memory")
    assert row["after"] is None
    assert row["before"] > 0.8


def changed_json(path, out, **changes):
    files.write_json(out, {**files.read_json(path), **changes})
    return out


def test_broken_inputs_are_refused_in_one_line(dataset, tmp_path):
    folder, shards, _, _, _ = dataset
    out = tmp_path / "out.tsv"
    run = folder / "runs" / "good-mlp" / "seed1" / "options.json"
    other = [{**shards[0], "sha256": "0"}, *shards[1:]]
    cases = [
        (r"dataset: found x; give only runs of dataset d", {"dataset": "x"}),
        (r"shards, sample S1: found other pairs", {"shards": other}),
        (r"shards: found 4 of them for 5", {"shards": shards[:4]}),
        (r"splits: found other than splits\.tsv", {"splits": []}),
        (r"image_encoder: found bad; give only those of good, poor", {"image_encoder": "bad"}),
    ]
    for message, changes in cases:
        with pytest.raises(InputError, match=message) as error:
            score(folder, out, (), [changed_json(run, tmp_path / "options.json", **changes)])
        assert "\n" not in str(error.value)
    changed_json(run, tmp_path / "options.json")
    with pytest.raises(InputError, match="the same as in"):
        score(folder, out, (), [run, tmp_path / "options.json"])
    with pytest.raises(InputError, match="--features: flag: found nothing"):
        score(folder, out, (), ())
    with pytest.raises(InputError, match="penalties: found"):
        score(folder, out, penalties=[])
    with pytest.raises(InputError, match="found the unknown key 'gene'; did you mean genes"):
        score(folder, out, gene=3)
    _, _, splits, sample_of = make_data()
    flat = Numbers(np.ones((len(sample_of), len(GENES)), np.int32))
    with pytest.raises(InputError, match="no gene that varies"):
        targets.make_targets(flat, GENES, splits, sample_of, OPTIONS)
    place = tmp_path / "images" / "good"
    place.mkdir(parents=True)
    source = folder / "images" / "good"
    (place / "features.npy").symlink_to(source / "features.npy")
    changed_json(source / "features.json", place / "features.json", shards=other)
    for name in ("shards", "splits.tsv", "genes.tsv"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(InputError, match=r"features\.json: shards, sample S1: found other pairs"):
        score(tmp_path, out, ("good",), ())
    assert not out.exists()


def test_rows_of_another_split_are_refused(dataset, tmp_path):
    folder, shards, rows, splits, features = dataset
    (tmp_path / "shards").symlink_to(folder / "shards")
    fewer = {
        **splits,
        "val": targets.Split(splits["val"].rows[1:], splits["val"].donor[1:]),
    }
    run = write_run(tmp_path, "good", 1, features, fewer, shards, rows)
    with pytest.raises(InputError, match=r"val\.tsv: row: found 79 rows that aren't the 80 of val"):
        score(folder, tmp_path / "out.tsv", (), [run])


# ----------------------------------------------------------------------------------- table and figure


def score_row(value, image="A", gene="", seed="", group="all", recipe="corrected", **more):
    stage = "after pretraining" if gene else "as it came"
    row = dict.fromkeys(expression.SCORES.names, "")
    row |= dict.fromkeys(expression.SCORES.names_of(float))
    row |= {"experiment": "e", "dataset": "d", "image_encoder": image, "features_of": image}
    row |= {"stage": stage, "gene_encoder": gene, "seed": seed, "recipe": recipe, "group": group}
    row |= {"representation": "shared space" if gene else "encoder", "target": "log1p"}
    row |= {"metric": "pearson", "gene": "mean", "value": value, "genes": 50, "undefined": 0}
    return {**row, "spots": 100, **more}


def table_rows(before, after, **more):
    """Scores by donor: before, and after by seed."""
    rows = [score_row(value, group=group) for group, value in before.items()]
    for seed, groups in after.items():
        rows += [
            score_row(value, gene="mlp", seed=seed, group=group, **more)
            for group, value in groups.items()
        ]
    return rows


def pair_row(scores, expected=()):
    table = expression_table.tabulate(scores, expected)
    return next(row for row in table if row["gene_encoder"] and row["metric"] == "pearson")


def test_the_table_reads_either_way():
    before = {"all": 0.30, "D1": 0.2, "D2": 0.4}
    better = pair_row(table_rows(before, {"1": {"all": 0.4, "D1": 0.3, "D2": 0.5}}))
    worse = pair_row(table_rows(before, {"1": {"all": 0.2, "D1": 0.1, "D2": 0.3}}))
    mixed = pair_row(table_rows(before, {"1": {"all": 0.3, "D1": 0.1, "D2": 0.5}}))
    assert better["reads"] == "improves for all 2 donors"
    assert worse["reads"] == "degrades for all 2 donors"
    assert mixed["reads"] == "mixed: improves for 1 of 2 donors, degrades for 1"
    assert worse["difference"] == pytest.approx(-0.1)
    assert worse["difference_by_donor"] == "D1 \N{MINUS SIGN}0.100; D2 \N{MINUS SIGN}0.100"
    assert (worse["p_value"], worse["p_test"]) == (None, "too few donors")


def test_seeds_are_averaged_per_donor_and_never_counted_as_donors():
    before = {"all": 0.30, "D1": 0.2, "D2": 0.4}
    after = {
        "1": {"all": 0.40, "D1": 0.10, "D2": 0.5},
        "2": {"all": 0.50, "D1": 0.28, "D2": 0.7},
        "3": {"all": 0.60, "D1": 0.19, "D2": 0.6},
    }
    row = pair_row(table_rows(before, after))
    assert (row["after"], row["after_sd"]) == (pytest.approx(0.5), pytest.approx(0.1))
    assert (row["difference"], row["difference_sd"]) == (pytest.approx(0.2), pytest.approx(0.1))
    assert (row["donors"], row["donors_up"], row["donors_down"]) == (2, 1, 1)
    assert row["difference_over_donors"] == pytest.approx((-0.01 + 0.2) / 2)


def test_missing_seeds_are_named_and_dashed():
    expected = [
        {"dataset": "d", "image_encoder": image, "gene_encoder": "mlp", "seed": seed}
        for image in ("A", "B")
        for seed in (1, 2)
    ]
    scores = table_rows({"all": 0.3, "D1": 0.3}, {"1": {"all": 0.4, "D1": 0.4}})
    table = expression_table.tabulate(scores, expected)
    pearson = {
        r["image_encoder"]: r for r in table if r["gene_encoder"] and r["metric"] == "pearson"
    }
    assert pearson["A"]["seeds_missing"] == "2"
    assert pearson["A"]["after"] == 0.4
    assert pearson["B"]["seeds_missing"] == "1 2"
    assert pearson["B"]["reads"] == "not scored"
    line = next(r for r in expression_table.sections(table)[-1]["rows"] if r[1] == "B")
    assert line[4:8] == ["\N{EM DASH}"] * 4


def test_a_shuffled_control_is_compared_with_the_features_it_starts_from():
    scores = table_rows({"all": 0.3, "D1": 0.3}, {})
    scores.append(score_row(0.1, image="A_shuffled", gene="mlp", seed="1", features_of="A"))
    row = pair_row(scores)
    assert row["before"] == 0.3
    assert row["difference"] == pytest.approx(-0.2)


def test_best_and_second_are_marked_within_a_dataset_and_controls_never():
    scores = [
        score_row(value, image=image, gene="mlp", seed="1", control=control)
        for image, value, control in (
            ("A", 0.3, ""),
            ("B", 0.9, "ceiling: expression"),
            ("C", 0.5, ""),
            ("D", 0.1, ""),
        )
    ]
    section = expression_table.sections(expression_table.tabulate(scores, []))[-1]
    marked = {section["rows"][row][1]: mark for (row, _), mark in section["marks"].items()}
    assert marked == {"A": "second", "C": "best"}
    assert {section["header"][column] for _, column in section["marks"]} == {"After"}


def test_a_third_recipe_gets_its_columns_its_section_and_a_word_of_warning():
    scores = [
        row
        for recipe in ("published", "within_test", "corrected")
        for row in table_rows(
            {"all": 0.3, "D1": 0.3}, {"1": {"all": 0.4, "D1": 0.4}}, recipe=recipe
        )
    ]
    scores += [score_row(0.3, recipe=recipe) for recipe in ("published", "within_test")]
    table = expression_table.tabulate(scores, [])
    came, *pairs = expression_table.sections(table)
    assert "Pearson, within_test" in came["header"]
    assert [section["title"].split(", ")[-1] for section in pairs] == [
        "published recipe",
        "within_test recipe",
        "corrected recipe",
    ]
    warned = [
        any("neighbours and whole" in note for note in one["notes"]) for one in (came, *pairs)
    ]
    assert warned == [True, False, True, False]


def test_six_donors_get_a_p_value():
    donors = {f"D{i}": 0.2 for i in range(6)}
    after = {name: 0.3 + 0.01 * i for i, name in enumerate(donors)}
    row = pair_row(table_rows({"all": 0.2, **donors}, {"1": {"all": 0.3, **after}}))
    assert row["p_value"] == pytest.approx(2 / 2**6)


def test_tables_and_figure_are_written_and_read_back(dataset, tmp_path):
    folder = dataset[0]
    scores = tmp_path / "expression.tsv"
    score(folder, scores)
    expected = [
        {"dataset": "d", "image_encoder": image, "gene_encoder": "mlp", "seed": seed}
        for image, seed in (("good", 1), ("poor", 1), ("poor", 2))
    ]
    options = json.dumps({"experiment": "e", "expected": expected})
    out = {name: str(tmp_path / f"t.{name}") for name in ("tsv", "md", "tex", "png", "svg")}
    show_expression.main(
        [
            "--scores",
            str(scores),
            "--table",
            out["tsv"],
            "--markdown",
            out["md"],
            "--latex",
            out["tex"],
            "--options",
            options,
        ]
    )
    table = expression_table.TABLE.read(out["tsv"])
    assert expression_table.TABLE.matches(table[0])
    reads = {
        (r["recipe"], r["image_encoder"]): r["reads"]
        for r in table
        if r["gene_encoder"] and r["metric"] == "pearson"
    }
    for recipe in ("published", "corrected"):
        assert reads[recipe, "good"] == "degrades for all 2 donors"
        assert reads[recipe, "poor"] == "improves for all 2 donors"
    markdown = (tmp_path / "t.md").read_text()
    assert "seed 2 (the run stored no images of its train split)" in markdown
    assert "| 1 of 2, without 2 |" in markdown
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    arguments = ["--scores", str(scores), "--png", out["png"], "--svg", out["svg"]]
    show_expression.main([*arguments, "--options", options])
    assert (tmp_path / "t.png").stat().st_size > 10_000
    other = json.dumps({"experiment": "f"})
    with pytest.raises(InputError, match="give only scores of f"):
        show_expression.main([*arguments, "--options", other])
    with pytest.raises(InputError, match="experiment: found nothing"):
        show_expression.main(arguments)


def test_the_axis_of_the_figure_fits_the_data_and_seeds_have_their_deviation():
    after = {"1": {"all": 0.40, "D1": 0.39}, "2": {"all": 0.44, "D1": 0.41}}
    titles = {"image": {"A": "Encoder A"}, "gene": {"mlp": "The MLP"}}

    def draw(after):
        rows = table_rows({"all": 0.38, "D1": 0.37, "D2": 0.39}, after)
        figure = expression_figure.plot_scores(rows, "title", titles)
        (axis,) = figure.axes
        shown = [tuple(line.get_xdata()) for line in axis.lines]
        legend = [text.get_text() for text in figure.legends[0].get_texts()]
        return axis, shown, "± standard deviation over seeds" in legend

    axis, shown, explained = draw(after)
    low, high = axis.get_xlim()
    assert 0.34 < low < 0.37
    assert 0.44 < high < 0.48
    assert [name.get_text() for name in axis.get_yticklabels()] == ["Encoder A", "with The MLP"]
    spread = 0.04 / 2**0.5
    assert explained
    assert any(
        ends == pytest.approx((0.42 - spread, 0.42 + spread)) for ends in shown if len(ends) == 2
    )
    assert (0.37, 0.39) in shown  # the range of the donors
    assert not draw({"1": after["1"]})[2]
