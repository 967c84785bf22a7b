"""The retrieval table in its three forms, and the figure."""

import itertools
import json
import re
from types import MappingProxyType

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import show_retrieval
from pairscape.core import tsv
from pairscape.core.errors import InputError
from pairscape.evaluate import retrieval, statistics
from pairscape.report import comparisons, layout, retrieval_figure, retrieval_table, style

SEEDS = (24442, 422244, 42424244)
OVER = "24 spatial blocks of 330 um within these donors (2)"


def score_row(value, **changes):
    row = dict.fromkeys(retrieval.SCORES.names, "") | {
        "experiment": "e",
        "dataset": "breast",
        "image_encoder": "uni",
        "gene_encoder": "mlp",
        "seed": SEEDS[0],
        "split": "test",
        "direction": "i2g",
        "gallery": "split",
        "status": "scored",
        "group_by": "all",
        "group": "all",
        "metric": "recall@5",
        "value": value,
        "chance": 0.01,
        "ci_low": value - 0.02,
        "ci_high": value + 0.03,
        "pessimistic": value - 0.01,
        "ci_over": OVER,
        "donors": 2,
        "donor_low": value - 0.05,
        "donor_high": value + 0.04,
        "p_value": None,
        "queries": 500,
        "gallery_size": 500.0,
    }
    return row | changes


def write_groups(values, **changes):
    """Rows of donors: ``values`` by donor, image encoder and seed."""
    return [
        score_row(
            value,
            **{
                "group_by": "donor",
                "group": donor,
                "image_encoder": image,
                "seed": seed,
                "donors": 1,
                "donor_low": None,
                "donor_high": None,
            }
            | changes,
        )
        for (donor, image, seed), value in values.items()
    ]


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


def tabulated(tmp_path, paths, planned, **more):
    options = json.dumps({"experiment": "e", "expected": list(planned), **more})
    outputs = [tmp_path / f"t.{suffix}" for suffix in ("tsv", "md", "tex")]
    flags = ("--table", "--markdown", "--latex")
    argv = ["--scores", *map(str, paths), "--options", options]
    for flag in ("nearby", "groups", "comparisons"):
        argv += [f"--{flag}", *(str(tmp_path / f"{flag}.{end}") for end in ("tsv", "md", "tex"))]
    for flag, path in zip(flags, outputs, strict=True):
        argv += [flag, str(path)]
    show_retrieval.main(argv)
    return retrieval_table.TABLE.read(outputs[0]), outputs[1].read_text(), outputs[2].read_text()


def test_a_cell_is_the_mean_and_deviation_over_seeds(tmp_path):
    rows, markdown, latex = written(tmp_path, scores(), expected())
    assert len(rows) == 2 * 3
    row = next(r for r in rows if (r["gallery"], r["direction"]) == ("split", "g2i"))
    assert row["recall@5"] == pytest.approx(0.2)
    assert row["recall@5_sd"] == pytest.approx(0.1)
    assert row["recall@5_ci_low"] == pytest.approx(0.18)
    assert row["recall@5_ci_high"] == pytest.approx(0.23)
    assert row["recall@5_chance"] == pytest.approx(0.01)
    assert row["recall@5_pessimistic"] == pytest.approx(0.19)
    assert row["recall@5_donor_low"] == pytest.approx(0.15)
    assert row["recall@5_donor_high"] == pytest.approx(0.24)
    assert row["donors"] == 2
    assert (row["seeds_run"], row["seeds_planned"], row["seeds_missing"]) == (3, 3, "")
    assert row["p_value"] == pytest.approx(0.003)
    for text in (markdown, latex):
        assert "0.200 (0.100) [0.180" in text
        assert "3 of 3" in text
        assert "0.003" in text
        assert OVER in text
        assert "2: 0.150" in text
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
    assert "| conch | mlp | I2G | — | — | — | — | — | — | 0 of 3, without" in markdown
    assert "conch & mlp & I2G & --- & ---" in latex


def test_nothing_run_is_still_a_table(tmp_path):
    table, markdown, _ = written(tmp_path, [], expected())
    assert [row["seeds_run"] for row in table] == [0, 0]
    assert "0 of 3" in markdown


