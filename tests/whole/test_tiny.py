"""The whole pipeline on one tiny simulated sample, as a user runs it."""

import csv
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import PurePath

import faults
import numpy as np
import pytest


@pytest.fixture(scope="module")
def tiny(undisturbed, tmp_path_factory):
    """A finished run of tests/tiny.yaml in a folder of its own, and what was said in it."""
    folder = faults.checkout(tmp_path_factory.mktemp("tiny") / "copy")
    faults.copy_results(undisturbed, folder)
    return folder, (undisturbed / "said.txt").read_text()


def snakemake(folder, *arguments):
    return subprocess.run(
        [
            *(sys.executable, "-m", "snakemake", "--cores", "2"),
            *("--configfile", "tests/tiny.yaml", *arguments),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1"},
    )


def results(tiny):
    return tiny[0] / "results" / "tiny"


def test_the_whole_pipeline_takes_at_most_16_jobs(tiny):
    jobs = int(re.search(r"^total +(\d+)$", tiny[1], re.MULTILINE).group(1))
    assert jobs - 1 <= 16  # `all` runs nothing


def test_a_run_says_a_line_as_a_step_starts_and_one_as_it_ends(tiny):
    """By the local profile; what the programs say stands between them."""
    lines = tiny[1].splitlines()
    started = [line for line in lines if line.endswith(": started")]
    ended = [line for line in lines if ": done in " in line]
    assert len(started) == len(ended) - 1 == 15  # `all` runs nothing
    assert "pool_spots speck_square55: started" in started
    assert any(re.match("all: done in [0-9]+ s; 16 of 16$", line) for line in ended)
    assert any(line.startswith("pool_spots: info: speck: ") for line in lines)
    assert len(lines) < 90
    assert "Finished jobid" not in tiny[1]


def test_a_second_run_has_nothing_to_do(tiny):
    again = snakemake(tiny[0])
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_nothing_is_made_outside_the_results(tiny, undisturbed):
    made = {path.name for path in undisturbed.iterdir()} - set(faults.WORKFLOW)
    assert made - {".snakemake", "hf"} == {"results", "said.txt", "finished"}
    hidden = [path for path in results(tiny).rglob(".part-*")]
    assert hidden == []


def test_pooled_counts_equal_the_simulators_truth(tiny):
    import anndata
    import pandas as pd
    import scipy.sparse as sp

    pooled = anndata.read_zarr(
        results(tiny) / "samples" / "speck" / "square55" / "spots.zarr" / "tables" / "counts"
    )
    truth = results(tiny) / "bundles" / "speck" / "truth"
    counts = sp.load_npz(truth / "counts.npz").tocsr()
    genes = list(pd.read_csv(truth / "genes.tsv", sep="\t").gene_symbol)
    tiles = pd.read_csv(truth / "spots.tsv", sep="\t")
    names = [f"{row:03d}x{col:03d}" for row, col in zip(tiles.row, tiles.col, strict=True)]
    wanted = counts[[names.index(spot) for spot in pooled.obs_names]][
        :, [genes.index(gene) for gene in pooled.var_names]
    ]
    assert (wanted != pooled.X).nnz == 0
    assert pooled.X.sum() == counts.sum() > 1000


def test_the_audit_adds_up(tiny):
    audit = json.loads((results(tiny) / "samples/speck/square55/audit.json").read_text())
    assert audit["rows_read"] == audit["pooled"] + sum(audit["dropped"].values())


def test_load_dataset_returns_the_pairs_with_pictures_and_labels(tiny):
    code = (
        "from datasets import load_dataset; import sys\n"
        f"d = load_dataset({str(results(tiny) / 'datasets')!r}, 'tiny', split='test')\n"
        "row = d[0]; print(len(d), row['image'].size, d.features['name'].int2str(row['name']),\n"
        "    row['sample'], len(row['gexp'][0]), sum(row['gexp'][0]))\n"
        f"s = load_dataset({str(results(tiny) / 'datasets')!r}, 'tiny', split='val', streaming=True)\n"
        "print(next(iter(s))['spot'] == row['spot'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tiny[0] / "hf"), "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = done.stdout.strip().splitlines()[-2:]
    assert re.fullmatch(r"\d+ \(56, 56\) speck speck 280 \d+", first), first
    assert second == "True"


def test_the_run_explains_itself_and_its_embeddings_are_unit_vectors(tiny):
    run = results(tiny) / "runs/tiny/tiny/tf_efficientnet_lite0-mlp/seed1"
    options = json.loads((run / "options.json").read_text())
    text = json.dumps(options)
    for wanted in ("torch", "lightning", "seed", "sha256"):
        assert wanted in text
    for side in ("images", "genes"):
        embeddings = np.load(run / "embeddings" / f"test_{side}.npy")
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)


def test_scores_tables_and_report_say_that_donors_are_shared(tiny):
    words = "one sample stands in all three splits"
    with open(results(tiny) / "scores/tiny/tiny/retrieval.tsv", newline="") as handle:
        scores = list(csv.DictReader(handle, delimiter="\t"))
    assert {row["direction"] for row in scores} == {"i2g", "g2i"}
    assert all(words in row["donors_shared"] for row in scores)
    assert words in (results(tiny) / "tables/retrieval_tiny.md").read_text()
    assert words in (results(tiny) / "report.html").read_text()


def test_every_job_left_a_log(tiny):
    logs = [path for path in results(tiny).rglob("*.log")]
    assert len(logs) == 15
    assert all(path.stat().st_size for path in logs)


def test_a_missing_output_is_made_again_alone(tiny):
    (results(tiny) / "tables/retrieval_tiny.tex").unlink()
    done = snakemake(tiny[0], "-n")
    said = done.stdout + done.stderr
    assert re.search(r"^show_retrieval +1$", said, re.MULTILINE)
    assert "pretrain " not in said


@pytest.mark.slow
def test_snakemakes_own_report_holds_tables_and_figures_with_captions(tiny):
    """And after it there is nothing to do: what it holds is no reason to make anything anew."""
    made = snakemake(tiny[0], "--report", "own.zip")
    assert made.returncode == 0, made.stderr
    with zipfile.ZipFile(tiny[0] / "own.zip") as packed:
        held = {PurePath(name).name for name in packed.namelist()}
        page = packed.read("own/report.html").decode()
    shown = {path.name for path in (results(tiny) / "figures").glob("*_tiny.png")}
    shown |= {"retrieval_tiny.tsv", "overlay.png", "qc.png"}
    assert len(shown) >= 4
    assert shown <= held
    assert "each encoder pair beside chance" in page
    assert "The H&amp;E of sample speck where its alignment lays it" in page
    again = snakemake(tiny[0], "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
