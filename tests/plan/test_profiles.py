"""The profiles: what the plan asks a scheduler for."""

import re
import shutil
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

SLURM = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())


def rule_texts() -> dict[str, str]:
    """The text of each rule by name."""
    found = {}
    for path in (ROOT / "workflow").glob("*.smk"):
        pattern = r"^(?:rule|use rule \w+ as) (\w+)"
        pieces = re.split(pattern, path.read_text(), flags=re.MULTILINE)
        found |= dict(zip(pieces[1::2], pieces[2::2], strict=True))
    return found


def test_the_slurm_profile_names_only_rules_that_there_are():
    named = {*SLURM["groups"], *SLURM["set-resources"]}
    assert named <= set(rule_texts())
    assert set(SLURM["group-components"]) <= set(SLURM["groups"].values())


def test_the_slurm_profile_is_found_by_its_name_from_the_checkout(monkeypatch):
    from snakemake.cli import get_profile_dir

    monkeypatch.chdir(ROOT)
    _, file = get_profile_dir("slurm")
    assert file.resolve() == ROOT / "profiles/slurm/config.yaml"


def test_every_rule_that_asks_for_a_gpu_goes_to_the_gpu_partition_and_no_other():
    asks = {name for name, text in rule_texts().items() if re.search(r"^\s+gpu=", text, re.M)}
    sent = {
        name
        for name, of in SLURM["set-resources"].items()
        if of["slurm_partition"] != SLURM["default-resources"]["slurm_partition"]
    }
    assert asks == sent == set(SLURM["set-resources"])
    assert not asks & set(SLURM["groups"])


def test_every_table_and_figure_goes_with_the_report_or_its_sample():
    groups = SLURM["groups"]
    drawn = {name for name in rule_texts() if name.startswith("show_")} - {"show_spots"}
    assert {groups.get(name) for name in drawn} == {groups["write_report"]}
    assert groups["show_spots"] == groups["pool_spots"]


def test_rules_name_nothing_of_a_site_and_try_again_in_the_profile_alone():
    for name, text in rule_texts().items():
        assert not re.search(r"slurm|partition|account|retries", text), name
    assert SLURM["retries"] == 2


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The dry run of the full benchmark through the Slurm profile, without a cluster."""
    folder = tmp_path_factory.mktemp("planned")
    for name in ("Snakefile", "workflow", "scripts", "config", "envs", "profiles", "slurm"):
        shutil.copytree(ROOT / name, folder / name) if (ROOT / name).is_dir() else shutil.copy(
            ROOT / name, folder
        )
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--nocolor", "--profile", "slurm"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def asked(said: str, rule: str) -> list[dict[str, str]]:
    """What each job of a rule asks for, with its wildcards."""
    found = []
    for block in re.findall(rf"^ *rule {rule}:\n(.*?)(?:\n\n|\n\[)", said, re.M | re.S):
        pairs = re.findall(r"(\w+)=([^\s,]+)", " ".join(re.findall(r"(?:wildc|resou).*", block)))
        found.append(dict(pairs))
    return found


@pytest.mark.slow
def test_the_plan_through_the_slurm_profile_asks_for_what_sizes_need(said):
    pooled = {job["sample"]: int(job["mem_mb"]) for job in asked(said, "pool_spots")}
    assert len(pooled) > 50
    rows = (ROOT / "config/samples.tsv").read_text().splitlines()
    columns = rows[0].split("\t")
    spots = {
        row[0]: int(row[columns.index("hest_spots")] or 10_000)
        for row in (line.split("\t") for line in rows[1:])
    }
    largest, smallest = max(pooled, key=spots.get), min(pooled, key=spots.get)
    assert spots[largest] > 10 * spots[smallest]
    assert pooled[largest] == max(pooled.values()) > pooled[smallest] == min(pooled.values())
    for job in asked(said, "pretrain"):
        assert job["gpu"] == "4"  # the paper's
        assert job["slurm_partition"] == "gpu"
        assert "--signal=TERM@" in job["slurm_extra"]
    assert {job["slurm_partition"] for job in asked(said, "export_pairs")} == {"cpu"}


@pytest.mark.slow
def test_the_steps_of_a_sample_a_dataset_and_the_report_are_one_job_each(said):
    groups = re.findall(r"Group job (\w+)", said)
    assert {name: groups.count(name) for name in set(groups)} == {
        "sample": len(asked(said, "check_bundle")),
        "dataset": len(asked(said, "describe_dataset")),
        "report": 1,
    }
