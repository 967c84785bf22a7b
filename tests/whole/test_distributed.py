"""The gradient of the global batch: the same for any number of processes and of chunks."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_pair import GENE_ROWS, LORA_SPEC, MLP, make_batch
from test_pretrain import write_features
from tiny_pairs import GENES, SAMPLES, SPEC, write_dataset

from pairscape.core.errors import InputError
from pairscape.dataset.expression_counts import TrainFacts
from pairscape.encoders import gene_encoders, image_encoders
from pairscape.pretrain import contrastive, pair, processes, run_embeddings, training_loop
from pairscape.pretrain.options import resolve_training

ROWS = 7  # shares of different sizes
ONE = processes.World(0, 1, torch.device("cpu"))


def still(spec):
    """The encoder without dropout, whose draws differ between processes and chunks."""
    return spec | {"arguments": spec["arguments"] | {"dropout": 0.0}}


def gradient(world, **training):
    """Loss and gradients of one fixed batch by a fixed pair, without dropout."""
    training = resolve_training(
        {"embedding_dim": 16, "projection_dropout": 0.0, "lora_dropout": 0.0, **training}
    )
    facts = TrainFacts(100.0, np.ones(len(GENES)))
    description = pair.describe(LORA_SPEC, still(MLP), training, GENE_ROWS, {}, facts)
    if training.image_tuning == "frozen" and training.image_projection != "transformer":
        description["stored_width"]["images"] = 24
    torch.manual_seed(3 + world.rank)  # `equalise` has to make them the same
    module = pair.Pair(
        description,
        {
            "images": None
            if description["stored_width"]["images"]
            else image_encoders.build(LORA_SPEC, None),
            "genes": gene_encoders.build(still(MLP), None, GENE_ROWS, facts),
        },
    )
    if world.rank == 0:
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.ndim:
                torch.nn.init.normal_(parameter, std=0.1)
    training_loop.set_up(module, world)
    module.train()
    batch = make_batch(ROWS, stored=module.images.tower is None)
    mine = {name: value[world.share(ROWS)] for name, value in batch.items()}
    found = contrastive.gradients(module, mine, ROWS, world, lambda side, chunk, rows: None)
    values = {n: p.grad.clone() for n, p in module.named_parameters() if p.requires_grad}
    values |= {name: value.clone() for name, value in module.named_buffers() if "running" in name}
    return {**values, "loss": found["loss"]}


def assert_same(found, expected):
    """Every parameter's gradient within 1e-5 of its length.

    Some are zero but for rounding (a bias before a batch normalisation), and have to be so in both.
    """
    assert found.keys() == expected.keys()
    gradients = [
        v for n, v in expected.items() if n not in ("loss", "recall") and "running" not in n
    ]
    whole = float(torch.cat([value.flatten() for value in gradients]).norm())
    for name, value in expected.items():
        size, off = float(value.norm()), float((found[name] - value).norm())
        assert off < (1e-5 * size if size > 1e-6 * whole else 1e-6 * whole), (name, off, size)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def _process(rank, size, port, settings, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=size)
    world = processes.World(rank, size, torch.device("cpu"))
    found = [gradient(world, **training) for training in settings]
    torch.save(found, f"{folder}/{rank}.pt")
    world.leave()


SETTINGS = [
    {"image_tuning": "frozen"},
    {"image_tuning": "full", "loss": "siglip", "micro_batch": 2},
]
MORE_SETTINGS = [*SETTINGS, {"image_tuning": "lora", "micro_batch": 2}]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "settings"), [(2, SETTINGS), (3, MORE_SETTINGS)])
def test_several_processes_have_the_gradient_of_one_with_the_whole_batch(tmp_path, size, settings):
    torch.multiprocessing.spawn(_process, (size, free_port(), settings, tmp_path), size)
    expected = [gradient(ONE, **{**training, "micro_batch": None}) for training in settings]
    for rank in range(size):
        for found, alone in zip(torch.load(tmp_path / f"{rank}.pt"), expected, strict=True):
            assert_same(found, alone)
    # The test can fail: a batch of half the pairs has another gradient.
    half = gradient(ONE, image_tuning="frozen", temperature=0.1)
    with pytest.raises(AssertionError):
        assert_same(half, expected[0])


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_chunks_have_the_gradient_of_the_whole_batch(tuning, loss):
    tokens = {"image_projection": "linear"}
    whole = gradient(ONE, image_tuning=tuning, loss=loss, **tokens)
    for rows in (1, 3):
        chunked = gradient(ONE, image_tuning=tuning, loss=loss, micro_batch=rows, **tokens)
        assert_same(chunked, whole)


def test_a_chunk_that_runs_a_second_time_draws_the_same():
    """With dropout, the recomputed chunks must be those that the loss was taken of."""

    def run(rows, same):
        training = resolve_training(
            {"embedding_dim": 16, "image_tuning": "frozen", "micro_batch": rows}
        )
        facts = TrainFacts(100.0, np.ones(len(GENES)))
        description = pair.describe(SPEC, MLP, training, GENE_ROWS, {"images": 24}, facts)
        torch.manual_seed(0)
        tower = gene_encoders.build(MLP, None, GENE_ROWS, facts)
        module = pair.Pair(description, {"images": None, "genes": tower}).train()
        draws = iter(range(1000))

        def draw(side, chunk, rows):
            torch.manual_seed(10 * side + chunk if same else next(draws))

        seen = []
        module.images.register_forward_hook(lambda _, inputs, found: seen.append(found.detach()))
        contrastive.gradients(module, make_batch(6, stored=True), 6, ONE, draw)
        return seen

    seen = run(3, True)
    assert torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))
    seen = run(3, False)
    assert not torch.equal(torch.cat(seen[:2]), torch.cat(seen[2:]))


def test_chunks_learn_in_bf16_too():
    """Autocast keeps the weights it has cast; those of the pass without a graph must not be used."""
    training = {"image_tuning": "full", "precision": "bf16-mixed"}
    whole, chunked = gradient(ONE, **training), gradient(ONE, **training, micro_batch=3)
    for name, value in whole.items():
        assert bool(chunked[name].any()) == bool(value.any()), name


def test_shares_make_the_batch_and_differ_by_one_at_most():
    for count in (5, 8, 256):
        for size in (1, 2, 3, 5):
            shares = [processes.World(r, size, ONE.device).share(count) for r in range(size)]
            rows = [np.arange(count)[share] for share in shares]
            assert list(np.concatenate(rows)) == list(range(count))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1


@pytest.mark.parametrize(
    ("environment", "wanted", "expected"),
    [
        ({}, (1, 1), None),
        ({"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7"}, (2, 1), None),  # the silently wrong launch
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, (1, 1), None),  # a plain call in a wide job
        ({"SLURM_STEP_NUM_TASKS": "4"}, (2, 1), "4 processes at work (srun) where 2 were asked"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, (2, 1), "2 tasks without --ntasks-per-node"),
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2"},
            (1, 1),
            "2 processes at work (torchrun) where 1 were asked for",
        ),
        ({"SLURM_NTASKS": "1"}, (2, 2), "2 device(s) on 2 node(s) and a launch on one node"),
    ],
)
def test_a_launch_of_other_processes_than_asked_for_is_refused(
    monkeypatch, environment, wanted, expected
):
    for name in ("SLURM_STEP_NUM_TASKS", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS_PER_NODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        assert processes.launched(os.environ) == ("plain", None)
        return
    with pytest.raises(InputError) as error:
        processes.start(*wanted)
    assert expected in str(error.value)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    shards, _, _, causes = write_dataset(folder, patch_px=32)
    rng = np.random.default_rng(1)
    features = causes @ rng.standard_normal((4, 24)) + 0.05 * rng.standard_normal((len(causes), 24))
    write_features(folder, shards, features.astype(np.float32))
    return folder, shards


def command(dataset, out, devices, launcher=(sys.executable,), **training):
    """The command line of a short training on stored features."""
    folder, shards = dataset
    options = {
        "experiment": "e",
        "dataset": "tiny",
        "image_encoder": SPEC,
        "gene_encoder": still(MLP),
        "image_name": "stand_in",
        "gene_name": "mlp",
        "seed": 7,
        "samples": list(SAMPLES),
        "training": {
            "image_tuning": "frozen",
            "projection_dropout": 0.0,
            "batch_size": 15,
            "max_steps": 30,
            "warmup_steps": 3,
            "learning_rate": 1e-3,
            "validate_every": 10,
            "embedding_dim": 16,
            "devices": devices,
        }
        | training,
    }
    return [
        *launcher,
        str(ROOT / "scripts" / "pretrain.py"),
        *("--shards", *map(str, shards), "--splits", str(folder / "splits.tsv")),
        *("--genes", str(folder / "genes.tsv")),
        *("--image-features", str(folder / "features.npy")),
        *("--image-index", str(folder / "features.json")),
        *("--model", str(out / "model.ckpt"), "--run-options", str(out / "options.json")),
        *("--metrics", str(out / "metrics.csv"), "--curve", str(out / "curve.png")),
        *("--log", str(out / "pretrain.log"), "--options", json.dumps(options)),
    ]


def environment(**more):
    names = ("SLURM_", "TORCHELASTIC", "RANK", "LOCAL_", "WORLD_SIZE", "MASTER_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | more


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    """A short training by one process."""
    out = tmp_path_factory.mktemp("alone")
    subprocess.run(command(dataset, out, 1), env=environment(), check=True)
    return out


# Without the two dashes torchrun takes the program's --log for one of its own options.
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TORCHRUN = (*TORCHRUN, "--")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "variables"),
    [
        ((sys.executable,), {}),
        # A Slurm job of one task: Lightning alone would train on half of the data and say nothing.
        ((sys.executable,), {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0"}),
        (TORCHRUN, {}),
    ],
)
def test_two_processes_train_the_pair_of_one_and_one_of_them_writes(
    dataset, alone, tmp_path, launcher, variables
):
    both = tmp_path / "both"
    done = subprocess.run(
        command(dataset, both, 2, launcher),
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.count("of 30 selected") == 1
    assert {str(p.relative_to(both)) for p in both.rglob("*")} == {
        str(p.relative_to(alone)) for p in alone.rglob("*")
    }
    assert (both / "pretrain.log").read_text().count("of 30 selected") == 1
    one, two = (list(csv.DictReader((out / "metrics.csv").open())) for out in (alone, both))
    assert len(one) == len(two) == 18
    for row, other in zip(one, two, strict=True):
        # Adam lets biases without a gradient wander; they show while running means lag behind.
        near = 1e-3 if row["split"] == "train" else 1e-2
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=near)
    images = [run_embeddings.read_run_embeddings(out, "test")["images"] for out in (alone, both)]
    assert np.abs(images[0] - images[1]).max() < 1e-2


@pytest.mark.slow
def test_a_pair_on_stored_features_imports_no_image_encoder(alone):
    """It would take as long as importing torch, in each of many hundred runs."""
    versions = json.loads((alone / "pretrain.made.json").read_text())["versions"]
    assert {"torch", "open-clip-torch"} <= set(versions)
    assert not {"timm", "torchvision", "lightning", "peft", "scanpy"} & set(versions)


@pytest.mark.slow
def test_a_run_killed_by_signal_9_goes_on_to_the_same_weights(dataset, tmp_path):
    settings = {"max_steps": 1000, "validate_every": 20, "early_stopping": None}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(dataset, whole, 1, **settings), env=environment(), check=True)
    running = subprocess.Popen(command(dataset, killed, 1, **settings), env=environment())
    while not (killed / "last.ckpt").exists() and running.poll() is None:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    done = subprocess.run(
        command(dataset, killed, 1, **settings),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "going on from step" in done.stderr
    assert (killed / "model.ckpt").read_bytes() == (whole / "model.ckpt").read_bytes()
    assert not (killed / "last.ckpt").exists()
