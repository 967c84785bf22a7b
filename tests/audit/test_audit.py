"""The audit: differences known by hand, pairing by spot, and what is said of runs that lack."""

import json

import numpy as np
import pytest

import score_audit
import show_audit
from pairscape.audit import flag_effects, protocols
from pairscape.audit import options as audit_options
from pairscape.core import files, tsv
from pairscape.core.errors import InputError
from pairscape.evaluate import retrieval
from pairscape.pretrain import failures, run_embeddings
from pairscape.report import audit_figure, audit_table, layout, retrieval_table

SIDE = (9, 8)  # spots of a sample: at 55 um four blocks of 330 um, and some on their edge
SPOTS = SIDE[0] * SIDE[1]
COUNT = 2 * SPOTS
ONE_BATCH = {"in_batch": 1000, "in_batch_ranks": [1], "bootstrap": 200}
MLP = {"image_encoder": "i", "gene_encoder": "mlp", "image": "i", "gene": "mlp"}


def index_rows(names=("A", "B"), prefix="", moved_um=0.0, donors=None):
    y, x = np.mgrid[: SIDE[0], : SIDE[1]]
    return [
        {
            "row": number * SPOTS + place,
            "sample": sample,
            "donor": (donors or [f"donor_{name}" for name in names])[number],
            "spot": f"{prefix}{place:03d}",
            "array_row": place // SIDE[1],
            "array_col": place % SIDE[1],
            "x_um": float(x.ravel()[place]) * 55 + 27.5 + moved_um,
            "y_um": float(y.ravel()[place]) * 55 + 27.5,
            "organ": "",
            "disease_state": "",
        }
        for number, sample in enumerate(names)
        for place in range(SPOTS)
    ]


def one_hot(count=COUNT, lost=()):
    """Images and genes whose partners are alike and others orthogonal, but for those of ``lost``."""
    images = np.eye(count, dtype=np.float32)
    genes = images.copy()
    lost = np.array(lost, int)
    genes[lost] = images[np.roll(lost, 1)]
    return images, genes


def write_run(
    root, experiment, seed=1, lost=(), dataset="d", image="i", gene="mlp", rows=None, arrays=None
):
    rows = index_rows() if rows is None else rows
    folder = root / "runs" / experiment / dataset / f"{image}-{gene}" / f"seed{seed}"
    run_embeddings.write_run_embeddings(
        folder, "test", *(arrays or one_hot(len(rows), lost)), rows, {}
    )
    donors = dict.fromkeys(row["donor"] for row in rows)
    names = dict(
        zip(audit_options.Run._fields, (experiment, dataset, image, gene, seed), strict=True)
    )
    told = {**names, "options_sha256": str(seed) * 64, "splits": [{"donor": d} for d in donors]}
    files.write_json(folder / "options.json", told)
    return folder / "options.json"


def row(start, flag="", seeds=(1,), pairs=(MLP,), why_not="", dataset="d"):
    return {
        "start": start,
        "flag": flag,
        "findings": "H2" if flag else "",
        "meaning": f"what {flag} means" if flag else "",
        "experiment": "" if why_not else f"{start}_{flag}",
        "dataset": "" if why_not else dataset,
        "why_not": why_not,
        "pairs": [] if why_not else list(pairs),
        "seeds": list(seeds),
    }


def score(root, rows, runs, **options):
    given = {"audit": "a", "rows": rows, "seed": 3, **ONE_BATCH, **options}
    out = root / "scores.tsv"
    score_audit.main(
        ["--runs", *map(str, runs), "--scores", str(out), "--options", json.dumps(given)]
    )
    return flag_effects.read_scores(out, "a")


def cell(table, start, flag, gallery="split", direction="both", **more):
    wanted = {"start": start, "flag": flag, "gallery": gallery, "direction": direction, **more}
    (found,) = [r for r in table if all(r[name] == value for name, value in wanted.items())]
    return found


def width(of, name="difference"):
    return of[f"{name}_high"] - of[f"{name}_low"]


# ----------------------------------------------------------------------------------------- numbers


