"""The plan: what Snakemake would run, without any bundle on disk."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from plans import plan, snakemake, workflow_folder
from tiny_pairs import write_splits

from pairscape.dataset import gene_lists
from pairscape.dataset.leakage import LEAKAGE
from pairscape.encoders import specs


def test_the_full_benchmark_is_planned_without_a_bundle(full_plan):
    counts, _ = full_plan
    assert counts["pretrain"] == 6 * 5 * 4 * 3
    assert counts["describe_dataset"] == 7  # six panels and the breast add-on
    assert counts["export_pairs"] == 61
    assert counts["pool_spots"] == 59  # two samples are in two datasets
    assert counts["fetch_bundle"] + counts["fetch_bundle_registered"] == 59
    assert counts["show_spots"] == 59
    assert "simulate_bundle" not in counts


def test_one_panel_is_planned_by_naming_its_card(checkout):
    counts, _ = plan(checkout, "results/datasets/human-breast-panel/README.md")
    assert counts["export_pairs"] == 5
    assert counts["describe_dataset"] == 1
    assert "pretrain" not in counts


def test_single_files_of_geo_are_planned_as_what_they_are(checkout):
    """A lung sample by hand: its transcripts are text, and every step reads that."""
    name = "GSM7990533_output-XETG00048__0003400__THD0011__20230313__191400"
    (checkout / "mine").mkdir()
    for file in ("transcripts.csv.gz", "cell_feature_matrix.h5", "cells.csv.gz"):
        (checkout / "mine" / f"{name}_{file}").write_bytes(b"")
    target = "results/samples/NCBI883/square55/audit.json"
    counts, said = plan(checkout, target, "--config", "downloads=mine")
    assert counts == dict.fromkeys(
        ["fetch_bundle_registered_csv", "check_bundle", "pool_spots"], 1
    ) | {"total": 3}
    assert "bundles/NCBI883/transcripts.csv.gz" in said
    assert "transcripts.parquet" not in said


def test_the_demo_plans_no_published_experiment(checkout):
    counts, said = plan(checkout, "--configfile", "config/demo.yaml")
    assert counts["pretrain"] == 5  # two pairs, and the three controls that need no training
    assert counts["simulate_bundle"] == 7
    assert "fetch_bundle" not in counts
    assert "benchmark" not in said


def test_tiny_plans_at_most_16_jobs_and_the_miniature_study_what_it_leaves_out(checkout):
    tiny, _ = plan(checkout, "--configfile", "tests/tiny.yaml")
    assert tiny["total"] - tiny["all"] <= 16  # `all` runs nothing
    mini, _ = plan(checkout, "--configfile", "tests/study.yaml")
    study, _ = plan(checkout, "--configfile", "config/study.yaml")
    assert set(tiny) | set(mini) == set(study)
    demo, _ = plan(checkout, "--configfile", "config/demo.yaml")
    assert set(demo) <= set(study)


def test_words_in_braces_are_no_wildcards_of_snakemake(checkout):
    """In any text of the configuration or the sample table that goes to a program."""
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    config["title"] = "{word} of {sample}, {{twice}}"
    table = (ROOT / config["samples"]).read_text(encoding="utf-8").splitlines()
    lines = [table[0] + "\torgan", *(row + "\t{organ}" for row in table[1:])]
    (checkout / "mine.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config["samples"] = "mine.tsv"
    (checkout / "mine.yaml").write_text(yaml.safe_dump(config))
    counts, _ = plan(checkout, "--configfile", "mine.yaml")
    assert counts["write_report"] == counts["index_datasets"] == 1


def test_a_misspelt_encoder_is_refused_by_name(checkout):
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["experiments"]["benchmark"]["image_encoders"][0] = "ctranspth"
    (checkout / "mine.yaml").write_text(yaml.safe_dump(config))
    _, said = plan(checkout, "--configfile", "mine.yaml", ok=False)
    line = next(line for line in said.splitlines() if "ctranspth" in line)
    assert "mine.yaml: experiments.benchmark.image_encoders[0]: found 'ctranspth'" in line
    assert "did you mean ctranspath?" in line
    assert "Traceback" not in said


def test_an_untiled_image_is_retiled_once_before_patches_are_cut(checkout):
    rows = (ROOT / "config/samples.tsv").read_text().splitlines()
    rows = [row + "\the_layout" * (i == 0) for i, row in enumerate(rows)]
    rows = [
        row + ("\tuntiled" if row.startswith("NCBI785\t") else "\t" * (i > 0))
        for i, row in enumerate(rows)
    ]
    (checkout / "mine.tsv").write_text("\n".join(rows) + "\n")
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text()) | {"samples": "mine.tsv"}
    (checkout / "mine.yaml").write_text(yaml.safe_dump(config))
    card = "results/datasets/human-breast-panel/README.md"
    counts, said = plan(checkout, card, "--configfile", "mine.yaml", "--printshellcmds")
    assert counts["retile_image"] == 1
    tiled = "results/samples/NCBI785/he_tiled.ome.tif"
    readers = {
        match[1]
        for line in said.splitlines()
        if f"--he-image '{tiled}'" in line and (match := re.search(r"scripts/(\w+)\.py", line))
    }
    assert {"export_pairs", "pool_spots"} <= readers
    assert "check_bundle" not in readers


def test_editing_one_encoder_file_plans_only_its_runs(full_plan):
    """The options of a run hold its own encoders' files and no other's."""
    _, full = full_plan
    commands = [line for line in full.splitlines() if "scripts/pretrain.py" in line]
    assert len(commands) == 360
    uni = [line for line in commands if "/uni-" in line]
    assert len(uni) == 72
    assert all('"image_name": "uni"' in line for line in uni)
    others = [line for line in commands if "/uni-" not in line]
    assert not any("MahmoodLab/uni" in line for line in others)


def test_every_rule_runs_the_program_of_its_name_with_log_environment_and_options():
    programs = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    rules = {}
    for path in sorted((ROOT / "workflow").glob("*.smk")):
        for block in re.split(r"^rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            name, body = block.split(":", 1)
            rules[name] = body
            assert f'script("{name}")' in body, f"rule {name} doesn't run its program"
            assert f'"{name}",' in body or f'options("{name}"' in body, name
            for part in ("log:", "threads:", "mem_mb", "runtime", '"../envs/pipeline.yaml"'):
                assert part in body, f"rule {name} has no {part}"
            assert "{log:q}" in body, f"rule {name} leaves its log empty"
    by_hand = {
        "describe_encoder",
        "embed_image",
        "verify_results",
    }  # programs that a user runs, no rule
    assert programs - by_hand == set(rules)


def test_programs_state_a_result_version_and_never_import_snakemake():
    for path in (ROOT / "scripts").rglob("*.py"):
        text = path.read_text()
        if path.parts[-2:] != ("own", "command.py"):  # which starts it, and asks it for its flags
            assert not re.search(r"^\s*(import|from) snakemake", text, re.MULTILINE), path
        if path.parent.name == "scripts":
            assert re.search(r"^RESULT_VERSION = \d+$", text, re.MULTILINE), path
            assert re.fullmatch(r"[a-z]+(_[a-z]+){1,2}|pretrain|preflight", path.stem), path


def test_rule_files_open_with_what_comes_in_and_goes_out():
    for path in sorted((ROOT / "workflow").glob("*.smk")):
        text = path.read_text()
        assert text.startswith('"""'), path
        if path.stem != "common":
            assert "\nIN " in text, path
            assert "\nOUT " in text, path
            assert f'include: "workflow/{path.name}"' in (ROOT / "Snakefile").read_text()


