"""Refusals are one line, and name what is allowed."""

import pytest

from pairscape.core.errors import InputError, allowed_words, missing_file, one_of


def test_a_refusal_is_one_line_whatever_it_is_told():
    error = InputError("a.tsv", "line\n3", "two\n  words", "mend\tit")
    assert str(error) == "a.tsv: line 3: found two words; mend it"
    assert (error.file, error.field) == ("a.tsv", "line 3")


def test_one_of_takes_the_allowed_and_names_the_nearest_of_them():
    one_of("train", ("train", "val"), "--options", "split")
    with pytest.raises(InputError) as refusal:
        one_of("trian", ("train", "val"), "--options", "split", "splits")
    found = "--options: split: found 'trian'; did you mean train? allowed (splits): train, val"
    assert str(refusal.value) == found


@pytest.mark.parametrize(
    ("value", "allowed", "words"),
    [
        ("x", [], "allowed: none"),
        (3, iter([1, 2]), "allowed: 1, 2"),
        ("ridgee", {"ridge": 1}, "did you mean ridge? allowed: ridge"),
    ],
)
def test_the_remedy_lists_what_is_allowed(value, allowed, words):
    assert allowed_words(value, allowed) == words


def test_a_file_that_isnt_there_has_a_remedy():
    said = "a.tsv: file: found nothing; make it or correct the path"
    assert str(missing_file("a.tsv")) == said
    assert str(missing_file("a.tsv", "run b")).endswith("; run b")
