"""The rule graph of docs/workflow.md: every rule of the workflow, in the box of its file."""

import itertools
import re

import pytest
from conftest import ROOT

FILES = [ROOT / "Snakefile", *sorted((ROOT / "workflow").glob("*.smk"))]


def declared(file) -> set[str]:
    """The names of the rules that a file of the workflow declares."""
    pattern = r"^(?:(?:rule|checkpoint) (\w+)|use rule \w+ as (\w+) with):"
    return {own or derived for own, derived in re.findall(pattern, file.read_text(), re.M)}


def graph() -> str:
    text = (ROOT / "docs/workflow.md").read_text()
    (drawn,) = re.findall(r"^```mermaid\n(.*?)^```", text, re.M | re.S)
    return drawn


def boxes() -> dict[str, dict[str, list[str]]]:
    """By file: the nodes of its box, each with the rules that stand in it."""
    found = {}
    for file, body in re.findall(r"subgraph in_(\w+) \[.*?\]\n(.*?)\n    end", graph(), re.S):
        nodes = re.findall(r'^ +(\w+)(?:\["(.*)"\])?$', body, re.M)
        assert len(nodes) == len(body.splitlines())
        found[file] = {node: (label or node).split("<br/>") for node, label in nodes}
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_box_of_a_file_holds_its_rules(file):
    drawn = [rule for rules in boxes().get(file.stem, {}).values() for rule in rules]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == declared(file)


def test_every_box_is_of_a_file():
    assert set(boxes()) <= {file.stem for file in FILES}


def test_arrows_join_what_stands_in_a_box_and_all_comes_last():
    nodes = {node for box in boxes().values() for node in box}
    chains = [line.split(" --> ") for line in graph().splitlines() if " --> " in line]
    joined = [[part.strip().split(" & ") for part in chain] for chain in chains]
    assert {name for chain in joined for part in chain for name in part} <= nodes
    after = {}
    for chain in joined:
        for first, then in itertools.pairwise(chain):
            for name in first:
                after.setdefault(name, set()).update(then)
    assert not after.get("all")
    # Only what reads nothing but tables of the configuration stands alone.
    alone = nodes - set(after) - {name for names in after.values() for name in names}
    assert alone == {"audit_splits"}
    for name in nodes:  # no way leads back
        seen, ahead = set(), set(after.get(name, ()))
        while ahead:
            seen |= ahead
            ahead = {then for one in ahead for then in after.get(one, ())} - seen
        assert name not in seen