def tracked_files():
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).exists()]


def test_no_tracked_file_names_a_machine_or_a_package_host_or_is_large():
    hosts = "|".join(("pypi" + r"\.org", "python" + r"hosted\.org", "deb" + r"\.debian\.org"))
    bad = re.compile(rf"(^|[^\w.])/(work|root|farm)/[A-Za-z]|{hosts}", re.MULTILINE)
    for path in filter(Path.is_file, tracked_files()):  # a link to a folder is none
        assert path.stat().st_size < 1_000_000, f"{path} is large: make it, don't keep it"
        if path.suffix not in {".png"} and path.name != "LICENSE":
            assert not bad.search(path.read_text()), path


def test_the_chapters_name_every_stage_program_and_built_encoder():
    workflow = (ROOT / "docs/workflow.md").read_text() + (ROOT / "docs/use.md").read_text()
    for path in (ROOT / "scripts").glob("*.py"):
        assert f"`{path.stem}`" in workflow, f"no chapter of docs/ names {path.stem}"
    encoders = (ROOT / "docs/encoders.md").read_text()
    for kind in specs.KINDS:
        for name in specs.list_encoders(ROOT / "config/encoders", kind):
            if specs.read_encoder(ROOT / "config/encoders", kind, name)["built"]:
                written = name if not name.endswith("_published") else "*_published"
                assert f"`{name}`" in encoders or f"`{written}`" in encoders, (
                    f"docs/encoders.md doesn't name {name}"
                )


