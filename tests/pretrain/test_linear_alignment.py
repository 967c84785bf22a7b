"""The closed-form pair: what it recovers, what it is equal to, and what it never reads."""

from pathlib import Path

import numpy as np
import pytest

from pairscape.core.errors import InputError
from pairscape.dataset.expression_counts import TrainFacts
from pairscape.encoders import specs
from pairscape.pretrain import linear_alignment

OPTIONS = {"method": "cca", "penalties": [0.1], "embedding_dim": 128}
ROWS = {"train": np.arange(600), "val": np.arange(600, 900), "test": np.arange(900, 1200)}
FACTS = TrainFacts(100.0, np.zeros(30))
DONORS = np.array(["A"] * 200 + ["B"] * 250 + ["C"] * 150 + ["D"] * 220 + ["E"] * 80 + ["F"] * 300)


def planted(shared=4, seed=0):
    """Features and counts of 1,200 spots that share a latent, and have much of their own."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((1200, shared))
    own = rng.standard_normal((1200, 6))
    features = 3 + latent @ rng.standard_normal((shared, 20)) + own @ rng.standard_normal((6, 20))
    features += 0.3 * rng.standard_normal(features.shape)
    rates = np.exp(0.6 * latent @ rng.standard_normal((shared, 30)) + rng.standard_normal(30) + 1)
    return features.astype(np.float32), rng.poisson(rates).astype(np.int32)


@pytest.fixture(scope="module")
def pair():
    return planted()


def fitted(pair, **options):
    return linear_alignment.fit(*pair, options.pop("rows", ROWS), FACTS, {**OPTIONS, **options})


def rank_of(alignment, pair, rows):
    features, counts = pair
    return linear_alignment.reciprocal_rank(
        alignment.embed_images(features[rows]), alignment.embed_genes(counts[rows])
    )


def same(a, b):
    return np.array_equal(a.image_map, b.image_map) and np.array_equal(a.gene_map, b.gene_map)


def standard(values, train):
    return (values - values[train].mean(0)) / values[train].std(0)


@pytest.mark.parametrize("method", linear_alignment.METHODS)
def test_a_shared_latent_is_found_in_pairs_never_seen(pair, method):
    alignment = fitted(pair, method=method, penalties=[0.01, 0.1, 1.0])
    chance = np.mean(1 / np.arange(1, 301))
    assert chance < 0.03
    assert rank_of(alignment, pair, ROWS["test"]) > 0.25
    features, counts = pair
    unrelated = (features, np.random.default_rng(1).permutation(counts))
    blind = fitted(unrelated, method=method, penalties=[0.01, 0.1, 1.0])
    assert rank_of(blind, unrelated, ROWS["test"]) < 2 * chance


def test_strengths_show_how_many_directions_are_shared():
    strengths = fitted(planted(shared=4), penalties=[1e-6]).about["strengths"]
    assert min(strengths[:4]) > 0.6
    assert max(strengths[4:]) < 0.4


def test_with_hardly_a_penalty_it_is_canonical_correlation_analysis(pair):
    features, counts = pair
    alignment = fitted(pair, penalties=[1e-9])
    x = (features[ROWS["train"]] - alignment.image_mean) @ alignment.image_map
    logs = linear_alignment.prepare(counts, 100.0)[ROWS["train"]]
    y = (logs - alignment.gene_mean) @ alignment.gene_map
    correlations = np.corrcoef(x, y, rowvar=False)
    d = x.shape[1]
    assert d == 20
    assert np.allclose(correlations[:d, :d], np.eye(d), atol=1e-5)
    assert np.allclose(correlations[d:, d:], np.eye(d), atol=1e-5)
    # By another way: the eigenvalues of inv(Sxx) Sxy inv(Syy) Syx are the squared correlations.
    sxx, syy = np.cov(features[ROWS["train"]], rowvar=False), np.cov(logs, rowvar=False)
    joint = np.cov(features[ROWS["train"]], logs, rowvar=False)[:d, d:]
    squared = np.linalg.eigvals(np.linalg.solve(sxx, joint) @ np.linalg.solve(syy, joint.T)).real
    expected = np.sqrt(np.sort(squared)[::-1])
    assert np.allclose(correlations[:d, d:].diagonal(), expected, atol=1e-5)
    assert np.allclose(alignment.about["strengths"], expected, atol=1e-5)


@pytest.mark.parametrize("width", [5, 128])
def test_ridge_is_that_of_scikit_learn_seen_along_its_leading_axes(pair, width):
    from sklearn.linear_model import Ridge

    features, counts = pair
    train, penalty = ROWS["train"], 0.3
    alignment = fitted(pair, method="ridge", penalties=[penalty], embedding_dim=width)
    x = standard(features.astype(np.float64), train)
    y = linear_alignment.prepare(counts, 100.0)
    # 20 standardised features have a mean variance of one.
    model = Ridge(alpha=penalty * len(train)).fit(x[train], y[train])
    expected = (model.predict(x) - alignment.gene_mean) @ alignment.gene_map
    found = (features - alignment.image_mean) @ alignment.image_map
    assert found.shape[1] == min(width, 20)
    assert np.allclose(found, expected, atol=1e-6)


class Guarded:
    """Rows of an array, but for those that nobody may read."""

    def __init__(self, array, forbidden):
        self.array, self.forbidden = array, set(forbidden.tolist())

    def __len__(self):
        return len(self.array)

    def __getitem__(self, rows):
        assert not self.forbidden & set(np.asarray(rows).tolist())
        return self.array[rows]


@pytest.mark.parametrize("with_val", [True, False])
def test_test_rows_are_never_read(pair, with_val):
    guarded = tuple(Guarded(array, ROWS["test"]) for array in pair)
    rows = ROWS if with_val else {"train": ROWS["train"], "test": ROWS["test"]}
    options = {"penalties": [0.01, 1.0], "donors": DONORS, "rows": rows}
    assert same(fitted(guarded, **options), fitted(pair, **options))


def test_val_rows_decide_the_penalty_and_nothing_else(pair):
    features, counts = (array.copy() for array in pair)
    features[ROWS["val"]] = features[ROWS["val"]][::-1]
    assert same(fitted((features, counts)), fitted(pair))
    features[ROWS["train"][0]] += 1
    assert not same(fitted((features, counts)), fitted(pair))


def test_the_penalty_is_the_best_on_val_over_donors(pair):
    penalties = [1e-3, 0.3, 30.0]
    alignment = fitted(pair, penalties=penalties, donors=DONORS)
    expected = []
    for penalty in penalties:
        one = fitted(pair, penalties=[penalty])
        donors = [ROWS["val"][DONORS[ROWS["val"]] == donor] for donor in "DE"]
        assert [len(mine) for mine in donors] == [220, 80]
        expected.append(np.mean([rank_of(one, pair, mine) for mine in donors]))
    assert np.allclose(alignment.about["scores"], expected, atol=1e-6)
    assert alignment.about["penalty"] == penalties[int(np.argmax(expected))]
    assert alignment.about["chosen_on"] == "val"
    assert same(alignment, fitted(pair, penalties=[alignment.about["penalty"]]))


def test_without_val_the_penalty_is_chosen_on_train_donors_left_out(pair):
    penalties, train = [1e-3, 0.3, 30.0], ROWS["train"]
    alignment = fitted(pair, penalties=penalties, donors=DONORS, rows={"train": train})
    expected = []
    for penalty in penalties:
        ranks = []
        for donor in "ABC":
            rest = {"train": train[DONORS[train] != donor]}
            one = fitted(pair, penalties=[penalty], rows=rest)
            ranks.append(rank_of(one, pair, train[DONORS[train] == donor]))
        expected.append(np.mean(ranks))
    assert np.allclose(alignment.about["scores"], expected, atol=1e-6)
    assert alignment.about["penalty"] == penalties[int(np.argmax(expected))]
    assert "3 folds" in alignment.about["chosen_on"]


def test_with_one_donor_and_no_val_the_middle_penalty_is_taken(pair):
    alignment = fitted(pair, penalties=[10.0, 0.1, 1.0], rows={"train": ROWS["train"]})
    assert alignment.about["penalty"] == 1.0
    assert alignment.about["scores"] == []


def test_the_size_of_blocks_and_an_offset_change_nothing(pair, monkeypatch):
    features, counts = pair
    whole = fitted((features.astype(np.float64), counts))
    monkeypatch.setattr(linear_alignment, "_BLOCK_ROWS", 7)
    blocks = fitted((features.astype(np.float64) + 1e6, counts))
    test = ROWS["test"]
    found = blocks.embed_images(features[test].astype(np.float64) + 1e6)
    # The sign of a direction is free, on both sides together.
    assert np.allclose(
        found @ blocks.embed_genes(counts[test]).T,
        whole.embed_images(features[test]) @ whole.embed_genes(counts[test]).T,
        atol=1e-4,
    )


def test_embeddings_are_unit_rows_of_the_width_that_the_data_allow(pair):
    features, counts = (array.copy() for array in pair)
    counts[:, 3] = 0  # a gene that nobody has
    counts[5] = 0  # a spot without counts
    features[:, 4] = features[:, 5]  # the same number twice
    alignment = fitted((features, counts), penalties=[1e-3, 1.0], embedding_dim=24)
    for found in (alignment.embed_images(features), alignment.embed_genes(counts)):
        assert found.dtype == np.float32
        assert found.shape == (1200, 19)
        assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert fitted(pair, embedding_dim=7).embed_genes(pair[1]).shape == (1200, 7)


def test_a_gene_seen_once_in_training_doesnt_outweigh_the_others(pair):
    features, counts = (array.copy() for array in pair)
    counts[:, 0] = 0
    counts[0, 0] = 1
    alignment = fitted((features, counts), penalties=[10.0])
    seen = counts[ROWS["test"]].copy()
    before = alignment.embed_genes(seen)
    seen[:, 0] = 5
    assert np.median((before * alignment.embed_genes(seen)).sum(1)) > 0.8


def test_it_is_read_as_it_was_saved(pair, tmp_path):
    alignment = fitted(pair, penalties=[0.1, 1.0])
    path = tmp_path / "model.ckpt"
    alignment.save(path)
    found = linear_alignment.load(path)
    assert same(found, alignment)
    assert found.about == alignment.about
    assert np.array_equal(found.embed_genes(pair[1]), alignment.embed_genes(pair[1]))
    for content in (path.read_bytes()[:1000], b"", b"something else"):
        (tmp_path / "broken.ckpt").write_bytes(content)
        with pytest.raises(InputError, match="pretrain again") as error:
            linear_alignment.load(tmp_path / "broken.ckpt")
        assert "\n" not in str(error.value)


def test_what_cant_be_fitted_is_one_line(pair):
    with pytest.raises(InputError, match="allowed: cca, ridge"):
        fitted(pair, method="pls")
    with pytest.raises(InputError, match="above zero"):
        fitted(pair, penalties=[0.0])
    with pytest.raises(InputError, match="image features: found no variance"):
        fitted((np.ones_like(pair[0]), pair[1]))


def test_ties_count_as_half_a_place():
    one = np.ones((4, 2))
    assert linear_alignment.reciprocal_rank(one, one) == 1 / 2.5
    assert linear_alignment.reciprocal_rank(np.eye(3), np.eye(3)) == 1


def test_its_file_declares_a_control_that_can_be_fitted(pair):
    root = Path(__file__).parents[2] / "config" / "encoders"
    spec = specs.read_encoder(root, "gene", "linear_alignment")
    assert spec["control"]
    alignment = fitted(pair, **spec["arguments"])
    assert alignment.about["penalty"] in spec["arguments"]["penalties"]