def test_equal_runs_differ_by_nothing_and_the_paired_interval_has_no_width(tmp_path):
    lost = range(50)
    runs = [write_run(tmp_path, f"corrected_{flag}", lost=lost) for flag in ("", "same")]
    table = score(tmp_path, [row("corrected"), row("corrected", "same")], runs)
    assert len(table) == 2 * 2 * 3  # rows of the audit, galleries, directions
    for found in table:
        if found["flag"]:
            assert found["paired"] == "yes"
            assert found["difference"] == found["difference_low"] == found["difference_high"] == 0
            assert width(found, "ci") > 0
        else:
            assert found["difference"] is None
            assert found["paired"] == ""


def test_shuffled_partners_make_the_difference_that_is_worked_out_by_hand(tmp_path):
    runs, losses = [], {1: 12, 2: 24}
    for seed, count in losses.items():
        runs.append(write_run(tmp_path, "corrected_", seed))
        runs.append(write_run(tmp_path, "corrected_shuffled", seed, lost=range(count)))
    rows = [row("corrected", seeds=losses), row("corrected", "shuffled", seeds=losses)]
    table = score(tmp_path, rows, runs)
    # A shuffled query has one entry before its partner and ties with all others: 4 places are left.
    each = {seed: count / COUNT * (4 / (COUNT - 1) - 1) for seed, count in losses.items()}
    for gallery in ("split", "in_batch_1000"):
        base = cell(table, "corrected", "", gallery)
        assert (base["value"], base["seed_low"], base["seed_high"]) == (1, 1, 1)
        assert base["chance"] == pytest.approx(5 / COUNT, rel=1e-5)
        for direction in flag_effects.DIRECTIONS:
            found = cell(table, "corrected", "shuffled", gallery, direction)
            assert found["difference"] == pytest.approx(sum(each.values()) / 2, rel=1e-5)
            assert found["value"] == pytest.approx(1 + found["difference"], rel=1e-5)
            assert found["seed_low"] == pytest.approx(1 + each[2], rel=1e-5)
            assert found["difference_seed_low"] == pytest.approx(each[2], rel=1e-5)
            assert found["difference_seed_high"] == pytest.approx(each[1], rel=1e-5)
            assert found["difference_low"] < found["difference"] < found["difference_high"]
            assert (found["seeds"], found["queries"], found["status"]) == (2, COUNT, "scored")


def test_values_and_intervals_are_those_of_the_retrieval_scores(tmp_path):
    rng = np.random.default_rng(5)
    images = rng.standard_normal((COUNT, 8))
    pair = (images, images + 1.5 * rng.standard_normal((COUNT, 8)))
    arrays = [(of / np.linalg.norm(of, axis=1, keepdims=True)).astype(np.float32) for of in pair]
    path = write_run(tmp_path, "corrected_", arrays=arrays)
    settings = {"seed": 3, "bootstrap": 200, "in_batch": 64, "in_batch_ranks": [4, 1]}
    table = score(tmp_path, [row("corrected")], [path], **settings, recall_at=[1, 5])
    options = retrieval.RetrievalOptions.of({**settings, "recall_at": [1, 5], "permutations": 0})
    embedded = run_embeddings.read_run_embeddings(path.parent, "test")
    checked, values = 0, set()
    for told in retrieval.score_run(embedded, options):
        metric, _, k = told["metric"].partition("@")
        if told["group_by"] != "all" or metric != "recall" or not k.isdigit():
            continue
        if told["gallery"] in ("split", "in_batch_64_ranks_4"):
            found = cell(
                table, "corrected", "", told["gallery"], told["direction"], recall_at=int(k)
            )
            for name in ("value", "chance", "ci_low", "ci_high", "queries"):
                assert found[name] == pytest.approx(told[name], rel=1e-5)
            assert found["ci_over"] == told["ci_over"]
            checked += 1
            values.add(found["value"])
    assert checked == len(values) == 8  # no two of them are the same by chance


def test_from_six_donors_on_intervals_are_over_donors(tmp_path):
    names = [f"S{number}" for number in range(6)]
    rows = index_rows(names)
    paths = [
        write_run(tmp_path, f"corrected_{flag}", lost=lost, rows=rows)
        for flag, lost in (("", range(30)), ("more", range(90)))
    ]
    table = score(tmp_path, [row("corrected"), row("corrected", "more")], paths)
    assert {found["ci_over"] for found in table} == {"bootstrap over 6 donors"}
    assert width(cell(table, "corrected", "more")) > 0


