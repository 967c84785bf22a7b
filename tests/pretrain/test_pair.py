"""The pair: its heads, its losses, what of it is trained, and what of it is saved."""

from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from tiny_pairs import GENES, SPEC

from pairscape.core.errors import InputError
from pairscape.dataset.expression_counts import TrainFacts
from pairscape.encoders import gene_encoders, image_encoders, specs
from pairscape.encoders.towers import GeneTower, ImageTower
from pairscape.pretrain import contrastive, evaluation, pair, stored_pair, training_loop
from pairscape.pretrain.heads import TransformerHead, projection
from pairscape.pretrain.options import resolve_training
from pairscape.pretrain.processes import World

ENCODERS = Path(__file__).parents[2] / "config" / "encoders"
MLP = specs.read_encoder(ENCODERS, "gene", "mlp")
GENE_ROWS = [{"gene_symbol": gene, "gene_id": f"ENSG{gene}"} for gene in GENES]
FACTS = TrainFacts(100.0, np.ones(len(GENES)))
LORA_SPEC = SPEC | {"finetuning": {"lora_targets": ["conv_pw", "conv_pwl"]}}
# A transformer that runs in no time, with tokens and a class token.
VIT_SPEC = SPEC | {
    "arguments": {"architecture": "test_vit", "img_size": 32, "num_classes": 0},
    "width": 64,
    "parameters": 300096,
    "finetuning": {"lora_targets": ["qkv", "proj"]},
}


def make_pair(image=LORA_SPEC, gene=MLP, genes=GENE_ROWS, seed=0, **training):
    """A pair with towers at random, which no program would build for these encoders."""
    training = resolve_training({"embedding_dim": 16, **training})
    stored = {"images": 24} if training.image_tuning == "frozen" else {}
    description = pair.describe(image, gene, training, genes, stored, FACTS)
    torch.manual_seed(seed)
    towers = {
        "images": None if stored else image_encoders.build(image, None),
        "genes": gene_encoders.build(gene, None, genes, FACTS),
    }
    description["trunk_sha256"] = pair.trunk_checksums(description, towers)
    return pair.Pair(description, towers)


def make_batch(rows=6, seed=0, stored=False):
    rng = np.random.default_rng(seed)
    patches = rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
    images = rng.standard_normal((rows, 24)).astype(np.float32) if stored else patches
    counts = rng.poisson(3, (rows, len(GENES))).astype(np.int32)
    return {"images": torch.from_numpy(images), "genes": torch.from_numpy(counts)}


HEADS = [
    ("img_linear", "linear", 768, "linear."),
    ("img_mlp", "mlp", 768, "mlp."),
    ("img_transformer", "transformer", 768, ""),
    ("gene_linear", "linear", 512, "proj."),
    ("gene_mlp", "mlp", 512, "mlp."),
]


@pytest.mark.parametrize("weight_set", golden.WEIGHT_SETS)
@pytest.mark.parametrize(("name", "kind", "width", "prefix"), HEADS)
def test_heads_match_their_golden_references(shared, name, kind, width, prefix, weight_set):
    facts, arrays = golden.read(shared, "hescape_heads")
    entries = facts[f"state_dict_{name}"]
    head = projection(kind, width, 128, 0.2, published=True).eval()
    state = golden.state(entries, weight_set)
    head.load_state_dict({key.removeprefix(prefix): value for key, value in state.items()})
    with torch.no_grad():
        if kind == "transformer":
            inputs = golden.inputs(facts, "head_tokens")
            found = head.linear(head.transformer(inputs))
            # Not by equality: on AVX-512 a product of 4 rows and one of 28 round differently.
            assert golden.largest_difference(head(inputs), found[:, 0]) < golden.ATOL
        else:
            found = head(golden.inputs(facts, "head_features")[:, :width])
    expected = arrays[f"{name}_{weight_set}"]
    assert golden.largest_difference(found, expected) < golden.ATOL


@pytest.mark.parametrize("published", [False, True])
def test_the_transformer_head_attends_to_tokens_and_to_the_batch_only_as_published(published):
    torch.manual_seed(0)
    head = TransformerHead(64, 16, published=published).eval()
    tokens = torch.randn(4, 5, 64)
    with torch.no_grad():
        whole, alone = head(tokens), head(tokens[:1])
        changed = tokens.clone()
        changed[:, 1:] = torch.randn(4, 4, 64)  # all but the first token
        moved = (head(changed) - whole).abs().max()
    assert torch.allclose(whole[:1], alone, atol=1e-5) == (not published)
    assert (float(moved) > 1e-3) == (not published)


