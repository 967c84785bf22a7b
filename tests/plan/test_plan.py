"""The plan answers without Snakemake: files, options and models of a configuration."""

import dataclasses
import json
import re
import shlex
import subprocess
import sys
from types import SimpleNamespace

import plans
import pytest
import yaml
from conftest import ROOT

from pairscape.core.errors import InputError
from pairscape.core.options import read_schema
from pairscape.jobs import program
from pairscape.plan import commands, costs, datasets, paths, runs, samples, scores, slides
from pairscape.plan.plan import Dataset, Experiment, Model, Mutation
from pairscape.plan.reading import read_plan


def plan_of(path):
    return read_plan(yaml.safe_load((ROOT / path).read_text()), path)


@pytest.fixture(scope="module")
def full():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield plan_of("config/config.yaml")


@pytest.fixture(scope="module")
def demo():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        yield plan_of("config/demo.yaml")


@pytest.mark.parametrize(
    ("part", "kind", "added"),
    [
        ("dataset", Dataset, {"samples", "filled_splits", "lost"}),
        ("experiment", Experiment, set()),
        ("mutation", Mutation, set()),
    ],
)
def test_what_a_plan_holds_has_the_keys_of_its_schema(part, kind, added):
    keys = set(read_schema("config")["$defs"][part]["properties"])
    assert {field.name for field in dataclasses.fields(kind)} == keys | added


def test_reading_a_plan_loads_nothing_heavy():
    code = (
        "import sys, pairscape.plan.reading, pairscape.plan.commands, pairscape.plan.costs; "
        "heavy = {'numpy', 'torch', 'numba', 'anndata', 'pandas', 'pyarrow', 'scipy'}; "
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "scripts")


def test_a_simulated_sample_has_its_bundle_where_the_simulator_writes_it(demo):
    files = samples.bundle_inputs(demo, "demo1")
    assert files == {
        "experiment": "results/demo/bundles/demo1/experiment.xenium",
        "transcripts": "results/demo/bundles/demo1/transcripts.parquet",
        "he_image": "results/demo/bundles/demo1/demo1_he_image.ome.tif",
        "he_alignment": "results/demo/bundles/demo1/demo1_he_imagealignment.csv",
    }


def test_each_run_of_the_benchmark_is_expected_once(full):
    expected = runs.expected_runs(full, "benchmark")
    assert len(expected) == len({json.dumps(run) for run in expected}) == 6 * 5 * 4 * 3
    assert len(runs.expected_runs(full, "benchmark.human-breast-panel")) == 5 * 4 * 3


def test_a_frozen_side_is_read_and_a_tuned_one_gets_its_weights(full):
    one = {"dataset": "human-breast-panel", "image": "uni", "gene": "drvi"}
    run = type("Run", (), {"experiment": "benchmark", **one})
    features, weights = runs.frozen_features(full, run), runs.run_weights(full, run)
    assert sorted(features) == ["gene_features", "gene_index"]
    assert weights["gene_weights"] == []
    assert weights["image_weights"][0].startswith("weights/image/uni/")


def test_a_failed_run_is_told_by_its_reason_and_has_no_embeddings(tmp_path):
    failed, done = tmp_path / "failed", tmp_path / "done"
    for folder, file in ((failed, "failed.json"), (done, "options.json")):
        folder.mkdir()
        (folder / file).touch()
    paths = [str(failed), str(done)]
    assert runs.outcomes(paths) == [f"{failed}/failed.json", f"{done}/options.json"]
    assert [path.startswith(str(done)) for path in runs.stored_embeddings(paths)] == [True] * 4


def test_tables_lie_in_tables_and_pictures_in_figures(demo):
    assert scores.retrieval_files(demo, ".md", ".svg") == [
        "results/demo/tables/retrieval_demo.md",
        "results/demo/figures/retrieval_demo.svg",
    ]


def test_batch_effects_have_a_figure_from_two_panels_on(demo, full):
    assert scores.batch_effect_files(demo, ".tsv", ".png") == [
        "results/demo/tables/batch_effect.tsv"
    ]
    assert "results/figures/batch_effect_benchmark.png" in scores.batch_effect_files(full, ".png")


