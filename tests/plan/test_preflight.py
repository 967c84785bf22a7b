"""What a configuration lacks, a line each, before anything is submitted."""

import json
import shutil

import plans
import pytest
import yaml
from conftest import ROOT

import preflight
from pairscape.acquire import probes, refusals
from pairscape.core import devices
from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv, write_tsv
from pairscape.jobs import slurm_partitions
from pairscape.plan import lacks, sources
from pairscape.plan.reading import read_plan

BREAST = "human-breast-panel"
SINFO = "cpu up 1-00:00:00\ngpu up 12:00:00\nold down infinite\n"
RULES = {"pretrain": ("gpu", 1440), "embed_images": ("gpu", None), "pool_spots": ("bigmem", None)}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The breast panel with three image and two gene encoders, and a cohort with rows."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    rows = [row | {"bundle": ""} for row in read_tsv(ROOT / "config/samples.tsv")]
    for row in rows:
        row |= {"he_alignment": "register"} if row["sample"] == "NCBI783" else {}
    write_tsv(tmp_path / "samples.tsv", rows, list(rows[0]))
    shutil.copytree(ROOT / "config/encoders", tmp_path / "encoders")
    experiment = config["experiments"]["benchmark"] | {
        "datasets": [BREAST],
        "image_encoders": ["ctranspath", "h0_mini", "uni"],
        "gene_encoders": ["mlp", "nicheformer"],
    }
    return {
        **{key: config[key] for key in ("title", "spots", "patches")},
        **{key: str(tmp_path / key) for key in ("results", "bundles", "weights", "slides")},
        "samples": str(tmp_path / "samples.tsv"),
        "encoders": str(tmp_path / "encoders"),
        "datasets": {BREAST: config["datasets"][BREAST]},
        "experiments": {"benchmark": experiment},
    }


def plan_of(config, **changes):
    return read_plan(config | changes, "config.yaml")


def change(config, sample, **values):
    rows = read_tsv(config["samples"])
    for row in rows:
        row |= values if row["sample"] == sample else {}
    write_tsv(config["samples"], rows, list(rows[0]))


def answered(plan, tmp_path, **verdicts):
    """The table of check_sources: everything is there, but for samples' files with verdicts."""
    rows = [
        {
            **{key: one[key] for key in ("kind", "name", "part")},
            "verdict": verdicts.get(f"{one['name']}_{one['part']}", "there"),
            **{"found": "", "url": "https://example.org/x", "bytes": 10, "rate": 2.0},
        }
        for one in sources.files(plan)
    ]
    rows = [row for row in rows if row["verdict"] != "forgotten"]
    probes.SOURCES.write(tmp_path / "results" / sources.CHECKED, rows)


def cohort_rows(tmp_path, *files):
    rows = [
        {"slide": f"s{i}", "patient": f"p{i}", "site": "A", "file": f, "MSI": "1"} for i, f in files
    ]
    write_tsv(tmp_path / "cohort.tsv", rows, ["slide", "patient", "site", "file", "MSI"])
    return str(tmp_path / "cohort.tsv")