def other_spots():
    return {
        "other names": index_rows(prefix="x"),
        "other samples": index_rows(("A", "C")),
        "fewer": index_rows(("A",)),
        "another grid": index_rows(moved_um=20.0),
        "another order": index_rows(("B", "A")),
    }


@pytest.mark.parametrize("kind", other_spots())
def test_runs_on_other_spots_are_not_paired(tmp_path, kind):
    rows = other_spots()[kind]
    runs = [write_run(tmp_path, "corrected_", lost=range(40))]
    runs.append(write_run(tmp_path, "corrected_other", dataset="e", lost=range(40, 60), rows=rows))
    table = score(tmp_path, [row("corrected"), row("corrected", "other", dataset="e")], runs)
    base, found = (cell(table, "corrected", flag) for flag in ("", "other"))
    assert found["paired"] == "no"
    assert found["difference"] == pytest.approx(found["value"] - base["value"], rel=1e-4)
    assert found["difference_low"] < found["difference"] < found["difference_high"]
    assert ("; base: 8 spatial blocks" in found["ci_over"]) == (kind == "fewer")


def test_a_paired_interval_is_narrower_than_an_unpaired_one_of_the_same_hits(tmp_path):
    runs = [write_run(tmp_path, "corrected_", lost=range(60))]
    runs.append(write_run(tmp_path, "corrected_paired", lost=range(70)))
    moved = index_rows(prefix="x")
    runs.append(write_run(tmp_path, "corrected_apart", dataset="e", lost=range(70), rows=moved))
    rows = [row("corrected"), row("corrected", "paired")]
    table = score(tmp_path, [*rows, row("corrected", "apart", dataset="e")], runs)
    paired, apart = (cell(table, "corrected", flag) for flag in ("paired", "apart"))
    assert paired["difference"] == apart["difference"]
    assert (paired["paired"], apart["paired"]) == ("yes", "no")
    assert 0 < width(paired) < 0.7 * width(apart)


def test_runs_that_are_not_paired_are_drawn_independently_of_each_other(tmp_path):
    # Equal hits on samples of equal names: drawn alike, they would cancel each other out.
    runs = [write_run(tmp_path, "corrected_", lost=range(60))]
    rows = index_rows(prefix="x")
    runs.append(write_run(tmp_path, "corrected_apart", dataset="e", lost=range(60), rows=rows))
    table = score(tmp_path, [row("corrected"), row("corrected", "apart", dataset="e")], runs)
    found = cell(table, "corrected", "apart")
    assert found["difference"] == 0
    # The variance of a difference of two independent means is twice that of one.
    assert width(found) == pytest.approx(2**0.5 * width(found, "ci"), rel=0.25)


def test_one_block_has_no_interval_and_no_bootstrap_none_either(tmp_path):
    runs = [write_run(tmp_path, f"corrected_{f}", lost=range(9)) for f in ("", "same")]
    rows = [row("corrected"), row("corrected", "same")]
    for options, words in (({"block_um": 5000}, "no sample has two"), ({"bootstrap": 0}, "asked")):
        found = cell(score(tmp_path, rows, runs, **options), "corrected", "same")
        assert found["ci_low"] is None
        assert found["difference_low"] is None
        assert found["difference"] == 0
        assert words in found["ci_over"]


def test_an_encoder_is_set_against_the_one_that_it_stands_for(tmp_path):
    variant = {**MLP, "gene": "mlp_published"}
    runs = [write_run(tmp_path, "corrected_")]
    runs.append(write_run(tmp_path, "corrected_median", gene="mlp_published", lost=range(72)))
    rows = [row("corrected"), row("corrected", "median", pairs=[variant])]
    found = cell(score(tmp_path, rows, runs), "corrected", "median")
    assert found["gene_encoder"] == "mlp"
    assert found["difference"] == pytest.approx(0.5 * (4 / (COUNT - 1) - 1), rel=1e-5)


