"""The rehearsal of the published benchmark: its plan, and a miniature of it to the end."""

import itertools
import os
import subprocess
import sys

import plans
import pytest
import rehearsal
import yaml
from conftest import ROOT

from pairscape.core.tsv import read_tsv
from pairscape.encoders import specs

pytestmark = pytest.mark.slow
FOLDER = "results/rehearsal"


def prepared(folder, monkeypatch, capsys, *arguments) -> list[str]:
    """Write a rehearsal into a folder with the workflow; returns its targets."""
    monkeypatch.chdir(plans.workflow_folder(folder, "profiles"))
    rehearsal.main([FOLDER, *arguments])
    return capsys.readouterr().out.split()


def test_the_rehearsal_plans_all_of_the_published_benchmark(tmp_path, monkeypatch, capsys):
    targets = prepared(tmp_path, monkeypatch, capsys)
    counts, _ = plans.plan(tmp_path, *targets, "--configfile", f"{FOLDER}/config.yaml")
    published = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = yaml.safe_load((tmp_path / FOLDER / "config.yaml").read_text())
    assert config["datasets"] == published["datasets"]
    assert counts["simulate_bundle"] == counts["check_alignment"] == 59
    assert counts["compare_published"] == 4
    runs = [
        (name, len(of["datasets"]) * len(of["image_encoders"]) * len(of["gene_encoders"]))
        for name, of in published["experiments"].items()
        if of.get("protocol") != "published"
    ]
    assert counts["pretrain"] == sum(number for _, number in runs)
    assert dict(runs)["benchmark"] == 6 * 5 * 4


def test_what_the_rehearsal_has_of_samples_and_encoders_is_the_published(
    tmp_path, monkeypatch, capsys
):
    left = "NCBI864"
    prepared(tmp_path, monkeypatch, capsys, "--leave-out", left)
    real = read_tsv(ROOT / "config/samples.tsv", ["sample"])
    ours = read_tsv(tmp_path / FOLDER / "samples.tsv", ["sample"])
    for was, row in zip(real, ours, strict=True):
        assert all(row[key] == was[key] for key in ("sample", "panel", "donor", "organ"))
        assert row["source"] == ("local" if row["sample"] == left else "simulated")
    config = yaml.safe_load((tmp_path / FOLDER / "config.yaml").read_text())
    assert config["missing_samples"] == "leave_out"
    encoders = tmp_path / FOLDER / "encoders"
    for kind in specs.KINDS:
        for name in specs.list_encoders(ROOT / "config/encoders", kind):
            before = specs.read_encoder(ROOT / "config/encoders", kind, name)
            after = specs.read_encoder(encoders, kind, name)
            for key in ("width", "builder", "weights"):
                assert after.get(key) == before.get(key), name
            assert (after["parameters"] or 0) <= (before["parameters"] or 0), name


@pytest.mark.rehearsal
def test_a_miniature_of_the_rehearsal_ends_with_the_comparison(tmp_path, monkeypatch, capsys):
    targets = prepared(tmp_path, monkeypatch, capsys, "--miniature")
    chosen = [target for target in targets if "/tables/" in target]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "2", *chosen),
            *("--workflow-profile", "profiles/local", "--configfile", f"{FOLDER}/config.yaml"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    tables = tmp_path / FOLDER / "tables"
    rows = read_tsv(tables / "retrieval_benchmark.tsv", ["dataset", "seeds_run"])
    names, wanted = ("dataset", "image_encoder", "gene_encoder"), rehearsal.MINIATURE
    assert {tuple(row[name] for name in names) for row in rows} == set(
        itertools.product(*(wanted[key] for key in ("datasets", "image_encoders", "gene_encoders")))
    )
    assert {row["seeds_run"] for row in rows} == {"1"}
    # Simulated tissue is no measure of the paper's numbers: each panel's row says so.
    rows = read_tsv(tables / "published-gap_benchmark.tsv", ["dataset", "ours_status"])
    told = {row["dataset"]: row["ours_status"] for row in rows if row["dataset"]}
    assert told == dict.fromkeys(wanted["datasets"], "not compared: simulated tissue")
