"""Pretraining: what is learned, kept, resumed and refused."""

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pairs import GENES, SAMPLES, SPEC, write_dataset

import pretrain
from pairscape.core import files
from pairscape.core.errors import InputError
from pairscape.core.options import read_schema, resolve_part
from pairscape.dataset import patch_reader, stored_features
from pairscape.dataset.shards import Shards
from pairscape.encoders import image_encoders, specs, user_code
from pairscape.images import encoding
from pairscape.pretrain import (
    batches,
    checkpoints,
    evaluation,
    failures,
    processes,
    run_embeddings,
    runs,
    stored_pair,
    training_loop,
    training_record,
)
from pairscape.pretrain.metric_loggers import MetricLoggers
from pairscape.pretrain.options import Training, resolve_training

ENCODERS = Path(__file__).parents[2] / "config" / "encoders"
MLP = specs.read_encoder(ENCODERS, "gene", "mlp")
NICHEFORMER = specs.read_encoder(ENCODERS, "gene", "nicheformer") | {"built": True}
TRAINING = {
    "image_tuning": "frozen",
    "batch_size": 16,
    "max_steps": 60,
    "warmup_steps": 5,
    "learning_rate": 3e-3,
    "validate_every": 20,
    "embedding_dim": 32,
}


@pytest.fixture(scope="module", autouse=True)
def one_commit():
    """Somebody may commit while the tests compare two runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "git_commit", lambda: None)
        yield


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Shards, and features that are a noisy function of what also causes the counts."""
    folder = tmp_path_factory.mktemp("dataset")
    shards, _, counts, causes = write_dataset(folder, patch_px=8)
    rng = np.random.default_rng(1)
    features = causes @ rng.standard_normal((4, 24)) + 0.05 * rng.standard_normal((len(causes), 24))
    write_features(folder, shards, features.astype(np.float32))
    return folder, shards, features.astype(np.float32), counts


def write_features(folder, shards, features, name="features", spec=SPEC, views=1, **meta):
    stored_features.write_features(
        folder / f"{name}.npy",
        folder / f"{name}.json",
        [features],
        [
            {"sample": sample, "rows": n, "sha256": files.sha256_file(path)}
            for (sample, (_, _, n)), path in zip(SAMPLES.items(), shards, strict=True)
        ],
        features.shape[1],
        {
            "encoder_sha256": specs.spec_sha256(spec),
            "weights_sha256": "",
            "fingerprint": [0.0],
        }
        | meta,
        views,
    )


def run(dataset, out, splits=None, features=None, options=None, weights=None, **training):
    """Run the program: on stored image features, or with ``weights`` on the patches."""
    folder, shards = dataset[:2]
    resolved = {
        "experiment": "e",
        "dataset": "tiny",
        "image_encoder": SPEC,
        "gene_encoder": MLP,
        "image_name": "stand_in",
        "gene_name": "mlp",
        "seed": 7,
        "samples": list(SAMPLES),
        "training": TRAINING | training,
    } | (options or {})
    source = features or folder
    images = [
        *("--image-features", str(source / "features.npy")),
        *("--image-index", str(source / "features.json")),
    ]
    if weights is not None:
        images = ["--image-weights", str(weights)]
    if (source / "genes.npy").exists():
        images += ["--gene-features", str(source / "genes.npy")]
        images += ["--gene-index", str(source / "genes.json")]
    pretrain.main(
        [
            *("--shards", *map(str, shards), "--splits", str(splits or folder / "splits.tsv")),
            *("--genes", str(folder / "genes.tsv")),
            *images,
            *("--model", str(out / "model.ckpt"), "--run-options", str(out / "options.json")),
            *("--metrics", str(out / "metrics.csv"), "--curve", str(out / "curve.png")),
            *("--options", json.dumps(resolved)),
        ]
    )
    return out


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    return run(dataset, tmp_path_factory.mktemp("run") / "seed7")


def recall(run_dir, split, k=5):
    read = run_embeddings.read_run_embeddings(run_dir, split)
    similarity = read["images"] @ read["genes"].T
    return ((similarity > similarity.diagonal()[:, None]).sum(1) < k).mean()


def test_a_pair_learns_what_image_and_counts_share(trained):
    assert recall(trained, "test") > 2 * 5 / SAMPLES["S3"][2]