def test_25_planted_lacks_are_25_lines(config, tmp_path, monkeypatch, capsys):
    change(config, "TENX95", bundle_url="")
    change(config, "TENX94", he_image_url="")
    change(config, "NCBI783", he_alignment="", he_alignment_url="")
    change(config, "TENX99", he_alignment="mine.csv", bundle_url="https://example.org/${S19_KEY}")
    change(config, "NCBI785", source="local")
    for place, name in ((tmp_path / "bundles" / "TENX94", "TENX94"), (None, "TENX99")):
        made = place or tmp_path / "results" / "samples" / name / "check.json"
        with pytest.raises(InputError), refusals.kept(made, {"sample": name}):
            raise InputError("there", "field", "something", "mend it")
    (tmp_path / "empty.tsv").write_text("slide\tpatient\tsite\tfile\tMSI\n")
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "no driver")
    monkeypatch.setattr(slurm_partitions, "ask", lambda: SINFO)
    monkeypatch.setattr(lacks.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10**9))
    encoder = tmp_path / "encoders/image/h0_mini.yaml"
    encoder.write_text(encoder.read_text().replace("built: true", "built: false"))
    both = {"table": cohort_rows(tmp_path, (0, "gone.svs"))}
    mutation = {
        "cohort": "full",
        "external": ["empty"],
        "targets": ["MSI"],
        "models": [{"image": "uni"}],
    }
    plan = plan_of(
        config,
        cohorts={"full": both, "empty": {"table": str(tmp_path / "empty.tsv")}},
        mutation={"crc": mutation},
    )
    answered(plan, tmp_path, TENX95_he_image="missing", TENX94_bundle="truncated", uni_forgotten="")
    table = tmp_path / "results" / sources.CHECKED
    rows = [row for row in probes.SOURCES.read(table) if row["name"] != "TENX99"]
    probes.SOURCES.write(table, rows)

    options = {"lacks": lacks.all_lacks(plan), "here": True, "rules": RULES}
    preflight.main(["--options", json.dumps(options)])
    said = capsys.readouterr().err.splitlines()
    lines = [line.partition("warning: ")[2] for line in said if "warning: " in line]
    beginnings = [
        "sample NCBI783: no known address of its alignment",
        "sample NCBI785: nothing at ",
        "sample TENX94: it was refused: there: field: found something; mend that, or delete /",
        "sample TENX94: no known address of its H&E",
        "sample TENX95: no known address of its bundle",
        "sample TENX99: it was refused: ",
        "sample TENX99: nothing at ",
        "sample TENX94, bundle: truncated",
        "sample TENX95, he_image: missing",
        "addresses: 2 that were never asked from here; run check_sources",
        "image encoder h0_mini: false: ",
        "image encoder ctranspath: no ",
        "gene encoder nicheformer: no ",
        "gene encoder nicheformer: no ",
        "gene encoder nicheformer: no ",
        "image encoder h0_mini: no ",
        "image encoder uni: no ",
        "HF_TOKEN: nothing; h0_mini, uni are gated",
        "S19_KEY: nothing; the addresses of TENX99 ask for it",
        "cohort full: 1 of 1 files, as ",
        "cohort empty: no row in ",
        "disk of ",
        "GPU: this machine has no NVIDIA driver",
        "partition bigmem: Slurm has cpu, gpu; edit",
        "partition gpu: its limit is 720 minutes, and pretrain asks for 1440; set runtime",
    ]
    assert len(beginnings) == 25
    assert len(lines) == 25, "\n".join(lines)
    for line, beginning in zip(sorted(lines), sorted(beginnings), strict=True):
        assert line.startswith(beginning)
    assert "25 thing(s) are lacking" in said[-1]


def test_what_lacks_nothing_says_so(capsys, monkeypatch):
    monkeypatch.setattr(slurm_partitions, "ask", lambda: "cpu up infinite\n")
    options = {"lacks": [], "here": False, "rules": {"pretrain": ["cpu", 1440]}}
    preflight.main(["--options", json.dumps(options)])
    assert capsys.readouterr().err.strip().endswith("nothing is lacking")


def test_weights_that_are_there_and_a_token_are_no_lack(config, tmp_path, monkeypatch):
    before = lacks.all_lacks(plan_of(config))
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    (tmp_path / "weights/image/uni").mkdir(parents=True)
    (tmp_path / "weights/image/uni/pytorch_model.bin").touch()
    gone = set(before) - set(lacks.all_lacks(plan_of(config)))
    assert {line.split(":")[0] for line in gone} >= {"image encoder uni", "HF_TOKEN"}


def test_a_simulated_configuration_lacks_at_most_a_gpu(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = yaml.safe_load((ROOT / "config/demo.yaml").read_text())
    assert lacks.all_lacks(read_plan(config, "config/demo.yaml")) == []


@pytest.mark.parametrize(
    ("said", "lack"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun", None),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  610.1  Sun", None),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.9  Sun",
            "the driver is 580.9, and CUDA",
        ),
        (
            "something else",
            "the driver is unknown, and CUDA 13.0 of torch needs 580.65.06 or later",
        ),
    ],
)
def test_a_driver_is_held_against_torchs_cuda(tmp_path, monkeypatch, said, lack):
    (tmp_path / "version").write_text(said)
    monkeypatch.setattr(devices, "_DRIVER", tmp_path / "version")
    found = devices.driver_lack("13.0")
    assert found is None if lack is None else found.startswith(lack)
    assert devices.driver_lack(None) is None


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [
        ("30:00", 30),
        ("1:30:00", 90),
        ("2-12:00:00", 3600),
        ("infinite", float("inf")),
        ("45", 0.75),
    ],
)
def test_limits_are_read_as_slurm_writes_them(limit, minutes):
    assert slurm_partitions._minutes(limit) == minutes


def test_slurm_that_gives_no_answer_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    preflight.main(["--options", json.dumps({"lacks": [], "rules": RULES})])
    assert "Slurm: sinfo gives no answer; run this on a login node" in capsys.readouterr().err


@pytest.mark.parametrize("target", ["preflight", "check_sources"])
def test_the_targets_start_no_job_but_their_own(checkout, target):
    jobs, _ = plans.plan(checkout, target)
    assert {name for name in jobs if name != "total"} == {target}


def test_the_partitions_of_the_profile_are_handed_on(checkout):
    (checkout / "profiles").symlink_to(ROOT / "profiles")
    _, said = plans.plan(checkout, "preflight", "-p", "--profile", "profiles/slurm")
    assert '"pretrain": ["gpu", 1440]' in said
    assert '"pool_spots": ["cpu", null]' in said
    assert '"preflight": [' not in said
