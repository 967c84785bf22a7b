"""The tables of scores and of slides: what their declarations write is what they read."""

import pytest

from pairscape.calibrate import calibration
from pairscape.core.errors import InputError
from pairscape.core.tsv import Table, counts, numbers, text
from pairscape.evaluate import batch_effect, expression, retrieval
from pairscape.slides import mutation_fitting, mutation_scores, predictions, site_folds
from pairscape.slides import slide_features as features

TABLES = [module.SCORES for module in (retrieval, batch_effect, expression, mutation_scores)]
TABLES += [calibration.SCORES, predictions.PREDICTIONS, mutation_fitting.TRAINING]
TABLES += [site_folds.FOLDS, features.SLIDES]
SMALL = Table(
    "small.tsv", "tests", (*text(name="a"), *counts(count="b"), *numbers(share="c", rest="d"))
)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_what_a_declaration_writes_it_reads(tmp_path, table):
    assert len(set(table.names)) == len(table.names)
    values = {str: "x", float: 0.125, int: 3}
    row = {column.name: values[column.type] for column in table.columns}
    table.write(tmp_path / "t.tsv", [row])
    assert table.read(tmp_path / "t.tsv") == [row]
    header = (tmp_path / "t.tsv").read_text().splitlines()[0]
    assert header.split("\t") == list(table.names)
    assert all(f"`{name}`" in table.document() for name in table.names)


def test_numbers_keep_so_many_digits_or_all(tmp_path):
    rows = [{"name": "n", "count": 7, "share": 1 / 3, "rest": None}]
    SMALL.write(tmp_path / "short.tsv", rows)
    SMALL.write(tmp_path / "whole.tsv", rows, digits=None)
    assert SMALL.read(tmp_path / "short.tsv")[0]["share"] == 0.333333
    assert SMALL.read(tmp_path / "whole.tsv") == rows


@pytest.mark.parametrize("found", ["1.5", "many", "-1"])
def test_a_whole_number_that_is_none_is_refused(tmp_path, found):
    path = tmp_path / "small.tsv"
    path.write_text(f"name\tcount\tshare\trest\nn\t{found}\t0.5\t\n")
    with pytest.raises(
        InputError, match=f"line 2, count: found '{found}'; delete it and run tests"
    ):
        SMALL.read(path)