def test_heads_have_the_published_numbers_of_parameters():
    def count(*args):
        return sum(p.numel() for p in projection(*args).parameters())

    assert count("mlp", 1024, 128, 0.2) == 295_808
    assert count("linear", 512, 128, 0.2) == 65_664
    assert count("identity", 128, 128, 0.2) == 0
    with pytest.raises(InputError, match="identity for an encoder of width 512"):
        projection("identity", 512, 128, 0.2)
    with pytest.raises(InputError, match="transformer for tokens of 100 numbers"):
        projection("transformer", 100, 128, 0.2)


def test_the_losses_are_those_of_clip_and_of_siglip():
    generator = torch.Generator().manual_seed(0)
    images, genes = (
        torch.nn.functional.normalize(torch.randn(6, 128, generator=generator), dim=1)
        for _ in range(2)
    )
    logits = (images @ genes.T / 0.07).double()
    own = logits.diagonal()
    towards_genes, towards_images = logits.logsumexp(1) - own, logits.logsumexp(0) - own
    clip = (towards_genes.mean() + towards_images.mean()) / 2
    sign = 2 * torch.eye(6, dtype=torch.float64) - 1
    siglip = torch.nn.functional.softplus(-sign * (logits - 10)).sum() / 6
    for kind, wanted in (("clip", clip), ("siglip", siglip)):
        pair = make_pair(image_tuning="frozen", loss=kind)
        found = contrastive.pair_loss(pair, images, genes)
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)
        found.backward()
        assert pair.logit_scale.grad is not None


def test_the_temperature_starts_at_the_published_value_and_siglip_has_its_bias():
    assert float(make_pair(image_tuning="frozen").logit_scale) == pytest.approx(2.6593, abs=1e-4)
    module = make_pair(image_tuning="frozen", loss="siglip")
    assert float(module.logit_bias) == -10
    with torch.no_grad():
        module.logit_scale.fill_(9.0)
    module.clamp_temperature()
    assert float(module.logit_scale.exp()) == pytest.approx(100)


def test_uni_with_lora_and_the_mlp_head_trains_the_published_number_of_parameters():
    """1,489,792 of 304,840,576 in HESCAPE's notebook; on the meta device, since UNI is large."""
    uni = specs.read_encoder(ENCODERS, "image", "uni")
    training = resolve_training({})
    with torch.device("meta"):
        tower = ImageTower(image_encoders.BUILDERS[uni["builder"]](uni), uni)
        description = pair.describe(uni, MLP, training, GENE_ROWS, {"genes": 128})
        module = pair.Pair(description, {"images": tower, "genes": None})
    counts = module.parameter_counts()
    assert counts["image_encoder"]["trained"] == 1_193_984
    assert counts["image_encoder"]["trained"] + counts["image_head"]["trained"] == 1_489_792
    assert counts["image_encoder"]["all"] + counts["image_head"]["all"] == 304_840_576


@pytest.mark.parametrize("tuning", ["frozen", "lora", "full"])
def test_only_what_is_tuned_is_trained_and_frozen_trunks_stay_in_eval_mode(tuning):
    frozen_by_tokens = {"image_projection": "transformer"} if tuning == "frozen" else {}
    training = resolve_training({"embedding_dim": 16, "image_tuning": tuning, **frozen_by_tokens})
    description = pair.describe(VIT_SPEC, MLP, training, GENE_ROWS, {}, FACTS)
    towers = {
        "images": image_encoders.build(VIT_SPEC, None),
        "genes": gene_encoders.build(MLP, None, GENE_ROWS, FACTS),
    }
    module = pair.Pair(description, towers).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    world = World(0, 1, torch.device("cpu"))
    for step in range(2):
        training_loop.train_step(module, optimizer, make_batch(), 6, world, 1, step)
    changed = {name for name, value in module.state_dict().items() if not value.equal(before[name])}
    of_tower = {name for name in changed if name.startswith("images.tower.")}
    in_tower = {name for name, _ in module.named_parameters() if name.startswith("images.tower.")}
    wanted = {
        "frozen": set(),
        "lora": {name for name in in_tower if "lora_" in name},
        "full": in_tower,
    }[tuning]
    assert of_tower == wanted
    assert any(name.startswith("images.head.") for name in changed)
    assert any(name.startswith("genes.tower.") for name in changed)
    training_parts = {name for name, part in module.images.tower.named_modules() if part.training}
    assert bool(training_parts) == (tuning != "frozen")
    if tuning == "lora":
        assert all("lora_" in name for name in training_parts)
    module.eval()
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_batch_statistics_of_a_trunk_that_was_trained_before_are_kept(tuning):
    module = make_pair(image_tuning=tuning).train()
    assert module.images.is_by_row
    assert not module.genes.is_by_row  # the mlp learns with the pair, batch normalisation and all
    norms = [part for part in module.images.tower.modules() if hasattr(part, "running_mean")]
    assert norms
    assert not any(norm.training for norm in norms)