def test_the_published_gallery_is_that_of_four_processes():
    options = {"in_batch": 64, "in_batch_ranks": [1, 4]}
    assert flag_effects.galleries(options) == ("in_batch_64_ranks_4", "split")
    assert flag_effects.galleries({**options, "in_batch_ranks": [2]}) == (
        "in_batch_64_ranks_2",
        "split",
    )


# ------------------------------------------------------------------------------------ what is lacking


def test_runs_that_failed_or_are_missing_are_rows_that_say_so(tmp_path):
    names = dict(zip(audit_options.Run._fields, ("corrected_big", "d", "i", "mlp", 1), strict=True))
    failed = tmp_path / "runs/corrected_big/d/i-mlp/seed1"
    failures.write(failed, names, "out of memory")
    runs = [write_run(tmp_path, "corrected_", seed) for seed in (1, 2)]
    runs += [write_run(tmp_path, "corrected_half", 2, lost=range(30)), failed / "options.json"]
    seeds = {"seeds": (1, 2)}
    rows = [
        row("corrected", **seeds),
        row("corrected", "big", **seeds),
        row("corrected", "half", **seeds),
        row("corrected", "gone", **seeds),
        row("corrected", "idle", why_not="there is no such encoder"),
    ]
    table = score(tmp_path, rows, runs)
    status = {found["flag"]: found["status"] for found in table}
    assert status == {
        "": "scored",
        "big": "out of memory: seed 1; not run: seed 2",
        "half": "scored; not run: seed 1",
        "gone": "not run: seed 1, 2",
        "idle": "not tried",
    }
    for flag in ("big", "gone"):
        found = cell(table, "corrected", flag)
        assert found["value"] is found["difference"] is found["seeds"] is None
    assert cell(table, "corrected", "half")["seeds"] == 1
    assert cell(table, "corrected", "half")["difference"] < 0
    (idle,) = [found for found in table if found["flag"] == "idle"]
    assert idle["why_not"] == "there is no such encoder"
    lacking = audit_table.missing(table)
    assert lacking == [
        "from corrected, big, i with mlp: out of memory: seed 1; not run: seed 2",
        "from corrected, half, i with mlp: not run: seed 1",
        "from corrected, gone, i with mlp: not run: seed 1, 2",
    ]


def test_without_seeds_of_the_base_there_is_no_difference(tmp_path):
    seeds = {"seeds": (1, 2, 3)}
    runs = [write_run(tmp_path, "corrected_", seed) for seed in (1, 2)]
    runs += [write_run(tmp_path, "corrected_some", seed, lost=range(9 * seed)) for seed in (2, 3)]
    runs.append(write_run(tmp_path, "corrected_none", 3, lost=range(9)))
    rows = [row("corrected", flag, **seeds) for flag in ("", "some", "none")]
    table = score(tmp_path, rows, runs)
    some, none = (cell(table, "corrected", flag) for flag in ("some", "none"))
    assert some["status"] == "scored; not run: seed 1; difference: seed 2"
    assert some["seeds"] == 2
    assert some["difference"] == pytest.approx(18 / COUNT * (4 / (COUNT - 1) - 1), rel=1e-5)
    assert none["value"] < 1
    assert none["difference"] is None
    assert "the base has none of these seeds" in none["status"]


def test_seeds_that_test_on_different_spots_are_refused(tmp_path):
    runs = [write_run(tmp_path, "corrected_", 1)]
    runs.append(write_run(tmp_path, "corrected_", 2, rows=index_rows(prefix="x")))
    with pytest.raises(InputError, match=r"seed2.*other spots than those of seed 1"):
        score(tmp_path, [row("corrected", seeds=(1, 2))], runs)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows: found nothing"),
        ([row("corrected"), row("corrected")], "the base of corrected twice"),
        ([row("corrected"), row("corrected", "x"), row("corrected", "x")], "x of corrected twice"),
        ([row("corrected"), row("published", "x")], "x of published before its base"),
        ([row("better")], "rows.0..start: found 'better'; allowed: corrected, published"),
        ([{**row("corrected"), "meaning": None}], "rows.0..meaning: found None; give a text"),
        ([{**row("corrected"), "pairs": []}], "without pairs, seeds or why_not"),
        ([{**row("corrected"), "pairs": [{"image": "i"}]}], "give image_encoder, gene_encoder"),
        ([row("corrected", pairs=[MLP, MLP])], "seed 1 twice"),
        (["corrected"], "give an object"),
    ],
)
def test_rows_that_are_incomplete_or_stand_twice_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=message) as told:
        score(tmp_path, rows, [write_run(tmp_path, "corrected_")])
    assert "\n" not in str(told.value)