def test_the_run_folder_holds_what_is_declared_and_nothing_else(trained):
    names = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
    assert names == {"model.ckpt", "options.json", "metrics.csv", "curve.png"} | {
        f"embeddings/{split}{rest}"
        for split in ("val", "test")
        for rest in ("_images.npy", "_genes.npy", ".tsv", ".json")
    }


def test_embedded_pairs_are_indexed_by_their_own_spots(trained):
    read = run_embeddings.read_run_embeddings(trained, "test")
    assert read["images"].shape == (24, TRAINING["embedding_dim"])
    assert set(read["index"]["sample"]) == {"S3"}
    assert set(read["index"]["donor"]) == {"D3"}
    assert set(read["index"]["organ"]) == {"breast"}
    assert list(read["index"]["row"]) == list(range(68, 92))
    assert read["index"].loc[9, "spot"] == "001x001"
    assert read["index"].loc[9, "y_um"] == 55.0


def test_the_stored_model_gives_the_stored_embeddings(dataset, trained):
    module, meta = stored_pair.load_pair(trained / "model.ckpt")
    _, _, features, counts = dataset
    data = batches.PairRows(features, counts, len(counts))
    images, genes = evaluation.embed_pairs(module, data, np.arange(68, 92)).values()
    read = run_embeddings.read_run_embeddings(trained, "test")
    assert np.abs(images - read["images"]).max() < 1e-6
    assert np.abs(genes - read["genes"]).max() < 1e-6
    assert meta["genes"] == GENES


def test_the_library_size_is_the_median_of_the_train_split_alone(dataset, trained):
    sums = dataset[3][:48].sum(1)
    module, _ = stored_pair.load_pair(trained / "model.ckpt")
    assert float(module.genes.tower.library_size) == np.median(sums[sums > 0])
    assert np.median(sums[sums > 0]) != np.median(dataset[3].sum(1))


def test_metrics_hold_both_splits_and_the_selected_step_is_the_best(trained):
    rows = list(csv.DictReader((trained / "metrics.csv").open()))
    assert list(rows[0]) == list(training_record.METRIC_COLUMNS)
    assert [int(r["step"]) for r in rows if r["split"] == "val"] == [20, 40, 60]
    assert [int(r["step"]) for r in rows if r["split"] == "train"] == list(range(4, 61, 4))
    best = min((r for r in rows if r["split"] == "val"), key=lambda r: float(r["loss"]))
    assert json.loads((trained / "options.json").read_text())["selected_step"] == int(best["step"])


def test_options_hold_what_the_run_was_made_of(dataset, trained):
    options = json.loads((trained / "options.json").read_text())
    assert options["options"]["training"]["betas"] == [0.9, 0.95]
    assert options["pairs"] == {"train": 48, "val": 20, "test": 24}
    assert [s["sha256"] for s in options["shards"]] == [files.sha256_file(p) for p in dataset[1]]
    assert options["parameters"]["gene_encoder"] == dict.fromkeys(
        ("all", "trained"), 128 * len(GENES) + 50688
    )
    assert options["versions"]["torch"] == torch.__version__.split("+")[0]


