"""A user's own samples, each with a realistic mistake, through Snakemake: the dry check tells all."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import yaml
from conftest import ROOT
from good_inputs import tiny_bundle, write_bundle_with_cells, write_panel_list

pytestmark = pytest.mark.slow

# Sample -> its row from column bundle on (bundle, he_image, he_alignment, panel) and what is said.
MISTAKES = {
    "path": (
        ("nowhere/outs", "he.ome.tif", "he.csv", "tiny"),
        "nowhere/outs: bundle: found nothing (expected a folder); put the bundle there or correct "
        "column bundle of sample path",
    ),
    "image": (
        ("outs", "other.ome.tif", "he.csv", "tiny"),
        "other.ome.tif: extent: found 100% of the gene transcripts outside of the image",
    ),
    "inverse": (
        ("outs", "he.ome.tif", "inverse.csv", "tiny"),
        "(expected 0.5 um as PhysicalSizeX of the image says); give its inverse",
    ),
    "swapped": (
        ("swapped", "none", "", "tiny"),
        "transcripts.parquet: x_location, y_location: found ",
    ),
    "panel": (
        ("outs", "none", "", "lung"),
        "correct column panel of sample panel in the sample table: tiny fits",
    ),
    "packed": (("cut.zip", "none", "", "tiny"), "cut.zip: zip: found "),
    "good": (("good.zip", "he.ome.tif", "he.csv", "tiny"), None),
}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """One run over all of them: what Snakemake says, and where it ran."""
    folder = tmp_path_factory.mktemp("own")
    bundles = folder / "bundles"
    outs = write_bundle_with_cells(bundles / "outs")
    tiny_bundle.write_he(bundles)
    matrix = np.loadtxt(bundles / "he.csv", delimiter=",")
    np.savetxt(bundles / "inverse.csv", np.linalg.inv(matrix), delimiter=",")
    (folder / "other").mkdir()
    other, _ = tiny_bundle.write_he(folder / "other", margin=-190)
    shutil.move(other, bundles / "other.ome.tif")
    swapped = shutil.copytree(outs, bundles / "swapped")
    names = {"x_location": "y_location", "y_location": "x_location"}
    import pyarrow.parquet as pq

    table = pq.read_table(outs / "transcripts.parquet").to_pandas()
    tiny_bundle.write_transcripts(swapped, table.rename(columns=names))
    shutil.make_archive(bundles / "good", "zip", bundles, "outs")
    (bundles / "cut.zip").write_bytes((bundles / "good.zip").read_bytes()[:-5000])
    (folder / "panels").mkdir()
    write_panel_list(folder / "panels" / "tiny.tsv", tiny_bundle.GENES)
    write_panel_list(folder / "panels" / "lung.tsv", ["SFTPC", "AGER", "SCGB1A1"])
    lines = ["sample\tdonor\tsource\tbundle\the_image\the_alignment\tpanel"]
    lines += ["\t".join([name, name, "local", *row]) for name, (row, _) in MISTAKES.items()]
    (folder / "samples.tsv").write_text("\n".join(lines) + "\n")
    split = {"method": "listed", "train": ["path", "image"], "val": [], "test": ["good"]}
    config = {
        "title": "Own samples",
        "results": "results",
        "bundles": "bundles",
        "samples": "samples.tsv",
        "panels": "panels",
        "encoders": str(ROOT / "config" / "encoders"),
        "spots": {"square55": {"shape": "square", "size_um": 55}},
        "patches": {"p32": {"um_per_px": 0.5, "patch_px": 32}},
        "datasets": {
            "tiny": {"panel": "tiny", "spots": "square55", "patches": "p32", "split": split}
        },
        "experiments": {},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    command += ["--cores", "2", "--keep-going"]
    done = subprocess.run(
        [*command, *(f"results/samples/{name}/check.json" for name in MISTAKES)],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    return done.stdout + done.stderr, folder


@pytest.mark.parametrize("name", [name for name, (_, told) in MISTAKES.items() if told])
def test_a_mistake_in_an_own_sample_is_told_in_one_line(said, name):
    text, folder = said
    log = "fetch_bundle" if name == "packed" else "check_bundle"
    lines = (folder / "results" / "logs" / log / f"{name}.log").read_text().splitlines()
    (message,) = [line.split(" error ", 1)[1] for line in lines if " error " in line]
    assert MISTAKES[name][1] in message
    assert f"{log}: error: {message}" in text
    assert not (folder / "results" / "samples" / name / "check.json").exists()
    assert not list(folder.rglob(".part-*"))
    assert not list((folder / "bundles").glob("packed*"))


def test_a_sound_zip_is_unpacked_and_passes(said):
    text, folder = said
    assert "Traceback" not in text
    assert (folder / "results" / "samples" / "good" / "check.json").exists()
    assert (folder / "bundles" / "good" / "transcripts.parquet").exists()
