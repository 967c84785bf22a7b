"""What the project says of itself beside the code is what the code says."""

import re
import tomllib

import yaml
from conftest import ROOT

import pairscape
from pairscape.dataset import card_text

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def recipe(target: str) -> list[str]:
    """The lines of a target of the Makefile."""
    text = (ROOT / "Makefile").read_text()
    (body,) = re.findall(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.M)
    return [line.strip() for line in body.splitlines()]


def test_the_citation_is_of_this_version_and_licence():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["version"] == pairscape.__version__
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["title"] == f"Pairscape: {uncapitalised(PROJECT['description'])}"
    assert "version" in PROJECT["dynamic"]  # pyproject.toml takes pairscape.__version__


def uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def test_the_readme_cites_what_the_citation_refers_to():
    (reference,) = CITATION["references"]
    readme = " ".join((ROOT / "README.md").read_text().replace("\n> ", " ").split())
    assert reference["title"] in readme
    assert reference["url"] in readme
    (number,) = (entry["value"] for entry in reference["identifiers"])
    assert number in readme
    card = " ".join(card_text.CITATION.split())  # of every data set's card
    assert number.removeprefix("arXiv:") in card
    assert reference["title"] in card
    initials = [
        " ".join(name[0] + "." for name in author["given-names"].split())
        for author in reference["authors"]
    ]
    names = [author["family-names"] for author in reference["authors"]]
    assert ", ".join(map(" ".join, zip(initials, names, strict=True))) in readme


def test_the_readme_asks_for_the_disk_and_the_python_that_make_env_asks_for():
    readme, makefile = ((ROOT / name).read_text() for name in ("README.md", "Makefile"))
    disk = re.search(r"^NEEDS_GB := (\d+)$", makefile, re.M)[1]
    assert f"- {disk} GB of disk" in readme
    python = PROJECT["requires-python"].removeprefix(">=").split(",")[0]
    assert f"Python {python} on the `PATH`" in readme
    assert f"python{python}" in makefile


def test_the_readme_shows_its_picture_with_words_for_it():
    ((words, path),) = re.findall(r"!\[(.*?)\]\((.*?)\)", (ROOT / "README.md").read_text())
    assert (ROOT / path).stat().st_size < 400_000
    assert re.search(r"\d+% of the images .* chance is \d", words)


def test_the_newest_entry_of_the_changelog_is_this_version():
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert first[1] == pairscape.__version__


def test_pre_commit_calls_the_linters_of_make_lint():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert not any(hook["pass_filenames"] for hook in hooks)
    called = [hook["entry"].removeprefix("env ").replace(".venv/bin/", "") for hook in hooks]
    assert called == [line for line in recipe("lint") if not line.startswith("export PATH")]


def test_issue_forms_ask_for_something():
    forms = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
    assert [form.stem for form in forms] == ["bug", "new-encoder", "own-sample"]
    for form in forms:
        asked = yaml.safe_load(form.read_text())
        assert asked["name"]
        assert any(field.get("validations", {}).get("required") for field in asked["body"])
        names = [field["id"] for field in asked["body"]]
        assert len(names) == len(set(names))


def test_the_container_is_built_by_make_of_the_pinned_python():
    lines = (ROOT / "Containerfile").read_text().splitlines()
    python = PROJECT["requires-python"].removeprefix(">=").split(",")[0]
    assert f"FROM python:{python}-slim" in lines
    assert "RUN make env" in lines
