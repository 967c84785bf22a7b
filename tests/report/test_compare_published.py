"""The gap to the published numbers: zero where ours are theirs, and exactly what was put in."""

import itertools
import json
import statistics

import pytest
from conftest import ROOT
from test_tables import score_row

import compare_published
import write_report
from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.evaluate import retrieval
from pairscape.report import (
    chapters,
    published_gap,
    published_ranks,
    published_scores,
    published_sections,
)

TABLES = ROOT / "config/published"
SEEDS = (24442, 422244, 42424244)
PANELS = [
    *("human-5k-panel", "human-breast-panel", "human-colon-panel"),
    *("human-immuno-oncology-panel", "human-lung-healthy-panel", "human-multi-tissue-panel"),
]
IMAGES = ["ctranspath", "conch", "gigapath", "h0_mini", "uni"]
GENES = ["drvi", "mlp", "nicheformer", "scfoundation"]
OUTPUTS = {
    "table": "gap.tsv",
    "markdown": "gap.md",
    "latex": "gap.tex",
    "ranks": "ranks.tsv",
}


@pytest.fixture(scope="module")
def published():
    return published_scores.read_retrieval(TABLES / "retrieval.tsv")


def experiment(panels=PANELS, images=IMAGES, genes=GENES, seeds=SEEDS, **training):
    return {
        "protocol": "corrected",
        "training": resolve_part("training", training),
        "expected": [
            {"dataset": d, "image_encoder": i, "gene_encoder": g, "seed": seed}
            for d in panels
            for i in images
            for g in genes
            for seed in seeds
        ],
    }


def ours(cells, shift=lambda cell: 0.0, seeds=SEEDS, name="benchmark"):
    """Scores whose means over the seeds are the published ones, moved by ``shift``."""
    rows = []
    for cell in cells:
        if cell["mean"] is None:
            continue
        sd = cell["sd"] or 0.0
        offsets = (-sd, 0.0, sd) if len(seeds) == 3 else (0.0,) * len(seeds)
        for seed, offset in zip(seeds, offsets, strict=True):
            value = cell["mean"] + shift(cell) + offset
            rows.append(
                score_row(
                    value,
                    experiment=name,
                    dataset=cell["panel"],
                    image_encoder=cell["image_encoder"],
                    gene_encoder=cell["gene_encoder"],
                    direction=cell["direction"],
                    metric=f"recall@{cell['recall_at']}",
                    gallery=published_scores.GALLERY,
                    seed=seed,
                )
            )
            # Another gallery, whose numbers must not be taken for those of the paper.
            rows.append({**rows[-1], "gallery": "split", "value": 0.9})
    return rows


def compared(cells, rows, experiments=None, unlike=None):
    experiments = experiments or {"benchmark": experiment()}
    used = {run["dataset"] for of in experiments.values() for run in of["expected"]}
    datasets = {d: {"panel": d, "unlike": (unlike or {}).get(d, "")} for d in sorted(used)}
    return published_gap.compare(cells, rows, experiments, datasets)


def run(tmp_path, rows, experiments=None, datasets=None, **tables):
    experiments = experiments or {"benchmark": experiment()}
    used = {r["dataset"] for of in experiments.values() for r in of["expected"]}
    options = {
        "name": "benchmark",
        "experiments": experiments,
        "datasets": datasets or {d: {"panel": d, "unlike": ""} for d in sorted(used)},
    }
    argv = ["--options", json.dumps(options)]
    if rows:
        retrieval.write_scores(tmp_path / "retrieval.tsv", rows)
        argv += ["--scores", str(tmp_path / "retrieval.tsv")]
    for flag, file in {"published": "retrieval.tsv", "ablations": "ablations.tsv"}.items():
        argv += [f"--{flag}", str(tables.get(flag, TABLES / file))]
    for flag, file in OUTPUTS.items():
        argv += [f"--{flag}", str(tmp_path / file)]
    compare_published.main(argv)
    rows = published_gap.TABLE.read(tmp_path / "gap.tsv")
    return rows, (tmp_path / "gap.md").read_text(), (tmp_path / "gap.tex").read_text()


def row_of(rows, panel, image, gene, direction="i2g", k=5):
    wanted = (panel, image, gene, direction, k)
    (found,) = [row for row in rows if tuple(row[name] for name in published_gap.CELL) == wanted]
    return found


