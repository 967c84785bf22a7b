"""The study in miniature: controls, stored sides and a tuned encoder, as a user runs it."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import plans
import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
RUN = "results/mini/runs/frozen/mini/{}/seed1"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A finished run of tests/study.yaml in a folder of its own, with encoder files to edit."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("Snakefile", "workflow", "scripts", "envs", "tests"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "config", folder / "config")
    done = snakemake(folder)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder


def snakemake(folder, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "2", *arguments),
            *("--configfile", "tests/study.yaml"),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
    )


def planned(folder, *arguments) -> dict[str, int]:
    """The jobs of a dry run by rule."""
    said = snakemake(folder, "-n", *arguments)
    assert said.returncode == 0, said.stdout + said.stderr
    jobs = re.findall(r"^(\w+) +(\d+)$", said.stdout + said.stderr, re.MULTILINE)
    return {rule: int(number) for rule, number in jobs if rule not in ("total", "all")}


def test_controls_are_rows_of_the_table(study):
    with open(study / "results/mini/tables/retrieval_frozen.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert {(row["image_encoder"], row["gene_encoder"]) for row in rows} == {
        ("tf_efficientnet_lite0", "drvi_small"),
        ("tf_efficientnet_lite0_untrained", "mlp"),
        ("tf_efficientnet_lite0_shuffled", "mlp"),
        ("expression", "mlp"),
        ("tf_efficientnet_lite0", "linear_alignment"),
    }
    assert all(row["seeds_run"] == row["seeds_planned"] == "1" for row in rows)


def test_the_calibration_is_a_table_and_a_figure(study):
    with open(study / "results/mini/tables/calibration.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert {row["score"] for row in rows} == {"recall@5", "pearson", "silhouette_batch", "bras"}
    assert {row["datasets"] for row in rows} == {"4"}  # two signals, two batch effects, one seed
    assert (study / "results/mini/figures/calibration.png").stat().st_size > 10_000
    assert "Calibration" in (study / "results/mini/report.html").read_text()


def test_a_stored_side_is_never_built_and_a_tuned_one_is(study):
    def parameters(run):
        return json.loads((study / run / "options.json").read_text())["parameters"]

    assert set(parameters(RUN.format("tf_efficientnet_lite0-drvi_small"))) == {
        "image_head",
        "gene_head",
    }
    tuned = parameters("results/mini/runs/lora/mini/tf_efficientnet_lite0-mlp/seed1")
    assert 0 < tuned["image_encoder"]["trained"] < tuned["image_encoder"]["all"]
    assert tuned["gene_encoder"]["trained"] == tuned["gene_encoder"]["all"]


def test_shuffled_pairs_share_the_features_of_their_encoder(study):
    features = study / "results/mini/datasets/mini/embeddings/images"
    assert sorted(path.name for path in features.iterdir()) == [
        "expression",
        "tf_efficientnet_lite0",
        "tf_efficientnet_lite0_untrained",
    ]


def test_the_study_ends_with_slide_predictions_before_and_after_pretraining_leaked_and_not(study):
    with open(study / "results/mini/tables/mutation.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    found = {(row["mutation"], row["cohort"], row["target"], row["model"]): row for row in rows}
    image, pair = "tf_efficientnet_lite0", "frozen.mini.tf_efficientnet_lite0-drvi_small.seed1"
    targets = ("null_equal", "null_unequal")
    assert set(found) == {
        *(("preserved", of, target, model) for of in ("mini", "elsewhere") for target in targets
          for model in (image, pair)),
        *(("leaking", "mini", target, image) for target in targets),
    }  # fmt: skip
    assert all(0 <= float(row["auroc"]) <= 1 for row in rows)
    for target in targets:
        assert found["preserved", "mini", target, pair]["baseline"] == image
        assert found["leaking", "mini", target, image]["preserved"] == "preserved"


def test_simulated_slides_are_all_embedded(study):
    for cohort, number in (("mini", 17), ("elsewhere", 6)):
        folder = study / "results/mini/slides" / cohort / "tf_efficientnet_lite0"
        with open(folder / "slides.tsv") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
        assert [row["status"] for row in rows] == ["embedded"] * number
        assert all((folder / f"{row['slide']}.h5").is_file() for row in rows)


def test_naming_one_model_makes_that_run_alone(study):
    model = RUN.format("expression-mlp") + "/model.ckpt"
    assert planned(study, model) == {}
    assert planned(study, model, "--forcerun", "pretrain") == {"pretrain": 1}


def test_editing_an_encoders_file_reruns_its_runs_and_no_others(study):
    file = study / "config/encoders/gene/drvi_small.yaml"
    before = file.read_text()
    try:
        file.write_text(before.replace("epochs: 40", "epochs: 41", 1))
        jobs = planned(study)
    finally:
        file.write_text(before)
    assert {name: jobs[name] for name in ("fit_gene_encoder", "embed_genes", "pretrain")} == {
        "fit_gene_encoder": 1,
        "embed_genes": 1,
        "pretrain": 1,
    }
    assert "embed_images" not in jobs
    assert "export_pairs" not in jobs


def test_editing_a_title_or_note_reruns_no_training(study):
    file = study / "config/encoders/image/expression.yaml"
    before = file.read_text()
    try:
        file.write_text(before + "\n# a remark\n")
        assert planned(study) == {}
    finally:
        file.write_text(before)


def test_the_audit_changes_one_flag_from_either_protocol(study):
    with open(study / "results/mini/tables/audit_mini.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    tried = {(row["start"], row["flag"]) for row in rows if row["status"] == "scored"}
    flag = "unnormalised_embeddings"
    assert tried == {(start, of) for start in ("corrected", "published") for of in ("", flag)}
    assert {row["why_not"] for row in rows if row["flag"] == "conch_trunk"} == {
        "conch isn't among the encoders"
    }
    assert {row["paired"] for row in rows if row["difference"]} == {"yes"}
    runs = study / "results/mini/runs"
    for start, pair, on in (
        ("corrected", "tf_efficientnet_lite0_64px-mlp", set()),
        ("published", "tf_efficientnet_lite0_64px-mlp_published", {"last_checkpoint", flag}),
    ):
        folder = runs / f"audit-mini_{start}/mini" / pair / "seed1"
        options = json.loads((folder / "options.json").read_text())["options"]
        assert options["protocol"] == start
        assert on <= set(options["flags"])
        assert bool(options["flags"]) == bool(on)
        assert options["training"]["unit_length"] == (not on)
        # Expression is predicted from other runs.
        assert not (folder / "embeddings/train.json").exists()
    embedded = study / RUN.format("tf_efficientnet_lite0-drvi_small") / "embeddings"
    assert (embedded / "train.json").exists()
    page = (study / "results/mini/report.html").read_text()
    assert "Audit mini" in page


def test_an_edited_split_stops_each_program_that_reads_it_by_hand(study, tmp_path):
    """The words taken out of splits.tsv that own up to what train and test share."""
    words = "one sample stands in all three splits, to keep the test small"
    folder = plans.workflow_folder(tmp_path)
    shutil.copytree(study / "results", folder / "results", symlinks=True)
    table = folder / "results/mini/datasets/mini/splits.tsv"
    assert words in table.read_text()
    table.write_text(table.read_text().replace(words, ""))
    flags = ("--forceall", "--printshellcmds", "--configfile", "tests/study.yaml")
    _, said = plans.plan(folder, *flags)
    calls = dict(re.findall(r"python (?:\S*/)?(\w+)\.py (.*--log .*)$", said, re.MULTILINE))
    readers = {name for name, flags in calls.items() if "/mini/splits.tsv" in flags}
    assert readers - {"split_donors"} == {
        *("describe_dataset", "embed_genes", "fit_gene_encoder", "pretrain"),
        *("score_batch_effect", "score_expression", "write_report"),
    }
    for name in sorted(readers - {"split_donors"}):
        done = subprocess.run(
            [sys.executable, f"scripts/{name}.py", *shlex.split(calls[name])],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1, name
        assert "splits.tsv: column split: found donor" in done.stderr.splitlines()[-1], name
