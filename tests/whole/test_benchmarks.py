"""The benchmarks run and write their tables; what they measure is for `make bench`."""

import pytest
from conftest import ROOT

from pairscape.core.tsv import read_tsv

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.slow
@pytest.mark.parametrize("what", [path.stem for path in sorted(BENCHMARKS.glob("bench_*.py"))])
def test_a_benchmark_writes_its_ratios_with_their_targets(tmp_path, what, capsys):
    benchmark = __import__(what)
    flags = ["--quick", f"--results={tmp_path / 'bench'}", f"--scratch={tmp_path}"]
    benchmark.main(flags)
    rows = read_tsv(tmp_path / "bench" / f"{what.removeprefix('bench_')}.tsv")
    assert [path.name for path in tmp_path.iterdir()] == ["bench"]
    for row in rows:
        ours, theirs, ratio = (float(row[key]) for key in ("ours", "theirs", "ratio"))
        sign, limit = row["target"].split()
        assert ratio == pytest.approx(
            ours / theirs if sign == "<=" else theirs / ours, rel=0.02, abs=0.006
        )
        assert row["met"] == ("yes" if eval(f"{ratio} {sign} {limit}") else "no")
    capsys.readouterr()
    import measure

    measure.main([str(tmp_path / "bench")])
    assert capsys.readouterr().out.count("\n") == len(rows) + 1


def test_a_full_disk_is_told_before_anything_is_made(tmp_path):
    import measure

    with pytest.raises(measure.InputError, match="free space: found"):
        measure.need_space(tmp_path, 1 << 60)
