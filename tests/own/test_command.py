"""The command `pairscape`: from a bundle to a configuration that can be run, or one line why not."""

import subprocess
import sys

import pytest
import tiny_bundle
import yaml
from bundle_layouts import write_bundle_with_cells
from conftest import ROOT

from pairscape.core.errors import InputError
from pairscape.core.tsv import read_tsv
from pairscape.own import command, template
from pairscape.plan.reading import read_plan


@pytest.fixture
def bundle(tmp_path):
    """A bundle whose H&E and alignment lie in its folder."""
    bundle = write_bundle_with_cells(tmp_path / "outs")
    he, matrix = tiny_bundle.write_he(tmp_path)
    he.rename(bundle / "mine_he_image.ome.tif")
    matrix.rename(bundle / "mine_he_imagealignment.csv")
    return bundle


def call(*words):
    command._dispatch([*map(str, words)])


def test_a_bundle_becomes_a_configuration_that_is_accepted(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    folder = tmp_path / "it's mine"
    call("new", folder, "--bundle", bundle, "--organ", "Breast", "--um-per-px", "0.5")
    said = capsys.readouterr().err
    assert f"see {folder}/check/overlay.png" in said
    assert f"next: pairscape run {folder}" in said
    assert (folder / "check/overlay.png").stat().st_size > 10_000
    path = folder / "config.yaml"
    plan = read_plan(yaml.safe_load(path.read_text()), str(path))
    assert plan.results == str(folder / "results")
    (row,) = read_tsv(folder / "samples.tsv")
    assert row["he_image"] == str(bundle / "mine_he_image.ome.tif")
    assert plan.datasets["mine"].split["method"] == "within_sample"
    with pytest.raises(InputError, match="found one that is there; edit it"):
        call("new", folder, "--bundle", bundle, "--um-per-px", "0.5")


def test_without_an_he_only_spots_are_planned(bundle, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in bundle.glob("mine_*"):
        path.unlink()
    call("new", tmp_path / "spots", "--bundle", bundle)
    path = tmp_path / "spots" / "config.yaml"
    plan = read_plan(yaml.safe_load(path.read_text()), str(path))
    assert plan.datasets == {}
    assert plan.config["pool_also"] == [{"sample": "spots", "spots": "square55"}]


def test_the_template_is_written_whole_whatever_stands_in_a_name(tmp_path):
    row = template.sample_row("a: 'b' # c", tmp_path, None, None)
    path = template.write(tmp_path / "a: 'b' # c", row)
    assert yaml.safe_load(path.read_text())["title"] == "a: 'b' # c"
    assert row["sample"] == "a_b_c"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("check", "{0}/nowhere"), "nowhere: folder: found nothing; name the folder that holds"),
        (("new", "{0}/x", "--bundle", "{0}/nowhere"), "nowhere: folder: found nothing"),
        (("run", "{0}"), "config.yaml: file: found nothing; pairscape new makes one"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, words, told):
    with pytest.raises(InputError, match=told) as refusal:
        call(*(word.format(tmp_path) for word in words))
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_two_images_beside_a_bundle_are_not_chosen_from(bundle):
    (bundle / "other_he_image.ome.tif").touch()
    with pytest.raises(InputError, match="name the right one on the command line"):
        call("check", bundle)


@pytest.fixture
def asked(monkeypatch):
    """The commands that are started, without being started."""
    asked = []
    # Snakemake, once imported, writes to the terminal that pytest has taken away by then.
    monkeypatch.setattr(command, "named_targets", lambda words: [])
    monkeypatch.setattr(
        command.subprocess,
        "run",
        lambda given, **_: asked.append(given) or subprocess.CompletedProcess(given, 3),
    )
    return asked


def test_a_run_gives_further_words_to_snakemake_before_the_configuration(asked):
    """`--configfile` takes all that follows it for files."""
    with pytest.raises(SystemExit) as end:
        call("run", "-n", "results/own/report.html")
    assert end.value.code == 3
    (given,) = asked
    assert given[-2:] == ["--configfile", str(ROOT / "config/own/config.yaml")]
    assert given.index("-n") < given.index("results/own/report.html") < len(given) - 2
    assert "--cores" in given
    with pytest.raises(SystemExit):
        call("run", ROOT / "config/demo.yaml", "--cores=1")
    assert asked[-1].count("--cores") == 0
    assert asked[-1][-1] == str(ROOT / "config/demo.yaml")


def test_every_program_is_a_subcommand_and_completed(capsys):
    call("completion")
    words = capsys.readouterr().out.split('"')[1].split()
    programs = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {"check", "new", "run"} | programs == {*words}
    done = subprocess.run(
        [sys.executable, "-m", "pairscape.own.command", "score_hits", "--help"],
        cwd=ROOT / "scripts",
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: score_hits.py" in done.stdout


@pytest.mark.slow
def test_spots_and_a_report_come_of_a_bundle_without_an_he(bundle, tmp_path):
    for path in bundle.glob("mine_*"):
        path.unlink()
    folder = tmp_path / "spots only"
    call("new", folder, "--bundle", bundle)
    with pytest.raises(SystemExit) as end:
        call("run", folder, "--cores", "2", "--quiet", "all")
    assert end.value.code == 0
    made = folder / "results"
    assert (made / "samples/spots_only/square55/qc.png").stat().st_size > 10_000
    assert "spots_only" in (made / "report.html").read_text(encoding="utf-8")


def test_an_option_s_value_is_no_target():
    calls = [
        ["--cores", "4"],
        ["--quiet", "rules", "-n"],
        ["--cores", "4", "--", "spots"],
        ["datasets", "-n"],
        ["-n", "results/own/report.html"],
    ]
    code = f"from pairscape.own import command; print([*map(command.named_targets, {calls})])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "scripts", capture_output=True, text=True
    )
    assert done.stdout.strip() == "[[], [], ['spots'], ['datasets'], ['results/own/report.html']]"
