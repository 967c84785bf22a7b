"""What each query retrieves: equal to a brute-force computation, in bounded memory, and told."""

import json
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from tiny_pairs import GENES, write_dataset

import score_hits
import show_hits
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.evaluate import hits, ranks
from pairscape.pretrain import failures, run_embeddings
from pairscape.report import hits_figure, hits_table

RUN = dict(zip(hits.RUN, ("e", "d", "uni", "mlp", 1), strict=True))


def unit(count, width=8, seed=0, near=0):
    array = np.random.default_rng(seed).normal(size=(count, width)) + near
    return (array / np.linalg.norm(array, axis=1, keepdims=True)).astype(np.float32)


def spots(count):
    """Two sections of spots 55 um apart, in rows of six."""
    rows = np.arange(count) // 2
    return pd.DataFrame(
        {
            "row": np.arange(count),
            "array_row": rows // 6,
            "array_col": rows % 6,
            "sample": np.where(np.arange(count) % 2, "S2", "S1"),
            "spot": [f"sp{row}" for row in rows],
            "donor": np.where(np.arange(count) % 2, "D2", "D1"),
            "x_um": rows % 6 * 55.0,
            "y_um": rows // 6 * 55.0,
        }
    )


def embedded(count=40, seed=0):
    images = unit(count, seed=seed)
    genes = unit(count, seed=seed + 1, near=2 * images)
    return {"images": images, "genes": genes, "index": spots(count)}


def brute(queries, gallery, top):
    """The nearest rows and the rank of the partner, one query at a time."""
    similarity = queries @ gallery.T
    found, rank = [], []
    for i, line in enumerate(similarity):
        order = sorted(range(len(line)), key=lambda j: (-line[j], j))
        found.append(order[:top])
        rank.append(1 + (line > line[i]).sum() + ((line == line[i]).sum() - 1) / 2)
    return np.array(found), np.array(rank)


@pytest.mark.parametrize("block", [1, 7, None])
@pytest.mark.parametrize("top", [1, 10, 100])
def test_hits_equal_a_brute_force_search(top, block):
    pairs = embedded()
    near = hits.nearest(pairs["images"], pairs["genes"], top, block)
    rows, rank = brute(pairs["images"], pairs["genes"], top)
    assert near.rows.tolist() == rows.tolist()
    assert near.rank == pytest.approx(rank)
    products = (pairs["images"] @ pairs["genes"].T)[np.arange(40)[:, None], rows]
    assert near.similarities == pytest.approx(products, abs=1e-6)


def test_equal_partners_come_in_the_order_of_the_gallery_and_share_the_rank():
    queries, gallery = unit(30), unit(30, seed=1)
    gallery[[3, 11, 20]] = queries[11]  # three are the same
    near = hits.nearest(queries, gallery, 3)
    assert near.rows[11].tolist() == [3, 11, 20]
    assert near.rank[11] == 2  # level with two others: 1 + 2 / 2
    assert len(set(near.similarities[11])) == 1


def test_the_rank_is_that_of_the_retrieval_scores():
    pairs = embedded(200)
    index = pairs["index"]
    donors, samples = (index[name].to_numpy(str) for name in ("donor", "sample"))
    (whole,) = ranks.rank_pairs(pairs["images"], pairs["genes"], donors, samples)["split"]
    near = hits.nearest(pairs["images"], pairs["genes"], 10)
    assert near.rank == pytest.approx(1 + whole.better + whole.ties / 2)


def test_distances_are_within_the_section_alone():
    index = spots(12)
    samples, xy_um = index["sample"].to_numpy(str), index[["x_um", "y_um"]].to_numpy()
    rows = np.array([[0, 1, 2, 4]] + [[0, 0, 0, 0]] * 11)
    away = hits.distances_um(samples, xy_um, rows)
    assert away[0, [0, 2, 3]] == pytest.approx([0, 55, 110])
    assert np.isnan(away[0, 1])  # the same place in the other section


