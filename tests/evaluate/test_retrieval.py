"""Ranks, recall, chance, intervals, the shift test, and the program that scores runs."""

import json
import subprocess
import sys

import golden
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.stats import rankdata

import score_retrieval
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.evaluate import equal_vectors, intervals, nearby_hits, ranks, retrieval
from pairscape.pretrain import failures, run_embeddings

RNG_SEED = 20


def unit(array):
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def pairs(count, noise=3.0, width=16, seed=RNG_SEED):
    rng = np.random.default_rng(seed)
    first = rng.standard_normal((count, width))
    return unit(first), unit(first + noise * rng.standard_normal((count, width)))


def grid(rows, columns, pitch_um=55.0):
    y, x = np.mgrid[:rows, :columns]
    return np.column_stack([x.ravel(), y.ravel()]) * pitch_um + pitch_um / 2


def rank_all(queries, gallery, block=None):
    """Entries more similar than the partner, and as similar, where all pairs are the gallery."""
    queries, gallery = ranks.finite(queries), ranks.finite(gallery)
    same = np.zeros(len(queries), int)
    found = ranks.rank_pairs(queries, gallery, same, same, block=block)["split"][0]
    return found.better, found.ties


def slow_ranks(queries, gallery, partner):
    """The definition, one similarity at a time; small integers make every product exact."""
    better, ties = [], []
    for query, mate in zip(queries, partner, strict=True):
        own = sum(a * b for a, b in zip(query, gallery[mate], strict=True))
        others = [
            sum(a * b for a, b in zip(query, entry, strict=True))
            for place, entry in enumerate(gallery)
            if place != mate
        ]
        better.append(sum(other > own for other in others))
        ties.append(sum(other == own for other in others))
    return better, ties


# ------------------------------------------------------------------------------------------- ranks


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(1, 30),
    block=st.integers(1, 40),
)
def test_ranks_equal_the_slow_loop(seed, count, block):
    rng = np.random.default_rng(seed)
    first, second = rng.integers(-2, 3, (2, count, 3)).astype(np.float32)
    better, ties = rank_all(first, second, block=block)
    expected = slow_ranks(first.tolist(), second.tolist(), range(count))
    assert (better.tolist(), ties.tolist()) == expected


