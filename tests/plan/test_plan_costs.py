"""What a plan is said to take: jobs, hours, disk, and where its sizes come from."""

import re
import sys

import plans
import pytest
from conftest import ROOT

from pairscape.core.tsv import read_tsv

sys.path.insert(0, str(ROOT / "benchmarks"))

import plan_costs


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    folder = plans.workflow_folder(tmp_path_factory.mktemp("tiny"), "profiles")
    flags = ("--forceall", "--nocolor", "--profile", "profiles/slurm")
    return plans.plan(folder, *flags, "--configfile", "tests/tiny.yaml")


@pytest.fixture(scope="module")
def plan():
    return plan_costs.read_configuration("config/config.yaml")


def test_every_job_is_counted_once_and_a_group_is_one_of_slurms(said):
    counts, text = said
    jobs = plan_costs.planned(text)
    assert len(jobs) == counts["total"] - 1  # `all` runs nothing
    slurm = plan_costs.submitted(text)
    assert slurm["name"] == {
        "sample": 1,
        "dataset": 1,
        "embed_images": 1,
        "pretrain": 1,
        "score_retrieval": 1,
        "report": 1,
    }
    assert slurm["partition"] == {"cpu": 4, "gpu": 2}
    assert {rule for rule, _, asked in jobs if asked.get("gpu")} == {"embed_images", "pretrain"}


def test_a_bundle_takes_its_zip_and_what_is_unpacked_and_then_the_second_alone(plan):
    sample = "NCBI883"  # its H&E's size is known, its bundle's isn't
    known = int(plan.samples[sample]["he_image_bytes"])
    job = plan_costs.cost(plan, "fetch_bundle_registered", {"sample": sample}, {})
    assert job.passing == job.kept == pytest.approx(10 + known / 1e9)
    unpacked = plan_costs.cost(plan, "pool_spots", {"sample": sample, "spots": "square55"}, {})
    assert (unpacked.passing, unpacked.gpu) == (0, 0)


def test_a_tuned_encoder_costs_by_its_size_and_a_frozen_one_next_to_nothing(plan):
    run = {"dataset": "human-5k-panel", "gene": "drvi", "seed": "24442"}

    def hours(experiment, image):
        wildcards = {**run, "experiment": experiment, "image": image}
        return plan_costs.cost(plan, "pretrain", wildcards, {}).gpu

    assert hours("benchmark", "gigapath") > 2 * hours("benchmark", "uni") > 1
    frozen = {hours("ablation_projection_linear", image) for image in ("gigapath", "uni")}
    assert len(frozen) == 1
    assert frozen.pop() < 0.1


def test_all_of_it_is_one_screen(said, plan):
    more = [("fetch_bundle", {"sample": name}, {}) for name in sorted(plan.samples)[:6]]
    tiny = plan_costs.read_configuration("tests/tiny.yaml")
    jobs = [plan_costs.cost(tiny, *job) for job in plan_costs.planned(said[1])]
    jobs += [plan_costs.cost(plan, *job) for job in more]
    text = plan_costs.to_screen(plan, jobs, plan_costs.submitted(said[1]))
    lines = text.splitlines()
    assert len(lines) <= 40
    for words in ("jobs     21; for Slurm 6: 4 in cpu, 2 in gpu", "by rule", "hours", "GB kept"):
        assert any(line.startswith(words) for line in lines), words
    most = sorted((job.passing for job in jobs), reverse=True)
    some, whole = sum(most[: plan_costs.LOGIN_JOBS]), sum(most)
    assert f"{some:,.0f} GB more while bundles come 4 at a time (--cores 4), {whole:,.0f}" in text
    listed = lines[1 + next(i for i, line in enumerate(lines) if line.startswith("the most")) :]
    dearest = max(jobs, key=lambda job: (job.gpu, job.cpu))
    assert listed[0].split()[2:] == [dearest.rule, *dearest.wildcards.values()]
    assert len(listed) == plan_costs.TOP


def test_sizes_in_the_sample_table_are_those_that_the_facts_state(shared):
    facts = read_tsv(shared / "facts/samples.tsv", ["sample", "notes"])
    wanted = {}
    for row in facts:
        if found := re.search(r"outs\.zip = ([\d,]+) bytes", row["notes"]):
            wanted[row["sample"], "bundle_bytes"] = found[1].replace(",", "")
        if found := re.search(r"he \.tif\.gz (\d+) bytes", row["notes"]):
            wanted[row["sample"], "he_image_bytes"] = found[1]
    assert len(wanted) == len(re.findall(r"[\d,]+ bytes", str(facts))) > 20
    ours = {
        (row["sample"], column): row[column]
        for row in read_tsv(ROOT / "config/samples.tsv", ["sample", "bundle_bytes"])
        for column in ("bundle_bytes", "he_image_bytes")
        if row[column]
    }
    assert ours == wanted