def test_the_conda_environment_follows_the_pins():
    import hashlib

    pins = hashlib.sha256((ROOT / "envs/pipeline.txt").read_bytes()).hexdigest()
    assert pins in (ROOT / "envs/pipeline.post-deploy.sh").read_text(), "run make pins"


def test_the_pins_of_an_older_cuda_differ_in_what_cuda_brings_alone():
    newer, older = (
        {*re.findall(r"^(\S+)==(\S+)", (ROOT / f"envs/{name}.txt").read_text(), re.M)}
        for name in ("pipeline", "pipeline-cuda12")
    )
    with_cuda = r"(cuda-|nvidia-|torch(vision)?$|triton$)"
    assert [name for name, _ in newer ^ older if not re.match(with_cuda, name)] == []
    versions = dict(older)
    assert versions["nvidia-cuda-runtime-cu12"].startswith("12.")
    assert versions["torch"] < dict(newer)["torch"]
    for path in (ROOT / "envs").glob("*.txt"):
        for line in path.read_text().splitlines():
            if re.match(r"[a-z]", line):
                assert re.search(r"==.*\\$", line), f"{path}: {line} has no hash"


def test_results_are_not_tracked():
    kept = [path for path in tracked_files() if Path("results") in path.relative_to(ROOT).parents]
    assert [path.name for path in kept] == ["README.md"]


def test_slides_of_a_filled_table_are_embedded_once_for_all_targets(checkout):
    """A slide that isn't on disk stops no plan; one that is reruns its cohort when it changes."""
    (checkout / "slides").mkdir()
    (checkout / "slides/b.svs").touch()
    head = "slide\tpatient\tsite\tfile\tMSI\tKRAS\n"
    rows = "a\tp1\tA\tmissing.svs\t1\t1\nb\tp2\tB\tb.svs\t0\t1\n"
    (checkout / "mine.tsv").write_text(head + rows)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config["cohorts"]["mine"] = {"table": "mine.tsv"}
    config["mutation"] = {
        "mine": {
            "cohort": "mine",
            "targets": ["MSI", "KRAS"],
            "models": [{"image": "tf_efficientnet_lite0"}],
        }
    }
    (checkout / "mine.yaml").write_text(yaml.safe_dump(config))
    counts, said = plan(checkout, "results/tables/mutation.md", "--configfile", "mine.yaml")
    wanted = {"embed_slides": 1, "split_sites": 2, "fit_mutation": 2, "score_mutation": 1}
    assert {rule: counts.get(rule) for rule in wanted} == wanted
    assert "pretrain" not in counts
    assert "slides/b.svs" in said
    assert "missing.svs" not in said
    (checkout / "mine.tsv").write_text(head + rows + "b\tp3\tB\tc.svs\t0\t1\n")
    _, said = plan(checkout, "--configfile", "mine.yaml", ok=False)
    assert "mine.tsv: slide b: found a second row of that name" in said
    assert "Traceback" not in said


def test_every_command_is_quoted_whatever_stands_in_a_path(tmp_path):
    """No path is quoted by hand: an apostrophe and a blank in any folder leave the words whole."""
    folder = tmp_path / "O'Brien's folder"
    folder.mkdir()
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    config |= {key: f"it's {key}" for key in ("results", "bundles", "weights", "slides")}
    (workflow_folder(folder) / "mine.yaml").write_text(yaml.safe_dump(config))
    counts, said = plan(folder, "--configfile", "mine.yaml", "--printshellcmds")
    commands = [shlex.split(line) for line in said.splitlines() if "scripts/" in line]
    commands = [words for words in commands if "python" in words]
    assert len(commands) == counts["total"] - 1  # `all` runs nothing
    for words in commands:
        logs = [word for word in words if word.endswith(".log")]
        assert len(logs) == 1
        assert logs[0].startswith("it's results/")