def near_ties(first, second):
    """Per query, the entries so close to the partner that a processor's rounding decides.

    Other kernels add up float32 products in another order: both similarities move by a few units in
    the last place of the vectors' lengths. Of a million, some are closer to the partner's.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    similarity = first @ second.T
    lengths = np.outer(np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1))
    apart = np.abs(similarity - similarity.diagonal()[:, None])
    return (apart <= 16 * np.finfo(np.float32).eps * lengths).sum(axis=1) - 1


@pytest.mark.parametrize("case", ["n64", "n1000", "n1000_weak"])
@pytest.mark.parametrize("kind", ["raw", "normalised"])
def test_ranks_equal_the_golden_reference(shared, case, kind):
    facts, arrays = golden.read(shared, "metrics")
    images, genes = golden.retrieval_case(facts, case)
    count = len(images)
    if kind == "normalised":
        images, genes = unit(images), unit(genes)
    expected = facts["retrieval"][f"{case}_{kind}"]["get_clip_metrics"]
    for name, first, second in (
        ("image_to_gene", images, genes),
        ("gene_to_image", genes, images),
    ):
        better, ties = rank_all(first, second)
        found = ranks.Ranks(better, ties, np.full(count, count))
        near = near_ties(first, second)
        assert near.mean() < 0.05  # all other ranks must be the reference's
        if name == "image_to_gene":
            assert (np.abs(better - arrays[f"{case}_{kind}_i2g_rank0"]) <= near).all()
        for k in (1, 5, 10):
            least, most = (
                retrieval.recall_at(better + turned, ties, k).mean() for turned in (near, -near)
            )
            assert least - 1e-6 <= expected[f"test/{name}_R@{k}"] <= most + 1e-6
        rank = retrieval.mid_rank(found)
        mean_rank = pytest.approx(expected[f"test/{name}_mean_rank"], abs=1e-4 + near.mean())
        assert rank.mean() == mean_rank
        # The reference takes the lower of the two middle ranks.
        least, most = (np.sort(rank + turned)[(count - 1) // 2] for turned in (-near, near))
        assert least <= expected[f"test/{name}_median_rank"] <= most


def test_batches_equal_the_golden_reference(shared):
    facts, _ = golden.read(shared, "metrics")
    expected = facts["retrieval"]["n1000_raw_batches_of_256"]["size_weighted_mean"]
    images, genes = golden.retrieval_case(facts, "n1000")
    for name, first, second in (("image_to_gene", images, genes), ("gene_to_image", genes, images)):
        (found,) = ranks.rank_in_batches(first, second, 256)
        assert np.bincount(found.size).nonzero()[0].tolist() == [232, 256]
        values = retrieval.metrics(found, [1, 5, 10])
        for metric, wanted in (
            *((f"recall@{k}", expected[f"test/{name}_R@{k}"]) for k in (1, 5, 10)),
            ("mean_rank", expected[f"test/{name}_mean_rank"]),
            ("median_rank", expected[f"test/{name}_median_rank"]),
        ):
            assert retrieval.summarise(metric, values[metric][0], found.batch) == pytest.approx(
                wanted, abs=1e-4 if "rank" in metric else 1e-6
            )


@pytest.mark.parametrize("alike", ["both", "gallery"])
@pytest.mark.parametrize("count", [181, 1000, 1007])
def test_equal_embeddings_score_exactly_chance(count, alike):
    images, genes = pairs(count, width=128)
    genes = np.repeat(genes[:1], count, axis=0)
    if alike == "both":
        images = np.repeat(images[:1], count, axis=0)
    better, ties = rank_all(images, genes)
    assert better.max() == 0
    assert set(ties.tolist()) == {count - 1}
    found = ranks.Ranks(better, ties, np.full(count, count))
    for metric, (values, worst) in retrieval.metrics(found, [1, 5, 10]).items():
        expected = retrieval.chance(metric, found.size)
        assert retrieval.summarise(metric, values) == pytest.approx(expected)
        assert retrieval.summarise(metric, worst) == (count if "rank" in metric else 0)


def test_duplicates_in_the_gallery_are_ties_whatever_blas_rounds():
    images, genes = pairs(1007, width=128)
    kind = np.arange(1007) % 9
    better, ties = rank_all(images, genes[kind])
    copies = np.bincount(kind)
    np.testing.assert_array_equal(ties, copies[kind] - 1)
    similarity = images.astype(np.float64) @ genes[:9].T.astype(np.float64)
    above = similarity > similarity[np.arange(1007), kind][:, None]
    np.testing.assert_array_equal(better, above @ copies)


def test_minus_zero_is_zero():
    gallery = np.array([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], np.float32)
    _, ties = rank_all(gallery[[0, 0, 0]], gallery)
    assert ties.tolist() == [1, 1, 0]


def test_the_block_size_changes_nothing():
    images, genes = pairs(257)
    whole = rank_all(images, genes, block=257)
    for block in (1, 32, 100):
        np.testing.assert_array_equal(rank_all(images, genes, block=block), whole)


def test_embeddings_that_are_not_finite_are_never_ranked():
    images, genes = pairs(20)
    genes[3, 2] = np.nan
    index = pd.DataFrame({"sample": ["a"] * 20, "donor": "d", "x_um": 0.0, "y_um": 0.0})
    embedded = {"images": images, "genes": genes, "index": index}
    with pytest.raises(ValueError, match="finite"):
        retrieval.score_run(embedded, retrieval.RetrievalOptions.of({}))


# ------------------------------------------------------------------------------- metrics and chance


def test_recall_is_the_expected_value_under_random_breaking():
    better, ties = np.array([0, 3, 4, 9]), np.array([0, 4, 9, 3])
    rng = np.random.default_rng(0)
    drawn = better + rng.integers(0, ties + 1, (200_000, 4))
    for k in (1, 5, 10):
        np.testing.assert_allclose(
            retrieval.recall_at(better, ties, k), (drawn < k).mean(axis=0), atol=0.005
        )


def slow_hits(similarity, candidates, hits):
    """Entries above the best hit, level with it and no hit, and hits at the best: the definition."""
    best = max(similarity[j] for j in hits)
    above = sum(similarity[j] > best for j in candidates)
    level = [j for j in candidates if similarity[j] == best]
    return above, sum(j not in hits for j in level), sum(j in hits for j in level)


def scattered(count, seed):
    """Samples and donors in no order, spots on a grid, and small integers that tie often."""
    rng = np.random.default_rng(seed)
    samples = np.array(["d1_a", "d2_a", "d1_b", "d3_a"])[rng.integers(4, size=count)]
    donors = np.array([name[:2] for name in samples])
    xy_um = grid(count // 8 + 1, 8)[rng.permutation(8 * (count // 8 + 1))[:count]]
    images, genes = (rng.integers(-1, 2, (count, 4)).astype(np.float32) for _ in range(2))
    return samples, donors, xy_um, images, genes


def nearby_rows(samples, xy_um, radius_um):
    distance = np.linalg.norm(xy_um[:, None] - xy_um[None], axis=2)
    return (distance <= radius_um + 1e-6) & (samples[:, None] == samples[None])


@pytest.mark.parametrize("device", ["cpu", "torch"])
@pytest.mark.parametrize("seed", range(4))
def test_every_gallery_equals_the_slow_loop(seed, device, monkeypatch):
    if device == "torch":  # the path of the GPU, with tensors of the CPU
        torch = pytest.importorskip("torch")
        device = torch.device("cpu")
    samples, donors, xy_um, images, genes = scattered(90, seed)
    near = nearby_rows(samples, xy_um, 110)
    targets = ranks.neighbours(samples, xy_um, 110)
    for i in range(90):
        np.testing.assert_array_equal(
            np.sort(targets.rows[targets.starts[i] : targets.starts[i + 1]]),
            np.flatnonzero(near[i]),
        )
    found = ranks.rank_pairs(images, genes, donors, samples, [targets], device, block=32)
    assert list(found) == ["split", "sample", "other_donors"]
    assert len(found["other_donors"]) == 1
    similarity = images @ genes.T
    for i in range(90):
        others = [j for j in range(90) if donors[j] != donors[i]]
        of_sample = np.flatnonzero(samples == samples[i]).tolist()
        for name, candidates in (
            ("split", list(range(90))),
            ("sample", of_sample),
            ("other_donors", [i, *others]),
        ):
            for which, hits in enumerate([[i], np.flatnonzero(near[i]).tolist()]):
                if which == len(found[name]):
                    continue
                got = found[name][which]
                level = got.level if np.isscalar(got.level) else got.level[i]
                assert (got.better[i], got.ties[i], level) == slow_hits(
                    similarity[i], candidates, hits
                )
                assert got.size[i] == len(candidates)
                assert (got.targets if np.isscalar(got.targets) else got.targets[i]) == len(hits)


@pytest.mark.parametrize("processes", [1, 4])
def test_batches_equal_the_slow_loop_over_what_torch_reads(processes):
    """The published gallery: torch's own sampler deals the rows, its own loader cuts the batches."""
    torch = pytest.importorskip("torch")
    samples, _, xy_um, images, genes = scattered(101, 7)
    near = nearby_rows(samples, xy_um, 110)
    targets = ranks.neighbours(samples, xy_um, 110)
    batches = []
    for rank in range(processes):
        sampler = torch.utils.data.DistributedSampler(
            range(101), num_replicas=processes, rank=rank, shuffle=False
        )
        loader = torch.utils.data.DataLoader(torch.arange(101), batch_size=16, sampler=sampler)
        batches += [batch.tolist() for batch in loader]
    assert [rows.tolist() for rows in ranks.batch_rows(101, 16, processes)] == batches
    found = ranks.rank_in_batches(images, genes, 16, processes, [targets])
    similarity = images @ genes.T
    at = 0
    for number, batch in enumerate(batches):
        for i in batch:
            for got, hits in zip(found, ([i], np.flatnonzero(near[i])), strict=True):
                hits = [j for j in hits if j in batch]
                assert (got.better[at], got.ties[at], got.level[at]) == slow_hits(
                    similarity[i], batch, hits
                )
                assert (got.rows[at], got.batch[at], got.size[at]) == (i, number, len(batch))
                assert got.targets[at] == len(hits)
            at += 1
    assert at == len(found[0].better) == -(-101 // processes) * processes


def test_fewer_pairs_than_processes_are_repeated_as_torch_does():
    torch = pytest.importorskip("torch")
    for count in (1, 2, 3):
        dealt = [
            list(
                torch.utils.data.DistributedSampler(
                    range(count), num_replicas=8, rank=rank, shuffle=False
                )
            )
            for rank in range(8)
        ]
        assert [rows.tolist() for rows in ranks.batch_rows(count, 64, 8)] == dealt


def test_one_donor_has_no_other_donors():
    images, genes = pairs(20)
    found = ranks.rank_pairs(images, genes, np.repeat("d", 20), np.repeat(["a", "b"], 10))
    assert set(found) == {"split", "sample"}


def test_a_sample_of_two_donors_is_refused():
    images, genes = pairs(20)
    with pytest.raises(ValueError, match="two donors"):
        ranks.rank_pairs(images, genes, np.repeat(["d", "e"], 10), np.repeat("a", 20))


def test_vectors_that_share_a_hash_are_still_told_apart(monkeypatch):
    array = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]], np.float32)

    class Zeros:
        def integers(self, *_, size, dtype):
            return np.zeros(size, dtype)

    monkeypatch.setattr(equal_vectors.np.random, "default_rng", lambda _: Zeros())
    assert equal_vectors.kinds(array).tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(6))