def test_figures_call_encoders_by_the_titles_of_their_files(demo):
    assert scores.encoder_titles(demo, "demo") == {
        "image": {
            "tf_efficientnet_lite0_64px": "EfficientNet-Lite0 at 64 px (ImageNet)",
            "coordinates": "Coordinates alone",
            "colours": "Colours and nuclei alone",
        },
        "gene": {
            "mlp": "MLP",
            "drvi_small": "DRVI, small",
            "linear_alignment": "Linear alignment (CCA)",
        },
    }


def test_controls_are_told_to_the_figure_of_hits(demo):
    closed = ["tf_efficientnet_lite0_64px", "coordinates", "colours"]
    assert scores.control_pairs(demo, "demo") == [[one, "linear_alignment"] for one in closed]
    assert scores.control_pairs(demo, "smoke") == []
    study = plan_of("config/study.yaml")
    told = [pair for shown in study.shown for pair in scores.control_pairs(study, shown)]
    assert told
    specs = [(study.encoders["image"][image], study.encoders["gene"][gene]) for image, gene in told]
    assert all(image.get("control") or gene.get("control") for image, gene in specs)


def test_every_score_of_a_plain_run_is_made_again_where_it_is_missing(demo):
    kept = scores.kept_files(demo)
    for file in ("retrieval.tsv", "hits.parquet", "expression.tsv"):
        assert f"results/demo/scores/demo/simulated-breast/{file}" in kept


def test_a_dataset_says_why_it_is_unlike_the_published_one(full, demo):
    assert scores.unlike_published(full, "human-breast-panel") == ""
    assert scores.unlike_published(demo, "simulated-breast") == "simulated tissue"


def test_what_isnt_there_to_compare_is_refused_in_one_line(full):
    with pytest.raises(InputError, match="experiments: found neither nothing nor nothing_"):
        scores.compared_scores(full, "nothing")


def test_a_job_asks_for_more_where_there_are_more_spots_and_at_each_attempt(full):
    needed = costs.grows(full, 1000, kspots=10)
    large, small = (
        {"dataset": name} for name in ("human-breast-panel", "human-lung-healthy-panel")
    )
    assert 1000 < needed(small, 1) < needed(large, 1)
    assert needed(small, 2) == pytest.approx(2 * needed(small, 1), abs=1)


def test_options_as_json_hold_every_text_and_no_wildcard():
    values = {"title": '{word} \\ "{x}" {{y}}', "list": [{"a": "{b}"}], "url": "?key=${NAME}"}
    text = commands.as_json(values)
    assert json.loads(text) == values
    assert "{word" not in text
    assert "{b}" not in text
    assert "${NAME}" in text


def test_flags_are_quoted_whatever_the_path_holds():
    path = "/data/O'Brien's/he image.tif"
    line = commands.flags({"he_image": path, "other": "x"}, "he_image", "he_alignment")
    assert shlex.split(line) == ["--he-image", path]
    assert commands.first_flag("--weights", []) == ""


def test_slides_of_a_pair_on_stored_features_need_its_encoders_features():
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        study = plan_of("config/study.yaml")
    cohort = next(iter(study.cohorts))
    pairs = [name for name, model in study.models.items() if model.experiment]
    for name in pairs:
        base = slides.base_model(study, name)
        files = slides.model_files(study, cohort, name)
        assert base in study.models
        assert files["base"] == f"results/study/slides/{cohort}/{base}/slides.tsv"
        assert "weights" not in files
    assert pairs


def test_every_dataset_names_its_licences_once(full):
    named = [row["sample"] for row in datasets.licences(full)]
    assert named == sorted(set(named))
    assert {sample for one in full.datasets.values() for sample in one.samples} == set(named)


@pytest.mark.parametrize(
    "names",
    [
        [],
        ["a"],
        ["a", "ab"],
        ["ab", "ac", "b"],
        ["x.y", "x-y", "xzy", "x"],
        ["lite0", "lite0_64px"],
    ],
)
def test_a_wildcard_takes_exactly_the_names_that_there_are(names):
    pattern = re.compile(commands.any_of(names))
    others = {"", "a", "ab", "abc", "b", "xay", "lite", "lite0_", "x.", "x-y-"} - set(names)
    assert all(pattern.fullmatch(name) for name in names)
    assert not any(pattern.fullmatch(name) for name in others)