def test_scores_equal_to_the_published_have_no_gap_and_the_same_order(tmp_path, published):
    rows, markdown, latex = run(tmp_path, ours(published))
    assert len(rows) == len(published) == 720
    gaps = [row for row in rows if row["published_mean"] is not None]
    assert len(gaps) == 660
    assert all(row["difference"] == pytest.approx(0, abs=1e-6) for row in gaps)
    assert {row["inside"] for row in gaps if row["published_sd"] is not None} == {"yes"}
    ranks = tsv.read_tsv(tmp_path / "ranks.tsv")
    ranked = [row for row in ranks if row["spearman"]]
    assert {row["spearman"] for row in ranked} == {"1"}
    # The paper has only three gene encoders on two panels: too few for an order.
    assert {(r["panel"], r["of"]) for r in ranks if not r["spearman"]} == {
        (panel, "gene encoders") for panel in ("human-5k-panel", "human-multi-tissue-panel")
    }
    of_images = [float(row["p"]) for row in ranked if row["of"] == "image encoders"]
    assert min(of_images) == pytest.approx(1 / 120, rel=1e-4)  # one of the orders of five
    for text in (markdown, latex):
        assert "Published" in text
        assert "Inside" in text


def test_a_perturbation_comes_back_as_exactly_the_gap(published):
    def shift(cell):
        return (
            0.01 * (1 + IMAGES.index(cell["image_encoder"])) * (-1) ** (cell["direction"] == "g2i")
        )

    rows = compared(published, ours(published, shift))
    for cell in published:
        if cell["mean"] is not None:
            row = row_of(rows, *(cell[name] for name in published_gap.CELL))
            assert row["difference"] == pytest.approx(shift(cell), abs=1e-9)


def test_the_order_of_encoders_turned_round_is_told(published):
    cells = [cell for cell in published if cell["mean"] is not None]

    def turned(cell):
        return 0.5 - 2 * cell["mean"]

    rows = compared(published, ours(cells, turned))
    found = [row for row in published_ranks.agreement(rows) if row["spearman"] is not None]
    assert found
    assert {round(row["spearman"], 9) for row in found} == {-1.0}
    assert all(row["p"] > 0.9 for row in found)


def test_inside_the_spread_is_welchs_t_with_the_papers_deviation_and_ours():
    half = published_gap.half_width(0.01, 3, 0.01, 3)
    assert half == pytest.approx(2.7764451 * 0.01 * (2 / 3) ** 0.5 + 0.0005)  # t of 4 degrees
    one_sided = published_gap.half_width(None, 3, 0.01, 3)
    assert one_sided == pytest.approx(4.3026527 * 0.01 * (2 / 3) ** 0.5 + 0.0005)  # of 2 degrees
    assert published_gap.half_width(0.01, 3, None, 1) == pytest.approx(
        4.3026527 * 0.01 * (4 / 3) ** 0.5 + 0.0005
    )
    assert published_gap.half_width(None, 1, None, 1) is None
    assert published_gap.half_width(0.0, 3, 0.0, 3) == 0.0005


def test_a_gap_wider_than_the_spread_lies_outside(published):
    near = compared(published, ours(published, lambda cell: 0.9 * _half(cell)))
    far = compared(published, ours(published, lambda cell: 1.1 * _half(cell)))
    for rows, word in ((near, "yes"), (far, "no")):
        assert {row["inside"] for row in rows if row["published_sd"]} == {word}


def _half(cell):
    return published_gap.half_width(cell["sd"] or 0.0, 3, cell["sd"] or 0.0, 3)


def test_missing_runs_are_rows_that_say_so_by_name(tmp_path, published):
    cells = [
        cell
        for cell in published
        if cell["panel"] != "human-lung-healthy-panel"
        and (cell["image_encoder"], cell["gene_encoder"]) != ("uni", "drvi")
    ]
    scores = ours(cells)
    first = ("human-colon-panel", "conch", "mlp", SEEDS[1])
    names = ("dataset", "image_encoder", "gene_encoder", "seed")
    scores = [row for row in scores if tuple(row[name] for name in names) != first]
    failed = {
        **dict.fromkeys(retrieval.SCORES.names, ""),
        "experiment": "benchmark",
        "split": "test",
    }
    failed |= dict(zip(names, ("human-5k-panel", "uni", "drvi", SEEDS[0]), strict=True))
    scores.append(failed | {"status": "out of memory"})
    rows, markdown, _ = run(tmp_path, scores)
    assert len(rows) == 720
    assert row_of(rows, "human-lung-healthy-panel", "conch", "mlp")["ours_status"] == "not run"
    colon = row_of(rows, "human-colon-panel", "conch", "mlp")
    assert (colon["ours_seeds"], colon["seeds_missing"]) == (2, str(SEEDS[1]))
    assert row_of(rows, "human-5k-panel", "uni", "drvi")["ours_status"] == (
        f"failed: out of memory (seed {SEEDS[0]})"
    )
    told = published_gap.missing(rows)
    assert "human-lung-healthy-panel: nothing is scored" in told
    assert f"human-colon-panel: conch with mlp, seed {SEEDS[1]}" in told
    assert "human-breast-panel: uni with drvi, not run" in told
    assert "human-lung-healthy-panel: nothing is scored" in markdown.replace("\\", "")