def outputs(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_options_and_seed_give_the_same_files(dataset, trained, tmp_path):
    assert outputs(run(dataset, tmp_path / "again")) == outputs(trained)
    other = run(dataset, tmp_path / "other", options={"seed": 8})
    assert outputs(other).keys() == outputs(trained).keys()
    assert (other / "model.ckpt").read_bytes() != (trained / "model.ckpt").read_bytes()


class Killed(BaseException):
    pass


def kill_after(monkeypatch, step):
    real = training_record.Record.after_step

    def hook(self, module, done, *args):
        if done == step:
            raise Killed
        return real(self, module, done, *args)

    monkeypatch.setattr(training_record.Record, "after_step", hook)


def test_a_killed_run_goes_on_to_the_same_files(dataset, trained, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_after(patch, 47)  # in mid-epoch (3 steps each), 7 after the last save
        with pytest.raises(Killed):
            run(dataset, out)
    assert [path.name for path in out.iterdir()] == ["last.ckpt"]
    steps = []
    real = training_loop.train_step
    monkeypatch.setattr(
        training_loop, "train_step", lambda *args, **k: steps.append(args[6]) or real(*args, **k)
    )
    run(dataset, out)
    assert steps == list(range(40, 60))
    assert outputs(out) == outputs(trained)


def test_a_leftover_of_other_options_is_set_aside(dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_after(patch, 25)
        with pytest.raises(Killed):
            run(dataset, out, learning_rate=1e-3)
    fresh = run(dataset, tmp_path / "fresh", max_steps=20)
    run(dataset, out, max_steps=20)
    assert (out / "model.ckpt").read_bytes() == (fresh / "model.ckpt").read_bytes()
    assert len(list(out.glob("last-set-aside-*.ckpt"))) == 1
    (out / "last.ckpt").write_bytes(b"damaged")
    assert checkpoints.resumable(out, "any") is None
    assert len(list(out.glob("last-set-aside-*.ckpt"))) == 2


@pytest.mark.parametrize("loss", ["clip", "siglip"])
@pytest.mark.parametrize("heads", [("linear", "identity"), ("mlp", "mlp")])
def test_every_loss_and_head_trains_without_a_validation_split(dataset, tmp_path, loss, heads):
    splits = tmp_path / "splits.tsv"
    splits.write_text((dataset[0] / "splits.tsv").read_text().replace("val", "train"))
    out = run(
        dataset,
        tmp_path / "run",
        splits=splits,
        select="last",
        loss=loss,
        image_projection=heads[0],
        gene_projection=heads[1],
        embedding_dim=128,
        batch_size=100,  # more than there are pairs
        max_steps=25,
    )
    module, meta = stored_pair.load_pair(out / "model.ckpt")
    assert meta["selected_step"] == 25
    assert (module.logit_bias is not None) == (loss == "siglip")
    assert not run_embeddings.run_files(out, "val")["images"].exists()
    assert run_embeddings.read_run_embeddings(out, "test")["images"].shape == (24, 128)


def test_the_last_step_is_validated_even_between_two_validations(dataset, tmp_path):
    out = run(dataset, tmp_path / "run", max_steps=25, select="last")
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    assert [int(r["step"]) for r in rows if r["split"] == "val"] == [20, 25]


def test_shuffling_is_a_function_of_seed_and_step():
    rows = np.arange(10, 33)
    stream = batches.step_batches(rows, 4, 3, 0)
    found = [next(stream) for _ in range(15)]
    later = batches.step_batches(rows, 4, 3, 8)
    assert all(np.array_equal(next(later), batch) for batch in found[8:])
    epoch = np.concatenate(found[:5])
    assert len(set(epoch)) == 20
    assert set(epoch) <= set(rows)
    assert not np.array_equal(found[0], found[5])
    validation = batches.validation_batches(rows, 10, 3)
    assert sorted(np.concatenate(validation)) == list(rows)
    assert [len(batch) for batch in validation] == [8, 8, 7]


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    factors = [training_loop.learning_rate_factor(step, 10, 110) for step in (0, 5, 10, 60, 110)]
    assert factors == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_the_temperature_stays_in_its_bounds(dataset, tmp_path):
    out = run(dataset, tmp_path / "run", temperature=0.0101, learning_rate=0.5, max_steps=20)
    module, _ = stored_pair.load_pair(out / "model.ckpt")
    assert 0 <= float(module.logit_scale) <= math.log(100) + 1e-6


def test_unmatched_pairs_score_chance(dataset, tmp_path):
    """The floor: what a pair scores when features and counts don't belong together."""
    _, shards, features, _ = dataset
    write_features(tmp_path, shards, np.random.default_rng(0).permutation(features))
    out = run(dataset, tmp_path / "run", features=tmp_path, select="last")
    assert recall(out, "test") < 2 * 5 / SAMPLES["S3"][2]


def test_too_many_processes_are_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(InputError, match=r"2 processes at work \(srun\) where 1 were asked for"):
        run(dataset, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_tuning": "lora"}, "with these options the image encoder runs in the training"),
        ({"image_projection": "transformer"}, "leave it out: with these options the image enc"),
        ({"devices": 17}, "training.batch_size: found 16; give each device a pair"),
        ({"nodes": 2}, "training.devices: found 1 device(s) on 2 node(s) and a launch on one node"),
        ({"stored_views": 2}, "training.stored_views: found views without augmentation"),
        ({"stored_views": 2, "augmentation": "flips"}, "views: found 1 where 3 are trained on"),
        ({"gene_tuning": "lora", "options": {"gene_encoder": NICHEFORMER}}, "--gene-weights"),
        ({"options": {"gene_encoder": NICHEFORMER}}, "give the features that embed_genes made"),
        (
            {"learning_rte": 1},
            "training: found the unknown key 'learning_rte'; did you mean learning_rate?",
        ),
        ({"loss": "mse"}, "training.loss: found 'mse'; allowed: clip, siglip"),
        ({"warmup_steps": 60}, "training.warmup_steps: found 60"),
        ({"gene_projection": "identity"}, "identity for an encoder of width 128"),
        ({"options": {"gene_encoder": {**MLP, "built": False}}}, "not built yet"),
        ({"options": {"samples": ["S1", "S2"]}}, "--shards: files: found 3 for 2"),
        ({"options": {"samples": ["S1", "S3", "S2"]}}, "give the shard of S3 in this place"),
        ({"options": {"image_encoder": {**SPEC, "width": 8}}}, "features of another encoder"),
    ],
)
def test_wrong_options_stop_with_one_line(dataset, tmp_path, changes, said):
    with pytest.raises(InputError) as error:
        run(dataset, tmp_path / "run", **changes)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "model.ckpt").exists()


def test_features_of_other_shards_are_refused(dataset, tmp_path, monkeypatch):
    described = Shards.described
    monkeypatch.setattr(
        Shards, "described", lambda shards: [{**one, "sha256": "0"} for one in described(shards)]
    )
    with pytest.raises(InputError, match="features that weren't made of"):
        run(dataset, tmp_path / "run")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("val", "train", "split val: found no pairs; set training.select to last"),
        ("test", "val", "split test: found no pairs; put a sample with pairs into test"),
        ("val", "dev", "line 3, split: found 'dev'"),
        ("S2", "S9", "line 3, sample: found 'S9'"),
        ("train", "test", "split train: found 0 pairs"),
        ("S3\tD3", "S1\tD1", "found donor D1 (S1 in train, S1 in test) in more than one split"),
        ("D3", "D1", "found donor D1 (S1 in train, S3 in test) in more than one split"),
    ],
)
def test_wrong_splits_stop_with_one_line(dataset, tmp_path, old, new, said):
    splits = tmp_path / "splits.tsv"
    splits.write_text((dataset[0] / "splits.tsv").read_text().replace(old, new))
    with pytest.raises(InputError) as error:
        run(dataset, tmp_path / "run", splits=splits)
    assert said in str(error.value)