def test_a_large_gallery_takes_blocks_and_not_the_whole_matrix():
    queries = unit(6000)
    tracemalloc.start()
    hits.nearest(queries, queries, 10)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6000 * 6000 * 4 * 0.8


def write_run(root, pairs, **changes):
    names = RUN | changes
    folder = root / f"{names['image_encoder']}-{names['seed']}"
    run_embeddings.write_run_embeddings(
        folder, "test", pairs["images"], pairs["genes"], pairs["index"], {}
    )
    path = folder / "options.json"
    files.write_json(path, {**names, "splits": [], "options_sha256": "a" * 64})
    return path


def scored(root, paths, **options):
    out = root / "hits.parquet"
    given = json.dumps({"experiment": "e", "dataset": "d", **options})
    score_hits.main(["--runs", *map(str, paths), "--hits", str(out), "--options", given])
    return out


def test_the_program_tells_the_hits_of_every_run_direction_and_query(tmp_path):
    pairs = embedded()
    paths = [write_run(tmp_path, pairs), write_run(tmp_path, embedded(seed=5), seed=2)]
    tables = list(hits.read_hits(scored(tmp_path, paths, top=5)))
    heads = [(table["seed"][0], table["direction"][0], len(table)) for table in tables]
    assert heads == [(1, "i2g", 40), (1, "g2i", 40), (2, "i2g", 40), (2, "g2i", 40)]
    rows, rank = brute(pairs["genes"], pairs["images"], 5)
    back, index = tables[1], pairs["index"]
    assert back["rank"].to_numpy() == pytest.approx(rank)
    for query in (0, 17, 39):
        assert list(back["hit_spots"][query]) == list(index["spot"].iloc[rows[query]])
        assert list(back["hit_samples"][query]) == list(index["sample"].iloc[rows[query]])
        same = (index["sample"].iloc[rows[query]] == index["sample"][query]).to_numpy()
        assert np.isfinite(back["distances_um"][query].astype(float)).tolist() == same.tolist()


def test_the_same_runs_give_the_same_bytes_and_a_failed_one_no_rows(tmp_path):
    path = write_run(tmp_path, embedded())
    failed = tmp_path / "failed"
    failures.write(failed, RUN | {"seed": 3}, "out of memory")
    out = scored(tmp_path, [path, failures.beside(failed / "options.json")])
    first = out.read_bytes()
    assert {table["seed"][0] for table in hits.read_hits(out)} == {1}
    assert scored(tmp_path, [path]).read_bytes() == first


def test_what_can_not_be_told_is_refused(tmp_path):
    path = write_run(tmp_path, embedded())
    with pytest.raises(InputError, match="give each run once"):
        scored(tmp_path, [path, path])
    with pytest.raises(InputError, match="top: found 0"):
        scored(tmp_path, [path], top=0)
    with pytest.raises(InputError, match="give only runs of dataset other"):
        scored(tmp_path, [path], dataset="other")
    out = scored(tmp_path, [path])
    out.write_bytes(out.read_bytes()[:-9])
    with pytest.raises(InputError, match="score the hits again"):
        list(hits.read_hits(out))


def test_the_best_the_median_and_a_bad_query_are_shown_by_the_rule(tmp_path):
    pairs = embedded()
    out = scored(tmp_path, [write_run(tmp_path, pairs), write_run(tmp_path, pairs, seed=2)])
    made = [tmp_path / f"hits_e.{end}" for end in ("tsv", "md", "tex")]
    flags = zip(("--table", "--markdown", "--latex"), map(str, made), strict=True)
    given = ["--hits", str(out), "--options", json.dumps({"experiment": "e"})]
    show_hits.main([*given, *(part for flag in flags for part in flag)])
    rows = hits_table.TABLE.read(made[0])
    assert {row["seed"] for row in rows} == {"1"}
    assert [row["query"] for row in rows] == ["best", "median", "bad"] * 2
    _, rank = brute(pairs["images"], pairs["genes"], 10)
    assert [row["rank"] for row in rows[:3]] == [sorted(rank)[i] for i in (0, 20, 36)]
    text = made[1].read_text()
    assert "of 40" in text
    assert "µm" in text