def test_runs_of_no_row_or_given_twice_are_refused(tmp_path):
    run = write_run(tmp_path, "corrected_")
    for more, message in (
        (write_run(tmp_path, "another"), "found another, d, i with mlp, seed 1; give only runs of"),
        (run, "seed 1 twice; give each run once"),
        (tmp_path / "options.json", "found nothing"),
    ):
        with pytest.raises(InputError, match=message):
            score(tmp_path, [row("corrected")], [run, more])


def test_options_of_scoring_are_checked(tmp_path):
    run = write_run(tmp_path, "corrected_")
    for options, message in (({"bootstrap": -1}, "bootstrap"), ({"nonsense": 1}, "nonsense")):
        with pytest.raises(InputError, match=message):
            score(tmp_path, [row("corrected")], [run], **options)


def test_splits_that_cannot_be_scored_are_refused(tmp_path):
    run = write_run(tmp_path, "corrected_", rows=index_rows(("A", "A"), donors=["d", "e"]))
    with pytest.raises(InputError, match="sample A: found 2 donors"):
        score(tmp_path, [row("corrected")], [run])


# -------------------------------------------------------------------------------- table and figure


@pytest.fixture
def scored(tmp_path):
    """Scores of an audit from both starts, with something lacking, and their file."""
    runs = []
    for start, flag, lost in (
        ("corrected", "", range(20)),
        ("corrected", "last_checkpoint", range(40)),
        ("published", "", range(90)),
        ("published", "last_checkpoint", range(60)),
    ):
        runs += [
            write_run(tmp_path, f"{start}_{flag}", s, lost=lost[: len(lost) - s]) for s in (1, 2)
        ]
    runs.append(
        write_run(
            tmp_path, "corrected_leak", dataset="e", rows=index_rows(("A", "C")), lost=range(9)
        )
    )
    rows = []
    for start in protocols.PROTOCOLS:
        rows += [
            row(start, seeds=(1, 2)),
            row(start, "leak", dataset="e"),
            row(start, "last_checkpoint", seeds=(1, 2)),
            row(start, "conch_trunk", why_not="conch isn't among the encoders"),
        ]
    return score(tmp_path, rows, runs), tmp_path / "scores.tsv"


def tabulate(path, folder, options='{"audit": "a"}'):
    made = [folder / f"t.{ending}" for ending in ("tsv", "md", "tex")]
    flags = zip(("--table", "--markdown", "--latex"), map(str, made), strict=True)
    show_audit.main(["--scores", str(path), *sum(flags, ()), "--options", options])
    return made


def test_the_table_reads_back_and_says_what_made_it(scored, tmp_path):
    rows, path = scored
    table, _, _ = tabulate(path, tmp_path)
    raw = tsv.read_tsv(table, tsv.ORIGIN)
    assert audit_table.TABLE.matches(raw[0])
    assert not audit_table.TABLE.matches(retrieval_table.HEAD)
    assert {len(found["scores_sha256"]) for found in raw} == {64}
    read = audit_table.TABLE.read(table)
    assert len(read) == len(rows)
    for was, found in zip(rows, read, strict=True):
        assert {name: found[name] for name in audit_table.COLUMNS} == {
            name: was[name] for name in audit_table.COLUMNS
        }