def test_hits_of_several_targets_are_the_expected_value_under_random_breaking(seed):
    rng = np.random.default_rng(seed)
    better, ties, level = rng.integers([0, 0, 1], [8, 8, 9])
    # Each draw puts the tied entries in another order; the first `level` of them are targets.
    order = np.argsort(rng.random((200_000, ties + level)), axis=1)
    first = better + 1 + np.argmax(order < level, axis=1)
    found = ranks.Ranks(*(np.array([n]) for n in (better, ties, 99, level, level)))
    for k in (1, 5, 10):
        hit = retrieval.recall_at(found.better, found.ties, k, found.level)
        assert hit[0] == pytest.approx((first <= k).mean(), abs=0.005)
        bound = retrieval.recalls(found, [k])[f"recall@{k}"][1][0]
        assert bound == (better + ties < k)
        assert bound <= hit[0] + 1e-12
    assert retrieval.mid_rank(found)[0] == pytest.approx(first.mean(), abs=0.03)
    assert retrieval.worst_rank(found)[0] == first.max()


def test_chance_of_a_hit_nearby_is_that_of_targets_anywhere():
    rng = np.random.default_rng(5)
    sizes, targets = np.array([64, 20, 9, 4]), np.array([5, 1, 9, 3])
    for k in (1, 5, 10):
        hits = [
            (np.argsort(rng.random((40_000, n)), axis=1)[:, :k] < t).any(axis=1).mean()
            for n, t in zip(sizes, targets, strict=True)
        ]
        metric = f"recall@{k}_within_110um"
        assert retrieval.chance(metric, sizes, targets) == pytest.approx(np.mean(hits), abs=0.005)
        exact = retrieval.chance(f"recall@{k}", sizes)
        assert exact == pytest.approx(np.minimum(k / sizes, 1).mean())