@pytest.fixture(scope="module")
def drawable(tmp_path_factory):
    """Shards, and hits of a good pair, a poor one and a perfect control of their test sample."""
    root = tmp_path_factory.mktemp("drawable")
    shards, _, counts, _ = write_dataset(root)
    index = spots(24).assign(
        sample="S3", donor="D3", spot=[f"{i // 8:03d}x{i % 8:03d}" for i in range(24)]
    )
    good = embedded(24) | {"index": index}
    poor = {"images": unit(24, seed=7), "genes": unit(24, seed=8), "index": index}
    control = {"images": unit(24), "genes": unit(24), "index": index}
    runs = {"uni": good, "poor": poor, "copy": control}
    paths = [write_run(root, pairs, image_encoder=name) for name, pairs in runs.items()]
    return shards, counts[-24:], scored(root, paths)


def test_the_figure_shows_the_best_pair_that_is_no_control(drawable):
    firsts = hits_table.first_runs(hits.read_hits(drawable[2]))
    assert hits_figure.best_pair(firsts) == {"d": ("copy", "mlp")}
    assert hits_figure.best_pair(firsts, [["copy", "mlp"]]) == {"d": ("uni", "mlp")}
    # Where there is nothing but controls, the best of them.
    all_of_them = [["copy", "mlp"], ["uni", "mlp"], ["poor", "mlp"]]
    assert hits_figure.best_pair(firsts, all_of_them) == {"d": ("copy", "mlp")}
    figure = hits_figure.plot_hits({}, {}, {}, "title")  # every run failed
    assert figure.get_suptitle() == "title: no run has hits"


def test_the_figure_marks_the_right_partner_and_names_what_stands_out_in_counts(drawable):
    shards, counts, out = drawable
    firsts = hits_table.first_runs(hits.read_hits(out))
    gallery = hits_figure.Gallery({"S3": shards[-1]})
    logs = np.log1p(counts)
    above = logs - logs.mean(axis=0)
    for row in (0, 13):
        spot = gallery.spot("S3", f"{row // 8:03d}x{row % 8:03d}")
        leading = [i for i in np.argsort(-above[row])[:3] if counts[row, i]]
        assert spot.genes == [GENES[i] for i in leading]
        assert spot.patch.shape == (32, 32, 3)
    figure = hits_figure.plot_hits(firsts, {"d": gallery}, {"d": ("uni", "mlp")}, "title")
    marked = [panel for panel in figure.axes if "partner" in panel.get_title()]
    ranks_of = [
        query["rank"]
        for direction in ("i2g", "g2i")
        for _, query in hits_table.examples(firsts["d", "uni", "mlp", direction])
    ]
    numbers = [int(panel.get_title().split(":")[0]) for panel in marked]
    assert numbers == [rank for rank in ranks_of if rank <= 10]
    assert all(panel.spines["left"].get_linewidth() > 3 for panel in marked)
    words = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert [f"rank {rank:g} of 24" in text for rank, text in zip(ranks_of, words, strict=True)] == [
        True
    ] * 6
    assert words[0].startswith("Best query, its image looks for genes")


def test_the_program_draws_the_same_figure_twice_and_asks_for_shards(drawable, tmp_path):
    shards, _, out = drawable
    options = {"experiment": "e", "homes": {"d": None}}

    def draw(name, *flags):
        made = [str(tmp_path / f"{name}.{end}") for end in ("png", "svg")]
        pictures = ["--png", made[0], "--svg", made[1], "--options", json.dumps(options)]
        show_hits.main(["--hits", str(out), *flags, *pictures])
        return (tmp_path / f"{name}.png").read_bytes()

    given = ["--shards", *map(str, shards)]
    assert draw("one", *given) == draw("two", *given)
    with pytest.raises(InputError, match="shards: files: found none of S3 in None"):
        draw("three", *given[:2])
