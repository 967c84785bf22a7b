"""What the documentation says is what code and tables hold, and its links lead somewhere."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from pairscape.audit import protocols
from pairscape.core import tsv
from pairscape.report import page

PUBLISHED = (ROOT / "docs" / "published-benchmark.md").read_text()
CHAPTERS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *CHAPTERS]


def test_the_table_of_flags_names_every_flag_and_what_it_sets():
    table = PUBLISHED.split("## Flags")[1].split("##")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert {row[0].strip("`"): row[1] for row in rows} == {
        name: flag.findings for name, flag in protocols.FLAGS.items()
    }
    for name, _, meaning, sets in rows:
        flag = protocols.FLAGS[name.strip("`")]
        assert meaning == flag.meaning
        variants = {old: new for pairs in flag.encoders.values() for old, new in pairs.items()}
        assert set(re.findall(r"training\.(\w+)", sets)) == set(flag.training)
        assert re.findall(r"`(\w+)` in the place of `(\w+)`", sets) == [
            (new, old) for old, new in variants.items()
        ]


def test_each_finding_of_a_flag_names_it_in_its_row():
    rows = {line.split(" | ")[0].strip("| "): line for line in PUBLISHED.splitlines()}
    for name, flag in protocols.FLAGS.items():
        for finding in re.findall(r"H\d+", flag.findings):
            assert f"`{name}`" in rows[finding] or "as H10" in rows[finding], finding


def test_every_flag_that_is_named_is_one():
    pages = ("README.md", "docs/protocols.md")
    text = PUBLISHED + "".join((ROOT / page).read_text() for page in pages)
    named = {*re.findall(r"flags? `(\w+)`", text), *re.findall(r"`?flags: \{(\w+):", text)}
    assert named - {"x"} <= {*protocols.FLAGS}
    assert len(named) > 10


def test_the_donors_that_the_sample_table_supports_are_told_as_they_are_counted():
    counted = page.count_donors(tsv.read_tsv(ROOT / "config" / "samples.tsv"))
    told = " ".join(PUBLISHED.split())
    assert f"has {counted['donors']} for its {counted['samples']} samples" in told
    assert f"{counted['known']} are named by a source" in told
    assert f"{counted['placeholders']} are placeholders" in told
    assert f"at least {counted['least']} persons and at most {counted['donors']}" in told


def prose(page: Path) -> str:
    """A page without what stands in code: links and headings there are none."""
    return re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)


def anchors(page: Path) -> list[str]:
    """The names that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_its_heading(page):
    links = re.findall(r"\]\(<?([^)\s>]+)", prose(page))
    for link in (link for link in links if not re.match(r"https?:|mailto:", link)):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}: no such file"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}: no such heading"


def test_the_list_of_chapters_names_every_page_of_docs_in_the_order_of_the_site():
    listed = re.findall(r"\]\((\S+\.md)\)", (ROOT / "docs/README.md").read_text())
    chapters = [page for page in listed if "/" not in page]
    assert {*chapters, "README.md"} == {page.name for page in CHAPTERS}
    nav = re.findall(r"- ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert nav == ["README.md", *chapters]
