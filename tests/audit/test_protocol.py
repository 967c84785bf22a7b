"""Each flag of the published protocol does what was found in the published code, and nothing else."""

import json

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT
from test_pretrain import MLP, TRAINING, run
from tiny_pairs import GENES, SAMPLES, SPEC, write_dataset
from torchvision.transforms import v2

from pairscape.audit import protocols
from pairscape.core.errors import InputError
from pairscape.core.options import resolve_part
from pairscape.dataset import expression_counts, patch_reader
from pairscape.dataset.shards import Shards
from pairscape.encoders import gene_encoders, image_encoders, specs
from pairscape.images import encoding
from pairscape.plan import reading
from pairscape.pretrain import (
    augmentation,
    batches,
    contrastive,
    evaluation,
    experiment,
    pair,
    run_embeddings,
    stored_pair,
)
from pairscape.pretrain.options import resolve_training
from pairscape.pretrain.processes import World
from pairscape.pretrain.side import Side

ENCODERS = ROOT / "config/encoders"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROWS = range(100, 140)
# Its batch normalisation and a dropout of its own: what is active where a trunk isn't in eval mode.
NOISY = SPEC | {"arguments": {**SPEC["arguments"], "drop_rate": 0.3}}


def patches(count=40, px=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, px, px, 3), np.uint8)


def resolved(**plan):
    plan = {"image_encoders": ["uni"], "gene_encoders": ["mlp"], **plan}
    return protocols.resolve_experiment("e", plan, "corrected", "a.yaml")


def make_pair(image=SPEC, stored=False, seed=0, **training):
    training = resolve_training({**TRAINING, **training})
    genes = [{"gene_symbol": gene, "gene_id": gene} for gene in GENES]
    facts = expression_counts.TrainFacts(10.0, np.ones(len(GENES)))
    widths = {"images": 24, "genes": None} if stored else {}
    description = pair.describe(image, MLP, training, genes, widths, facts)
    torch.manual_seed(seed)
    towers = {
        "images": None if stored else image_encoders.build(image, None),
        "genes": gene_encoders.build(MLP, None, genes, facts),
    }
    return pair.Pair(description, towers)


# ------------------------------------------------------------------------------ flags and protocols


@pytest.mark.parametrize("flag", protocols.RUN_FLAGS)
def test_a_flag_changes_its_own_options_and_encoders_alone(flag):
    of = protocols.FLAGS[flag]
    names = {
        f"{kind}_encoders": ["uni" if kind == "image" else "drvi_small", *of.encoders.get(kind, ())]
        for kind in ("image", "gene")
    }
    plain, changed = resolved(**names), resolved(**names, flags={flag: True})
    assert plain["training"] == {}
    assert changed["training"] == dict(of.training)
    for kind in ("image", "gene"):
        wanted = [of.encoders.get(kind, {}).get(n, n) for n in names[f"{kind}_encoders"]]
        assert changed[f"{kind}_encoders"] == wanted
    assert [name for name, on in changed["flags"].items() if on] == [flag]
    default = resolve_part("training", {})
    for option, value in of.training.items():
        assert default[option] != value
        assert resolve_part("training", {option: value})[option] == value


def test_the_published_protocol_is_all_flags_and_the_corrected_one_none():
    on = resolved(protocol="published", training={"max_steps": 9000})
    assert all(on["flags"].values())
    assert on["flags"].keys() == protocols.RUN_FLAGS.keys()
    assert on["training"]["select"] == "last"
    assert on["training"]["warmup_steps"] == 782
    assert on["gene_encoders"] == ["mlp_published"]
    assert not any(resolved()["flags"].values())
    again = protocols.resolve_experiment("e", on, "corrected", "a.yaml")
    assert again == on