def test_every_name_of_the_full_configuration_is_one_that_its_wildcard_takes(full):
    pattern = re.compile(f"(?P<shown>{commands.any_of(full.shown)})\\.md$")
    assert all(pattern.match(f"{name}.md")["shown"] == name for name in full.shown)


def renamed(plan, experiment=None, **parts):
    """A plan with another experiment, or other parts."""
    if experiment:
        name, one = next(iter(plan.experiments.items()))
        parts["experiments"] = {name: dataclasses.replace(one, **experiment)}
    return dataclasses.replace(plan, **parts)


def test_names_that_make_one_path_of_two_things_are_refused(demo):
    paths.refuse_shared_paths(demo)
    pairs = {"image_encoders": [], "gene_encoders": []}
    pairs["controls"] = [{"image": "x", "gene": "y-mlp2"}, {"image": "x-y", "gene": "mlp2"}]
    with pytest.raises(InputError, match=r"x-y-mlp2/seed\d+ of image 'x', gene 'y-mlp2' and of"):
        paths.refuse_shared_paths(renamed(demo, pairs))
    one = next(iter(demo.experiments.values()))
    twice = {"a": one, f"a.{one.datasets[0]}": one}
    with pytest.raises(InputError, match=r"rename one of them, so that each has a path of its own"):
        paths.refuse_shared_paths(renamed(demo, experiments=twice))


def entry(**parts):
    model = Model("lite0")
    rest = {"cohort": "c", "external": [], "folds": 3, "leaking": False, "on_request": False}
    return Mutation(**{**rest, "targets": ["msi"], "training": {}, "models": {"m": model}, **parts})


@pytest.mark.parametrize(
    "mutation",
    [
        {"a": entry(targets=["msi_leaking"]), "b": entry(leaking=True)},
        {"a": entry(models={"folds": Model("folds")})},
        {"a": entry(models={"figures": Model("figures")})},
        {"a": entry(), "a_msi": entry(targets=["m"], models={"m": Model("x")}),
         "a_": entry(targets=["msi_m"], models={"m": Model("x")}),
         "a__msi": entry(targets=["m"], models={"m": Model("x")})},
    ],
    ids=["leaking folds", "folds", "figures", "logs"],
)  # fmt: skip
def test_names_of_slides_that_share_a_path_are_refused(demo, mutation):
    with pytest.raises(InputError, match=r"names: found .* and of \w+"):
        paths.refuse_shared_paths(renamed(demo, mutation=mutation))


def test_every_log_that_is_named_by_several_names_is_in_the_rule():
    text = "".join(path.read_text() for path in (ROOT / "workflow").glob("*.smk"))
    named = dict(re.findall(r"/logs/(\w+)/((?:\{\{\w+\}\}_?){2,})\.log", text))
    alike = {"embed_genes": "fit_gene_encoder", "import_pairs": "export_pairs"}
    alike |= {"score_hits": "score_retrieval", "score_expression": "score_retrieval"}
    for rule, pattern in named.items():
        if rule != "fetch_weights":
            assert paths.LOGS[alike.get(rule, rule)] == pattern.replace("{{", "{").replace(
                "}}", "}"
            )


def test_long_options_go_through_a_file_and_short_ones_stay_as_they_are(tmp_path):
    start = f"{tmp_path}/.options/show_retrieval"
    text = json.dumps({"expected": [{"seed": seed, "image": "ü" * 90} for seed in range(1200)]})
    assert commands.short("{}", start) == "{}"
    assert not (tmp_path / ".options").exists()
    argument = commands.short(text, start)
    assert len(argument) < 300
    args = program.parse(["--options", argument], "", 1)
    assert args.options == json.loads(text)
    assert commands.short(text, start) == argument != commands.short(text + " ", start)
    with pytest.raises(InputError, match=r"gone.json: options: found No such file"):
        program.parse(["--options", f"@{tmp_path}/gone.json"], "", 1)


def test_a_process_starts_with_the_longest_argument_that_is_given_as_it_is():
    longest = "x" * commands.MAX_ARGUMENT
    subprocess.run(["true", longest], check=True)


def test_machine_options_leave_what_a_rerun_is_decided_by():
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())

    def decides(**training):
        config["experiments"]["demo"]["training"] |= training
        read = read_plan(config, "config/demo.yaml")
        return runs.deciding_training(read, "demo"), json.loads(runs.machine_training(read, "demo"))

    before, _ = decides()
    machine = {"micro_batch": 32, "loader_workers": 2, "loggers": ["wandb"], "devices": 2}
    after, beside = decides(**machine)
    assert after == before
    assert beside == {**beside, **machine}
    assert not set(beside) & set(after)
    after, _ = decides(max_steps=7)
    assert after != before