def test_what_a_dataset_has_lost_stands_in_every_form_that_is_read(tmp_path):
    retrieval.write_scores(tmp_path / "retrieval.tsv", scores())
    lost = "breast is without sample S_1 (its share of the spots is not known): status 404"
    tabulated(tmp_path, [tmp_path / "retrieval.tsv"], (), left_out=[lost])
    for name in ("t", "nearby", "groups", "comparisons"):
        assert lost.replace("_", r"\_") in (tmp_path / f"{name}.md").read_text()
        latex = (tmp_path / f"{name}.tex").read_text()
        assert latex.count("S\\_1") == latex.count(r"\caption")


def test_every_table_of_data_sets_is_given_what_they_have_lost():
    """A calibration has none: it simulates its own."""
    shown = [*(ROOT / "scripts").glob("show_*.py"), ROOT / "scripts/compare_published.py"]
    for path in set(shown) - {ROOT / "scripts/show_calibration.py"}:
        text = path.read_text()
        calls = re.findall(r"layout\.write\((.*?)\)\n", text, re.DOTALL)
        assert all("args.options" in call for call in calls), path.name


def test_one_seed_has_no_deviation(tmp_path):
    rows = [row for row in scores() if row["seed"] == SEEDS[0]]
    table, markdown, _ = written(tmp_path, rows, expected(seeds=SEEDS[:1]))
    assert table[0]["recall@5_sd"] is None
    assert "0.100 [0.080\N{EN DASH}0.130]" in markdown
    assert "standard deviation" not in markdown


def test_groups_of_one_sample_stay_out_of_the_table(tmp_path):
    rows = scores() + [
        row | {"group_by": "sample", "group": "T1", "value": 0.9} for row in scores()
    ]
    table, _, _ = written(tmp_path, rows, expected())
    assert table[0]["recall@5"] == pytest.approx(0.2)


def test_a_run_that_ran_out_of_memory_is_a_dash_with_its_reason(tmp_path):
    def failed(image, seed):
        return dict.fromkeys(retrieval.SCORES.names, None) | {
            "experiment": "e",
            "dataset": "breast",
            "image_encoder": image,
            "gene_encoder": "mlp",
            "control": "",
            "seed": seed,
            "status": "out of memory",
        }

    rows = [row for row in scores() if row["seed"] != SEEDS[2]]
    rows += [failed("uni", SEEDS[2]), *(failed("conch", seed) for seed in SEEDS)]
    planned = [*expected(), *expected(image="conch")]
    table, markdown, latex = written(tmp_path, rows, planned)
    by_image = {row["image_encoder"]: row for row in table}
    assert by_image["conch"]["recall@5"] is None
    assert by_image["conch"]["seeds_missing"] == ""
    assert by_image["conch"]["seeds_failed"] == f"out of memory: {' '.join(map(str, SEEDS))}"
    assert (by_image["uni"]["seeds_run"], by_image["uni"]["seeds_planned"]) == (2, 3)
    assert by_image["uni"]["recall@5"] == pytest.approx(0.15)
    for text in (markdown, latex):
        assert f"2 of 3; out of memory: {SEEDS[2]}" in text
        assert f"0 of 3; out of memory: {SEEDS[0]}" in text
        assert "the run says why it failed" in text
    assert "| conch | mlp | I2G | — | — |" in markdown
    draw(tmp_path, rows, planned)
    # Nothing at all was trained: still a table and a figure.
    table, _, _ = written(tmp_path, [failed("conch", seed) for seed in SEEDS])
    assert all(row["seeds_failed"] for row in table)
    draw(tmp_path, [failed("conch", seed) for seed in SEEDS])


def cells_of(markdown, image, direction, gallery="the whole split"):
    section = markdown.split(f"## Gallery: {gallery}")[1].split("## ")[0]
    line = next(x for x in section.splitlines() if f"| {image} |" in x and f"| {direction} |" in x)
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_best_and_second_are_marked_and_controls_never_are(tmp_path):
    rows = []
    for image, add, control in (
        ("uni", 0.0, ""),
        ("conch", 0.1, ""),
        ("gigapath", -0.05, ""),
        ("expression", 0.5, "ceiling: expression as its own image"),
    ):
        rows += [
            row | {"image_encoder": image, "control": control, "value": row["value"] + add}
            for row in scores()
        ]
    table, markdown, latex = written(tmp_path, rows)
    assert {row["control"] for row in table if row["image_encoder"] == "uni"} == {""}
    assert cells_of(markdown, "conch", "I2G")[6].startswith("**0.300** (0.100)")
    assert cells_of(markdown, "uni", "I2G")[6].startswith("*0.200* (0.100)")
    assert cells_of(markdown, "gigapath", "I2G")[6].startswith("0.150 (0.100)")
    assert cells_of(markdown, "expression", "I2G")[6].startswith("0.700 (0.100)")
    assert cells_of(markdown, "expression", "I2G")[1] == "control"
    # Of ranks the least is the best.
    median = 8
    assert cells_of(markdown, "gigapath", "G2I")[median].startswith("**")
    assert "ceiling: expression as its own image" in markdown
    assert r"\textbf{0.300} (0.100)" in latex
    assert r"\underline{0.200} (0.100)" in latex
    assert "chance" not in [
        c for line in markdown.splitlines() if "**" in line for c in line.split()
    ]