def test_equal_embeddings_score_exactly_chance_in_every_gallery_and_radius():
    samples, donors, xy_um, *_ = scattered(150, 3)
    equal = np.tile(unit(np.ones((1, 128)) + np.arange(128)), (150, 1))
    targets = ranks.neighbours(samples, xy_um, 110)
    found = ranks.rank_pairs(equal, equal, donors, samples, [targets])
    for processes in (1, 4):
        found[f"batches of {processes}"] = ranks.rank_in_batches(
            equal, equal, 16, processes, [targets]
        )
    assert len(found) == 5
    for several in found.values():
        for metric, (values, worst) in retrieval.metrics(several[0], [1, 5, 10]).items():
            expected = retrieval.chance(metric, several[0].size, 1, several[0].batch)
            # Between galleries of different sizes the median of a mixture isn't that of middles.
            if metric != "median_rank" or len(np.unique(several[0].size)) == 1:
                found_value = retrieval.summarise(metric, values, several[0].batch)
                assert found_value == pytest.approx(expected)
            np.testing.assert_array_equal(
                worst, several[0].size if "rank" in metric else several[0].size <= int(metric[7:])
            )
        for of_radius in several[1:]:
            for metric, (values, _) in retrieval.recalls(of_radius, [1, 5, 10]).items():
                expected = retrieval.chance(metric, of_radius.size, of_radius.targets)
                assert values.mean() == pytest.approx(expected)


@pytest.mark.parametrize("sizes", [[64], [5], [64, 64, 16], [1], [3, 7, 100]])
def test_chance_is_the_score_of_partners_anywhere(sizes):
    size = np.repeat(sizes, sizes)
    rng = np.random.default_rng(0)
    better = rng.integers(0, np.tile(size, (4000, 1)))
    assert retrieval.chance("recall@5", size) == pytest.approx((better < 5).mean(), abs=0.01)
    assert retrieval.chance("mean_rank", size) == pytest.approx(1 + better.mean(), rel=0.01)
    assert retrieval.chance("median_rank", size) == pytest.approx(
        np.median(better + 1), rel=0.03, abs=0.6
    )


# ---------------------------------------------------------------------------------------- intervals


def interval_of_mean(values, units, rows=None):
    rows = np.arange(len(values)) if rows is None else rows
    return intervals.of_means({"mean": values}, *intervals.select(units, rows))["mean"]


def test_the_interval_covers_what_it_claims():
    """Blocks are the independent units here, so the interval of a mean must cover at its level."""
    xy = grid(24, 24, 55)
    samples = np.repeat("s", len(xy))
    covered = 0
    for trial in range(150):
        blocks = intervals.draw_blocks(samples, xy, 220, 300, trial)
        rng = np.random.default_rng(trial)
        values = rng.standard_normal(blocks.unit.max() + 1)[blocks.unit] + 1.0
        low, high = interval_of_mean(values, blocks)
        covered += low <= 1.0 <= high
    assert 0.86 <= covered / 150 <= 0.99


def test_the_interval_over_donors_covers_new_donors_where_that_over_blocks_does_not():
    """Values that differ between donors: only donors are independent, and only drawing them covers."""
    covered = {"donors": 0, "blocks": 0}
    donors = np.repeat([f"d{i}" for i in range(12)], 36)
    xy = np.concatenate([grid(6, 6)] * 12)
    for trial in range(150):
        rng = np.random.default_rng(trial)
        values = np.repeat(rng.standard_normal(12), 36) + 0.3 * rng.standard_normal(432) + 1.0
        for name, units in (
            ("donors", intervals.draw_donors(donors, 300, trial)),
            ("blocks", intervals.draw_blocks(donors, xy, 110, 300, trial)),
        ):
            low, high = interval_of_mean(values, units)
            covered[name] += low <= 1.0 <= high
    assert 0.84 <= covered["donors"] / 150 <= 0.99
    assert covered["blocks"] / 150 <= 0.4


def test_spots_of_a_block_are_drawn_together():
    xy = grid(12, 12, 55)
    blocks = intervals.draw_blocks(np.repeat("s", 144), xy, 330, 2000, 0)
    assert blocks.counts == {"s": 4}
    low, high = interval_of_mean(blocks.unit.astype(float), blocks)
    # Four equal blocks of values 0 to 3: the mean of four draws; single spots would give +- 0.2.
    assert low == pytest.approx(0.5, abs=0.26)
    assert high == pytest.approx(2.5, abs=0.26)


def test_donors_are_drawn_whole_and_weigh_by_their_queries():
    units = intervals.draw_donors(np.array(["b", "a", "b", "b"]), 500, 1)
    assert (units.weights.sum(axis=1) == 2).all()
    values = np.array([1.0, 0.0, 1.0, 1.0])
    low, high = interval_of_mean(values, units)
    assert (low, high) == (0.0, 1.0)
    one_each = units.weights[(units.weights == 1).all(axis=1)][:1]
    drawn = intervals.of_means({"m": values}, units.unit, one_each)["m"]
    assert drawn == pytest.approx((0.75, 0.75))