def test_a_parameter_that_asks_for_resources_reruns_nothing(tmp_path):
    """How the rule pretrain hands on machine options; here with Snakemake's own bookkeeping."""
    assert "machine=lambda w, resources: " in (ROOT / "workflow/pretrain.smk").read_text()
    (tmp_path / "Snakefile").write_text(
        "rule one:\n    output: 'a'\n"
        "    params:\n        machine=lambda w, resources: config['machine'],\n"
        "        options=lambda w: config['options'],\n"
        "    shell: 'echo {params.machine} {params.options} > {output}'\n"
    )
    given = ("machine=1", "options=1")
    done = plans.snakemake(tmp_path, "--config", *given)
    assert done.returncode == 0, done.stderr
    assert plans.plan(tmp_path, "--config", "machine=2", "options=1")[0] == {}
    assert plans.plan(tmp_path, "--config", "machine=1", "options=2")[0]["one"] == 1


def test_the_memory_of_a_pretraining_grows_with_devices_readers_and_weights(full):
    names = {"experiment": "benchmark", "dataset": "human-breast-panel", "gene": "mlp"}

    def needed(image="uni", attempt=1, **training):
        own = full.experiments["benchmark"]
        changed = dataclasses.replace(own, training=own.training | {"devices": 1} | training)
        plan = dataclasses.replace(full, experiments={"benchmark": changed})
        return costs.training_mb(plan, SimpleNamespace(**names, image=image), attempt)

    one = needed()
    assert needed(devices=4) - one == 3 * (needed(devices=2) - one) > 0
    assert needed(loader_workers=16) > one > needed(loader_workers=0)
    assert needed("gigapath") - one == round(2 * 4 * (1_134_953_984 - 303_350_784) / 1e6)
    assert needed(image_tuning="frozen") < needed(loader_workers=0)
    assert needed(attempt=2) == 2 * one


def test_an_alignment_that_is_to_be_found_stands_between_the_checks_and_the_spots(full):
    row = full.samples["NCBI783"] | {"he_alignment": "register"}
    plan = dataclasses.replace(full, samples=dict(full.samples) | {"NCBI783": row})
    found = "results/samples/NCBI783/he_registered.csv"
    assert samples.he_files(plan, "NCBI783")["he_alignment"] == found
    assert samples.bundle_inputs(plan, "NCBI783")["he_alignment"] == found
    for before in (samples.he_as_given, samples.tiled_files):  # what it is found from, and checked
        assert "he_alignment" not in samples.bundle_inputs(plan, "NCBI783", before)
    own = row | {"source": "local", "he_image": "he.tif", "bundle": "outs"}
    plan = dataclasses.replace(full, samples=dict(full.samples) | {"NCBI783": own})
    assert samples.bundle_inputs(plan, "NCBI783") == {"he_alignment": found}
    without = own | {"he_image": "none"}
    plan = dataclasses.replace(full, samples={"NCBI783": without})
    assert not samples.is_registered(plan, "NCBI783")


def test_snakemake_registers_before_it_checks_pools_and_exports(tmp_path):
    folder = plans.workflow_folder(tmp_path)
    table = (ROOT / "config/demo/samples.tsv").read_text().splitlines()
    head = table[0].split("\t")
    rows = [dict(zip(head, line.split("\t"), strict=False)) for line in table[1:]]
    rows[0]["he_alignment"] = "register"
    head += [] if "he_alignment" in head else ["he_alignment"]
    lines = [
        "\t".join(row.get(name, "") for name in head)
        for row in [dict(zip(head, head, strict=True)), *rows]
    ]
    (folder / "samples.tsv").write_text("\n".join(lines) + "\n")
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text()) | {"samples": "samples.tsv"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    name = rows[0]["sample"]
    wanted = f"{config['results']}/samples/{name}/alignment.json"
    jobs, said = plans.plan(folder, "--configfile", "mine.yaml", "--", wanted)
    assert jobs["register_image"] == jobs["check_bundle"] == jobs["check_alignment"] == 1
    assert "he_registered.csv" in said