def test_what_looks_equal_is_marked_alike_and_one_alone_is_not_marked(tmp_path):
    rows = scores() + [
        row | {"image_encoder": "conch", "value": row["value"] + 1e-6} for row in scores()
    ]
    _, markdown, _ = written(tmp_path, rows + scores(dataset="lung"))
    assert "**" not in markdown.split("| lung |")[1]
    equal = [cells_of(markdown, image, "I2G")[6][:5] for image in ("uni", "conch")]
    assert equal[0] == equal[1]


def test_the_published_batches_are_told_from_those_of_one_process(tmp_path):
    rows = scores() + [
        row | {"gallery": "in_batch_64_ranks_4"}
        for row in scores()
        if row["gallery"] == "in_batch_64"
    ]
    _, markdown, _ = written(tmp_path, rows)
    assert "## Gallery: in batches of 64, in data set order\n" in markdown
    assert "## Gallery: in batches of 64, by 4 processes\n" in markdown
    assert "A short last batch of each process is kept, as published" in markdown


def test_hits_nearby_have_a_table_of_their_own(tmp_path):
    rows = scores() + [
        row | {"metric": "recall@5_within_110um", "value": row["value"] + 0.4, "chance": 0.3}
        for row in scores()
        if row["metric"] == "recall@5" and row["gallery"] != "in_batch_64"
    ]
    main, markdown, _ = written(tmp_path, rows, expected())
    assert "within" not in " ".join(main[0])
    assert "within 110" not in markdown
    near = retrieval_table.TABLE.read(tmp_path / "nearby.tsv")
    assert {row["gallery"] for row in near} == {"split", "sample"}
    assert near[0]["recall@5_within_110um"] == pytest.approx(0.6)
    assert "Recall@5 within 110 µm" in (tmp_path / "nearby.md").read_text()
    assert "0.300" in (tmp_path / "nearby.md").read_text()


def test_groups_have_a_table_of_their_own(tmp_path):
    values = {
        (donor, "uni", seed): 0.1 * (1 + number) + 0.01 * place
        for number, donor in enumerate(("D1", "D2"))
        for place, seed in enumerate(SEEDS[:2])
    }
    rows = scores() + write_groups(values) + write_groups(values, group_by="organ", group="Lung")
    written(tmp_path, rows, expected())
    table = retrieval_table.GROUPS.read(tmp_path / "groups.tsv")
    found = {(row["group_by"], row["group"]): row for row in table}
    assert found["donor", "D2"]["recall@5"] == pytest.approx(0.205)
    assert found["donor", "D2"]["seeds_missing"] == str(SEEDS[2])
    text = (tmp_path / "groups.md").read_text()
    assert "## By donor; gallery: the whole split" in text
    assert "| breast | D2 | uni | mlp | I2G | — | 0.205 (0.007) [0.185" in text
    assert "2 of 3, without" in text


# --------------------------------------------------------------------------------------- comparisons


def compared(tmp_path, rows):
    written(tmp_path, rows)
    table = tsv.read_tsv(tmp_path / "comparisons.tsv", comparisons.TABLE.names)
    return table, (tmp_path / "comparisons.md").read_text()


def effects(donors, first_seeds=SEEDS[:2], second_seeds=SEEDS[:2], noise=0.0, down=()):
    values = {}
    for image, seeds, add in (("conch", first_seeds, 0.1), ("uni", second_seeds, 0.0)):
        for number in range(donors):
            for place, seed in enumerate(seeds):
                gain = -0.02 if number in down and image == "conch" else add
                value = 0.2 + 0.01 * number + gain + noise * place * (image == "conch")
                values[f"D{number}", image, seed] = value
    return values


