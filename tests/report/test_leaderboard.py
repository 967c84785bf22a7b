"""Runs of several results folders in one table, or the line that says why they can't be."""

import json

import pytest

import write_leaderboard
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.report import expression_table, leaderboard, retrieval_table

ENCODER = {"title": "", "control": "", "weights": None, "builder": "timm", "arguments": {}}
CONTROL = "closed form: regularised CCA"


def write_folder(folder, pairs, experiment="mine", rows=80, dataset="breast"):
    """Results of ``pairs``: image, gene, control and Recall@5 of both directions."""
    table = []
    for image, gene, control, *recalls in pairs:
        run = {
            "experiment": experiment,
            "dataset": dataset,
            "image_encoder": image,
            "gene_encoder": gene,
            "seed": 1,
            "options": {
                "image_encoder": ENCODER | {"title": image.upper(), "weights": {"licence": "MIT"}},
                "gene_encoder": ENCODER | {"title": gene.upper(), "control": control},
                "training": {"image_tuning": "lora", "gene_tuning": "frozen"},
            },
            "shards": [{"sample": "S1", "rows": rows, "sha256": "ab"}],
            "splits": [{"sample": "S1", "donor": "D1", "split": "test", "donor_known": "True"}],
            "trunk_sha256": {"images": "c0ffee" * 8},
            "git_commit": "deadbeef" * 5,
        }
        if control:
            run["closed_form"] = {"method": "cca"}
        path = folder / "runs" / experiment / dataset / f"{image}-{gene}" / "seed1/options.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(path, run, sealed=True)
        for gallery, factor in (("split", 1), ("in_batch_64", 4)):
            for direction, recall in zip(("i2g", "g2i"), recalls, strict=True):
                row = dict.fromkeys(retrieval_table.TABLE.names)
                row |= {"dataset": dataset, "image_encoder": image, "gene_encoder": gene}
                row |= {"direction": direction, "gallery": gallery, "control": control}
                row |= {"seeds_run": 1, "seeds_planned": 1, "queries": rows, "donors_shared": ""}
                value = None if recall is None else recall * factor
                row |= {"recall@5": value, "recall@5_ci_low": 0.01, "recall@5_ci_high": 0.9}
                table.append(row | {"recall@5_chance": 5 / rows})
    (folder / "tables").mkdir(exist_ok=True)
    retrieval_table.TABLE.write(folder / "tables" / f"retrieval_{experiment}.tsv", table)
    return folder


@pytest.fixture
def folders(tmp_path):
    first = [("uni", "mlp", "", 0.10, 0.12), ("uni", "cca", CONTROL, 0.3, 0.3)]
    second = [("conch", "mlp", "", 0.20, 0.10), ("conch", "drvi", "", None, None)]
    return [
        write_folder(tmp_path / "one", first),
        write_folder(tmp_path / "other", second, experiment="theirs"),
    ]


def board(out, *folders):
    flags = ["--board", str(out / "board.tsv"), "--page", str(out / "board.html")]
    write_leaderboard.main(["--folders", *map(str, folders), *flags, "--options", "{}"])
    return leaderboard.BOARD.read(out / "board.tsv")


def test_pairs_of_all_folders_stand_by_their_recall_and_controls_have_no_place(folders, tmp_path):
    rows = board(tmp_path, *folders)
    told = [(row["place"], row["image_encoder"], row["gene_encoder"]) for row in rows]
    assert told == [(None, "uni", "cca"), (1, "conch", "mlp"), (2, "uni", "mlp")]
    closed, best, _ = rows
    assert (closed["control"], closed["tuning"]) == (CONTROL, "none")
    assert (best["tuning"], best["licence"], best["experiment"]) == (
        "lora, frozen",
        "MIT, none",
        "theirs",
    )
    assert (best["i2g_value"], best["g2i_value"]) == (0.2, 0.1)
    assert (best["i2g_published"], best["chance"]) == (0.8, 5 / 80)
    assert best["expression"] is None
    page = (tmp_path / "board.html").read_text()
    assert "CONCH" in page
    assert 'href="other/runs/theirs/breast/conch-mlp/seed1/options.json"' in page
    assert page.count("<tr") == 1 + 3
    assert 'src="' not in page  # it needs nothing beside itself


def test_expression_is_that_of_the_pair_by_the_corrected_recipe(folders, tmp_path):
    rows = []
    for recipe, after in (("published", 0.9), ("corrected", 0.4)):
        row = dict.fromkeys(expression_table.TABLE.names)
        row |= {"dataset": "breast", "image_encoder": "uni", "gene_encoder": "mlp"}
        rows.append(row | {"recipe": recipe, "metric": "pearson", "after": after})
    expression_table.TABLE.write(folders[0] / "tables/expression_mine.tsv", rows)
    found = {row["image_encoder"] + row["gene_encoder"]: row for row in board(tmp_path, *folders)}
    assert found["unimlp"]["expression"] == 0.4
    assert found["unicca"]["expression"] is None


def test_data_sets_of_one_name_and_other_pairs_are_refused(folders, tmp_path):
    other = write_folder(tmp_path / "third", [("uni", "mlp", "", 0.5, 0.5)], rows=81)
    message = (
        r"third/runs/.*: shards, splits: found other pairs or splits of breast than .*one/runs"
    )
    with pytest.raises(InputError, match=message):
        board(tmp_path, *folders, other)
    assert not (tmp_path / "board.tsv").exists()
    renamed = write_folder(
        tmp_path / "fourth", [("uni", "mlp", "", 0.5, 0.5)], rows=81, dataset="breast2"
    )
    places = [row["place"] for row in board(tmp_path, *folders, renamed)]
    assert places == [None, 1, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "tables/retrieval_mine.tsv").unlink(),
            r"retrieval_\*\.tsv: file: found nothing",
        ),
        (
            lambda f: (f / "runs/mine/breast/uni-mlp/seed1/options.json").unlink(),
            r"uni-mlp/seed\*/options\.json: file: found nothing; name a folder with its runs, too",
        ),
        (
            lambda f: (f / "runs/mine/breast/uni-mlp/seed1/options.json").write_text(
                json.dumps({"experiment": "mine"})
            ),
            r"options\.json: ",
        ),
    ],
)
def test_folders_that_lack_something_are_refused(folders, tmp_path, change, message):
    change(folders[0])
    with pytest.raises(InputError, match=message):
        board(tmp_path, *folders)
