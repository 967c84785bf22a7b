"""`import pairscape`: its examples hold on the demo, and what is not there is one line."""

import doctest

import numpy as np
import pytest
import tiny_bundle
from bundle_layouts import write_bundle_with_cells
from conftest import ROOT

import pairscape
from pairscape.core.errors import InputError
from pairscape.own import api


@pytest.mark.slow
def test_the_examples_hold_on_the_demo(monkeypatch):
    if not (ROOT / "results/demo/report.html").is_file():
        pytest.skip("results/demo isn't there: make demo")
    monkeypatch.chdir(ROOT)
    names = {name: getattr(api, name) for name in pairscape.__all__}
    names["test"] = api.load_dataset("results/demo/datasets", "simulated-breast", "test")
    found = doctest.DocTestFinder(recurse=True).find(api, "api", globs=names)
    runner = doctest.DocTestRunner()
    tried = [runner.run(example) for example in found]
    assert sum(result.attempted for result in tried) > 12
    assert sum(result.failed for result in tried) == 0


def test_spots_of_a_bundle_are_pooled_in_one_call_and_lie_where_scanpy_looks(tmp_path):
    bundle = pairscape.open_bundle(write_bundle_with_cells(tmp_path / "outs"))
    assert sorted(bundle.genes) == sorted(tiny_bundle.GENES)
    spots = pairscape.pool(bundle, size_um=40, min_transcripts=1)
    assert spots.uns["pairscape"]["preset"]["size_um"] == 40
    assert np.array_equal(spots.obsm["spatial"], spots.obs[["x_um", "y_um"]])
    rows = sum(len(batch) for batch in bundle.transcripts(["qv"]))
    assert spots.X.sum() < rows


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda folder: pairscape.open_bundle(folder / "none"), "bundle: found nothing"),
        (lambda folder: pairscape.load_run(folder / "none"), "model.ckpt"),
        (lambda folder: pairscape.read_spots(folder / "none"), "found nothing; let pool_spots"),
    ],
)
def test_what_is_not_there_is_one_line(tmp_path, call, told):
    with pytest.raises(InputError, match=told) as refusal:
        call(tmp_path)
    assert "\n" not in str(refusal.value)


def test_the_package_offers_that_and_loads_nothing_for_it():
    assert set(pairscape.__all__) <= set(dir(api))
    with pytest.raises(AttributeError, match="no attribute 'embed'"):
        pairscape.embed  # noqa: B018