def test_no_file_of_the_workflow_quotes_by_hand():
    quoted = re.compile(r"""['"]\{[^}]*\}['"](?=[: )])""")
    for path in (*(ROOT / "workflow").glob("*.smk"), ROOT / "Snakefile"):
        for line in path.read_text().splitlines():
            assert "='{" not in line, f"{path.name}: {line}"
            assert not ("python {" in line and quoted.search(line)), f"{path.name}: {line}"


def test_a_deleted_form_of_a_table_or_figure_is_asked_for_by_a_plain_run(tmp_path):
    """Also where the report, which is made of it, is there and newer."""
    folder = workflow_folder(tmp_path)
    shown = [f"tables/retrieval_tiny.{end}" for end in ("tsv", "md", "tex")]
    shown += [f"figures/retrieval_tiny.{end}" for end in ("png", "svg")]
    _, said = plan(folder, "--configfile", "tests/tiny.yaml")
    block = re.search(r"(?:local)?rule all:\n    input: (.*)", said)[1].split(", ")
    assert {f"results/tiny/{file}" for file in shown} <= set(block)


RUN = "runs/tiny/tiny/tf_efficientnet_lite0-mlp/seed{}"


def copied(folder, job, inputs, outputs, options=None):
    """Results of the tiny run as they are copied: files and the record of a job, without .snakemake."""
    results = folder / "results/tiny"
    for file in outputs:
        (results / file).parent.mkdir(parents=True, exist_ok=True)
        (results / file).touch()
    path = results / f"logs/{job}.made.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = [{"flag": flag, "path": f"{results}/{file}"} for flag, file in inputs]
    record = {"inputs": inputs} | ({"options": options, "result_version": 1} if options else {})
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(("seeds", "planned"), [([1], None), ([1, 2], 1)])
def test_a_named_table_is_made_again_where_its_scores_have_other_runs(checkout, seeds, planned):
    runs = [("runs", f"{RUN.format(seed)}/options.json") for seed in seeds]
    scores, table = "scores/tiny/tiny/retrieval.tsv", "tables/retrieval_tiny.tsv"
    copied(checkout, "score_retrieval/tiny_tiny", runs, [scores])
    copied(checkout, "show_retrieval/tiny", [("scores", scores)], [table, table[:-3] + "md"])
    counts, said = plan(checkout, f"results/tiny/{table}", "--configfile", "tests/tiny.yaml")
    assert counts.get("score_retrieval") == planned
    assert counts.get("pretrain") == planned
    assert ("Nothing to be done" in said) == (planned is None)


@pytest.mark.parametrize(
    ("recorded", "planned"),
    [
        ({}, None),
        ({"scores": ["retrieval", "before"]}, 1),
        ({"options": {"experiment": "tiny", "expected": []}}, 1),
    ],
)
def test_what_was_shown_of_other_scores_or_options_is_made_again(checkout, recorded, planned):
    """Of every job that Snakemake has forgotten its record tells, whatever program it was."""
    scores = [f"scores/tiny/tiny/{name}.tsv" for name in recorded.get("scores", ["retrieval"])]
    table = "tables/retrieval_tiny.tsv"
    files = [("scores", file) for file in scores]
    copied(checkout, "show_retrieval/tiny", files, [*scores, table], recorded.get("options"))
    runs = [("runs", f"{RUN.format(1)}/options.json")]
    copied(checkout, "score_retrieval/tiny_tiny", runs, [])
    counts, _ = plan(checkout, f"results/tiny/{table}", "--configfile", "tests/tiny.yaml")
    assert counts.get("show_retrieval") == planned
    assert "score_retrieval" not in counts


