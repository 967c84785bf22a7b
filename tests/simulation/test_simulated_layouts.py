"""Every layout of the instrument's files: simulated, checked, and pooled to the same truth."""

import json

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from conftest import ROOT

import check_bundle
import pool_spots
import simulate_bundle
from pairscape.simulation.layouts import LAYOUTS
from pairscape.spots.spots_zarr import read_spots

PANEL = ROOT / "config" / "published" / "panels" / "human-breast-panel.tsv"


QUICK = ("1.0-csv", "3.1-ranger", "4.0")  # of each form that is read in another way, one


@pytest.mark.parametrize(
    "layout",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS],
)
def test_a_simulated_bundle_of_every_layout_is_accepted_and_pooled_to_the_truth(layout, tmp_path):
    bundle = tmp_path / "S"
    sample = {"sample": "S", "donor": "D", "panel": "human-breast-panel"}
    sample |= {"he_image": "", "he_alignment": ""}
    knobs = {"width_um": 220, "height_um": 275, "layout": layout}
    run(
        simulate_bundle,
        {"panel": PANEL, "bundle": bundle},
        {"sample": sample, "seed": 1, "simulation": knobs},
    )
    he = {
        "he_image": bundle / "S_he_image.ome.tif",
        "he_alignment": bundle / "S_he_imagealignment.csv",
    }
    report = tmp_path / "check.json"
    run(
        check_bundle, {"bundle": bundle, **he, "panel": PANEL, "report": report}, {"sample": sample}
    )
    assert not [f for f in json.loads(report.read_text())["findings"] if f["level"] == "error"]
    spots = tmp_path / "spots.zarr"
    run(
        pool_spots,
        {
            "bundle": bundle,
            **he,
            "spots": spots,
            "audit": tmp_path / "audit.json",
            "table": tmp_path / "qc.tsv",
        },
        {"sample": sample, "spots_name": "s", "spots": {"shape": "square", "size_um": 55}},
    )
    pooled = read_spots(spots)
    genes = list(pd.read_csv(bundle / "truth" / "genes.tsv", sep="\t").gene_symbol)
    truth = sp.load_npz(bundle / "truth" / "counts.npz").toarray()
    tile = pooled.obs["array_row"].to_numpy() * 4 + pooled.obs["array_col"].to_numpy()
    wanted = truth[tile][:, [genes.index(gene) for gene in pooled.var_names]]
    np.testing.assert_array_equal(pooled.X.toarray(), wanted)
    assert pooled.X.sum() == truth.sum() > 1000


def run(program, flags, options):
    texts = [
        str(text) for key, value in flags.items() for text in (f"--{key.replace('_', '-')}", value)
    ]
    program.main([*texts, "--options", json.dumps(options)])