def test_what_an_experiment_says_itself_wins_and_the_flag_follows_it():
    mine = resolved(protocol="published", training={"select": "best_val_loss"})
    assert mine["training"]["select"] == "best_val_loss"
    assert not mine["flags"]["last_checkpoint"]
    assert resolved(training={"select": "last"})["flags"]["last_checkpoint"]


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        ({"flags": {"last_checkpont": True}}, "did you mean last_checkpoint?"),
        ({"flags": {"leaking_donors": True}}, "choose a dataset that has it"),
        ({"flags": {"in_batch_recall": True}}, "leave it out"),
        (
            {"flags": {"adam_betas": True}, "training": {"betas": [0.9, 0.95]}},
            "training.betas: found [0.9, 0.95], beside flags.adam_betas: true",
        ),
        (
            {"flags": {"last_checkpoint": False}, "training": {"select": "last"}},
            "beside flags.last_checkpoint: false",
        ),
    ],
)
def test_a_flag_that_is_unknown_or_contradicted_is_refused(plan, told):
    with pytest.raises(InputError, match=r"a\.yaml: experiments\.e\.") as refused:
        resolved(**plan)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_each_variant_of_a_flag_is_a_declared_variant_of_the_encoder_it_replaces():
    for of in protocols.FLAGS.values():
        for kind, names in of.encoders.items():
            for name, variant in names.items():
                spec = specs.read_encoder(ENCODERS, kind, variant)
                assert spec["variant_of"] == name
                plain = specs.read_encoder(ENCODERS, kind, name)
                assert specs.spec_sha256(spec) != specs.spec_sha256(plain)


def test_untrained_ctranspath_has_no_weights_and_needs_no_file():
    spec = specs.read_encoder(ENCODERS, "image", "ctranspath_published")
    assert spec["weights"] is None
    description = {"image_encoder": spec, "stored_width": {"images": None, "genes": 1}}
    description["training"] = resolve_training({"image_tuning": "frozen"}).as_dict()
    tower = pair.build_towers(description)["images"]
    assert sum(p.numel() for p in tower.parameters()) == spec["parameters"]


def test_each_h_number_stands_in_the_document_beside_its_flag():
    text = (ROOT / "docs/published-benchmark.md").read_text()
    for name in protocols.FLAGS:
        assert f"`{name}`" in text, f"{name} isn't in docs/published-benchmark.md"


# ------------------------------------------------------------------------------------------ H2 and H4


def test_unnormalised_embeddings_are_what_the_head_gives_in_loss_and_recall():
    plain, raw = make_pair(stored=True).eval(), make_pair(stored=True, unit_length=False).eval()
    raw.load_state_dict(plain.state_dict())
    features = torch.randn(16, 24)
    found = raw.images(features)
    assert torch.equal(found, raw.images.head(features))
    assert float((found.norm(dim=1) - 1).abs().min()) > 1e-3
    assert torch.allclose(torch.nn.functional.normalize(found, dim=1), plain.images(features))
    genes = torch.randn(16, 32)
    logits = raw.logit_scale.exp() * found @ genes.T
    own = torch.arange(16)
    cross_entropy = torch.nn.functional.cross_entropy
    expected = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
    assert torch.allclose(contrastive.pair_loss(raw, found, genes), expected)


def test_runs_without_unit_length_are_scored_as_they_are(tiny, tmp_path):
    out = run(tiny, tmp_path / "seed7", weights=tiny[2], unit_length=False, **SHORT)
    norms = np.linalg.norm(run_embeddings.read_run_embeddings(out, "test")["images"], axis=1)
    assert np.abs(norms - 1).max() > 0.05
    assert not json.loads((out / "options.json").read_text())["options"]["training"]["unit_length"]
    # Where nothing was said, the same numbers are a damaged file.
    files = run_embeddings.run_files(out, "test")
    meta = json.loads(files["meta"].read_text())
    del meta["unit_length"], meta["json_sha256"]
    files["meta"].write_text(json.dumps(meta))
    with pytest.raises(InputError, match="isn't of unit length"):
        run_embeddings.read_run_embeddings(out, "test")


def test_the_last_checkpoint_is_the_last_and_the_best_is_not(tiny, tmp_path):
    best = run(tiny, tmp_path / "best", weights=tiny[2], **SHORT, learning_rate=0.3)
    last = run(tiny, tmp_path / "last", weights=tiny[2], **SHORT, learning_rate=0.3, select="last")
    steps = [
        json.loads((out / "options.json").read_text())["selected_step"] for out in (best, last)
    ]
    assert steps[0] < steps[1] == SHORT["max_steps"]


