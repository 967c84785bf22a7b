"""A table that is declared once is written, read, checked and documented by its declaration."""

import pytest

from pairscape.core import tsv
from pairscape.core.errors import InputError

TABLE = tsv.Table(
    "things.tsv", "make_things", (*tsv.text(name="what it is"), *tsv.numbers(size="in um"))
)
OPEN = tsv.Table(TABLE.name, TABLE.made_by, TABLE.columns, others="a score each")
TEXTS = tsv.Table("words.tsv", "make_words", tsv.text(word="one"))
ROWS = [{"name": "a", "size": 1 / 3}, {"name": "", "size": None}]


@pytest.fixture
def path(tmp_path):
    TABLE.write(tmp_path / "things.tsv", ROWS)
    return tmp_path / "things.tsv"


def test_what_is_written_is_read(path):
    assert path.read_text() == "name\tsize\na\t0.333333\n\t\n"
    assert TABLE.read(path) == [{"name": "a", "size": 0.333333}, {"name": "", "size": None}]
    TABLE.write(path, ROWS, digits=2)
    assert TABLE.read(path)[0]["size"] == 0.33
    TABLE.write(path, [])
    assert TABLE.read(path) == []
    TEXTS.write(path, [{"word": "1"}])
    assert TEXTS.read(path) == [{"word": "1"}]


def test_columns_beyond_the_declared_ones_are_numbers_where_the_table_has_others(path):
    with pytest.raises(ValueError, match="recall aren't declared"):
        TABLE.write(path, [{**ROWS[0], "recall": 0.5}])
    OPEN.write(path, [{**ROWS[0], "recall": 0.5}])
    assert OPEN.read(path) == [{"name": "a", "size": 0.333333, "recall": 0.5}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name\na\n", "column size: found only name; add the column"),
        ("name\tsize\na\tx\n", "line 2, size: found 'x'; delete it and run make_things again"),
        ("name\tsize\na\t1", "found no end: the file is cut off; delete it and run make_things"),
        ("name\tsize\na\n", "line 2: found a number of fields other than the header's 2"),
        ("name\tsize\tname\na\t1\tb\n", "header: found a repeated column"),
    ],
)
@pytest.mark.parametrize("table", [TABLE, OPEN])
def test_what_is_damaged_is_refused_in_one_line(path, table, content, message):
    path.write_text(content)
    with pytest.raises(InputError) as refusal:
        table.read(path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_table_that_isnt_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="file: found nothing"):
        TABLE.read(tmp_path / "absent.tsv")


def test_a_table_is_known_by_its_columns():
    assert TABLE.matches(["size", "name", "more"])
    assert not TABLE.matches(["size"])
    assert TABLE.names == ("name", "size")


def test_the_declaration_documents_the_columns():
    assert TABLE.document().splitlines() == [
        "`things.tsv`, by `make_things`",
        "",
        "| column | holds | meaning |",
        "| --- | --- | --- |",
        "| `name` | text | what it is |",
        "| `size` | number | in um |",
    ]
    assert OPEN.document().splitlines()[-1] == "| ... | number | a score each |"