def test_intervals_of_means_equal_repeated_queries():
    rng = np.random.default_rng(8)
    of = rng.integers(0, 7, 90)
    weights = rng.multinomial(7, np.full(7, 1 / 7), 200).astype(np.int16)
    weights[:, of[0]] += 1
    values = {"one": rng.random(90), "two": rng.random(90) ** 3}
    found = intervals.of_means(values, of, weights)
    for name, each in values.items():
        drawn = [np.repeat(each, weight[of]).mean() for weight in weights]
        assert found[name] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


@pytest.mark.parametrize("batched", [False, True])
def test_weighted_medians_equal_repeated_values(batched):
    rng = np.random.default_rng(3)
    values, of = rng.integers(1, 9, 50).astype(float), rng.integers(0, 6, 50)
    batch = rng.integers(0, 5, 50) if batched else None
    weights = rng.integers(0, 4, (40, 6)).astype(np.int16)
    weights[:, 0] += 1
    of[0] = 0
    expected = []
    for weight in weights:
        times = weight[of]
        if not batched:
            expected.append(np.median(np.repeat(values, times)))
            continue
        parts = [np.sort(np.repeat(values, times * (batch == b))) for b in range(5)]
        lower = [part[(len(part) - 1) // 2] * len(part) for part in parts if len(part)]
        expected.append(sum(lower) / times.sum())
    np.testing.assert_allclose(intervals._medians(values, batch, of, weights), expected)
    assert intervals.median(values) == np.median(values)


def test_blocks_are_resampled_within_each_sample():
    xy = np.concatenate([grid(6, 6), grid(6, 6)])
    samples = np.repeat(["a", "b"], 36)
    blocks = intervals.draw_blocks(samples, xy, 110, 200, 0)
    assert (blocks.weights[:, :9].sum(axis=1) == 9).all()
    assert (blocks.weights[:, 9:].sum(axis=1) == 9).all()
    alone = intervals.draw_blocks(samples[:36], xy[:36], 110, 200, 0)
    np.testing.assert_array_equal(alone.weights, blocks.weights[:, :9])


def test_one_block_has_no_interval_and_says_why():
    xy = grid(5, 5)
    blocks = intervals.draw_blocks(np.repeat("s", 25), xy, 330, 100, 0)
    assert intervals.select(blocks, np.arange(25)) is None
    assert "no interval" in intervals._over_blocks(blocks, 330, ["s"], 1)


# --------------------------------------------------------------------------------------- shift test


def field(shape, width, smooth, rng):
    margin = int(4 * smooth) + 1
    noise = rng.standard_normal((shape[0] + 2 * margin, shape[1] + 2 * margin, width))
    cut = gaussian_filter(noise, (smooth, smooth, 0))[margin:-margin, margin:-margin]
    return (cut / cut.std()).reshape(-1, width)


def smooth_pairs(shape, smooth, signal, seed, keep=None):
    rng = np.random.default_rng([RNG_SEED, seed])
    images = field(shape, 8, smooth, rng)
    genes = signal * images + np.sqrt(1 - signal**2) * field(shape, 8, smooth, rng)
    xy = grid(*shape)
    rows = np.flatnonzero(keep(xy, rng)) if keep else np.arange(len(xy))
    noisy = [unit(a + 0.5 * rng.standard_normal(a.shape))[rows] for a in (images, genes)]
    return *noisy, xy[rows]


def p_values(shape, smooth, signal, seeds, keep=None, turn=0.0):
    angle = np.deg2rad(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = []
    for seed in seeds:
        images, genes, xy = smooth_pairs(shape, smooth, signal, seed, keep)
        samples = np.repeat("s", len(xy))
        result = nearby_hits.shift_p_values(images, genes, samples, xy @ matrix, 299, seed)
        found.append(result["all"][0])
    return np.array(found)


def disc(xy, rng):
    centre = xy.mean(axis=0)
    return ((xy - centre) ** 2).sum(axis=1) < (xy.max() / 2) ** 2


def holes(xy, rng):
    return rng.random(len(xy)) < 0.75


@pytest.mark.slow
def test_the_shift_test_is_valid_for_independent_smooth_fields():
    settings = [(0, None, 0), (1.5, None, 0), (3, None, 20), (2, disc, 88.5), (2, holes, 0)]
    found = np.array(
        [
            p_values((15, 16), smooth, 0, range(80 * number, 80 * (number + 1)), *rest)
            for number, (smooth, *rest) in enumerate(settings)
        ]
    )
    assert (found <= 0.05).mean() <= 0.08
    assert (found <= 0.01).mean() <= 0.025
    assert ((found <= 0.05).mean(axis=1) <= 0.15).all()
    assert ((np.median(found, axis=1) > 0.35) & (np.median(found, axis=1) < 0.65)).all()


def test_permuting_single_spots_would_not_be_valid():
    """What the shifts are for: free permutations call independent smooth fields alike."""
    significant = 0
    for seed in range(40):
        images, genes, xy = smooth_pairs((15, 16), 3.0, 0.0, seed)
        rng = np.random.default_rng(seed)
        free = np.array([rng.permutation(len(xy)) for _ in range(199)], np.int32)
        statistics = nearby_hits.shift_statistics(images, genes, free)
        significant += nearby_hits._p_value(statistics[0], statistics[1:]) <= 0.05
    assert significant / 40 > 0.3


@pytest.mark.parametrize(("smooth", "keep", "turn"), [(1.5, None, 0.0), (2.0, disc, 88.5)])
def test_the_shift_test_finds_weak_signal(smooth, keep, turn):
    found = p_values((15, 16), smooth, 0.4, range(20), keep, turn)
    assert (found <= 0.01).mean() >= 0.8


def test_moves_never_hold_the_identity_and_are_drawn_once():
    xy = grid(9, 11)
    moves = nearby_hits.shifted_partners(xy, 10_000, [0])
    still = (moves == np.arange(99)).sum(axis=1)
    assert len(moves) < 2 * 99
    assert len({move.tobytes() for move in moves}) == len(moves)
    assert still.max() < 99
    assert ((moves >= 0).mean(axis=1) >= 0.4).all()


def test_moves_are_rigid_on_a_turned_grid():
    angle = np.deg2rad(33.0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = grid(8, 9, 200.0) @ turn
    tree_distance = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    for move in nearby_hits.shifted_partners(xy, 60, [1]):
        kept = np.flatnonzero(move >= 0)
        distance = tree_distance[np.ix_(kept, kept)]
        moved = tree_distance[np.ix_(move[kept], move[kept])]
        # A spot that falls just off the section takes a spot of its edge; all others keep place.
        assert np.median(np.abs(distance - moved)) < 1e-6


def test_moves_with_little_overlap_are_as_variable_as_those_with_much():
    xy = grid(20, 20)
    spread = {"little": [], "much": []}
    for seed in range(6):
        moves = nearby_hits.shifted_partners(xy, 1000, [seed])
        overlap = (moves >= 0).mean(axis=1)
        images, genes, _ = smooth_pairs((20, 20), 0.0, 0.0, seed)
        statistics = nearby_hits.shift_statistics(images, genes, moves)[1:]
        spread["little"].append(statistics[overlap < 0.5].std())
        spread["much"].append(statistics[overlap > 0.75].std())
    assert np.mean(spread["little"]) / np.mean(spread["much"]) == pytest.approx(1, abs=0.15)


def test_equal_embeddings_are_no_evidence():
    xy = grid(8, 8)
    images = np.repeat(pairs(1)[0], 64, axis=0)
    _, genes = pairs(64)
    for first, second in ((images, genes), (genes, images), (images, images)):
        result = nearby_hits.shift_p_values(first, second, np.repeat("s", 64), xy, 99, 0)
        assert result["all"][0] == 1.0


def test_several_sections_are_tested_together():
    xy = np.concatenate([grid(10, 10), grid(9, 12)])
    samples = np.repeat(["a", "b"], [100, 108])
    images, genes = pairs(208, noise=6)
    result = nearby_hits.shift_p_values(images, genes, samples, xy, 999, 0)
    assert set(result) == {"a", "b", "all"}
    assert result["all"][0] <= 0.002
    assert "2 sections" in result["all"][1]


# ---------------------------------------------------------------------------------------- programs

OPTIONS = {"experiment": "e", "dataset": "d", "bootstrap": 50, "permutations": 49}


def make_run(
    root,
    seed=1,
    shape=(9, 8),
    samples=("A", "B"),
    noise=3.0,
    experiment="e",
    words="",
    donors=None,
    known=True,
    control="",
):
    count = shape[0] * shape[1]
    images, genes = pairs(count * len(samples), noise, seed=seed)
    donors = donors or [f"donor_{sample}" for sample in samples]
    index = [
        {
            "row": number * count + place,
            "sample": sample,
            "donor": donors[number],
            "spot": f"{place:03d}",
            "array_row": place // shape[1],
            "array_col": place % shape[1],
            "x_um": x,
            "y_um": y,
            "organ": "Breast" if number else "Lung",
            "disease_state": "Cancer",
        }
        for number, sample in enumerate(samples)
        for place, (x, y) in enumerate(grid(*shape))
    ]
    folder = root / f"runs/{experiment}/d/i-g/seed{seed}"
    run_embeddings.write_run_embeddings(folder, "test", images, genes, index, {})
    files.write_json(
        folder / "options.json",
        {
            "experiment": experiment,
            "dataset": "d",
            "image_encoder": "i",
            "gene_encoder": "g",
            "seed": seed,
            "options_sha256": "0" * 64,
            "options": {"image_encoder": {"control": control} if control else {}},
            "splits": [
                {
                    "sample": sample,
                    "split": "test",
                    "shared_donors": words,
                    "donor": donor,
                    "donor_known": str(known),
                }
                for sample, donor in zip(samples, donors, strict=True)
            ],
        },
    )
    return folder / "options.json"


def score(runs, out, **options):
    given = json.dumps({**OPTIONS, **options})
    score_retrieval.main(["--runs", *map(str, runs), "--scores", str(out), "--options", given])
    return pd.read_csv(out, sep="\t", keep_default_na=False)


def test_scores_are_complete_and_tidy(tmp_path):
    runs = [make_run(tmp_path, seed, words="one patient") for seed in (2, 1)]
    table = score(runs, tmp_path / "retrieval.tsv")
    assert tuple(table.columns) == retrieval.SCORES.names
    # 2 runs, 2 directions; all, 2 samples, 2 donors, 2 organs, 1 disease state; 3 recalls and 2
    # ranks in 5 galleries, 3 recalls nearby in all but that of other donors.
    assert len(table) == 2 * 2 * 8 * (5 * 5 + 4 * 3)
    keys = ["seed", "direction", "gallery", "group_by", "group", "metric"]
    assert not table.duplicated(keys).any()
    assert set(table["gallery"]) == {
        *("in_batch_64", "in_batch_64_ranks_4", "split", "sample", "other_donors")
    }
    assert set(table["donors_shared"]) == {"one patient"}
    assert set(table["status"]) == {"scored"}
    whole = table[(table["gallery"] == "split") & (table["metric"] == "recall@10")]
    assert (whole["value"] > 3 * whole["chance"]).all()
    assert (table["pessimistic"] == table["value"]).all()  # nothing is tied here
    row = table[(table["gallery"] == "sample") & (table["group_by"] == "sample")].iloc[0]
    assert (row["queries"], row["gallery_size"]) == (72, 72)
    assert float(row["p_value"]) <= 0.02
    of_all = whole[whole["group_by"] == "all"]
    assert "spatial blocks of 330 um within these donors (2)" in of_all["ci_over"].iloc[0]
    assert (table["ci_low"].astype(float) <= table["value"]).all()
    assert (table["ci_high"].astype(float) >= table["value"]).all()
    others = table[(table["gallery"] == "other_donors") & (table["group_by"] == "all")]
    assert set(others["gallery_size"]) == {73}
    by_donor = whole[(whole["group_by"] == "donor") & (whole["seed"] == 1)].groupby("direction")
    for _, row in of_all[of_all["seed"] == 1].iterrows():
        values = by_donor.get_group(row["direction"])["value"]
        assert (float(row["donor_low"]), float(row["donor_high"])) == (values.min(), values.max())
        assert values.min() <= row["value"] <= values.max()
    assert set(table[table["group_by"] == "organ"]["group"]) == {"Lung", "Breast"}


def test_a_group_is_scored_on_its_own_queries_against_the_whole_gallery(tmp_path):
    table = score([make_run(tmp_path)], tmp_path / "retrieval.tsv")
    embedded = run_embeddings.read_run_embeddings(tmp_path / "runs/e/d/i-g/seed1", "test")
    similarity = np.asarray(embedded["genes"]) @ np.asarray(embedded["images"]).T
    rank = rankdata(-similarity, axis=1).diagonal()
    for group_by, group in (("donor", "donor_B"), ("organ", "Breast"), ("sample", "B")):
        row = table[
            (table["gallery"] == "split")
            & (table["direction"] == "g2i")
            & (table["group_by"] == group_by)
            & (table["group"] == group)
        ].set_index("metric")
        assert row.loc["recall@5", "value"] == pytest.approx((rank[72:] <= 5).mean(), rel=1e-5)
        assert row.loc["median_rank", "value"] == np.median(rank[72:])
        assert row.loc["recall@5", "gallery_size"] == 144


def test_from_six_donors_on_the_interval_is_over_donors(tmp_path):
    samples = [f"S{i}" for i in range(7)]
    donors = ["d0", "d1", "d2", "d3", "d4", "d5", "d5"]
    run = make_run(tmp_path, shape=(7, 7), samples=samples, donors=donors, known=False)
    table = score([run], tmp_path / "out.tsv", permutations=0)
    of_all = table[table["group_by"] == "all"]
    assert set(of_all["ci_over"]) == {"bootstrap over 6 donors, 6 of them placeholders"}
    assert set(of_all["donors"]) == {6}
    rows = table[table["group_by"] == "donor"]["ci_over"]
    assert rows.str.contains("within this donor").all()
    five = make_run(tmp_path, 2, (7, 7), samples[:5], donors=donors[:5])
    over = score([five], tmp_path / "five.tsv", permutations=0).query("group_by == 'all'")[
        "ci_over"
    ]
    assert over.str.contains("within these donors (5)", regex=False).all()


def test_a_failed_run_is_a_row_that_says_why(tmp_path):
    good = make_run(tmp_path, 1)
    folder = tmp_path / "runs/e/d/i-g/seed2"
    run = {"experiment": "e", "dataset": "d", "image_encoder": "i", "gene_encoder": "g", "seed": 2}
    failures.write(folder, run, failures.reason(MemoryError()), "8 GB asked")
    # As failed.json alone, as older runs left it, and as options.json, which stands in its place.
    files.write_json(tmp_path / "o/options.json", files.read_json(folder / "failed.json"), True)
    paths = (folder / "options.json", folder / "failed.json", tmp_path / "o/options.json")
    for path in paths:
        table = score([good, path], tmp_path / "out.tsv")
        failed = table[table["status"] != "scored"]
        assert failed["status"].tolist() == ["out of memory"]
        assert failed["value"].tolist() == [""]
        assert failed["seed"].tolist() == [2]
        assert set(table[table["status"] == "scored"]["seed"]) == {1}
    failures.clear(folder)
    with pytest.raises(InputError, match=r"options\.json"):
        score([good, folder / "options.json"], tmp_path / "out.tsv")


def test_a_failure_without_a_reason_is_refused(tmp_path):
    path = tmp_path / "runs/e/d/i-g/seed2/failed.json"
    run = {"experiment": "e", "dataset": "d", "image_encoder": "i", "gene_encoder": "g", "seed": 2}
    failures.write(path.parent, run, "")
    with pytest.raises(InputError, match="reason"):
        score([path], tmp_path / "out.tsv")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("shapes differ"), None),
        (ValueError("out of memory"), None),
    ],
)
def test_only_a_lack_of_memory_is_a_recorded_failure(error, why):
    assert failures.reason(error) == why


def test_controls_are_named_in_the_scores(tmp_path):
    run = make_run(tmp_path, control="floor: untrained image encoder")
    table = score([run], tmp_path / "out.tsv", permutations=0, bootstrap=0)
    assert set(table["control"]) == {"floor: untrained image encoder"}


def test_a_sample_of_two_donors_is_refused_by_name(tmp_path):
    run = make_run(tmp_path, samples=("A", "A"), donors=["d", "e"])
    with pytest.raises(InputError, match="sample A: found 2 donors"):
        score([run], tmp_path / "out.tsv")


def test_equal_embeddings_of_a_run_score_chance_and_lose_every_tie(tmp_path):
    run = make_run(tmp_path)
    paths = run_embeddings.run_files(run.parent, "test")
    meta = files.read_json(paths["meta"])
    for what in ("images", "genes"):
        array = np.load(paths[what])
        array[:] = array[0]
        np.save(paths[what], array)
        meta["sha256"][what] = files.sha256_file(paths[what])
    files.write_json(paths["meta"], meta)
    table = score([run], tmp_path / "out.tsv")
    recall = table[table["metric"].str.startswith("recall")]
    np.testing.assert_allclose(recall["value"], recall["chance"], rtol=2e-5)
    plain = recall[~recall["metric"].str.contains("within") & (recall["gallery"] != "other_donors")]
    assert (plain["pessimistic"].astype(float) == 0).all()
    assert (table["p_value"].replace("", "1").astype(float) == 1).all()


def test_scores_do_not_depend_on_order_or_run(tmp_path):
    runs = [make_run(tmp_path, seed) for seed in (1, 2)]
    score(runs, tmp_path / "a.tsv")
    score(runs[::-1], tmp_path / "b.tsv")
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()


def test_one_query_scores_chance_without_interval_or_test(tmp_path):
    table = score([make_run(tmp_path, shape=(1, 1), samples=("A",))], tmp_path / "out.tsv")
    one = table["gallery"] != "in_batch_64_ranks_4"  # one pair, read once by each of 4 processes
    assert set(table[one]["queries"]) == {1}
    assert set(table[~one]["queries"]) == {4}
    assert (table["value"] == table["chance"]).all()
    assert set(table["ci_low"]) == set(table["p_value"]) == {""}
    assert table["ci_over"].str.startswith("no interval").all()
    tested = (table["gallery"] == "sample") & table["group_by"].isin(["all", "sample"])
    assert table[tested]["p_test"].str.startswith("no test").all()


def test_an_empty_split_is_refused(tmp_path):
    run = make_run(tmp_path, shape=(0, 4), samples=("A",))
    with pytest.raises(InputError, match="no pair to score"):
        score([run], tmp_path / "out.tsv")
    assert not (tmp_path / "out.tsv").exists()


def test_a_missing_split_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"val\.json"):
        score([make_run(tmp_path)], tmp_path / "out.tsv", split="val")


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_broken_embeddings_are_refused(tmp_path, value):
    run = make_run(tmp_path)
    paths = run_embeddings.run_files(run.parent, "test")
    genes = np.load(paths["genes"])
    genes[5] = value
    np.save(paths["genes"], genes)
    meta = files.read_json(paths["meta"])
    meta["sha256"]["genes"] = files.sha256_file(paths["genes"])
    files.write_json(paths["meta"], meta)
    with pytest.raises(InputError, match=r"test_genes\.npy"):
        score([run], tmp_path / "out.tsv")


