"""The aggregator: the golden references, and what its attention says."""

import golden
import pytest
import torch

from pairscape.slides.aggregator import Aggregator, patch_attention

KNOWN = {"num_classes": "classes", "input_dim": "width", "dim": "dim", "depth": "depth"}
KNOWN |= {"heads": "heads", "dim_head": "head_dim"}


@pytest.mark.parametrize("weight_set", golden.WEIGHT_SETS)
@pytest.mark.parametrize("name", ["bag128", "crc768"])
def test_logits_are_those_of_the_reference(shared, name, weight_set):
    facts, arrays = golden.read(shared, "histobistro")
    of_model = facts["models"][name]
    model = Aggregator(**{KNOWN[k]: v for k, v in of_model["kwargs"].items() if k in KNOWN}).eval()
    entries = golden.state(facts[f"state_dict_{name}"], weight_set)
    assert golden.weights_sha256(entries) == of_model[f"weights_sha256_{weight_set}"]
    model.load_state_dict(entries, strict=True)
    assert sum(entry.numel() for entry in model.parameters()) == of_model["parameters"]
    found = [(key, tuple(value.shape)) for key, value in model.state_dict().items()]
    assert golden.names_shapes_sha256(found) == of_model["names_shapes_sha256"]

    rng = golden.generator(golden.seed(facts, "bag"))
    bag = torch.from_numpy(rng.standard_normal(of_model["bag"]).astype("f4"))
    with torch.inference_mode():
        for key, value in (
            ("logits", model(bag)),
            ("projection_first4", model.projection(bag)[0, :4][None]),
            ("cls_before_head", model.class_token(bag)),
        ):
            expected = arrays[f"{name}_{key}_{weight_set}"]
            assert golden.largest_difference(value.numpy(), expected) < golden.ATOL, key


def whole_rollout(model, bag):
    """Rollout by whole matrices, with attention written out."""
    tokens = torch.cat([model.cls_token[0], model.projection(bag)])
    rolled = torch.eye(len(tokens))
    for attention, feed_forward in model.transformer.layers:
        normed = attention.norm(tokens)
        q, k, v = attention.fn.to_qkv(normed).chunk(3, dim=-1)
        heads = attention.fn.heads
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(0, 1) for x in (q, k, v))
        weights = (q @ k.transpose(1, 2) / k.shape[-1] ** 0.5).softmax(-1)
        tokens = tokens + attention.fn.to_out((weights @ v).transpose(0, 1).flatten(1))
        tokens = tokens + feed_forward.fn.net(feed_forward.norm(tokens))
        rolled = (torch.eye(len(tokens)) + weights.mean(0)) / 2 @ rolled
    return rolled[0, 1:] / rolled[0, 1:].sum()


def test_attention_is_the_rollout_of_whole_matrices(monkeypatch):
    torch.manual_seed(0)
    model = Aggregator(16, dim=24, depth=3, heads=2, head_dim=12).eval()
    with torch.no_grad():
        for block in model.transformer.layers:
            block[0].fn.to_qkv.weight *= 8  # far from uniform
    bag = torch.randn(37, 16)
    found = patch_attention(model, bag)
    assert found.sum() == pytest.approx(1, abs=1e-6)
    assert found.max() > 2 * found.min()
    expected = whole_rollout(model, bag)
    assert torch.allclose(found, expected, atol=1e-6)
    monkeypatch.setattr(
        "pairscape.slides.aggregator.ATTENTION_BYTES", 4 * 2 * 38 * 5
    )  # 5 rows at a time
    assert torch.allclose(patch_attention(model, bag), expected, atol=1e-6)


def test_the_order_of_patches_changes_nothing_but_the_order_of_attention():
    torch.manual_seed(1)
    model = Aggregator(8, dim=16, heads=2, head_dim=8).eval()
    bag, order = torch.randn(20, 8), torch.randperm(20)
    with torch.inference_mode():
        assert torch.allclose(model(bag[None]), model(bag[order][None]), atol=1e-5)
    assert torch.allclose(patch_attention(model, bag)[order], patch_attention(model, bag[order]))