def test_without_any_score_everything_is_told_as_missing(tmp_path):
    rows, markdown, _ = run(tmp_path, [])
    assert {row["ours_status"] for row in rows} == {"not run"}
    assert all(row["difference"] is None for row in rows)
    assert published_gap.missing(rows) == [f"{panel}: nothing is scored" for panel in _order(rows)]
    assert "Largest" not in markdown


def _order(rows):
    return list(dict.fromkeys(row["panel"] for row in rows))


def test_a_panel_that_is_not_planned_is_told_as_such(published):
    rows = compared(published, [], {"benchmark": experiment(panels=["human-colon-panel"])})
    assert "human-5k-panel: not planned" in published_gap.missing(rows)


def test_cells_that_the_paper_could_not_train_are_filled(published):
    lacking = [cell for cell in published if cell["status"] == "out-of-memory"]
    made = [{**cell, "mean": 0.2, "sd": 0.01} for cell in lacking]
    rows = compared(published, ours([*published, *made]))
    found = published_gap.filled(rows)
    assert len(found) == len(lacking) == 60
    assert all(row["difference"] is None and row["inside"] == "" for row in found)
    assert {row["published_status"] for row in found} == {"out-of-memory"}
    notes = " ".join(published_sections.sections(rows)[0]["notes"])
    assert "human-5k-panel: uni with scfoundation" in notes


def test_a_pair_that_the_paper_lacks_stands_apart_without_a_gap(published):
    cell = {**published[0], "image_encoder": "uni2_h", "mean": 0.3, "sd": 0.01}
    rows = compared(published, ours([*published, cell]))
    (only,) = [row for row in rows if row["published_status"] == published_gap.ABSENT]
    assert (only["image_encoder"], only["difference"], only["published_mean"]) == (
        "uni2_h",
        None,
        None,
    )
    assert len(rows) == 721


def test_a_dataset_that_does_not_compare_is_named_and_left_out(published):
    words = {"human-breast-panel": "simulated tissue"}
    rows = compared(published, ours(published), unlike=words)
    (row,) = [row for row in rows if row["ours_status"].startswith("not compared")]
    assert (row["dataset"], row["ours_status"]) == (
        "human-breast-panel",
        "not compared: simulated tissue",
    )
    assert row_of(rows, "human-breast-panel", "uni", "drvi")["ours_mean"] is None


def test_levels_of_an_ablation_are_told_by_the_training_options():
    cells = published_scores.read_ablations(TABLES / "ablations.tsv")
    small = {"panels": ["human-5k-panel", "human-colon-panel"], "images": ["gigapath", "uni"]}
    small |= {"genes": ["drvi"], "seeds": (24442,)}
    heads = ("linear", "mlp", "transformer")
    plans = {
        head: experiment(**small, image_tuning="frozen", image_projection=head) for head in heads
    }
    scores = [
        row
        for head in heads
        for row in ours(
            [c for c in cells if (c["factor"], c["level"]) == ("image_projection", head)],
            lambda cell: 0.02,
            seeds=(24442,),
            name=head,
        )
    ]
    rows = compared(cells, scores, plans)
    assert {row["source"] for row in rows} == {"Table 9"}
    assert len(rows) == 24
    assert all(row["difference"] == pytest.approx(0.02) for row in rows)
    assert {row["inside"] for row in rows} == {""}  # one seed on either side: no spread is known
    assert all(row["experiment"] == row["level"] for row in rows)
    found = {row["of"]: row for row in published_ranks.agreement(rows)}
    assert found["levels"]["test"] == "too few"
    assert found["cells"]["spearman"] == pytest.approx(1)
    assert found["cells"]["items"] == 6


def test_tables_are_chosen_by_what_all_experiments_hold_fast():
    def factors(*trainings):
        plans = {str(i): experiment(**t) for i, t in enumerate(trainings)}
        cells = published_scores.read_retrieval(TABLES / "retrieval.tsv")
        cells += published_scores.read_ablations(TABLES / "ablations.tsv")
        return {row["factor"] for row in compared(cells, [], plans)}

    frozen = {"image_tuning": "frozen", "image_projection": "linear"}
    assert factors({}) == {""}
    assert factors({"loss": "clip"}, {"loss": "siglip"}) == {"loss"}
    assert factors(frozen, {**frozen, "gene_tuning": "full"}) == {"finetuning_image/gene"}
    assert factors({"loss": "siglip", "image_tuning": "frozen"}) == set()


def test_options_other_than_the_papers_are_said(published):
    rows = compared(published, ours(published), {"benchmark": experiment(max_steps=400)})
    notes = " ".join(published_sections.sections(rows)[0]["notes"])
    assert "max_steps 400 (published: 20000)" in notes
    assert "protocol corrected" in notes