def test_below_six_donors_a_comparison_has_effects_and_no_p_value(tmp_path):
    table, markdown = compared(tmp_path, write_groups(effects(5, down=(1,))))
    (row,) = table
    assert (row["first"], row["second"], row["shared"]) == ("conch", "uni", "mlp")
    assert float(row["effect"]) == pytest.approx((4 * 0.1 - 0.02) / 5)
    assert (row["donors"], row["donors_above"], row["donors_below"]) == ("5", "4", "1")
    assert row["donor_effects"].startswith("D0 +0.1; D1 -0.02; ")
    assert (row["p_value"], row["p_holm"], row["p_test"]) == ("", "", "too few donors")
    assert "| too few donors |" in markdown


def test_from_six_donors_on_the_signs_are_tested_exactly(tmp_path):
    (row,), _ = compared(tmp_path, write_groups(effects(6)))
    assert float(row["p_value"]) == pytest.approx(2 / 64)
    assert row["p_test"] == "all 64 patterns of signs of 6 donors"


@pytest.mark.parametrize("seed", range(5))
def test_the_sign_flip_p_value_equals_the_slow_loop(seed):
    values = np.random.default_rng(seed).normal(0.4, 1, 7)
    means = [np.dot(signs, values) / 7 for signs in itertools.product((-1, 1), repeat=7)]
    slow = np.mean(np.abs(means) >= abs(values.mean()) - 1e-12)
    assert statistics.sign_flip(values.tolist())[0] == pytest.approx(slow)


def test_the_sign_flip_test_is_valid_and_finds_an_effect():
    rng = np.random.default_rng(1)
    null = [statistics.sign_flip(rng.standard_normal(8).tolist())[0] for _ in range(200)]
    real = [statistics.sign_flip((rng.standard_normal(8) + 2).tolist())[0] for _ in range(50)]
    assert np.mean(np.array(null) <= 0.05) <= 0.09
    assert np.mean(np.array(real) <= 0.05) >= 0.9


def test_more_seeds_give_no_smaller_p_value(tmp_path):
    few, _ = compared(tmp_path, write_groups(effects(6, noise=0.05)))
    seeds = tuple(range(20))
    many, _ = compared(tmp_path, write_groups(effects(6, seeds, seeds, noise=0.05)))
    assert few[0]["p_value"] == many[0]["p_value"]
    assert (few[0]["seeds"], many[0]["seeds"]) == ("2", "20")
    assert (float(few[0]["seed_low"]), float(few[0]["seed_high"])) == pytest.approx((0.1, 0.15))
    # The range between seeds isn't the range between donors.
    assert float(few[0]["donor_low"]) == pytest.approx(float(few[0]["donor_high"]))


def test_only_seeds_that_both_have_are_compared_and_the_others_are_named(tmp_path):
    rows = write_groups(effects(3, SEEDS, SEEDS[:1], noise=0.05))
    (row,), markdown = compared(tmp_path, rows)
    assert float(row["effect"]) == pytest.approx(0.1)
    assert row["seeds_left_out"] == f"{SEEDS[1]} {SEEDS[2]}"
    assert f"without seed {SEEDS[1]}, {SEEDS[2]}" in markdown
    assert "one seed" in markdown


def test_pairs_that_share_no_encoder_and_other_data_are_not_compared(tmp_path):
    values = effects(2)
    other = {key: value for key, value in values.items() if key[1] == "uni"}
    rows = write_groups({key: v for key, v in values.items() if key[1] == "conch"})
    rows += write_groups(other, gene_encoder="drvi")
    rows += write_groups(other, dataset="lung")
    rows += write_groups(other, direction="g2i")
    rows += write_groups(other, gallery="sample")
    assert compared(tmp_path, rows)[0] == []


def test_p_values_of_a_family_are_corrected_after_holm():
    rows = [{"p_value": p} for p in (0.04, None, 0.01, 0.03)]
    statistics._correct(rows)
    assert [row.get("p_holm") for row in rows] == pytest.approx([0.06, None, 0.03, 0.06])


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
    escaped = layout.escape_latex(text)
    for character in "$&#%_~^<>|\N{EM DASH}\N{EN DASH}µ":
        assert character not in escaped.replace(f"\\{character}", "")


MARKUP = "[<b>x</b>](javascript:a) $x^ | {y}\n\\input{z} `q` [r][s]"


