"""The inference demo, docs/embed_new_image.py: run as a user runs it, on a small pair made here."""

import re
import subprocess
import sys
import types

import notebook
import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_embed_image import SPEC, save_png, save_run, tell_patches
from tiny_pairs import GENES, write_dataset

from pairscape.core.errors import InputError
from pairscape.dataset import pair_shards
from pairscape.encoders import image_encoders
from pairscape.pretrain import run_embeddings

SCRIPT = ROOT / "docs" / "embed_new_image.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, the image of a test patch (row 3) and the weights of the image encoder."""
    folder = tmp_path_factory.mktemp("inference_demo")
    weights = folder / "weights.pth"
    torch.manual_seed(5)
    torch.save(image_encoders.build(SPEC, None).model.state_dict(), weights)
    shards, patches, _, _ = write_dataset(folder / "results" / "datasets" / "tiny")
    for shard in shards:
        tell_patches(shard)
    run = save_run(folder / "results", "frozen", weights)
    return run, save_png(folder / "new.png", patches[68 + 3]), weights


@pytest.fixture(scope="module")
def done(made, tmp_path_factory):
    """The demo over them, and the folder that keeps what it made."""
    out = tmp_path_factory.mktemp("kept") / "out"
    return demo(made, "--out", str(out)), out


def demo(made, *more):
    run, image, weights = made
    command = [sys.executable, str(SCRIPT), "--run", str(run), "--image", str(image)]
    command += ["--image-weights", str(weights), "--um-per-px", "0.5", "--min-tissue", "0", *more]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.slow
def test_the_demo_embeds_an_image_and_names_the_nearest_gene_profiles(made, done):
    done, out = done
    assert done.returncode == 0, done.stderr[-3000:]
    assert "pair: stand_in with mlp, trained on tiny, seed 7" in done.stdout
    assert "image: new.png, 1 patches, 16 numbers each" in done.stdout
    assert f"all 1 patches: {out}" in done.stdout
    stored = run_embeddings.read_run_embeddings(made[0], "test")
    similarity = stored["images"][3] @ stored["genes"].T
    best = np.argsort(-similarity, kind="stable")[:5]
    lines = re.findall(r"(\d)\. similarity (\S+): spot (\S+) of (\S+); most (.*)", done.stdout)
    assert [line[0] for line in lines] == list("12345")
    assert [line[2] for line in lines] == stored["index"]["spot"].iloc[best].tolist()
    assert [float(line[1]) for line in lines] == pytest.approx(similarity[best].tolist(), abs=2e-3)
    assert {line[3] for line in lines} == {"S3"}
    assert Image.open(out / "found.png").size[0] > 400
    saved = np.load(out / "embeddings.npy")
    np.testing.assert_allclose(saved[0], stored["images"][3], atol=1e-5)


@pytest.mark.slow
def test_the_genes_named_are_those_that_the_spot_holds_most_of(made, done):
    done, _ = done
    spot, told = re.search(r"1\. similarity \S+: spot (\S+) of S3; most (.*)", done.stdout).groups()
    shard = made[0].parents[4] / "datasets" / "tiny" / "shards" / "S3.arrow"
    counts = pair_shards.read_expression(shard).astype(float)
    row = pair_shards.read_index(shard)["spot"].to_pylist().index(spot)
    average = counts.sum(axis=0) / counts.sum() * counts[row].sum()
    excess = (counts[row] - average) / np.sqrt(average + 1)
    wanted = sorted(range(len(GENES)), key=lambda gene: -excess[gene])[:4]
    assert told == ", ".join(f"{GENES[i]} {counts[row, i]:.0f} ({average[i]:.1f})" for i in wanted)
    assert min(counts[row, wanted]) > 0


@pytest.mark.slow
def test_a_run_that_is_not_there_is_told_in_one_line(made, tmp_path):
    done = demo((tmp_path, *made[1:]))
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert re.search(r"embed_new_image: error: .*model\.ckpt: file: found nothing", done.stderr)


@pytest.mark.parametrize("folder", ["", "docs"])
def test_its_cells_run_in_a_notebook_of_the_checkout(monkeypatch, folder):
    """There sys.argv is the notebook's, __file__ is unknown, and the pair is that of `make demo`."""
    monkeypatch.chdir(ROOT / folder)
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher", "-f", "kernel.json"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))
    namespace, cells = {}, SCRIPT.read_text().split("# %%\n")
    exec(cells[1], namespace)
    assert str(namespace["args"].run) == str(
        ROOT / "results/demo/runs/demo/simulated-breast/tf_efficientnet_lite0_64px-mlp/seed24442"
    )
    namespace["args"].run = ROOT / "results" / "no demo was made"
    with pytest.raises(InputError, match=r"no demo was made/model\.ckpt: file: found nothing"):
        exec(cells[2], namespace)


def test_the_notebook_holds_the_cells_of_the_script():
    path = SCRIPT.with_suffix(".ipynb")
    assert path.read_text() == notebook.made(), "run python tests/built/notebook.py"