def test_every_adapter_of_a_tuned_gene_encoder_gets_a_gradient():
    """Torch's own attention reads the weight of `out_proj` past an adapter on it."""
    nicheformer = specs.read_encoder(ENCODERS, "gene", "nicheformer")
    from pairscape.encoders.architectures import transformer

    tower = GeneTower(transformer.Encoder(2, 16, 4, 32, 1e-5), 16)
    tower.forward = lambda counts: tower.model(
        counts.float()[:, :, None].expand(-1, -1, 16).contiguous(), None
    ).mean(1)
    training = resolve_training(
        {"embedding_dim": 16, "image_tuning": "frozen", "gene_tuning": "lora", "micro_batch": 4}
    )
    description = pair.describe(SPEC, nicheformer, training, GENE_ROWS, {"images": 24})
    module = pair.Pair(description, {"images": None, "genes": tower}).train()
    contrastive.gradients(
        module,
        make_batch(stored=True),
        6,
        World(0, 1, torch.device("cpu")),
        lambda side, chunk, rows: torch.manual_seed(10 * side + chunk),
    )
    ups = {n: p for n, p in module.named_parameters() if "lora_B" in n}
    assert len(ups) == 2 * 3
    assert all(float(p.grad.abs().max()) > 0 for p in ups.values())


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_saved_pair_embeds_as_before_and_holds_no_frozen_trunk(tmp_path, tuning):
    weights = tmp_path / "weights.pth"
    torch.manual_seed(5)
    torch.save(image_encoders.build(SPEC, None).model.state_dict(), weights)
    training = resolve_training({"embedding_dim": 16, "image_tuning": tuning})
    description = pair.describe(LORA_SPEC, MLP, training, GENE_ROWS, {}, FACTS)
    towers = pair.build_towers(description, weights)
    description["trunk_sha256"] = pair.trunk_checksums(description, towers)
    module = pair.Pair(description, towers)
    for parameter in module.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    module.eval()
    batch = make_batch()
    stored_pair.save_pair(
        tmp_path / "model.ckpt", module, module.kept_state(), {"selected_step": 3}
    )
    in_tower = [name for name in module.kept_state() if name.startswith("images.tower.")]
    assert in_tower
    if tuning == "lora":
        assert all("lora_" in name for name in in_tower)
        with pytest.raises(InputError, match="--image-weights: flag: found nothing; fetch"):
            stored_pair.load_pair(tmp_path / "model.ckpt")
        other = tmp_path / "other.pth"
        torch.manual_seed(6)
        torch.save(image_encoders.BUILDERS["timm"](SPEC).state_dict(), other)
        with pytest.raises(InputError, match=r"weights of the images: found others .* than it was"):
            stored_pair.load_pair(tmp_path / "model.ckpt", other)
    loaded, meta = stored_pair.load_pair(
        tmp_path / "model.ckpt", weights if tuning == "lora" else None
    )  # one that was trained whole needs no other file
    assert meta == {"selected_step": 3}
    for mine, theirs in zip(
        evaluation.embed_batch(loaded, batch),
        evaluation.embed_batch(module, batch),
        strict=True,
    ):
        assert torch.equal(mine, theirs)


def test_a_saved_state_of_other_names_or_shapes_is_refused():
    module = make_pair(image_tuning="frozen")
    state = module.kept_state()
    for change, said in (
        ({"extra": torch.zeros(1)}, "entry extra is unknown"),
        ({"images.head.fc1.bias": torch.zeros(3)}, "entry images.head.fc1.bias has the shape"),
    ):
        with pytest.raises(ValueError, match=said):
            module.load_kept_state(state | change)
    with pytest.raises(ValueError, match="is missing"):
        module.load_kept_state({k: v for k, v in state.items() if k != "logit_scale"})


def test_adapters_need_modules_to_go_to():
    with pytest.raises(InputError, match=r"finetuning.lora_targets: found none; name modules"):
        make_pair(image=SPEC, image_tuning="lora")