def test_an_encoder_that_repeats_what_was_published_stands_for_the_published_one(published):
    rows = [
        row | {"gene_encoder": row["gene_encoder"].replace("mlp", "mlp_published")}
        for row in ours(published, lambda cell: 0.01 * (cell["gene_encoder"] == "mlp"))
    ]
    plan = experiment(genes=[gene.replace("mlp", "mlp_published") for gene in GENES])
    plan |= {"protocol": "published", "variants": {"mlp_published": "mlp"}}
    found = [row for row in compared(published, rows, {"benchmark": plan}) if row["source"]]
    of_mlp = [row["difference"] for row in found if row["gene_encoder"] == "mlp"]
    assert [d for d in of_mlp if d is not None]
    assert all(abs(d - 0.01) < 1e-6 for d in of_mlp if d is not None)
    scored = {row["gene_encoder"] for row in found if row["ours_status"] == published_gap.SCORED}
    assert scored == set(GENES)


def test_spearmans_p_is_the_share_of_orders_and_few_items_have_none():
    a, b = [0.1, 0.2, 0.3, 0.4, 0.5], [0.1, 0.3, 0.2, 0.4, 0.5]
    value, p, test = published_ranks.spearman(a, b)
    orders = [_rho(range(5), order) for order in itertools.permutations(range(5))]
    assert value == pytest.approx(0.9)
    assert p == pytest.approx(statistics.fmean(o >= 0.9 - 1e-9 for o in orders))
    assert test == "exact"
    assert published_ranks.spearman(a[:3], b[:3]) == (None, None, "too few")
    assert published_ranks.spearman(a, [0.1] * 5) == (None, None, "all equal")
    many = [0.01 * i for i in range(20)]
    assert published_ranks.spearman(many, many)[1] == pytest.approx(1 / 10000)


def _rho(first, second):
    n = len(second)
    return 1 - 6 * sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / (n * (n**2 - 1))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("mean", "0.3x", "give a share"),
        ("mean", "1.3", "give a share"),
        ("mean", "", "with status reported"),
        ("direction", "i2i", "allowed: i2g, g2i"),
        ("recall_at", "five", "the k of Recall@k"),
        ("status", "", "none with any other"),
        (None, None, "the cell of line 2 again"),
    ],
)
def test_a_damaged_published_table_is_refused_in_one_line(tmp_path, column, value, words):
    rows = tsv.read_tsv(TABLES / "retrieval.tsv")
    if column:
        rows[3][column] = value
    else:
        rows.append(rows[0])
    tsv.write_tsv(tmp_path / "damaged.tsv", rows, list(rows[0]))
    with pytest.raises(InputError) as refused:
        run(tmp_path, [], published=tmp_path / "damaged.tsv")
    assert words in str(refused.value)
    assert "damaged.tsv" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "gap.tsv").exists()


def test_a_lost_column_and_an_unknown_level_are_refused(tmp_path):
    text = (TABLES / "ablations.tsv").read_text()
    for old, new, words in (
        ("\tlevel\t", "\tlevels\t", "column level"),
        ("frozen/tuned", "frozen/thawed", "allowed: frozen/frozen"),
    ):
        (tmp_path / "damaged.tsv").write_text(text.replace(old, new, 1))
        with pytest.raises(InputError, match=words):
            run(tmp_path, [], ablations=tmp_path / "damaged.tsv")


def test_scores_of_another_experiment_are_refused(tmp_path, published):
    with pytest.raises(InputError, match="give only scores of benchmark"):
        run(tmp_path, ours(published[:1], name="elsewhere"))


def test_the_report_lays_the_gap_out_and_names_what_is_missing(tmp_path, published):
    run(tmp_path, ours([c for c in published if c["panel"] == "human-colon-panel"]))
    table = (tmp_path / "gap.tsv").rename(tmp_path / "published-gap_benchmark.tsv")
    (read,) = chapters.read_tables([table])
    assert (read["kind"], read["title"]) == (
        "published-gap",
        "Gap to the published numbers, experiment benchmark",
    )
    assert any("human-5k-panel: nothing is scored" in words for words in read["missing"])
    assert read["sections"][0]["title"] == "Ours less published, by panel"


def test_the_page_has_a_chapter_of_it_only_where_it_was_compared(tmp_path, published):
    run(tmp_path, ours([c for c in published if c["panel"] == "human-colon-panel"]))
    table = (tmp_path / "gap.tsv").rename(tmp_path / "published-gap_benchmark.tsv")
    page = tmp_path / "report.html"
    write_report.main(["--tables", str(table), "--report", str(page)])
    chapter = page.read_text().split('<section id="published-gap">')[1].split("</section>")[0]
    assert "Gap to the published numbers, experiment benchmark" in chapter
    assert "Ours less published" in chapter
    write_report.main(["--report", str(page)])
    assert "published-gap" not in page.read_text()
