"""Samples that can't be had: they stop, or leave the plan by a reason that cards and tables name."""

import json
import shutil
import time

import plans
import pytest
import tiny_bundle
import yaml
from conftest import ROOT

import check_bundle
from pairscape.acquire import refusals
from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv, write_tsv
from pairscape.plan import datasets, missing, runs, samples
from pairscape.plan.reading import read_plan

BREAST = "human-breast-panel"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The breast panel alone, its only test sample with an alignment, nothing fetched."""
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    rows = read_tsv(ROOT / "config/samples.tsv")
    for row in rows:
        if row["sample"] == "NCBI783":
            row["he_alignment"] = "register"
    write_tsv(tmp_path / "samples.tsv", rows, list(rows[0]))
    experiment = config["experiments"]["benchmark"] | {"datasets": [BREAST]}
    return {
        **{key: config[key] for key in ("title", "spots", "patches")},
        "samples": str(tmp_path / "samples.tsv"),
        "results": str(tmp_path / "results"),
        "bundles": str(tmp_path / "bundles"),
        "datasets": {BREAST: config["datasets"][BREAST]},
        "experiments": {"benchmark": experiment},
        "missing_samples": "leave_out",
    }


def plan_of(config, **changes):
    return read_plan(config | changes, "config.yaml")


def change(config, sample, **values):
    rows = read_tsv(config["samples"])
    for row in rows:
        row |= {"bundle": ""} | (values if row["sample"] == sample else {})
    write_tsv(config["samples"], rows, list(rows[0]))


def refuse(config, place, sample, asked, found="status 403 Forbidden"):
    """What a step that refuses a sample leaves behind."""
    folder = config["bundles"] if place == "bundle" else f"{config['results']}/samples/{sample}"
    made = f"{folder}/{sample}" if place == "bundle" else f"{folder}/{place}.json"
    with pytest.raises(InputError), refusals.kept(made, {"sample": sample, **asked}):
        raise InputError("there", "download", found, "do something")
    return refusals.path_beside(made)


def test_a_plan_that_lacks_nothing_is_the_same_either_way(config):
    stop, leave_out = plan_of(config, missing_samples="stop"), plan_of(config)
    assert stop.datasets == leave_out.datasets
    assert missing.told(leave_out, [BREAST]) == {} == missing.told(stop, [BREAST])


def test_a_sample_without_an_address_leaves_and_is_named_with_its_share(config):
    whole = plan_of(config)
    change(config, "TENX95", bundle_url="")
    assert "TENX95" in plan_of(config, missing_samples="stop").datasets[BREAST].samples
    plan = plan_of(config)
    assert [*plan.datasets[BREAST].lost] == ["TENX95"]
    assert {*whole.datasets[BREAST].samples} - {*plan.datasets[BREAST].samples} == {"TENX95"}
    assert "TENX95" not in {row["sample"] for row in datasets.split_facts(plan, BREAST)}
    assert not [file for file in datasets.shard_files(plan, BREAST) if "TENX95" in file]
    assert "TENX95" not in dict(samples.used_samples(plan))
    counts = {s: int(whole.samples[s]["hest_spots"] or 0) for s in whole.datasets[BREAST].samples}
    (line,) = missing.told(plan, [BREAST])["left_out"]
    share = 100 * counts["TENX95"] / sum(counts.values())
    assert f"{BREAST} is without sample TENX95 ({share:.1f} % of the spots" in line
    assert "no known address of its bundle" in line
    change(config, "TENX99", hest_spots="")
    assert (
        "its share of the spots is not known"
        in missing.told(plan_of(config), [BREAST])["left_out"][0]
    )


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"he_image_url": ""}, "no known address of its H&E"),
        (
            {"he_alignment": "", "he_alignment_url": ""},
            "no known address of its alignment (column he_alignment may",
        ),
        ({"source": "local"}, "nothing at "),
        ({"source": "local", "bundle": "gone.zip"}, "gone.zip (column bundle)"),
        ({"he_alignment": "mine.csv"}, "mine.csv (column he_alignment)"),
    ],
)
def test_what_a_sample_lacks_is_the_reason(config, values, why):
    change(config, "TENX95", **values)
    assert why in plan_of(config).datasets[BREAST].lost["TENX95"]


def test_what_lies_on_the_disk_lacks_no_address(config, tmp_path):
    change(config, "TENX95", bundle_url="")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "TENX95.zip").touch()
    assert not plan_of(config, downloads=str(mine)).datasets[BREAST].lost
    shutil.rmtree(mine)
    assert plan_of(config).datasets[BREAST].lost
    fetched = tmp_path / "bundles" / "TENX95"
    fetched.mkdir(parents=True)
    (fetched / "experiment.xenium").touch()
    assert not plan_of(config).datasets[BREAST].lost


@pytest.mark.parametrize("place", ["bundle", "check", "registration", "alignment"])
def test_a_sample_that_a_step_refused_leaves_until_its_record_or_its_row_changes(config, place):
    asked = {"he_um_per_px": plan_of(config).samples["TENX95"]["he_um_per_px"]}
    path = refuse(config, place, "TENX95", asked)
    assert not plan_of(config, missing_samples="stop").datasets[BREAST].lost
    plan = plan_of(config)
    assert plan.datasets[BREAST].lost == {"TENX95": "there: download: found status 403 Forbidden"}
    (warning,) = missing.warnings(plan)
    assert warning.endswith(f"status 403 Forbidden; to try it again delete {path}")
    if place == "alignment":
        assert not plan_of(config, alignment={"trusted": ["TENX95"]}).datasets[BREAST].lost
    change(config, "TENX95", he_um_per_px="0.3")
    assert not plan_of(config).datasets[BREAST].lost
    change(config, "TENX95", **asked)
    path.unlink()
    assert not plan_of(config).datasets[BREAST].lost


@pytest.mark.parametrize("place", ["downloads", "bundle", "alignment"])
def test_files_that_came_after_a_refusal_are_tried(config, tmp_path, place):
    mine = tmp_path / "mine"
    config |= {"downloads": str(mine)}
    files = {
        "downloads": mine / "TENX95.zip",
        "bundle": tmp_path / "bundles/TENX95/experiment.xenium",
    }
    files["alignment"] = tmp_path / "bundles" / "mine.csv"
    change(config, "TENX95", he_alignment="mine.csv" if place == "alignment" else "identity")
    for path in files.values():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as it came")
    refuse(config, "check", "TENX95", {})
    assert plan_of(config).datasets[BREAST].lost
    time.sleep(0.01)
    files[place].write_text("mended")
    assert not plan_of(config).datasets[BREAST].lost


def test_a_published_fit_is_repeated_without_what_is_lost(config):
    """The DRVI that was published was fitted on held-out samples, too."""
    name = "human-colon-panel"
    full = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config |= {"datasets": {name: full["datasets"][name]}}
    config["experiments"]["benchmark"] |= {"datasets": [name], "gene_encoders": ["drvi_published"]}
    assert runs.leaked_in_published_fit(plan_of(config), name, "drvi_published") == {
        "also_fit": ["TENX111"]
    }
    change(config, "TENX111", bundle_url="")
    split = {
        "method": "listed",
        "train": ["TENX114"],
        "val": ["TENX147"],
        "test": ["TENX111", "TENX148"],
    }
    config["datasets"][name] |= {"split": split}
    plan = plan_of(config)
    assert runs.leaked_in_published_fit(plan, name, "drvi_published") == {"also_fit": []}


def test_a_split_that_loses_all_its_samples_is_refused_in_one_line(config):
    change(config, "NCBI783", he_alignment="")
    assert plan_of(config, missing_samples="stop")
    with pytest.raises(InputError) as refusal:
        plan_of(config)
    said = str(refusal.value)
    assert said.startswith(
        f"config.yaml: datasets.{BREAST}.split: found no sample in its split test (NCBI783 is left "
    )
    assert "\n" not in said


def test_lists_and_files_of_a_split_are_without_what_is_lost(config, tmp_path):
    change(config, "TENX95", bundle_url="")
    whole = {"train": ["TENX95", "TENX99"], "val": ["TENX94"], "test": ["NCBI783"]}
    listed = config["datasets"][BREAST] | {"split": {"method": "listed", **whole}}
    plan = plan_of(config, datasets={BREAST: listed})
    assert datasets.split_options(plan, BREAST)["train"] == ["TENX99"]
    rows = [{"sample": s, "split": split} for split, names in whole.items() for s in names]
    write_tsv(tmp_path / "split.tsv", rows, list(rows[0]))
    by_file = {"method": "file", "file": str(tmp_path / "split.tsv")}
    plan = plan_of(config, datasets={BREAST: config["datasets"][BREAST] | {"split": by_file}})
    assert [row["sample"] for row in datasets.kept_rows(plan, BREAST)] == [
        "TENX99",
        "TENX94",
        "NCBI783",
    ]


def test_a_lost_sample_is_pooled_for_nobody_else(config):
    change(config, "TENX95", bundle_url="")
    also = [{"sample": "TENX95", "spots": "square55"}, {"sample": "TENX99", "spots": "square55"}]
    assert len(samples.pooled_also(plan_of(config, pool_also=also))) == 1
    assert len(samples.pooled_also(plan_of(config, pool_also=also, missing_samples="stop"))) == 2


def test_a_damaged_record_is_told_with_what_to_do(config):
    path = refuse(config, "check", "TENX95", {})
    path.write_text("[]")
    with pytest.raises(InputError, match=r"check.refused.json: reason: found nothing; delete it"):
        plan_of(config)


def test_the_runs_stay_those_that_are_asked_for(config):
    before = runs.expected_runs(plan_of(config), "benchmark")
    change(config, "TENX95", bundle_url="")
    assert runs.expected_runs(plan_of(config), "benchmark") == before


def test_a_bundle_that_its_check_refuses_is_recorded_and_a_sound_one_forgotten(tmp_path):
    bundle, report = tiny_bundle.write_bundle(tmp_path / "S1"), tmp_path / "check.json"
    flags = [f"--bundle={bundle}", f"--report={report}", '--options={"sample": {"sample": "S1"}}']
    transcripts = bundle / "transcripts.parquet"
    transcripts.rename(tmp_path / "away")
    with pytest.raises(InputError) as refusal:
        check_bundle.main(flags)
    record = tmp_path / "check.refused.json"
    assert refusals.reason(record, {"sample": "S1"}) in str(refusal.value)
    (tmp_path / "away").rename(transcripts)
    check_bundle.main(flags)
    assert not record.exists()
    assert report.exists()


def test_snakemake_plans_without_what_is_lost_and_says_so(checkout):
    """The tiny configuration, one of its samples local and not there."""
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    rows = read_tsv(ROOT / config["samples"])
    rows.append(rows[0] | {"sample": "gone", "donor": "gone", "source": "local", "simulation": ""})
    write_tsv(checkout / "samples.tsv", rows, list(rows[0]))
    (name,) = config["datasets"]
    config |= {"samples": "samples.tsv", "missing_samples": "leave_out"}
    split = config["datasets"][name]["split"]
    if split["method"] == "listed":
        split["train"] = [*split["train"], "gone"]
    (checkout / "config.json").write_text(json.dumps(config))
    jobs, said = plans.plan(checkout, "--configfile", "config.json", "-p")
    assert jobs["check_bundle"] == len(rows) - 1
    assert "sample gone is left out: nothing at" in said
    assert "is without sample gone (its share" in said


def test_what_was_refused_while_running_is_known_at_the_end(config):
    plan = plan_of(config)
    assert missing.lost_since(plan) == []
    refuse(config, "check", "TENX95", {})
    assert missing.lost_since(plan) == ["TENX95"]
    assert missing.lost_since(plan_of(config)) == []
    assert missing.lost_since(plan_of(config, missing_samples="stop")) == []


@pytest.mark.slow
def test_one_call_goes_on_without_what_is_refused_on_the_way(checkout):
    """By Snakemake, from another folder: a bundle that its check refuses, in the train split."""
    config = yaml.safe_load((ROOT / "tests/tiny.yaml").read_text())
    rows = read_tsv(ROOT / config["samples"])
    rows.append(rows[0] | {"sample": "bad", "donor": "bad", "source": "local", "simulation": ""})
    write_tsv(checkout / "samples.tsv", rows, list(rows[0]))
    config |= {"samples": "samples.tsv", "missing_samples": "leave_out"}
    split = config["datasets"]["tiny"]["split"]
    split["train"] = [*split["train"], "bad"]
    (checkout / "config.json").write_text(json.dumps(config))
    bundle = checkout / "results/tiny/bundles/bad"
    bundle.mkdir(parents=True)
    (bundle / "experiment.xenium").write_text("{}")
    target = "results/tiny/datasets/tiny/splits.tsv"
    flags = ["--configfile", str(checkout / "config.json"), "--", target]
    ended = plans.snakemake(checkout, "--keep-going", *flags)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "Refused: bad. Going on without them." in ended.stderr
    assert {row["sample"] for row in read_tsv(checkout / target)} == {"speck"}
    assert "sample bad is left out: " in ended.stderr