def test_names_that_are_markup_show_as_they_stand():
    """HTML, Markdown and LaTeX in a name of the user's, in every form of a table."""
    section = layout.section(MARKUP, [MARKUP, "n"], [[MARKUP, "1"]], [MARKUP])
    markdown = layout.to_markdown(MARKUP, [section])
    assert not re.search(r"(?<!\\)[<>`{}]", markdown)
    assert "](" not in markdown.replace(r"\](", "")
    assert all(line.startswith(("# ", "## ", "| ", "- ")) for line in markdown.splitlines() if line)
    latex = layout.to_latex(MARKUP, [section])
    assert "\\input" not in latex.replace(r"\textbackslash{}input", "")
    assert not re.search(r"(?<!\\)[$^_#&](?! 1)", latex.replace(" & ", " "))
    rows = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 2
    assert all(row.startswith("{[}") for row in rows)


def test_a_dollar_in_a_title_is_no_formula_of_a_figure(tmp_path):
    def plot():
        figure = style.new_figure(3, 2)
        axis = figure.subplots()
        axis.set_xscale("log")
        axis.plot([1, 1000], [1, 2], label=MARKUP)
        axis.set_title(MARKUP)
        figure.suptitle("cost of $x^ and $")
        style.legend_above(figure, axis.get_legend_handles_labels()[0], MARKUP)
        return figure

    style.draw(plot, tmp_path / "a.png", tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_markdown_rows_have_every_column(tmp_path):
    rows = scores(donors_shared="a | b")
    _, markdown, _ = written(tmp_path, rows)
    counts = {x.replace(r"\|", "").count("|") for x in markdown.splitlines() if x.startswith("|")}
    assert len(counts) == 1


def test_scores_of_another_experiment_are_refused(tmp_path):
    with pytest.raises(InputError, match="give only scores of e"):
        written(tmp_path, scores(experiment="other"))


def test_a_score_file_without_its_columns_is_refused(tmp_path):
    tsv.write_tsv(tmp_path / "bad.tsv", [{"experiment": "e"}], ["experiment"])
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
    show_retrieval.main([*argv, "--options", options])
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


def panels_of(rows, titles=MappingProxyType({})):
    """The figure's panels that hold something, by heading and k."""
    table = retrieval_table.tabulate_retrieval(rows, [])
    with plt.rc_context(style.STYLE):
        figure = retrieval_figure.plot_recall(table, rows, "title", titles)
    panels, heading = {}, ""
    for panel in figure.axes:
        heading = panel.get_title(loc="left") or heading
        panels[heading, panel.get_xlabel()] = panel
    return figure, panels


def test_the_whole_split_comes_first_and_largest_on_one_scale_per_k():
    rows = scores() + scores(dataset="lung")
    for row in rows:
        row["value"] *= 0.2 if row["dataset"] == "lung" else 1
    figure, panels = panels_of(rows)
    figure.canvas.draw()
    headings = list(dict.fromkeys(heading for heading, _ in panels))
    assert ["whole split" in heading for heading in headings] == [True, True, False, False]
    whole, batches = (panels[headings[place], "Recall@5"] for place in (0, 2))
    assert whole.get_position().height > 1.1 * batches.get_position().height
    for k in ("Recall@1", "Recall@5", "Recall@10"):
        assert panels[headings[0], k].get_xlim() == panels[headings[1], k].get_xlim()


def test_the_legend_has_seeds_only_where_there_are_several_and_encoders_their_titles():
    def legend(figure):
        return [text.get_text() for text in figure.legends[0].get_texts()]

    figure, panels = panels_of(scores(), {"image": {"uni": "UNI"}, "gene": {"mlp": "The MLP"}})
    assert "seed" in legend(figure)
    names = [name.get_text() for name in next(iter(panels.values())).get_yticklabels()]
    assert names == ["UNI\nwith The MLP"]
    figure, panels = panels_of([row for row in scores() if row["seed"] == SEEDS[0]])
    assert "seed" not in legend(figure)
    # Nothing white lies on the bars: neither a dot nor an edge of the interval.
    drawn = next(iter(panels.values()))
    assert not drawn.collections
    ends = {tuple(line.get_xdata()) for line in drawn.lines if line.get_color() == "white"}
    assert ends == {(0.01, 0.01)}  # of chance alone


def test_a_figure_of_no_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match="no score"):
        draw(tmp_path, [])