def test_a_refusal_is_one_line_that_names_all_configurations(checkout):
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    (checkout / "one.yaml").write_text(yaml.safe_dump(config))
    (checkout / "two.yaml").write_text(yaml.safe_dump({"patches": {"a b": {"native_px": 9}}}))
    names = ("--config", "seed=1", "--configfile", "one.yaml", "two.yaml")
    _, said = plan(checkout, *names, ok=False)
    (line,) = [line for line in said.splitlines() if "found" in line]
    both = f"{checkout}/one.yaml with {checkout}/two.yaml with --config"
    assert line.startswith(f"Error: {both}: patches: found 'a b'; use letters")
    assert line.endswith("use letters of English, digits, `_` and `-` alone: it stands in paths")
    for word in ("WorkflowError", "line 5", "does not match", "Traceback"):
        assert word not in said


def test_a_table_that_isnt_there_says_in_which_folder_it_was_looked_for(checkout):
    _, said = plan(
        checkout, "--configfile", "tests/tiny.yaml", "--config", "samples=no.tsv", ok=False
    )
    assert (
        f"no.tsv: file: found nothing; make it or correct the path (looked for in {checkout})"
        in said
    )


def test_files_of_the_sample_table_are_looked_for_when_the_plan_is_made(checkout):
    rows = (ROOT / "tests/tiny_samples.tsv").read_text().splitlines()
    columns = rows[0].split("\t")
    row = dict(zip(columns, rows[1].split("\t"), strict=True)) | {"source": "local"}
    row |= {"simulation": "", "bundle": "nowhere", "he_image": "/none/he.tif", "donor": "D"}
    row |= {"he_alignment": "register"}
    (checkout / "mine.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text()) | {"samples": "mine.tsv"}
    (checkout / "mine.yaml").write_text(yaml.safe_dump(config))
    _, said = plan(checkout, "--configfile", "mine.yaml")
    where = "mine.tsv: sample speck, column"
    bundles = "results/tiny/bundles"
    assert f"{where} bundle: found nothing at {bundles}/nowhere; put it there or correct" in said
    assert f"{where} he_image: found nothing at /none/he.tif; put it there or correct" in said
    assert "he_alignment: found" not in said  # a word, no file


def commands_of(folder, config=None, **columns):
    """The commands of the tiny run by program, with changed keys, sample columns and encoder titles."""
    title = columns.pop("encoder_title", None)
    rows = [row.split("\t") for row in (ROOT / "tests/tiny_samples.tsv").read_text().splitlines()]
    row = {"title": "A title", "notes": ""} | dict(zip(*rows[:2], strict=True)) | columns
    (folder / "mine.tsv").write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    encoders = shutil.copytree(ROOT / "config/encoders", folder / "encoders", dirs_exist_ok=True)
    if title:
        for path in encoders.glob("*/*.yaml"):
            path.write_text(re.sub(r"(?m)^title: .*$", f"title: {title}", path.read_text()))
    whole = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    whole |= {"samples": "mine.tsv", "encoders": "encoders", **(config or {})}
    (folder / "mine.yaml").write_text(yaml.safe_dump(whole))
    _, said = plan(folder, "--configfile", "mine.yaml", "--printshellcmds")
    lines = [line for line in said.splitlines() if "python scripts/" in line]
    return {re.search(r"scripts/(\w+)\.py", line)[1]: line for line in lines}


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory):
    return commands_of(workflow_folder(tmp_path_factory.mktemp("unchanged")))


@pytest.mark.parametrize(
    ("change", "programs"),
    [
        ({"config": {"title": "Another"}}, {"index_datasets", "write_report"}),
        ({"config": {"retrieval": {"bootstrap": 101, "permutations": 99, "block_um": 110}}},
         {"score_retrieval"}),
        ({"config": {"overlay_gene": "ESR1"}}, {"show_spots"}),
        ({"config": {"hosted": {"revision": "v2"}, "portals": {"gdc": "https://gdc.example.org/"},
                     "downloads": "elsewhere"}}, set()),
        ({"title": "Another"}, {"describe_dataset"}),
        ({"notes": "Another"}, set()),
        ({"encoder_title": "Another"}, {"show_retrieval"}),
    ],
    ids=["title", "bootstrap", "overlay_gene", "where from", "sample's title", "sample's notes",
         "encoder's title"],
)  # fmt: skip
def test_a_change_reaches_the_jobs_that_use_it_and_no_others(checkout, unchanged, change, programs):
    """The table of docs/extending.md."""
    changed = commands_of(checkout, **change)
    assert {name for name in changed if changed[name] != unchanged[name]} == programs