def test_runs_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(InputError, match="give only runs of experiment e"):
        score([make_run(tmp_path, experiment="other")], tmp_path / "out.tsv")


def test_a_run_given_twice_is_refused(tmp_path):
    run = make_run(tmp_path)
    with pytest.raises(InputError, match="give each run once"):
        score([run, run], tmp_path / "out.tsv")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("recall_at", [0]),
        ("in_batch", 0),
        ("block_um", 0),
        ("bootstrap", -1),
        ("radius_um", [0]),
        ("in_batch_ranks", []),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(InputError, match=name):
        score([make_run(tmp_path)], tmp_path / "out.tsv", **{name: value})


def test_a_damaged_score_is_refused(tmp_path):
    path = tmp_path / "retrieval.tsv"
    score([make_run(tmp_path)], path)
    path.write_text(path.read_text().replace("\t72\t", "\tmany\t", 1))
    with pytest.raises(InputError, match="many"):
        retrieval.read_scores(path)


def test_reading_the_module_imports_nothing_heavy():
    code = (
        "import sys, pairscape.evaluate.retrieval, pairscape.report.retrieval_table; "
        "import pairscape.pretrain.failures, pairscape.report.page; "
        "import pairscape.report.retrieval_figure, pairscape.report.comparisons; "
        "heavy = {'numba', 'torch', 'pandas', 'matplotlib', 'scipy', 'jinja2', 'PIL'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={"PYTHONPATH": str(next(p for p in sys.path if p.endswith("scripts")))},
    )
