"""Every broken input is refused with one line that says what to do, and nothing is half-written."""

import copy
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from broken_inputs import CASES
from good_inputs import GOOD, run

from pairscape.core.errors import InputError


@pytest.fixture(scope="session")
def good(tmp_path_factory):
    """The good input of each program, made once; gives a copy of it and its call."""
    made = {}

    def prepare(program, folder):
        if program not in made:
            place = tmp_path_factory.mktemp("good") / program
            place.mkdir()
            made[program] = place, GOOD[program](place)
        place, call = made[program]
        shutil.copytree(place / "in", folder / "in")
        return moved(call, place, folder)

    return prepare


def moved(value, old, new):
    """A copy of a call with its paths in another folder."""
    if isinstance(value, Path):
        return new / value.relative_to(old) if value.is_relative_to(old) else value
    if isinstance(value, dict):
        return {key: moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, old, new) for item in value]
    return copy.copy(value)


def snapshot(folder):
    return {
        str(path.relative_to(folder)): path.is_file()
        and hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("program", GOOD)
def test_the_good_input_is_accepted(good, tmp_path, program, monkeypatch):
    """What the cases spoil is good before: otherwise they'd be refused for another reason."""
    call = good(program, tmp_path)
    if program == "configuration":
        retarget(tmp_path)
    run(program, call)
    assert program == "configuration" or any((tmp_path / "out").iterdir())


def retarget(folder):
    """A configuration holds paths: they follow it to its copy."""
    import yaml

    path = folder / "in" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for key in ("results", "bundles", "samples", "panels"):
        config[key] = str(folder / "in" / Path(config[key]).name)
    path.write_text(yaml.safe_dump(config))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.program}: {case.name}")
def test_a_broken_input_is_refused_in_one_line(good, tmp_path, case):
    call = good(case.program, tmp_path)
    if case.program == "configuration":
        retarget(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    case.spoil(tmp_path / "in", call)
    # What an earlier run has made stays as it was.
    for path in call["flags"].values():
        if isinstance(path, Path) and path.parent == out and path.suffix not in ("", ".zarr"):
            path.write_text("of an earlier run")
    before, inputs = snapshot(out), snapshot(tmp_path / "in")
    with pytest.raises(InputError) as refusal:
        run(case.program, call)
    error = refusal.value
    assert "\n" not in str(error)
    assert len(str(error)) - len(str(tmp_path)) < 1000
    assert error.file.endswith(case.file)
    assert case.field in error.field
    assert error.found
    assert len(error.remedy.split()) > 1
    # Why a sample is refused is kept, for plans that leave it out.
    after = {
        name: what for name, what in snapshot(out).items() if not name.endswith(".refused.json")
    }
    if case.program == "check_bundle":  # an old verdict goes, and the findings are kept aside
        assert after.pop("check.failed.json")
        before = {}
    assert after == before
    assert snapshot(tmp_path / "in") == inputs


@pytest.mark.slow
def test_the_list_of_messages_starts_by_itself(tmp_path):
    """pytest puts folders on the path that a fresh interpreter doesn't have."""
    listed = [sys.executable, Path(__file__).with_name("list_messages.py"), "index_datasets"]
    done = subprocess.run(listed, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + sum(case.program == "index_datasets" for case in CASES) > 2
    assert "ACCEPTED" not in done.stdout


def test_there_are_forty_cases_and_more_each_with_a_name_of_its_own():
    names = {(case.program, case.name) for case in CASES}
    assert len(names) == len(CASES) >= 40
    assert {case.program for case in CASES} == set(GOOD)