# ------------------------------------------------------------------------------------------------ H5

SHORT = {"max_steps": 6, "warmup_steps": 1, "validate_every": 1, "augmentation": "hescape"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Shards and a file of weights of the small encoder, which then runs in every step."""
    folder = tmp_path_factory.mktemp("tiny")
    shards = write_dataset(folder)[0]
    torch.manual_seed(0)
    tower = image_encoders.build(SPEC, None)
    torch.save(tower.model.state_dict(), folder / "weights.pth")
    return folder, shards, folder / "weights.pth"


def test_a_frozen_trunk_is_noisy_only_in_the_training_mode_that_is_asked_for():
    batch = torch.from_numpy(patches(8))
    for mode in ("eval", "train"):
        side = make_pair(NOISY, frozen_trunks=mode, augmentation="hescape").train().images
        with torch.no_grad():
            first, second = side.encode(batch), side.encode(batch)
        assert torch.equal(first, second) == (mode == "eval")
        assert not any(p.requires_grad for p in side.tower.parameters())
        side.eval()
        assert torch.equal(side.encode(batch), side.encode(batch))


def test_drvi_keeps_its_dropout_in_training_mode():
    spec = specs.read_encoder(ENCODERS, "gene", "drvi_small")
    genes = [{"gene_symbol": gene, "gene_id": gene} for gene in GENES]
    tower = gene_encoders.build(spec, None, genes, None)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(3, (8, len(GENES))).astype(np.int32))
    for mode in ("eval", "train"):
        side = Side(tower, torch.nn.Identity(), "frozen", trunk_mode=mode).train()
        assert torch.equal(side.encode(counts), side.encode(counts)) == (mode == "eval")


def test_trunks_in_training_mode_are_embedded_in_every_step_and_never_stored():
    training = resolve_part("training", {"image_tuning": "frozen"})
    drvi = specs.read_encoder(ENCODERS, "gene", "drvi")
    assert experiment.runs_once(training, drvi) == {"image": True, "gene": True}
    noisy = {**training, "frozen_trunks": "train"}
    assert experiment.runs_once(noisy, drvi) == {"image": False, "gene": False}
    assert not specs.takes_stored_images(noisy)


def test_the_statistics_that_a_trunk_takes_up_in_training_are_saved_with_the_pair(tiny, tmp_path):
    out = run(tiny, tmp_path / "seed7", weights=tiny[2], frozen_trunks="train", **SHORT)
    again = run(tiny, tmp_path / "again", weights=tiny[2], frozen_trunks="train", **SHORT)
    assert (out / "model.ckpt").read_bytes() == (again / "model.ckpt").read_bytes()
    module, _ = stored_pair.load_pair(out / "model.ckpt", tiny[2])
    fresh = image_encoders.build(SPEC, tiny[2])
    norms = {n: b for n, b in fresh.named_buffers() if n.endswith("running_mean")}
    kept = dict(module.images.tower.named_buffers())
    assert norms
    assert all(not torch.equal(kept[name], value) for name, value in norms.items())
    weights = dict(module.images.tower.named_parameters())
    assert all(torch.equal(weights[name], value) for name, value in fresh.named_parameters())
    counts = expression_counts.Counts(Shards.open(tiny[1]), GENES)
    data = batches.PairRows(patch_reader.PatchReader(tiny[1], SPEC["input"]), counts, len(counts))
    found = evaluation.embed_pairs(module, data, np.arange(68, 92))["images"]
    stored = run_embeddings.read_run_embeddings(out, "test")["images"]
    assert np.abs(found - stored).max() < 1e-5


# --------------------------------------------------------------------------------------- H6, H7, H8


def test_sharpening_after_normalisation_cuts_off_what_is_not_from_0_to_1(monkeypatch):
    batch, seen = patches(), []

    def noted(image, factor):
        seen.append(image.clone())
        return sharpened(image, factor)

    sharpened = v2.functional.adjust_sharpness
    monkeypatch.setattr(v2.functional, "adjust_sharpness", noted)
    made = augmentation.augment(batch, 1, 2, ROWS, "hescape", normalisation=(MEAN, STD))
    monkeypatch.undo()
    before = augmentation.augment(batch, 1, 2, ROWS, "hescape")
    plain = encoding.normalise(before, MEAN, STD).numpy()
    cut = np.array([image.min() >= 0 and image.max() <= 1 for image in made])
    assert 10 < cut.sum() < 30  # half of them
    assert plain.min() < -1.5
    assert plain.max() > 1.5
    assert np.array_equal(made[~cut], plain[~cut])
    # What torchvision's own transform makes of a patch that is normalised, of both signs.
    assert len(seen) == cut.sum()
    for image, expected in zip(made[cut], seen, strict=True):
        assert float(expected.min()) < 0
        assert np.array_equal(image, v2.RandomAdjustSharpness(2, p=1)(expected).numpy())


def test_one_draw_serves_a_whole_batch_and_otherwise_each_patch_has_its_own():
    same = np.repeat(patches(1), len(ROWS), axis=0)
    alike = augmentation.augment(same, 1, 2, ROWS, "hescape", per_batch=True)
    assert (alike == alike[0]).all()
    other = augmentation.augment(same, 1, 3, ROWS, "hescape", per_batch=True)
    assert not np.array_equal(alike, other)
    own = augmentation.augment(same, 1, 2, ROWS, "hescape")
    assert len({image.tobytes() for image in own}) > 30


def test_evaluation_crops_are_the_whole_or_the_centre_half_and_always_the_same():
    batch = patches(200)
    made = augmentation.crop_at_random(batch, 5, range(200))
    whole = np.array([np.array_equal(a, b) for a, b in zip(made, batch, strict=True)])
    assert 70 < whole.sum() < 130
    number = int(np.flatnonzero(~whole)[0])
    image = torch.from_numpy(batch[number]).permute(2, 0, 1)
    expected = v2.Resize(32)(v2.CenterCrop(16)(image)).permute(1, 2, 0).numpy()
    assert np.abs(made[number].astype(int) - expected).max() <= 1
    assert np.array_equal(made, augmentation.crop_at_random(batch, 5, range(200)))
    assert not np.array_equal(made, augmentation.crop_at_random(batch, 6, range(200)))
    of_batch = [
        np.array_equal(augmentation.crop_at_random(batch[:8], s, range(8), True), batch[:8])
        for s in range(20)
    ]
    assert 0 < sum(of_batch) < 20


def test_only_evaluation_is_cropped_where_that_alone_is_asked_for(tiny):
    reader = patch_reader.PatchReader(tiny[1], SPEC["input"])
    rows, counts = np.arange(48), expression_counts.Counts(Shards.open(tiny[1]), GENES)
    plain = batches.PairRows(reader, counts, len(counts))
    cropped = batches.PairRows(
        reader, counts, len(counts), augmented=augmentation.Augmentation(crops_evaluation=True)
    )
    read = [of[(None, rows, None)]["images"] for of in (plain, cropped)]
    differs = (read[0] != read[1]).flatten(1).any(1)
    assert 10 < int(differs.sum()) < 40
    assert torch.equal(plain[(3, rows, None)]["images"], cropped[(3, rows, None)]["images"])


@pytest.mark.slow
def test_the_published_augmentation_is_trained_on_from_end_to_end(tiny, tmp_path):
    options = {
        "augmentation_draws": "per_batch",
        "sharpen": "after_normalisation",
        "evaluation_crop": "random",
    }
    plain = run(tiny, tmp_path / "plain", weights=tiny[2], **SHORT)
    found = {"": (plain / "model.ckpt").read_bytes()}
    for option, value in options.items():
        out = run(tiny, tmp_path / option, weights=tiny[2], **SHORT, **{option: value})
        found[option] = (out / "model.ckpt").read_bytes()
        assert len(run_embeddings.read_run_embeddings(out, "test")["images"]) == SAMPLES["S3"][2]
    assert len(set(found.values())) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"frozen_trunks": "train"},
        {"evaluation_crop": "random"},
        {"sharpen": "after_normalisation"},
        {"augmentation_draws": "per_batch"},
    ],
)
def test_stored_views_cannot_have_what_only_a_running_encoder_shows(options):
    views = {"image_tuning": "frozen", "augmentation": "hescape", "stored_views": 2}
    with pytest.raises(InputError, match=r"stored views|runs in every step"):
        resolve_training({**views, **options})


# ----------------------------------------------------------------------------------- H21, H22 and H29


def test_the_published_mlp_sees_the_other_spots_of_its_batch():
    genes = [{"gene_symbol": gene, "gene_id": gene} for gene in GENES]
    facts = expression_counts.TrainFacts(10.0, np.ones(len(GENES)))
    counts = torch.from_numpy(np.random.default_rng(0).poisson(3, (8, len(GENES))).astype(np.int32))
    others = counts.clone()
    others[1:] *= 5
    for name, depends in (("mlp", False), ("mlp_published", True)):
        spec = specs.read_encoder(ENCODERS, "gene", name)
        tower = gene_encoders.build(spec, None, genes, facts).eval()
        assert torch.allclose(tower(counts)[0], tower(others)[0]) == (not depends)


VIT = SPEC | {
    "arguments": {"architecture": "test_vit", "img_size": 32, "num_classes": 0},
    "width": 64,
    "parameters": 300096,
}


@pytest.mark.parametrize("attends", ["tokens", "batch"])
def test_an_embedding_depends_on_the_batch_where_the_transformer_attends_across_it(attends):
    options = {"image_projection": "transformer", "transformer_attends": attends}
    module = make_pair(VIT, **options).eval()
    batch = torch.from_numpy(patches(6))
    with torch.no_grad():
        whole, alone = module.images(batch), module.images(batch[:1])
    assert torch.allclose(whole[:1], alone, atol=1e-5) == (attends == "tokens")
    assert module.images.is_by_row == (attends == "tokens")


def test_what_depends_on_the_batch_is_embedded_64_at_a_time_whatever_the_memory():
    options = {"image_projection": "transformer", "transformer_attends": "batch"}
    small = make_pair(VIT, **options, micro_batch=8)
    large = make_pair(VIT, **options)
    inputs = {
        "images": torch.from_numpy(patches(100)),
        "genes": torch.from_numpy(np.ones((100, len(GENES)), np.int32)),
    }
    large.load_state_dict(small.state_dict())
    found = [evaluation.embed_batch(of.eval(), inputs)[0] for of in (small, large)]
    assert torch.equal(*found)


def test_gradients_with_a_noisy_trunk_are_the_same_again():
    module = make_pair(NOISY, frozen_trunks="train", augmentation="hescape").train()
    world, batch = (
        World(0, 1, torch.device("cpu")),
        {
            "images": torch.from_numpy(patches(8)),
            "genes": torch.from_numpy(np.random.default_rng(0).poisson(3, (8, len(GENES)))),
        },
    )

    def draw(side, chunk, rows):
        torch.manual_seed(1000 * side + chunk % 997)

    found = []
    for _ in range(2):
        module.zero_grad()
        contrastive.gradients(module, batch, 8, world, draw)
        found.append([p.grad.clone() for p in module.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ------------------------------------------------------------------------------------------ the audit

AUDIT = {
    "corrected": "apart",
    "published": "shared",
    "data_flags": {"leaking_donors": {"corrected": "shared", "published": "apart"}},
    "image_encoders": ["uni", "conch"],
    "gene_encoders": ["mlp", "drvi"],
    "seeds": [1, 2],
    "flags": None,
    "training": {"augmentation": "hescape", "betas": [0.9, 0.99]},
}


def test_an_audit_changes_one_flag_at_a_time_from_either_protocol():
    plans = {
        name: protocols.resolve_experiment(name, plan, "corrected", "a.yaml")
        for name, plan in protocols.audit_experiments("a", AUDIT).items()
    }
    rows = [row for row in protocols.audit_rows("a", AUDIT) if not row["why_not"]]
    assert [row["experiment"] for row in rows] == list(plans)
    base = {row["start"]: plans[row["experiment"]] for row in rows if not row["flag"]}
    for row in rows:
        plan, start = plans[row["experiment"]], base[row["start"]]
        changed = {f for f in plan["flags"] if plan["flags"][f] != start["flags"][f]}
        about_data = bool(protocols.FLAGS[row["flag"]].dataset) if row["flag"] else False
        assert changed == ({row["flag"]} if row["flag"] and not about_data else set())
        assert (plan["datasets"] != start["datasets"]) == about_data
        assert plan["training"]["betas"] == [0.9, 0.99]
    assert rows[1]["flag"] == "leaking_donors"


def test_a_flag_that_can_make_no_difference_says_why():
    why = {row["flag"]: row["why_not"] for row in protocols.audit_rows("a", AUDIT)}
    assert why["adam_betas"] == "training.betas is set to [0.9, 0.99] for all rows"
    assert why["native_patches"] == "data_flags names no datasets for it"
    assert why["nicheformer_without_context"] == "nicheformer isn't among the encoders"
    assert why["transformer_across_batch"] == "the image head is no transformer"
    assert not why["conch_trunk"]
    assert not why["last_checkpoint"]
    assert not why["leaking_donors"]


@pytest.mark.parametrize(
    ("training", "idle"),
    [
        ({}, set()),
        ({"augmentation": "flips"}, {"sharpness_after_normalisation"}),
        # Of the published protocol, whose evaluation crops are random, the draws are per batch still.
        (
            {"image_tuning": "frozen"},
            {"sharpness_after_normalisation", ("corrected", "augmentation_per_batch")},
        ),
        (
            {"image_tuning": "lora", "augmentation": "none", "evaluation_crop": "whole"},
            {"sharpness_after_normalisation", "augmentation_per_batch", "random_evaluation_crop"},
        ),
    ],
)
def test_a_flag_about_augmentation_is_idle_where_nothing_is_drawn(training, idle):
    flags = ["sharpness_after_normalisation", "augmentation_per_batch", "random_evaluation_crop"]
    audit = {**AUDIT, "training": training, "flags": flags}
    rows = [row for row in protocols.audit_rows("a", audit) if row["flag"]]
    said = f"training.augmentation is {training.get('augmentation', 'auto')}"
    whole = "training.evaluation_crop is set to 'whole' for all rows"
    for row in rows:
        crops = row["flag"] == "random_evaluation_crop"
        assert row["why_not"] in ("", whole if crops else said)
    expected = {
        (start, flag)
        for start in protocols.PROTOCOLS
        for flag in flags
        if flag in idle or (start, flag) in idle
    }
    assert {(row["start"], row["flag"]) for row in rows if row["why_not"]} == expected


def test_what_decides_whether_a_flag_is_idle_has_the_schemas_defaults():
    defaults = resolve_part("training", {})
    assert {key: defaults[key] for key in protocols.DECIDING} == protocols.DECIDING


def test_the_row_of_an_encoders_flag_runs_the_pairs_that_it_is_about():
    plans = protocols.audit_experiments("a", AUDIT)
    assert plans["audit-a_corrected_drvi_fitted_on_test"]["gene_encoders"] == ["drvi"]
    assert plans["audit-a_corrected_drvi_fitted_on_test"]["image_encoders"] == ["uni", "conch"]
    assert plans["audit-a_published_conch_trunk"]["image_encoders"] == ["conch"]


def test_the_full_configuration_repeats_what_was_published():
    full = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    full = reading.resolve_config(full, "config/config.yaml")
    plan = full["experiments"]["as_published"]
    assert all(plan["flags"].values())
    assert plan["on_request"]
    assert plan["gene_encoders"] == [
        f"{name}_published" for name in ("drvi", "mlp", "nicheformer", "scfoundation")
    ]
    assert {"ctranspath_published", "conch_published"} <= set(plan["image_encoders"])
    for name in plan["datasets"]:
        of = full["datasets"][name]
        preset = full["spots"][of["spots"]]
        assert (preset["frame"], preset["min_qv"], preset["origin"]) == (
            "he_pixels",
            0,
            "min_transcript",
        )
        assert full["patches"][of["patches"]]["native_px"] == 512
        assert of["split"]["method"] == "published"
        assert of["on_request"]
    assert {row["flag"] for name in full["audit"] for row in _rows(full, name)} == {
        "",
        *protocols.FLAGS,
    } - {"in_batch_recall"}


def _rows(full, name):
    return [row for row in protocols.audit_rows(name, full["audit"][name]) if not row["why_not"]]