def test_a_damaged_model_is_refused(trained, tmp_path):
    path = tmp_path / "model.ckpt"
    path.write_bytes((trained / "model.ckpt").read_bytes()[:1000])
    with pytest.raises(InputError) as error:
        stored_pair.load_pair(path)
    assert "pretrain again" in str(error.value)
    stored = torch.load(trained / "model.ckpt", weights_only=True)
    del stored["state"]["images.head.fc1.bias"]
    torch.save(stored, path)
    with pytest.raises(InputError):
        stored_pair.load_pair(path)


# On the patches themselves.

LORA_SPEC = SPEC | {"finetuning": {"lora_targets": ["conv_pw", "conv_pwl"]}}
PIXELS = {"batch_size": 16, "max_steps": 6, "warmup_steps": 1, "validate_every": 2}


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Shards with patches, and the weights of their small image encoder."""
    folder = tmp_path_factory.mktemp("patches")
    shards, *_ = write_dataset(folder, patch_px=32)
    torch.manual_seed(1)
    model = image_encoders.BUILDERS["timm"](SPEC)
    torch.save(model.state_dict(), folder / "weights.pth")
    return folder, shards


def tuned(patches, out, tuning="lora", **more):
    options = {"options": {"image_encoder": LORA_SPEC}} | more
    settings = PIXELS | {"image_tuning": tuning} | options
    return run(patches, out, weights=patches[0] / "weights.pth", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_tuned_run_that_is_killed_goes_on_to_the_same_files(
    patches, tmp_path, tuning, monkeypatch
):
    """Augmentation, chunks and dropout are functions of the step, too."""
    whole = tuned(patches, tmp_path / "whole", tuning, micro_batch=5)
    with monkeypatch.context() as patch:
        kill_after(patch, 4)  # the second step of the second epoch
        with pytest.raises(Killed):
            tuned(patches, tmp_path / "run", tuning, micro_batch=5)
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 2
    run_dir = tuned(patches, tmp_path / "run", tuning, micro_batch=5)
    assert outputs(run_dir) == outputs(whole)
    options = json.loads((whole / "options.json").read_text())
    assert options["parameters"]["image_encoder"]["trained"] > 0
    assert len(options["fingerprints"]["images"]) == 16


@pytest.mark.slow
def test_worker_processes_change_nothing(patches, tmp_path):
    alone, helped = (
        outputs(tuned(patches, tmp_path / str(n), augmentation="flips", loader_workers=n))
        for n in (0, 2)
    )
    assert alone.keys() == helped.keys()
    differing = {str(path) for path in alone if alone[path] != helped[path]}
    # They tell the number of workers, and how long they were waited for.
    assert differing == {"model.ckpt", "options.json", "metrics.csv"}
    rows = [list(csv.DictReader((tmp_path / n / "metrics.csv").open())) for n in ("0", "2")]
    assert [row | {"waiting": ""} for row in rows[1]] == rows[0]
    states = [
        torch.load(tmp_path / n / "model.ckpt", weights_only=True)["state"] for n in ("0", "2")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_augmentation_is_of_the_train_patches_alone(patches, tmp_path, monkeypatch):
    seen = []
    real = batches.augmentation.augment

    def augment(batch, seed, step, rows, kind, *published):
        seen.append((seed, step, kind, set(rows)))
        return real(batch, seed, step, rows, kind)

    monkeypatch.setattr(batches.augmentation, "augment", augment)
    tuned(patches, tmp_path / "auto")
    assert [(seed, step, kind) for seed, step, kind, _ in seen] == [
        (7, step, "hescape") for step in range(6)
    ]
    assert set().union(*(rows for *_, rows in seen)) == set(range(48))
    seen.clear()
    tuned(patches, tmp_path / "none", augmentation="none")
    tuned(patches, tmp_path / "head", "frozen", image_projection="transformer", options={})
    assert not seen


@pytest.mark.slow
def test_patches_augmented_on_the_card_train_as_those_of_the_readers(
    patches, tmp_path, monkeypatch
):
    """There is no card here: the way that the batches go there is gone on the CPU."""
    plain = tuned(patches, tmp_path / "plain")
    seen = []
    real = batches.augmentation.augment_together
    monkeypatch.setattr(batches, "AUGMENTED_ON", ("cpu",))
    monkeypatch.setattr(
        batches.augmentation,
        "augment_together",
        lambda images, drawn, kind: seen.append(kind) or real(images, drawn, kind),
    )
    monkeypatch.setattr(batches.augmentation, "augment", None)
    carded = tuned(patches, tmp_path / "card")
    assert seen == ["hescape"] * 6
    one, two = (list(csv.DictReader((out / "metrics.csv").open())) for out in (plain, carded))
    for row, other in zip(one, two, strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), abs=5e-3)


def test_the_share_of_waiting_counts_what_was_waited_for_alone(monkeypatch):
    clock = iter([0, 9, 20, 21, 30, 40, 50, 50, 60])
    monkeypatch.setattr(batches.time, "monotonic", lambda: float(next(clock)))
    reader = batches.Waited(iter("abcd"), True)
    assert [next(reader), next(reader)] == ["a", "b"]  # 9 s to start, then 1 s of waiting
    assert reader.share() == pytest.approx(1 / 21)  # from 9 to 30
    assert next(reader) == "c"
    assert reader.share() == pytest.approx(10 / 20)
    assert batches.Waited(iter("ab"), False).share() is None


def test_shuffled_pairs_deal_each_image_of_the_train_split_to_another_spot(dataset, tmp_path):
    dealt = batches.deal(np.arange(10, 40), 50, 3)
    assert sorted(dealt[10:40]) == list(range(10, 40))
    assert not (dealt[10:40] == np.arange(10, 40)).any()
    assert list(dealt[:10]) == list(range(10))
    features = np.arange(50.0)[:, None]
    rows = batches.PairRows(features, features, 50, dealt=dealt)
    chosen = np.arange(15, 20)
    assert list(rows[0, chosen, None]["images"][:, 0]) == list(dealt[chosen])
    assert list(rows[None, chosen, None]["images"][:, 0]) == list(chosen)
    spec = SPEC | {"shuffle_pairs": True, "control": "floor", "variant_of": "stand_in"}
    out = run(dataset, tmp_path / "run", options={"image_encoder": spec}, select="last")
    assert recall(out, "test") < 2 * 5 / SAMPLES["S3"][2]


def test_stored_views_are_trained_on_and_the_plain_one_is_embedded(dataset, tmp_path):
    _, shards, features, counts = dataset
    rng = np.random.default_rng(3)
    views = [features] + [features + 0.01 * rng.standard_normal(features.shape) for _ in range(3)]
    write_features(
        tmp_path, shards, np.concatenate(views).astype("f4"), views=4, augmentation="flips"
    )
    keys = batches.train_shares(np.arange(48), 16, 7, 0, processes.World(0, 1, "cpu"), 4)
    drawn = [next(keys)[2] for _ in range(20)]
    assert set(np.concatenate(drawn)) == {1, 2, 3}
    keys = batches.train_shares(np.arange(48), 16, 7, 5, processes.World(0, 1, "cpu"), 4)
    assert np.array_equal(next(keys)[2], drawn[5])
    stored = batches.PairRows(np.concatenate(views), counts, len(counts))
    read = stored[3, np.array([5, 6]), np.array([2, 3])]["images"]
    assert np.array_equal(read, np.stack([views[2][5], views[3][6]]))
    settings = {"augmentation": "flips", "stored_views": 3}
    out = run(dataset, tmp_path / "run", features=tmp_path, **settings)
    module, _ = stored_pair.load_pair(out / "model.ckpt")
    plain = batches.PairRows(features, counts, len(counts))
    images = evaluation.embed_pairs(module, plain, np.arange(68, 92))["images"]
    assert np.abs(images - run_embeddings.read_run_embeddings(out, "test")["images"]).max() < 1e-6
    with pytest.raises(InputError, match=r"views by flips where training.augmentation is hescape"):
        run(dataset, tmp_path / "no", features=tmp_path, **settings | {"augmentation": "hescape"})


def test_training_stops_early_as_published(dataset, tmp_path):
    """Five validations in a row that don't lower the loss by 0.01: Lightning's rule."""
    far = {"patience": 5, "min_delta": 100.0}  # no validation after the first lowers it so much
    settings = {"validate_every": "epoch", "max_steps": 300, "early_stopping": far}
    out = run(dataset, tmp_path / "run", **settings)
    rows = list(csv.DictReader((out / "metrics.csv").open()))
    steps = [int(row["step"]) for row in rows if row["split"] == "val"]
    assert steps == [3, 6, 9, 12, 15, 18]  # 48 pairs are 3 batches; the first sets the mark
    patient = {"patience": 2, "min_delta": 0.0}
    record = training_record.Record(
        resolve_training({"select": "last", "early_stopping": patient}), 1
    )
    module = stored_pair.load_pair(out / "model.ckpt")[0]
    over = []
    for step, loss in enumerate([3.0, 2.0, 2.0, 1.9, 1.95, 1.9]):
        record.after_validation(module, step, loss, 0.5, 8, 0.1)
        over.append(record.is_over)
    assert over == [False, False, False, False, False, True]
    assert record.best["step"] == 3


def test_a_run_killed_after_it_stopped_early_trains_no_further(dataset, tmp_path, monkeypatch):
    far = {"patience": 2, "min_delta": 100.0}
    settings = {"validate_every": "epoch", "max_steps": 300, "early_stopping": far}
    out, whole = tmp_path / "run", run(dataset, tmp_path / "whole", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "write_run", lambda *args: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(dataset, out, **settings)
    monkeypatch.setattr(training_loop, "train_step", None)
    assert outputs(run(dataset, out, **settings)) == outputs(whole)


def test_a_loss_that_is_not_finite_stops_the_run(dataset, tmp_path):
    write_features(tmp_path, dataset[1], dataset[2] * np.float32(1e30))
    with pytest.raises(InputError, match="the loss isn't finite by step 4; lower it"):
        run(
            dataset,
            tmp_path / "run",
            features=tmp_path,
            learning_rate=1e30,
            image_projection="linear",
        )


def test_another_way_to_log_or_read_goes_on_with_the_same_run(dataset, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        kill_after(patch, 25)
        with pytest.raises(Killed):
            run(dataset, out)
    run(dataset, out, loggers=["tensorboard"])
    assert not list(out.glob("last-set-aside*"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("val/loss")] == [40, 60]
    assert len(events.Scalars("train/recall@5")) == 10


DRVI = specs.read_encoder(ENCODERS, "gene", "drvi") | {"built": True}


def test_a_frozen_gene_side_is_read_and_never_built(dataset, tmp_path, monkeypatch):
    """Its own features stand for it; the pair has a head on each side and no encoder."""
    from pairscape.encoders import gene_encoders

    monkeypatch.setattr(gene_encoders, "build", None)
    _, shards, features, counts = dataset
    fitted = {"samples": [{"sample": "S1"}], "leaked": []}
    stored = np.log1p(counts).astype(np.float32)
    write_features(tmp_path, shards, features)
    write_features(tmp_path, shards, stored, "genes", DRVI, fitted_on=fitted)
    options = {"options": {"gene_encoder": DRVI, "gene_name": "drvi"}}
    out = run(dataset, tmp_path / "run", features=tmp_path, **options)
    assert recall(out, "test") > 2 * 5 / SAMPLES["S3"][2]
    told = json.loads((out / "options.json").read_text())
    assert set(told["parameters"]) == {"image_head", "gene_head"}
    fitted["samples"].append({"sample": "S3"})
    write_features(tmp_path, shards, stored, "genes", DRVI, fitted_on=fitted)
    with pytest.raises(InputError, match="sample S3: found gene features of an encoder that knows"):
        run(dataset, tmp_path / "leak", features=tmp_path, **options)


def test_the_closed_form_takes_the_place_of_training(dataset, tmp_path):
    spec = specs.read_encoder(ENCODERS, "gene", "linear_alignment")
    options = {"options": {"gene_encoder": spec, "gene_name": "linear_alignment"}}
    out = run(dataset, tmp_path / "run", **options)
    assert {p.name for p in out.iterdir()} == {
        *("model.ckpt", "options.json", "metrics.csv", "curve.png", "embeddings")
    }
    assert recall(out, "test") > 2 * 5 / SAMPLES["S3"][2]
    assert run_embeddings.read_run_embeddings(out, "val")["meta"]["logit_scale"] == 1
    told = json.loads((out / "options.json").read_text())
    assert told["closed_form"]["method"] == "cca"
    assert told["closed_form"]["chosen_on"] == "val"
    assert outputs(run(dataset, tmp_path / "again", **options)) == outputs(out)
    with pytest.raises(InputError, match="a closed form needs stored features"):
        run(dataset, tmp_path / "no", image_tuning="full", **options)


# What else a run leaves, for what is predicted from images and for tables.


def test_train_images_are_stored_when_they_are_asked_for(dataset, trained, tmp_path):
    run_dir = run(dataset, tmp_path / "run", options={"embed_train": True})
    train = run_embeddings.read_run_images(run_dir, "train")
    module = stored_pair.load_pair(run_dir / "model.ckpt")[0]
    rows = train["index"]["row"].to_numpy()
    with torch.inference_mode():
        wanted = module.images(torch.from_numpy(dataset[2][rows])).numpy()
    assert np.allclose(train["images"], wanted, atol=1e-6)
    assert sorted(set(train["index"]["sample"])) == ["S1"]
    assert train["trunk"] is None  # a frozen encoder's output is its stored features
    for split in ("val", "test"):
        one, other = (run_embeddings.read_run_embeddings(run, split) for run in (run_dir, trained))
        assert np.array_equal(one["images"], other["images"])
    run(dataset, run_dir)
    assert not run_embeddings.run_files(run_dir, "train")["meta"].exists()


def test_a_tuned_encoders_own_output_is_stored_for_every_split(patches, tmp_path):
    options = {"image_encoder": LORA_SPEC, "embed_train": True}
    run_dir = tuned(patches, tmp_path / "run", options=options)
    weights = patches[0] / "weights.pth"
    module = stored_pair.load_pair(run_dir / "model.ckpt", weights)[0]
    untuned = image_encoders.build(LORA_SPEC, weights)
    for split in ("train", "val", "test"):
        stored = run_embeddings.read_run_images(run_dir, split)
        assert stored["trunk"].shape == (len(stored["images"]), SPEC["width"])
        with torch.inference_mode():
            images = module.images.project(torch.from_numpy(np.array(stored["trunk"]))).numpy()
        assert np.allclose(images, stored["images"], atol=1e-5)
    read = patch_reader.PatchReader(patches[1], LORA_SPEC["input"]).read
    batch = read(stored["index"]["row"].to_numpy())
    normalised = encoding.normalise(batch, *(LORA_SPEC["input"][k] for k in ("mean", "std")))
    with torch.inference_mode():
        before = untuned(normalised).numpy()
    assert not np.allclose(before, stored["trunk"], atol=1e-4)
    assert not list(run_dir.glob(".part-*"))


def test_a_run_whose_memory_ran_out_says_so_in_a_file(dataset, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "train", full)
        run(dataset, tmp_path / "run")
    record = failures.read(tmp_path / "run" / "failed.json")
    assert (record["reason"], record["seed"]) == ("out of memory", 7)
    # All that the rule declares is there, so that nothing is tried again and tables are made.
    made = {path.name for path in (tmp_path / "run").rglob("*") if path.is_file()}
    test = {f"test{end}" for end in (".json", ".tsv", "_images.npy", "_genes.npy")}
    declared = {"model.ckpt", "options.json", "metrics.csv", "curve.png"} | test
    assert made == declared | {"failed.json"}
    _, told, failed = runs.read_run(tmp_path / "run/options.json", ("splits",), "e", "tiny")
    assert failed
    assert told["reason"] == "out of memory"
    with pytest.raises(InputError, match=r"model: found no run: out of memory; delete it and pre"):
        stored_pair.load_pair(tmp_path / "run/model.ckpt")
    with pytest.raises(InputError, match=r"test\.json"):
        run_embeddings.read_run_embeddings(tmp_path / "run", "test")
    run(dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "failed.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "train", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataset, tmp_path / "run")
    assert not (tmp_path / "run" / "failed.json").exists()


def test_the_training_options_are_those_of_the_schema():
    fields = [field.name for field in dataclasses.fields(Training)]
    assert fields == list(read_schema("config")["$defs"]["training"]["properties"])
    assert resolve_training({}).as_dict() == resolve_part("training", {})


def test_machine_options_come_beside_the_others_and_decide_nothing(dataset, tmp_path, trained):
    def with_machine(machine, out):
        monkey = pytest.MonkeyPatch()
        parse = pretrain.program.parse
        monkey.setattr(
            pretrain.program,
            "parse",
            lambda argv, *rest, **flags: parse([*argv, "--machine", machine], *rest, **flags),
        )
        try:
            return run(dataset, out)
        finally:
            monkey.undo()

    made = with_machine('{"micro_batch": 5, "loader_workers": 1}', tmp_path / "run")
    first, second = (json.loads((out / "options.json").read_text()) for out in (trained, made))
    assert second["options_sha256"] == first["options_sha256"]
    rows = list(csv.DictReader((made / "metrics.csv").open()))
    told = [row["waiting"] for row in rows if row["split"] == "train"]
    assert all(0 <= float(share) <= 1 for share in told)
    quiet = csv.DictReader((trained / "metrics.csv").open())
    assert {row["waiting"] for row in quiet} == {""}  # nothing is read ahead
    assert (first["micro_batch"], second["micro_batch"]) == (None, 5)
    one, other = (run_embeddings.read_run_embeddings(out, "test") for out in (trained, made))
    assert np.allclose(one["images"], other["images"], atol=1e-4)  # dropout and all
    with pytest.raises(InputError, match=r"^--machine: key: found 'max_step'"):
        with_machine('{"max_step": 5}', tmp_path / "other")
    with pytest.raises(InputError, match=r"^--machine: JSON: "):
        with_machine("{", tmp_path / "other")


def test_a_setting_that_wandb_does_not_know_is_refused_by_its_name(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "")
    with pytest.raises(InputError, match=r"WANDB_MODE: found ''; input should be .*offline"):
        MetricLoggers(["wandb"], tmp_path, "0" * 64, {}, 0)


def test_a_gene_encoder_of_the_users_own_file_is_trained_as_its_job_allows(
    dataset, tmp_path, monkeypatch
):
    """And a saved pair of it runs no code by itself."""
    monkeypatch.setattr(user_code, "_allowed", set())
    root = tmp_path / "encoders"
    (root / "gene").mkdir(parents=True)
    (root / "gene" / "own.py").write_text(
        "from torch import nn\n"
        "from pairscape.encoders import towers\n"
        "class Own(towers.GeneTower):\n"
        "    def prepare(self, counts):\n"
        "        return counts.float().log1p()\n"
        "def build(spec, weights, genes, train=None):\n"
        "    return Own(nn.Linear(len(genes), spec['width']), spec['width'])\n"
    )
    spec = MLP | {
        "title": "own",
        "builder": "module",
        "arguments": {"architecture": "own.py"},
        "width": 16,
        "parameters": 16,
        "parameters_per_gene": 16,
    }
    own = user_code.with_code(spec, root, root)
    out = run(
        dataset, tmp_path / "run", options={"gene_encoder": own, "gene_name": "own"}, max_steps=20
    )
    module, _ = stored_pair.load_pair(out / "model.ckpt")
    assert module.description["gene_encoder"]["code"] == own["code"]
    assert module.genes.tower.model.weight.shape == (16, len(GENES))
    user_code._allowed.clear()
    with pytest.raises(InputError, match="code that nobody has allowed here"):
        stored_pair.load_pair(out / "model.ckpt")