def test_an_edited_split_stops_the_workflow_and_deleting_it_mends_it(checkout):
    """Snakemake takes an edited splits.tsv for newer than leakage.tsv, and would go on with both."""
    folder = checkout / "results/tiny/datasets/tiny"
    write_splits(folder / "splits.tsv", [("speck", "D", "train"), ("speck", "D", "test")])
    LEAKAGE.write(folder / "leakage.tsv", [])
    gene_lists.write_genes(folder / "genes.tsv", [("A", "ENSGA")])
    (folder / "shards").mkdir()
    (folder / "shards/speck.arrow").touch()
    card = ["results/tiny/datasets/tiny/README.md", "--configfile", "tests/tiny.yaml"]
    done = snakemake(checkout, *card, "--allowed-rules", "describe_dataset")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "splits.tsv: column split: found donor D (speck in train, speck in test)" in said
    assert "delete splits.tsv and leakage.tsv and run split_donors again" in said
    assert "Traceback" not in said
    assert not (folder / "README.md").exists()
    for name in ("splits.tsv", "leakage.tsv"):
        (folder / name).unlink()
    counts, _ = plan(checkout, *card)
    assert counts["split_donors"] == 1


@pytest.mark.parametrize(
    ("target", "near"),
    [
        ("results/tiny/tables/retreival_tiny.md", "results/tiny/tables/retrieval_tiny.md"),
        ("smok", "smoke"),
    ],
)
def test_a_misspelt_target_is_told_with_the_nearest(checkout, target, near):
    _, said = plan(checkout, target, "--configfile", "tests/tiny.yaml", ok=False)
    assert f"target: found '{target}', which no rule makes; did you mean {near}?" in said
    assert "Traceback" not in said


def test_an_override_reaches_into_the_configuration_with_its_numbers(checkout):
    """By Snakemake alone they would be text inside mappings, and refused."""
    longer = "experiments={tiny: {training: {max_steps: 7, learning_rate: 1.0e-3}, seeds: [1, 2]}}"
    names = ("calibration=null", longer)
    run = "results/tiny/scores/tiny/tiny/retrieval.tsv"
    tiny = ("--configfile", "tests/tiny.yaml", "--printshellcmds")
    counts, said = plan(checkout, run, *tiny, "--config", *names)
    assert counts["pretrain"] == 2
    assert '"max_steps": 7,' in said
    assert '"learning_rate": 0.001,' in said
    assert '"batch_size": 32,' in said  # the file's own, beside it
    words = "datasets={tiny: {split: {train: [no]}}}"
    _, said = plan(checkout, run, *tiny, "--config", words, ok=False)
    assert "found 'no'; allowed (samples of tests/tiny_samples.tsv): speck" in said


@pytest.mark.parametrize("configuration", ["config/config.yaml", "config/demo.yaml"])
def test_a_smoke_run_takes_any_pair_and_dataset(checkout, configuration):
    dataset = "human-breast-panel" if "config.yaml" in configuration else "simulated-breast"
    chosen = f"smoke={{dataset: {dataset}, image: uni, gene: mlp}}"
    flags = ("--configfile", configuration, "--printshellcmds")
    counts, said = plan(checkout, "smoke", "--config", chosen, *flags)
    assert counts["pretrain"] == counts["score_retrieval"] == counts["embed_images"] == 1
    assert f"runs/smoke/{dataset}/uni-mlp/seed24442/model.ckpt" in said
    assert '"image_tuning": "frozen"' in said
    assert '"max_steps": 200' in said


def test_a_smoke_run_of_nothing_says_how_to_choose(checkout):
    _, said = plan(checkout, "smoke", "--configfile", "tests/tiny.yaml", ok=False)
    assert "smoke: found neither the key nor an experiment; choose: --config 'smoke={" in said
    chosen = "smoke={dataset: tiyn, image: uni, gene: mlp}"
    _, said = plan(
        checkout, "smoke", "--configfile", "tests/tiny.yaml", "--config", chosen, ok=False
    )
    assert "found 'tiyn'; did you mean tiny?" in said