def test_the_table_lays_out_with_meanings_first_and_a_section_for_each_gallery_and_start(
    scored, tmp_path
):
    rows, path = scored
    parts = audit_table.sections(rows)
    assert [part["title"] for part in parts] == [
        "What each flag means",
        *(
            f"From the {start} protocol, one flag {change}: Recall@5, gallery: {gallery}"
            for gallery in ("in batches of 1000, in data set order", "the whole split")
            for start, change in (("corrected", "switched on"), ("published", "repaired"))
        ),
    ]
    assert all(len(line) == len(part["header"]) for part in parts for line in part["rows"])
    meanings = {line[0]: line[1:] for line in parts[0]["rows"]}
    assert list(meanings) == ["leak", "last checkpoint", "CONCH trunk"]  # in the audit's order
    assert meanings["leak"] == ["H2", "what leak means", "switched on", "not run: seed 1"]
    assert meanings["CONCH trunk"][2:] == ["not tried: conch isn't among the encoders"] * 2
    whole = parts[-2]
    assert [line[0] for line in whole["rows"]] == ["none", "leak", "last checkpoint"]
    place = whole["header"].index("Difference")
    assert whole["rows"][0][place] == layout.NOT_RUN
    assert whole["rows"][2][place].startswith("-0.13")
    assert [line[whole["header"].index("Same spots")] for line in whole["rows"][1:]] == [
        "no",
        "yes",
    ]
    notes = " ".join(parts[-1]["notes"])
    assert "Tested on other spots than the base: leak from corrected." in notes
    assert "Missing: from published, leak, i with mlp: not run: seed 1." in notes
    _, markdown, latex = tabulate(path, tmp_path)
    assert "| last checkpoint | H2 |" in markdown.read_text()
    assert "\\begin{tabular}" in latex.read_text()


def test_scores_that_are_damaged_or_of_another_audit_are_refused(scored, tmp_path):
    path = scored[1]
    text = path.read_text()
    with pytest.raises(InputError, match="give scores of b"):
        tabulate(path, tmp_path, '{"audit": "b"}')
    lines = text.splitlines(keepends=True)
    for changed, message in (
        (text[:-5], "cut off"),
        (text + lines[-1], "twice"),
        (text.replace("corrected\t", "better\t"), "start"),
        (text.replace("\tboth\t", "\tsideways\t"), "direction"),
        (text.replace("value", "worth"), "column value"),
        (lines[0], "no score"),
    ):
        path.write_text(changed)
        with pytest.raises(InputError, match=message):
            tabulate(path, tmp_path)


def draw(path, folder):
    folder.mkdir()
    made = [folder / "f.png", folder / "f.svg"]
    show_audit.main(["--scores", str(path), "--png", str(made[0]), "--svg", str(made[1])])
    return [file.read_bytes() for file in made]


def test_the_figure_is_the_same_bytes_again(scored, tmp_path):
    first, second = (draw(scored[1], tmp_path / name) for name in "ab")
    assert first == second
    assert len(first[0]) > 20_000


def texts_of(panel):
    return [text.get_text() for text in panel.texts]


def test_the_figure_has_a_line_per_flag_and_says_in_grey_what_has_no_number(scored):
    figure = audit_figure.plot_differences(scored[0])
    batches, whole = figure.axes
    labels = batches.get_yticklabels()
    assert [label.get_text() for label in labels] == [
        "leak (H2)",
        "last checkpoint (H2)",
        "CONCH trunk (H2)",
    ]
    assert len({label.get_color() for label in labels[:2]}) == 1
    assert labels[2].get_color() != labels[0].get_color()
    for panel in (batches, whole):
        assert texts_of(panel) == ["published: not run", "not tried"]
    marks = [line for line in whole.lines if line.get_marker() in ("o", "s")]
    assert len(marks) == 3
    wanted = cell(scored[0], "corrected", "last_checkpoint")
    drawn = {(float(mark.get_xdata()[0]), mark.get_markerfacecolor()) for mark in marks}
    assert wanted["difference"] in {x for x, _ in drawn}
    assert [face for _, face in drawn].count("white") == 1  # the one on other spots
    assert "CONCH trunk: conch isn't among the encoders" in figure._supxlabel.get_text()


def test_a_figure_of_an_audit_without_any_run_can_be_drawn(tmp_path):
    rows = [row(s, f, seeds=(1,)) for s in protocols.PROTOCOLS for f in ("", "last_checkpoint")]
    options = audit_options.check_options({"audit": "a", "rows": rows})
    flag_effects.TABLE.write(tmp_path / "s.tsv", flag_effects.score(options, {}, None))
    draw(tmp_path / "s.tsv", tmp_path / "figure")
    assert (
        "not run"
        in audit_table.sections(flag_effects.read_scores(tmp_path / "s.tsv"))[0]["rows"][0][3]
    )
