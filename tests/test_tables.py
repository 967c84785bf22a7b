"""The retrieval table in its three forms, and the figure."""

import json

import pytest
from PIL import Image

import plot_retrieval
import tabulate_retrieval
from pairscape import files, retrieval, tables
from pairscape.errors import InputError

SEEDS = (24442, 422244, 42424244)


def score_row(value, **changes):
    row = dict.fromkeys(retrieval.COLUMNS, "") | {
        "experiment": "e",
        "dataset": "breast",
        "image_encoder": "uni",
        "gene_encoder": "mlp",
        "seed": SEEDS[0],
        "split": "test",
        "direction": "i2g",
        "gallery": "split",
        "group": "all",
        "metric": "recall@5",
        "value": value,
        "chance": 0.01,
        "ci_low": value - 0.02,
        "ci_high": value + 0.03,
        "ci_over": "24 spatial blocks of 330 um within 2 test donors",
        "p_value": None,
        "queries": 500,
        "gallery_size": 500.0,
    }
    return row | changes


def scores(**changes):
    rows = []
    for seed, value in zip(SEEDS, (0.1, 0.2, 0.3), strict=True):
        for direction in ("i2g", "g2i"):
            for gallery in ("in_batch_64", "split", "sample"):
                for metric in ("recall@1", "recall@5", "recall@10", "mean_rank", "median_rank"):
                    tested = {"p_value": value / 100, "p_test": "shifts"}
                    rows.append(
                        score_row(
                            value,
                            seed=seed,
                            direction=direction,
                            gallery=gallery,
                            metric=metric,
                            **(tested if gallery == "sample" else {}),
                            **changes,
                        )
                    )
    return rows


def expected(dataset="breast", image="uni", gene="mlp", seeds=SEEDS):
    return [
        {"dataset": dataset, "image_encoder": image, "gene_encoder": gene, "seed": seed}
        for seed in seeds
    ]


def written(tmp_path, rows, planned=(), name="retrieval.tsv"):
    retrieval.write_scores(tmp_path / name, rows)
    return tabulated(tmp_path, [tmp_path / name], planned)


def tabulated(tmp_path, paths, planned):
    options = json.dumps({"experiment": "e", "expected": list(planned)})
    outputs = [tmp_path / f"t.{suffix}" for suffix in ("tsv", "md", "tex")]
    flags = ("--table", "--markdown", "--latex")
    argv = ["--scores", *map(str, paths), "--options", options]
    for flag, path in zip(flags, outputs, strict=True):
        argv += [flag, str(path)]
    tabulate_retrieval.main(argv)
    return tables.read_table(outputs[0]), outputs[1].read_text(), outputs[2].read_text()


def test_a_cell_is_the_mean_and_deviation_over_seeds(tmp_path):
    rows, markdown, latex = written(tmp_path, scores(), expected())
    assert len(rows) == 2 * 3
    row = next(r for r in rows if (r["gallery"], r["direction"]) == ("split", "g2i"))
    assert row["recall@5"] == pytest.approx(0.2)
    assert row["recall@5_sd"] == pytest.approx(0.1)
    assert row["recall@5_ci_low"] == pytest.approx(0.18)
    assert row["recall@5_ci_high"] == pytest.approx(0.23)
    assert row["recall@5_chance"] == pytest.approx(0.01)
    assert (row["seeds_run"], row["seeds_planned"], row["seeds_missing"]) == (3, 3, "")
    assert row["p_value"] == pytest.approx(0.003)
    for text in (markdown, latex):
        assert "0.200 (0.100) [0.180" in text
        assert "3 of 3" in text
        assert "0.003" in text
        assert "24 spatial blocks of 330 um within 2 test donors" in text
    assert "| breast |  | chance |" in markdown


def test_missing_seeds_are_named_not_averaged_away(tmp_path):
    rows = [row for row in scores() if row["seed"] != SEEDS[1]]
    table, markdown, _ = written(tmp_path, rows, expected())
    assert {row["seeds_missing"] for row in table} == {"422244"}
    assert "2 of 3, without 422244" in markdown


def test_a_pair_that_was_not_run_is_a_row_of_dashes(tmp_path):
    table, markdown, latex = written(tmp_path, scores(), [*expected(), *expected(image="conch")])
    rows = [row for row in table if row["image_encoder"] == "conch"]
    assert len(rows) == 6
    assert all(row["recall@5"] is None and row["seeds_run"] == 0 for row in rows)
    assert "| conch | mlp | I2G | — | — | — | — | — | 0 of 3, without" in markdown
    assert "conch & mlp & I2G & --- & ---" in latex


def test_nothing_run_is_still_a_table(tmp_path):
    table, markdown, _ = written(tmp_path, [], expected())
    assert [row["seeds_run"] for row in table] == [0, 0]
    assert "0 of 3" in markdown


