"""From simulated tissue to a p-value: the signal is found where there is one, and nothing else.

The programs of the pipeline make the pairs; a ridge regression stands in for the trained pair. It is
fitted on one sample and tested on another, whose galleries are within the sample.
"""

import json

import numpy as np
import pytest
from conftest import ROOT
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import export_pairs
import pool_spots
import select_genes
import simulate_bundle
from pairscape.dataset import pair_shards, patch_reader
from pairscape.encoders import image_encoders, specs, weights
from pairscape.evaluate import retrieval

pytestmark = pytest.mark.slow
PANEL = ROOT / "config" / "published" / "panels" / "human-breast-panel.tsv"
SPOTS = {"shape": "square", "size_um": 55, "min_qv": 20, "min_transcripts": 1, "centres": None}
PATCHES = {"um_per_px": 1.0, "patch_px": 112, "encoding": "jpeg", "quality": 95}


def make_pairs(folder, name, signal):
    """Simulate a sample and bring it to a shard, by the programs alone."""
    sample = {
        "sample": name,
        "donor": name,
        "panel": "human-breast-panel",
        "organ": "Breast",
        "source": "simulated",
        "he_image": "",
        "he_alignment": "",
    }
    bundle, spots = folder / name, folder / f"{name}.zarr"
    he = ("--he-image", bundle / f"{name}_he_image.ome.tif")
    he += ("--he-alignment", bundle / f"{name}_he_imagealignment.csv")
    qc = ("--audit", folder / f"{name}.json", "--table", folder / f"{name}_qc.tsv")
    genes, shard = folder / f"{name}.tsv", folder / f"{name}.arrow"
    knobs = {"width_um": 825, "height_um": 825, "morphology_signal": signal, "tissue_cover": 1}
    labels = {"name": [name], "source": ["simulated"], "tissue": ["breast"]}
    steps = [
        (
            simulate_bundle,
            ("--panel", PANEL, "--bundle", bundle),
            {"sample": sample, "seed": 7, "simulation": knobs},
        ),
        (
            pool_spots,
            ("--bundle", bundle, *he, "--spots", spots, *qc),
            {"sample": sample, "spots_name": "s", "spots": SPOTS},
        ),
        (
            select_genes,
            ("--spots", spots, "--genes", genes),
            {"dataset": "d", "panel": "human-breast-panel", "samples": [name]},
        ),
        (
            export_pairs,
            ("--spots", spots, *he, "--genes", genes, "--shard", shard),
            {"sample": sample, "dataset": "d", "patches": PATCHES, "labels": labels},
        ),
    ]
    for program, flags, options in steps:
        program.main([*map(str, flags), "--options", json.dumps(options)])
    return shard


def features_of(shard):
    spec = specs.read_encoder(ROOT / "config" / "encoders", "image", "tf_efficientnet_lite0")
    tower = image_encoders.build(spec, weights.find_weights(spec, None))
    reader = patch_reader.PatchReader([shard], spec["input"])
    batches = np.array_split(np.arange(len(reader)), len(reader) // image_encoders.BATCH + 1)
    return np.concatenate(list(image_encoders.embed(tower, spec, reader.read, batches)))


def p_values(folder, signal):
    train, test = (make_pairs(folder, name, signal) for name in ("A", "B"))
    counts = [np.log1p(pair_shards.read_expression(shard).astype(float)) for shard in (train, test)]
    images = [features_of(shard) for shard in (train, test)]
    scale = StandardScaler().fit(images[0])
    images = [scale.transform(x) for x in images]
    pca = PCA(10, random_state=0).fit(counts[0])
    ridge = Ridge(alpha=3000).fit(images[0], pca.transform(counts[0]))
    unit = [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
        for x in (ridge.predict(images[1]), pca.transform(counts[1]))
    ]
    index = pair_shards.read_index(test).to_pandas()
    xy_um = index[["x_um", "y_um"]].to_numpy()
    samples = index["sample"].to_numpy(str)
    tests = retrieval.shift_p_values(unit[0], unit[1], samples, xy_um, 999, 0)
    return tests["all"][0]


def test_without_a_morphology_signal_nothing_is_found(tmp_path):
    assert p_values(tmp_path, 0) > 0.05


def test_with_a_morphology_signal_it_is_found(tmp_path):
    assert p_values(tmp_path, 1) < 0.01
