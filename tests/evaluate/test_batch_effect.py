"""Silhouette-batch, BRAS, iLISI, confounding, and the programs that score, tabulate and plot them."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import silhouette_samples

import score_batch_effect
import show_batch_effect
import write_report
from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.dataset import cutting, gene_lists, pair_shards, splits
from pairscape.evaluate import batch_effect, clustering, retrieval, silhouettes
from pairscape.evaluate.clustering import BatchEffectOptions
from pairscape.images import encoding
from pairscape.report import batch_effect_figure, batch_effect_table, style

GENES = [f"GENE{i:02d}" for i in range(20)]


def spots(count, batches=3, labels=2, shift=0.5, width=8, seed=0):
    """Points of some labels, whose batches are shifted against each other."""
    rng = np.random.default_rng(seed)
    label, batch = rng.integers(labels, size=count), rng.integers(batches, size=count)
    points = rng.standard_normal((count, width)) + 6 * label[:, None]
    points[:, 0] += shift * batch
    return points.astype(np.float32), label, batch


def silhouette_batch(points, labels, batch, metric="euclidean", between="nearest"):
    """The score of a data set: the mean over its labels."""
    scores = batch_effect.score_labels(points, labels, batch, metric, between)
    return batch_effect.mean_over_labels(scores)


def bras(points, labels, batch, between="mean_other"):
    return silhouette_batch(points, labels, batch, "cosine", between)


def plain_score(points, labels, batch, metric="euclidean"):
    """The definition, by scikit-learn in double precision."""
    means = []
    for label in np.unique(labels):
        mine = labels == label
        count = len(np.unique(batch[mine]))
        if 1 < count < mine.sum():
            widths = silhouette_samples(points[mine].astype(np.float64), batch[mine], metric=metric)
            means.append(np.mean(1 - np.abs(widths)))
    return np.mean(means)


# -------------------------------------------------------------------------------------- silhouettes


def test_silhouettes_equal_the_golden_values(shared):
    golden = json.loads((shared / "golden" / "metrics.json").read_text())["silhouette"]
    arrays = np.load(shared / "golden" / "metrics.npz")
    data = arrays["sil_X"], arrays["sil_label"], arrays["sil_batch"]
    theirs = golden["scib_metrics"]
    for name, options in {
        "silhouette_batch": {},
        'silhouette_batch {"metric": "cosine"}': {"metric": "cosine"},
        'silhouette_batch {"between_cluster_distances": "mean_other"}': {"between": "mean_other"},
        'silhouette_batch {"between_cluster_distances": "furthest"}': {"between": "furthest"},
    }.items():
        assert silhouette_batch(*data, **options) == pytest.approx(theirs[name], abs=1e-6), name
    per_label = {s.label: s.value for s in batch_effect.score_labels(*data) if s.value is not None}
    assert per_label == pytest.approx(golden["plain_definition"]["per_label"], abs=1e-6)
    scaled = (data[0] - data[0].mean(0)) / data[0].std(0)
    assert silhouette_batch(scaled, *data[1:]) == pytest.approx(
        theirs["silhouette_batch after StandardScaler (as hescape does)"], abs=1e-6
    )


@pytest.mark.slow
def test_silhouette_and_bras_equal_scib_metrics():
    scib = pytest.importorskip("scib_metrics")
    # Two labels of 40 spots each: JAX compiles anew for each shape.
    points, _, batch = spots(80)
    labels = np.repeat([0, 1], 40)
    batch[:3] = [0, 1, 2]
    assert silhouette_batch(points, labels, batch) == pytest.approx(
        scib.silhouette_batch(points, labels, batch), abs=1e-6
    )
    assert bras(points, labels, batch) == pytest.approx(
        scib.metrics.bras(points, labels, batch), abs=1e-6
    )
    assert bras(points, labels, batch, "furthest") == pytest.approx(
        scib.metrics.bras(points, labels, batch, between_cluster_distances="furthest"), abs=1e-6
    )


@pytest.mark.slow
def test_ilisi_equals_scib_metrics():
    scib = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    points, _, batch = spots(100, labels=1)
    found = NearestNeighbors(n_neighbors=30).fit(points).kneighbors(points)
    theirs = scib.ilisi_knn(NeighborsResults(indices=found[1], distances=found[0]), batch)
    assert silhouettes.ilisi(points, batch, neighbours=30) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("far", [0.0, 300.0])
def test_silhouettes_equal_scikit_learn_over_several_blocks(monkeypatch, metric, far):
    # Far from the origin |x|² + |y|² - 2xy would lose what tells the points apart.
    monkeypatch.setattr(silhouettes, "_BLOCK", 37)
    points, labels, batch = spots(500)
    points += np.float32(far)
    assert silhouette_batch(points, labels, batch, metric) == pytest.approx(
        plain_score(points, labels, batch, metric), abs=1e-6
    )


def test_tight_batches_far_apart_keep_their_digits():
    rng = np.random.default_rng(1)
    batch = np.repeat([0, 1], 60)
    points = rng.standard_normal((120, 5)) * 0.01 + 500.0 * batch[:, None]
    expected = silhouette_samples(points, batch)
    np.testing.assert_allclose(silhouettes.silhouette_widths(points, batch), expected, atol=1e-7)


def test_labels_of_one_batch_are_skipped_and_each_label_weighs_the_same():
    points, _, _ = spots(60)
    labels = np.repeat(["a", "b", "c", "d"], [20, 10, 26, 4])
    batch = np.repeat(list("xyxxypqrs"), [10, 10, 10, 20, 6, 1, 1, 1, 1])  # d: all of them alone
    scores = {score.label: score for score in batch_effect.score_labels(points, labels, batch)}
    assert scores["b"].value is None
    assert scores["d"].value is None
    both = (scores["a"].value + scores["c"].value) / 2
    assert silhouette_batch(points, labels, batch) == pytest.approx(both)
    assert both == pytest.approx(plain_score(points, labels, batch), abs=1e-6)


def test_the_score_falls_with_the_shift_between_batches():
    scores = [silhouette_batch(*spots(400, shift=shift)) for shift in (0.0, 1.0, 3.0, 9.0)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 0.95
    assert scores[-1] < 0.5


def test_equal_points_and_a_spot_alone_in_its_batch_count_as_mixed():
    equal = np.ones((12, 4), np.float32)
    batch = np.array([0] * 6 + [1] * 6)
    assert silhouette_batch(equal, np.zeros(12), batch) == 1.0
    points, _, _ = spots(12)
    alone = np.array([0] * 11 + [1])
    assert silhouettes.silhouette_widths(points, alone)[-1] == 0.0


def test_nothing_to_compare_gives_no_score():
    points, labels, _ = spots(30)
    assert silhouette_batch(points, labels, np.zeros(30)) is None
    assert silhouettes.ilisi(points, np.zeros(30), neighbours=9) is None
    assert silhouettes.ilisi(points, labels, neighbours=30) is None


def test_points_that_are_not_finite_or_have_no_direction_are_refused():
    points, labels, batch = spots(30)
    with pytest.raises(ValueError, match="no direction"):
        bras(points * 0, labels, batch)
    points[3, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        silhouette_batch(points, labels, batch)
    with pytest.raises(ValueError, match="nearest, mean_other, furthest"):
        silhouette_batch(*spots(30), between="next")


def test_memory_stays_far_below_the_distance_matrix():
    import tracemalloc

    points, _, batch = spots(6000, width=4)
    silhouette_batch(points[:100], np.zeros(100), batch[:100])  # compiles
    tracemalloc.start()
    silhouette_batch(points, np.zeros(6000), batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # the matrix would take 144 MB


# --------------------------------------------------------------------------------------- confounding


def test_cramers_v_equals_scipy():
    rng = np.random.default_rng(3)
    first, second = rng.integers(3, size=200), rng.integers(4, size=200)
    table = np.zeros((3, 4), int)
    np.add.at(table, (first, second), 1)
    assert batch_effect.cramers_v(first, second) == pytest.approx(
        stats.contingency.association(table, method="cramer")
    )


def test_cramers_v_weighs_by_spots_and_knows_its_ends():
    assert batch_effect.cramers_v(list("aab"), list("xxy"), [5, 1, 9]) == pytest.approx(1.0)
    assert batch_effect.cramers_v(list("aabb"), list("xyxy"), [4, 2, 8, 4]) == pytest.approx(
        0.0, abs=1e-7
    )
    assert batch_effect.cramers_v(list("aab"), list("xxx")) is None
    assert batch_effect.cramers_v(list("ab"), list("xy"), [3, 0]) is None


# ---------------------------------------------------------------------------------------- clustering


@pytest.fixture(scope="module")
def space():
    rng = np.random.default_rng(4)
    tissues = rng.gamma(0.5, 20.0, (3, 30))
    counts = rng.poisson(tissues[np.arange(150) % 3]) + 1
    options = BatchEffectOptions.of({"components": 6})
    return counts, clustering.embed_counts([counts[:40], counts[40:]], 30, options)


@pytest.mark.slow
def test_points_are_the_principal_components_of_scaled_log_counts(space):
    counts, found = space
    logged = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    left, lengths, _ = np.linalg.svd(logged - logged.mean(0), full_matrices=False)
    expected = (left * lengths)[:, :6]
    signs = np.sign((found.points * expected).sum(0))
    np.testing.assert_allclose(found.points * signs, expected, atol=1e-3)
    assert found.representation.startswith("normalize_total 10000, log1p, all 30 genes")


def test_clusters_find_the_tissues_and_grow_in_number_with_the_resolution(space):
    found = space[1]
    clusters = clustering.cluster(found, 0.1, 0)
    assert len(set(zip(clusters, np.arange(150) % 3, strict=True))) == len(set(clusters)) == 3
    counts = [len(set(clustering.cluster(found, resolution, 0))) for resolution in (0.1, 1, 5)]
    assert counts == sorted(counts)
    assert counts[-1] > 3


def test_large_panels_keep_their_variable_genes(space):
    options = BatchEffectOptions.of({"variable_genes": 10})
    found = clustering.embed_counts([space[0]], 30, options)
    assert "10 of 30 genes (highly variable, flavor seurat)" in found.representation
    assert found.points.shape == (150, 9)


# ------------------------------------------------------------------------------------- the program


def write_dataset(folder, samples, rows=60, shift=0.0, empty=0, constant=False):
    """Write shards of two tissues in which samples differ by ``shift``, splits.tsv and genes.tsv.

    ``samples``: sample -> (donor, splits).
    """
    rng = np.random.default_rng(5)
    labels = {"name": list(samples), "source": ["simulated"], "tissue": ["breast"]}
    features = cutting.pair_features(len(GENES), labels)
    patch = encoding.encode_patch(np.zeros((16, 16, 3), np.uint8), "png")
    tissues = rng.gamma(0.5, 20.0, (2, len(GENES)))
    paths, table = [], []
    for sample, (donor, in_splits) in samples.items():
        own = np.exp(shift * rng.standard_normal(len(GENES)))
        counts = rng.poisson(tissues[np.arange(rows) % 2] * own) + 1
        if constant:
            counts[:] = 1
        counts[:empty] = 0
        row = {"sample": sample, "donor": donor, "source": "simulated", "organ": "breast"}
        place = {"um_per_px": 0.5, "tissue_fraction": 1.0, "cell_coords": np.zeros(2, np.float32)}
        path = folder / "shards" / f"{sample}.arrow"
        pair_shards.write_shard(
            path,
            (
                {
                    **cutting.sample_columns(row),
                    **place,
                    "image": patch,
                    "gexp": counts[i].astype(np.int32),
                    "spot": f"{i:03d}x000",
                    "array_row": i,
                    "array_col": 0,
                    "x_um": 55.0 * i,
                    "y_um": 0.0,
                }
                for i in range(rows)
            ),
            features,
            {key: None for key in pair_shards.METADATA_KEYS} | {"sample": sample, "genes": GENES},
        )
        paths.append(str(path))
        facts = {"donor_known": "True", "organ": "breast", "disease_state": "cancer"}
        if "other" in sample:
            facts = {"donor_known": "False", "organ": "lung", "disease_state": "healthy"}
        table += [
            {"sample": sample, "donor": donor, "split": split, "spots": rows, **facts}
            for split in in_splits
        ]
    tsv.write_tsv(
        folder / "splits.tsv",
        [{"shared_donors": "one spot, two splits", **row} for row in table],
        splits.SPLITS_TABLE.names,
    )
    gene_lists.write_genes(folder / "genes.tsv", [(gene, f"ENSG{gene}") for gene in GENES])
    return paths


def score(folder, paths, name="tiny", labels=None, **options):
    out = folder / f"{name}.tsv"
    options = {"dataset": name, "ilisi_neighbours": 20, **options}
    score_batch_effect.main(
        [
            *("--shards", *paths, "--splits", str(folder / "splits.tsv")),
            *("--genes", str(folder / "genes.tsv"), "--scores", str(out)),
            *(["--labels", str(labels)] if labels else []),
            *("--options", json.dumps(options)),
        ]
    )
    return out


def pick(rows, **wanted):
    wanted = {"group": "all"} | wanted
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


SAMPLES = {"S1": ("D1", ["train"]), "S2": ("D2", ["train"]), "S3_other": ("D3", ["val", "test"])}


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scored")
    paths = write_dataset(folder, SAMPLES, shift=0.2, empty=2)
    labels = folder / "labels.tsv"
    tsv.write_tsv(
        labels,
        [
            {"sample": sample, "spot": f"{i:03d}x000", "label": "ab"[i % 2]}
            for sample in SAMPLES
            for i in range(60)
        ],
        ("sample", "spot", "label"),
    )
    path = score(folder, paths, labels=labels)
    return path, paths, labels


def test_a_dataset_is_scored_by_split_and_donor_at_each_resolution(scored):
    rows = batch_effect.read_scores(scored[0])
    for batch, count in (("split", 3), ("donor", 3)):
        silhouettes = pick(rows, metric="silhouette_batch", batch=batch, label="leiden")
        assert [row["resolution"] for row in silhouettes] == [0.5, 1.0, 2.0]
        for row in [*silhouettes, *pick(rows, metric="bras", batch=batch, label="leiden")]:
            assert 0 < row["value"] <= 1
            assert row["batches"] == count
            assert row["labels"] >= 2
        (ilisi,) = pick(rows, metric="ilisi", batch=batch)
        assert 0 < ilisi["value"] <= 1.01


def test_every_choice_is_recorded(scored):
    row = pick(batch_effect.read_scores(scored[0]), metric="silhouette_batch", resolution=1.0)[0]
    assert row["representation"] == (
        "normalize_total 10000, log1p, all 20 genes, not scaled, PCA 19 (covariance_eigh)"
    )
    assert row["clustering"] == (
        "15 exact neighbours in X_pca, umap weights, Leiden igraph, n_iterations 2, seed 0"
    )
    assert row["distance"] == "euclidean, nearest other batch"
    assert "scanpy 1." in row["versions"]
    assert len(row["options_sha256"]) == 64


def test_a_spot_in_two_splits_counts_in_both_and_is_clustered_once(scored):
    rows = batch_effect.read_scores(scored[0])
    (split,) = pick(rows, metric="ilisi", batch="split")
    (donor,) = pick(rows, metric="ilisi", batch="donor")
    assert (split["spots"], donor["spots"]) == (4 * 58, 3 * 58)  # two of each are without counts
    assert "58 spots stand in two splits and count in both" in split["note"]
    assert "6 spots without counts are left out" in donor["note"]
    assert "1 of 3 donors are placeholders" in donor["note"]


def test_confounding_of_the_split_is_scored(scored):
    rows = batch_effect.read_scores(scored[0])
    for fact in ("organ", "disease_state"):
        (row,) = pick(rows, metric="cramers_v", label=fact)
        assert row["value"] == pytest.approx(1.0)


def test_labels_that_are_given_are_scored_beside_the_clusters(scored):
    rows = batch_effect.read_scores(scored[0])
    (row,) = pick(rows, metric="silhouette_batch", batch="donor", label="given")
    assert (row["labels"], row["resolution"], row["spots_skipped"]) == (2, None, 0)
    of_labels = [r for r in rows if r["label"] == "given" and r["group"] in ("a", "b")]
    assert len(of_labels) == 2 * 2 * 2  # labels, batches, metrics
    values = [
        r["value"] for r in of_labels if (r["metric"], r["batch"]) == ("silhouette_batch", "donor")
    ]
    assert row["value"] == pytest.approx(np.mean(values), abs=1e-6)


def test_the_same_input_gives_the_same_bytes(scored, tmp_path):
    path, paths, labels = scored
    again = score(path.parent, paths, labels=labels).read_bytes()
    assert again == path.read_bytes()


def test_a_stronger_shift_between_donors_lowers_the_score_of_the_true_labels(tmp_path):
    values = []
    for shift in (0.0, 0.5):
        folder = tmp_path / f"{shift}"
        paths = write_dataset(folder, SAMPLES, shift=shift)
        labels = folder / "labels.tsv"
        tsv.write_tsv(
            labels,
            [
                {"sample": s, "spot": f"{i:03d}x000", "label": i % 2}
                for s in SAMPLES
                for i in range(60)
            ],
            ("sample", "spot", "label"),
        )
        rows = batch_effect.read_scores(score(folder, paths, labels=labels))
        values += [
            r["value"] for r in pick(rows, metric="silhouette_batch", batch="donor", label="given")
        ]
    assert values[0] > values[1] + 0.1


def test_one_batch_has_no_score_and_says_why(tmp_path):
    paths = write_dataset(tmp_path, {"S1": ("D1", ["train"]), "S2": ("D1", ["train"])}, rows=30)
    rows = batch_effect.read_scores(score(tmp_path, paths, resolutions=[]))
    found = pick(rows, metric="silhouette_batch")
    assert len(found) == 2
    for row in found:
        assert row["value"] is None
        assert "one batch only" in row["note"]
        assert row["spots_skipped"] == 1
    for fact in pick(rows, metric="cramers_v"):
        assert fact["value"] is None
        assert "only" in fact["note"]


def test_equal_spots_count_as_mixed(tmp_path):
    paths = write_dataset(tmp_path, SAMPLES, rows=20, constant=True)
    rows = batch_effect.read_scores(score(tmp_path, paths, resolutions=[]))
    for row in pick(rows, metric="silhouette_batch"):
        assert row["value"] == 1.0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: {"resolution": -1}, "resolution"),
        (lambda folder: {"resolutoin": 1}, "resolutoin"),
        (lambda folder: {"dataset": ""}, "dataset"),
    ],
)
def test_wrong_options_are_refused(tmp_path, spoil, told):
    paths = write_dataset(tmp_path, SAMPLES, rows=8)
    with pytest.raises(InputError, match=told):
        score(tmp_path, paths, **spoil(tmp_path))


def test_a_dataset_without_counts_or_train_spots_or_labels_is_refused(tmp_path):
    paths = write_dataset(tmp_path, SAMPLES, rows=8, empty=8)
    with pytest.raises(InputError, match="0 spots with counts"):
        score(tmp_path, paths)
    paths = write_dataset(tmp_path, {"S1": ("D1", ["val"])}, rows=8)
    with pytest.raises(InputError, match=r"splits.tsv: split train: found 0 pairs"):
        score(tmp_path, paths)
    paths = write_dataset(tmp_path, SAMPLES, rows=8)
    labels = tmp_path / "labels.tsv"
    labels.write_text("sample\tspot\tlabel\nS1\t000x000\ta\n")
    with pytest.raises(InputError, match="sample S1, spot 001x000: found no label"):
        score(tmp_path, paths, labels=labels)


# ---------------------------------------------------------------------------------------- the table


def test_the_table_holds_the_numbers_of_the_scores(scored, tmp_path):
    table = tmp_path / "batch_effect.tsv"
    show_batch_effect.main(
        [
            *("--scores", str(scored[0]), "--table", str(table)),
            *("--markdown", str(tmp_path / "t.md"), "--latex", str(tmp_path / "t.tex")),
        ]
    )
    scores = batch_effect.read_scores(scored[0])
    rows = batch_effect_table.TABLE.read(table)
    assert [(row["batch"], row["label"]) for row in rows] == list(
        itertools.product(("split", "donor"), ("leiden", "given"))
    )
    assert batch_effect_table.TABLE.matches(rows[0])
    for row in rows:
        resolution = 1.0 if row["label"] == "leiden" else None
        wanted = {"batch": row["batch"], "label": row["label"], "resolution": resolution}
        for metric in ("silhouette_batch", "bras"):
            (expected,) = pick(scores, metric=metric, **wanted)
            assert row[metric] == pytest.approx(expected["value"], rel=1e-5)
    half = pick(scores, metric="silhouette_batch", batch="split", resolution=0.5)[0]
    assert rows[0]["silhouette_batch_at_0.5"] == pytest.approx(half["value"], rel=1e-5)
    markdown, latex = (tmp_path / "t.md").read_text(), (tmp_path / "t.tex").read_text()
    for text in (markdown, latex):
        assert f"{rows[0]['silhouette_batch']:.3f}" in text
        assert "placeholders" in text
    assert latex.count(r"\begin{table}") == 1


def test_the_report_shows_the_table_and_the_figure_in_a_chapter_of_their_own(scored, tmp_path):
    table = tmp_path / "batch_effect.tsv"
    scores = batch_effect.read_scores(scored[0])
    rows = batch_effect_table.tabulate(scores, {"tiny": 1.0})
    batch_effect_table.TABLE.write(table, rows)
    paths = write_panels(tmp_path, 4)
    _, out = plot(tmp_path, paths)
    page = tmp_path / "report.html"
    write_report.main(["--tables", str(table), "--figures", str(out["png"]), "--report", str(page)])
    retrieval_part, chapter = page.read_text().split('<section id="batch-effects">')
    chapter = chapter.split("</section>")[0]
    assert f"{rows[0]['silhouette_batch']:.3f}" in chapter
    assert "Batch effects, experiment e" in chapter
    assert "<img" in chapter
    assert "<img" not in retrieval_part


def test_a_table_refuses_a_damaged_or_repeated_file(scored, tmp_path):
    def tabulate(*paths):
        show_batch_effect.main(
            [
                *("--scores", *map(str, paths), "--table", str(tmp_path / "t.tsv")),
                *("--markdown", str(tmp_path / "t.md"), "--latex", str(tmp_path / "t.tex")),
            ]
        )

    copy = tmp_path / "copy.tsv"
    copy.write_text(scored[0].read_text())
    with pytest.raises(InputError, match=r"copy.tsv: dataset: found tiny, as in"):
        tabulate(scored[0], copy)
    copy.write_text(scored[0].read_text() + "tiny\n")
    with pytest.raises(InputError, match="number of fields"):
        tabulate(copy)
    copy.write_text(scored[0].read_text().replace("\tleiden\t0.5\t", "\tleiden\thalf\t", 1))
    with pytest.raises(InputError, match="resolution: found 'half'"):
        tabulate(copy)
    assert not (tmp_path / "t.tsv").exists()


# ------------------------------------------------------------------------------ against recall, panels


@pytest.mark.parametrize("ties", [False, True])
def test_spearman_and_its_exact_p_equal_scipy(ties):
    rng = np.random.default_rng(8)
    first, second = rng.standard_normal(6), rng.standard_normal(6)
    if ties:
        first[1] = first[0]
    found, p, test = batch_effect_table.spearman(first, second)

    def statistic(x):
        return stats.spearmanr(x, second).statistic

    assert found == pytest.approx(statistic(first))
    expected = np.mean(
        [abs(statistic(order)) >= abs(found) - 1e-9 for order in itertools.permutations(first)]
    )
    assert p == pytest.approx(expected)
    assert test == "exact, 720 orders of 6 panels"


def test_a_perfect_order_of_six_panels_has_p_2_in_720():
    found, p, _ = batch_effect_table.spearman(range(6), [1, 4, 9, 16, 25, 36])
    assert (found, p) == (pytest.approx(1.0), pytest.approx(2 / 720))
    assert batch_effect_table.spearman(range(6), [1.0] * 6)[2].startswith("no correlation")
    assert batch_effect_table.spearman([1, 2, 3], [1, 2, 3]) == (None, None, "too few panels: 3")


def test_many_panels_take_random_orders():
    rng = np.random.default_rng(2)
    first = rng.standard_normal(12)
    second = first + rng.standard_normal(12)
    found, p, test = batch_effect_table.spearman(first, second)
    expected = stats.spearmanr(first, second)
    assert "random orders" in test
    assert found == pytest.approx(expected.statistic)
    assert p == pytest.approx(expected.pvalue, abs=0.02)


def batch_row(dataset, value, **changes):
    row = dict.fromkeys(batch_effect.SCORES.names, "") | {
        "dataset": dataset,
        "metric": "silhouette_batch",
        "batch": "split",
        "label": "leiden",
        "resolution": 1.0,
        "group": "all",
        "value": value,
        "spots": 100,
        "batches": 3,
        "labels": 5,
        "labels_skipped": 1,
        "spots_skipped": 0.25,
    }
    return row | changes


def recall_row(dataset, value, **changes):
    row = dict.fromkeys(retrieval.SCORES.names, "") | {
        "experiment": "e",
        "dataset": dataset,
        "image_encoder": "uni",
        "gene_encoder": "mlp",
        "seed": "1",
        "split": "test",
        "direction": "i2g",
        "gallery": "in_batch_64",
        "group": "all",
        "metric": "recall@5",
        "value": value,
        "chance": 0.08,
    }
    return row | changes


def write_panels(folder, count, encoders=("uni",)):
    """Scores of ``count`` panels in which recall falls as silhouette-batch grows."""
    paths = {"batch": [], "recall": []}
    for i in range(count):
        name = f"p{i}"
        batch = [
            batch_row(name, 0.5 + 0.05 * i),
            batch_row(name, 0.3 + 0.02 * i, resolution=2.0),
            batch_row(name, 0.7, batch="donor"),
            batch_row(name, 0.1, group="3"),
            batch_row(name, 0.25 * i, metric="cramers_v", label="organ", resolution=None),
            batch_row(name, None, metric="cramers_v", label="disease_state", resolution=None),
        ]
        recall = [
            recall_row(name, 0.6 - 0.05 * i + add, direction=direction, seed=seed, image_encoder=e)
            for e in encoders
            for direction, add in (("i2g", 0.0), ("g2i", 0.02))
            for seed in "12"
        ]
        recall.append(recall_row(name, 0.01 * i, gallery="split"))
        recall.append(recall_row(name, 0.9, group="S1"))
        for kind, rows, write in (
            ("batch", batch, batch_effect.write_scores),
            ("recall", recall, retrieval.write_scores),
        ):
            path = folder / f"{kind}_{name}.tsv"
            write(path, rows)
            paths[kind].append(str(path))
    return paths


def plot(folder, paths, **options):
    panels = {f"p{i}": f"panel {i}" for i in range(len(paths["batch"]))}
    out = {name: folder / f"batch_effect_e.{name}" for name in ("png", "svg", "tsv")}
    show_batch_effect.main(
        [
            *("--scores", *paths["batch"], "--retrieval", *paths["recall"]),
            *("--png", str(out["png"]), "--svg", str(out["svg"]), "--numbers", str(out["tsv"])),
            *("--options", json.dumps({"experiment": "e", "panels": panels} | options)),
        ]
    )
    return tsv.read_tsv(out["tsv"]), out


def test_labels_of_close_points_are_spread():
    spread = batch_effect_figure._spread([0.9, 0.5, 0.5, 0.5, 0.02, 0.01])
    assert min(np.diff(spread[::-1])) >= 0.09 - 1e-9
    assert min(spread) >= 0
    assert spread[:2] == [0.9, 0.5]


def svg_words(monkeypatch, tmp_path, paths, **options):
    """The words of the figure; it is drawn with letters in place of their outlines."""
    monkeypatch.setitem(style.STYLE, "svg.fonttype", "none")
    return plot(tmp_path, paths, **options)[1]["svg"].read_text()


def test_the_numbers_behind_the_figure_are_means_over_seeds_and_directions(tmp_path):
    rows, out = plot(tmp_path, write_panels(tmp_path, 6))
    main = [r for r in rows if (r["batch"], r["resolution"]) == ("split", "1")]
    assert len(main) == 6
    assert {row["gallery"] for row in rows} == {"in_batch_64"}  # chance is the same on each panel
    for i, row in enumerate(main):
        assert float(row["silhouette_batch"]) == pytest.approx(0.5 + 0.05 * i)
        assert float(row["recall"]) == pytest.approx(0.61 - 0.05 * i)
        assert float(row["recall_i2g"]) == pytest.approx(0.6 - 0.05 * i)
        assert row["seeds"] == "2"
        assert float(row["spearman"]) == pytest.approx(-1)
        assert float(row["p_value"]) == pytest.approx(2 / 720, rel=1e-5)
        assert float(row["cramers_v_organ"]) == pytest.approx(0.25 * i)
        assert row["cramers_v_disease_state"] == ""
    assert {r["p_test"] for r in rows if r["batch"] == "donor"} == {
        "no correlation: all values are equal"
    }
    assert out["png"].stat().st_size > 10_000


def test_confounding_and_skipped_spots_stand_beside_each_point(monkeypatch, tmp_path):
    words = svg_words(monkeypatch, tmp_path, write_panels(tmp_path, 5))
    for i in range(5):
        assert f"V organ {0.25 * i:.2f}, V disease \N{EM DASH}, skipped 25%" in words
    assert "Spearman -1.00, p = 0.0167 (exact, 120 orders of 5 panels)" in words


def test_the_figure_has_no_causal_wording(monkeypatch, tmp_path):
    words = svg_words(monkeypatch, tmp_path, write_panels(tmp_path, 6)).lower()
    words += batch_effect_table.sections.__doc__.lower()
    for word in ("cause", "because", "leads to", "due to", "limits", "drives", "explains"):
        assert word not in words
    assert "these panels only" in words


def test_few_panels_get_points_and_no_coefficient(monkeypatch, tmp_path):
    paths = write_panels(tmp_path, 3)
    rows, _ = plot(tmp_path, paths)
    assert {row["spearman"] for row in rows} == {""}
    assert {row["p_test"] for row in rows} == {"too few panels: 3"}
    assert "too few panels: 3" in svg_words(monkeypatch, tmp_path, paths)


def test_datasets_of_one_panel_get_no_coefficient(tmp_path):
    panels = {f"p{i}": f"panel {min(i, 3)}" for i in range(5)}
    rows, _ = plot(tmp_path, write_panels(tmp_path, 5), panels=panels)
    assert {row["p_test"] for row in rows} == {
        "no correlation: datasets of one panel aren't independent"
    }


def test_the_mean_over_pairs_is_drawn_unless_a_pair_is_named(monkeypatch, tmp_path):
    paths = write_panels(tmp_path, 4, encoders=("uni", "conch"))
    rows, _ = plot(tmp_path, paths)
    assert {row["image_encoder"]: row["pairs"] for row in rows} == {
        "uni": "1",
        "conch": "1",
        "mean": "2",
    }
    assert "mean over 2 encoder pairs" in svg_words(monkeypatch, tmp_path, paths)
    assert "conch with mlp" in svg_words(monkeypatch, tmp_path, paths, pair=["conch", "mlp"])
    with pytest.raises(InputError, match="of gigapath with drvi: found none"):
        plot(tmp_path, paths, pair=["gigapath", "drvi"])


def test_a_pair_that_lacks_a_panel_is_not_in_the_mean(tmp_path):
    paths = write_panels(tmp_path, 4, encoders=("uni", "conch", "h0"))
    last = retrieval.read_scores(paths["recall"][3])
    retrieval.write_scores(
        paths["recall"][3], [row for row in last if row["image_encoder"] != "h0"]
    )
    rows, _ = plot(tmp_path, paths)
    assert {row["pairs"] for row in rows if row["image_encoder"] == "mean"} == {"2"}
    assert {row["panels"] for row in rows if row["image_encoder"] == "h0"} == {"3"}


def test_the_plot_refuses_scores_of_a_dataset_without_a_panel(tmp_path):
    with pytest.raises(InputError, match="panels: found none of p2"):
        plot(tmp_path, write_panels(tmp_path, 3), panels={"p0": "a", "p1": "b"})