def test_one_seed_has_no_deviation(tmp_path):
    rows = [row for row in scores() if row["seed"] == SEEDS[0]]
    table, markdown, _ = written(tmp_path, rows, expected(seeds=SEEDS[:1]))
    assert table[0]["recall@5_sd"] is None
    assert "0.100 [0.080\N{EN DASH}0.130]" in markdown
    assert "standard deviation" not in markdown


def test_groups_of_one_sample_stay_out_of_the_table(tmp_path):
    rows = scores() + [row | {"group": "T1", "value": 0.9} for row in scores()]
    table, _, _ = written(tmp_path, rows, expected())
    assert table[0]["recall@5"] == pytest.approx(0.2)


def test_shared_donors_are_said_in_a_footnote(tmp_path):
    words = 'P1 & P2 are "one" patient: 100 % shared_donor | see #3'
    rows = scores(donors_shared=words) + scores(dataset="lung")
    _, markdown, latex = written(tmp_path, rows)
    assert "| breast | a | uni" in markdown
    assert "| lung |  | uni" in markdown
    assert r"patient: 100 % shared\_donor \| see \#3" in markdown
    assert r"100 \% shared\_donor \textbar{} see \#3" in latex
    assert r"P1 \& P2 are \textquotedbl{}one\textquotedbl{}" in latex


def test_latex_is_escaped_and_every_row_has_every_column(tmp_path):
    rows = scores(image_encoder="tf_efficientnet_lite0", dataset="a_b-c")
    _, _, latex = written(tmp_path, rows)
    assert r"tf\_efficientnet\_lite0" in latex
    assert r"a\_b-c" in latex
    lines = latex.splitlines()
    columns = len(next(x for x in lines if x.startswith(r"\begin{tabular}")).split("{")[2]) - 1
    body = [line for line in lines if line.endswith(r"\\")]
    assert body
    assert {line.replace(r"\&", "").count("&") for line in body} == {columns - 1}
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 3
    for line in lines:
        assert not any(ord(character) > 127 for character in line)


@pytest.mark.parametrize(
    "text", ["\\", "{}", "$x^2$", "a~b", "<p>", "100 % & #1_2", "a\N{EM DASH}b\N{EN DASH}c µ"]
)
def test_latex_escapes_every_special_character(text):
    escaped = tables.escape_latex(text)
    for character in "$&#%_~^<>|\N{EM DASH}\N{EN DASH}µ":
        assert character not in escaped.replace(f"\\{character}", "")


def test_markdown_rows_have_every_column(tmp_path):
    rows = scores(donors_shared="a | b")
    _, markdown, _ = written(tmp_path, rows)
    counts = {x.replace(r"\|", "").count("|") for x in markdown.splitlines() if x.startswith("|")}
    assert len(counts) == 1


def test_scores_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(InputError, match="give only scores of e"):
        written(tmp_path, scores(experiment="other"))


def test_a_score_file_without_its_columns_is_refused(tmp_path):
    files.write_tsv(tmp_path / "bad.tsv", [{"experiment": "e"}], ["experiment"])
    with pytest.raises(InputError, match="column dataset"):
        tabulated(tmp_path, [tmp_path / "bad.tsv"], [])


def test_no_score_and_no_plan_is_refused(tmp_path):
    with pytest.raises(InputError, match="no score"):
        written(tmp_path, [])


def draw(tmp_path, rows, planned=(), name="f"):
    retrieval.write_scores(tmp_path / "scores.tsv", rows)
    png, svg = tmp_path / f"{name}.png", tmp_path / f"{name}.svg"
    options = json.dumps({"experiment": "e", "expected": list(planned)})
    argv = ["--scores", str(tmp_path / "scores.tsv"), "--png", str(png), "--svg", str(svg)]
    plot_retrieval.main([*argv, "--options", options])
    return png, svg


def test_the_figure_is_drawn_twice_alike(tmp_path):
    first = draw(tmp_path, scores(), name="a")
    second = draw(tmp_path, scores(), name="b")
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    with Image.open(first[0]) as image:
        assert image.width > 1000
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
    # Bars of both directions and the mark of chance.
    assert {(0, 114, 178), (230, 159, 0), (213, 94, 0)} <= colours


def test_the_figure_grows_with_the_pairs_and_names_what_is_not_run(tmp_path):
    small, _ = draw(tmp_path, scores(), name="a")
    large, svg = draw(tmp_path, scores(), [*expected(), *expected(image="conch")], name="b")
    with Image.open(small) as one, Image.open(large) as other:
        assert other.height > one.height
    assert svg.read_text().startswith("<?xml")


def test_a_figure_of_no_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match="no score"):
        draw(tmp_path, [])
