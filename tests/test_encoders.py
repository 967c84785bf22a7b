"""Encoders: their files, strict loading of weights, and the numbers they give."""

import copy
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pairscape import encoders, gene_encoders, image_encoders
from pairscape.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config" / "encoders"
ALL = [(kind, name) for kind in encoders.KINDS for name in encoders.list_encoders(CONFIG, kind)]


@pytest.fixture(scope="module")
def lite0():
    return encoders.read_encoder(CONFIG, "image", "tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def lite0_entries(lite0):
    return torch.load(image_encoders.find_weights(lite0), weights_only=True)


def one_line(error) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_every_encoder_file_has_the_keys_of_the_example(kind, name):
    example = encoders.read_encoder(
        CONFIG, kind, {"image": "tf_efficientnet_lite0", "gene": "mlp"}[kind]
    )
    spec = encoders.read_encoder(CONFIG, kind, name)
    assert list(spec) == list(example)
    assert list(spec["input"]) == list(example["input"])
    assert spec["width"] > 0


def test_the_encoders_of_the_benchmark_are_declared():
    published = {"uni", "gigapath", "h0_mini", "conch", "ctranspath"}
    assert published | {"h_optimus_0", "uni2_h"} <= set(encoders.list_encoders(CONFIG, "image"))
    assert set(encoders.list_encoders(CONFIG, "gene")) == {
        "mlp",
        "drvi",
        "nicheformer",
        "scfoundation",
    }


def test_a_misspelt_encoder_is_refused_by_name():
    with pytest.raises(InputError) as error:
        encoders.read_encoder(CONFIG, "image", "gigapth")
    assert "did you mean gigapath?" in one_line(error)


def test_an_encoder_that_is_only_declared_is_refused():
    spec = encoders.read_encoder(CONFIG, "image", "uni")
    with pytest.raises(InputError) as error:
        encoders.require_built(spec, CONFIG / "image" / "uni.yaml")
    assert "uni.yaml: built" in one_line(error)


@pytest.mark.parametrize("name", ["uni", "uni2_h", "gigapath", "h_optimus_0", "h0_mini"])
def test_timm_builds_the_declared_parameters_from_the_file_alone(name):
    spec = encoders.read_encoder(CONFIG, "image", name)
    with torch.device("meta"):
        tower = image_encoders.BUILDERS["timm"](spec)
    assert sum(p.numel() for p in tower.parameters()) == spec["parameters"]


def test_the_weights_of_the_package_are_those_of_timm_by_order(lite0, lite0_entries):
    import timm

    tower = image_encoders.build(lite0, image_encoders.find_weights(lite0))
    reference = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    reference.load_state_dict(
        dict(zip(reference.state_dict(), lite0_entries.values(), strict=True))
    )
    reference.reset_classifier(0)
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(tower(images), reference.eval()(images))
        assert tower(images).shape == (2, lite0["width"])


def test_a_frozen_tower_is_in_eval_mode_without_gradients(lite0):
    tower = image_encoders.build(lite0, None)
    assert not any(module.training for module in tower.modules())
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_the_same_weights_in_efficientnet_lite0_are_told_apart(lite0):
    other = copy.deepcopy(lite0)
    other["arguments"]["architecture"] = "efficientnet_lite0"
    with pytest.raises(InputError) as error:
        image_encoders.build(other, image_encoders.find_weights(lite0))
    assert "fingerprint" in one_line(error)


def test_another_normalisation_is_told_apart(lite0):
    other = copy.deepcopy(lite0)
    other["input"]["mean"] = [0.485, 0.456, 0.406]
    with pytest.raises(InputError, match="fingerprint"):
        image_encoders.build(other, image_encoders.find_weights(lite0))


def _drop(entries):
    del entries["_blocks.3._bn1.weight"]


def _rename(entries):
    entries["_blocks.3._bn1.wait"] = entries.pop("_blocks.3._bn1.weight")


def _reshape(entries):
    entries["_blocks.3._bn1.weight"] = torch.zeros(7)


def _add(entries):
    entries["_extra.weight"] = torch.zeros(1)


def _drop_classifier(entries):
    del entries["_fc.bias"]


def _not_finite(entries):
    entries["_bn0.bias"] = torch.full_like(entries["_bn0.bias"], float("nan"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_drop, "entry blocks.2.0.bn2.weight: found 1 entries missing, 0 unknown"),
        (_rename, "1 entries missing, 1 unknown (first unknown: blocks.2.0.bn2.wait)"),
        (_reshape, "entry blocks.2.0.bn2.weight: found (7,)"),
        (_add, "entry _extra.weight: found 0 entries missing, 1 unknown"),
        (_drop_classifier, "entry _fc.bias: found nothing"),
        (_not_finite, "entry bn1.bias: found numbers that aren't finite"),
    ],
)
def test_wrong_weights_stop_with_one_line(lite0, lite0_entries, tmp_path, change, said):
    entries = dict(lite0_entries)
    change(entries)
    path = tmp_path / "weights.pth"
    torch.save(entries, path)
    spec = copy.deepcopy(lite0)
    spec["weights"]["sha256"] = None
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, path)
    assert said in one_line(error)


def test_weights_with_another_checksum_stop_with_one_line(lite0, lite0_entries, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(dict(lite0_entries), path)
    with pytest.raises(InputError) as error:
        image_encoders.build(lite0, path)
    assert "sha256" in one_line(error)


def test_a_damaged_weights_file_stops_with_one_line(lite0, tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a weights file")
    spec = copy.deepcopy(lite0)
    spec["weights"]["sha256"] = None
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, path)
    assert "fetch the file again" in one_line(error)


def test_a_wrong_parameter_count_is_refused(lite0):
    spec = {**copy.deepcopy(lite0), "parameters": 3371009}
    with pytest.raises(InputError) as error:
        image_encoders.build(spec, None)
    assert "3,371,008" in one_line(error)


def test_the_transform_normalises_and_resizes_as_declared(lite0):
    spec = copy.deepcopy(lite0)
    spec["input"] |= {"resize_px": 64, "crop_px": 48, "mean": [0.1, 0.2, 0.3], "std": [0.5, 1, 2]}
    prepare = image_encoders.transform(spec)
    patch = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = (patch[8:56, 8:56] / 255 - spec["input"]["mean"]) / spec["input"]["std"]
    assert np.allclose(prepare([patch])[0].permute(1, 2, 0), expected, atol=1e-6)
    grey = np.full((200, 160, 3), 128, np.uint8)
    resized = prepare([grey])
    assert resized.shape == (1, 3, 48, 48)
    assert np.allclose(resized[0, 0], (128 / 255 - 0.1) / 0.5, atol=1e-6)


@pytest.mark.parametrize("genes", [280, 377, 5001])
def test_the_mlp_gene_encoder_has_the_published_parameters(genes):
    spec = encoders.read_encoder(CONFIG, "gene", "mlp")
    encoder = gene_encoders.build(spec, None, genes)
    assert sum(p.numel() for p in encoder.parameters()) == 128 * genes + 50688


def test_counts_are_scaled_to_the_given_library_size_whatever_their_batch():
    spec = encoders.read_encoder(CONFIG, "gene", "mlp")
    counts = torch.tensor([[1, 3, 0], [10, 0, 10], [0, 0, 0]], dtype=torch.int32)
    prepared = gene_encoders.prepare_counts(spec, counts, torch.tensor(8.0))
    assert torch.allclose(prepared[0], torch.log1p(torch.tensor([2.0, 6.0, 0.0])))
    assert torch.equal(prepared[2], torch.zeros(3))
    alone = gene_encoders.prepare_counts(spec, counts[1:2], torch.tensor(8.0))
    assert torch.equal(alone[0], prepared[1])


def golden_state(entries, weight_set):
    """The weights of the golden references: a formula of each entry's name and shape."""
    state = {}
    for name, shape, dtype, rule in entries:
        if rule == "keep":
            continue
        assert dtype == "float32"
        if weight_set == "a":
            scale = 0.02
        elif len(shape) < 2:
            scale = 0.1
        else:
            scale = 0.5 if len(shape) == 3 else 1 / np.sqrt(np.prod(shape[1:]))
        generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
        value = (generator.standard_normal(shape) * scale).astype(np.float32)
        if rule == "n1":
            value = np.float32(1) + value
        if rule == "var":
            value = np.abs(value) * np.float32(10) + np.float32(0.5)
        state[name] = torch.from_numpy(np.asarray(value))
    return state


@pytest.mark.parametrize("weight_set", ["a", "b"])
def test_gene_encoder_and_heads_give_the_golden_numbers(shared, weight_set):
    from pairscape import pretraining

    facts = json.loads((shared / "golden" / "hescape_heads.json").read_text())
    arrays = np.load(shared / "golden" / "hescape_heads.npz")

    def check(module: nn.Module, golden: str, prefix: str, inputs: torch.Tensor):
        state = golden_state(facts[f"state_dict_{golden}"], weight_set)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        missing, unexpected = module.load_state_dict(state, strict=False)
        assert not unexpected
        assert all("num_batches_tracked" in name for name in missing)
        with torch.inference_mode():
            found = module.eval()(inputs).numpy()
        assert np.abs(found - arrays[f"{golden}_{weight_set}"]).max() < 2e-5

    counts = np.random.Generator(np.random.PCG64(6001)).poisson(0.8, (8, 280))
    spec = encoders.read_encoder(CONFIG, "gene", "mlp")
    check(
        gene_encoders.build(spec, None, 280),
        "generic_eval",
        "nn.",
        torch.log1p(torch.from_numpy(counts).float()),
    )
    features = np.random.Generator(np.random.PCG64(6002)).standard_normal((4, 768))
    features = torch.from_numpy(features.astype(np.float32))
    check(pretraining.projection("linear", 768, 128, 0.2), "img_linear", "linear.", features)
    check(pretraining.projection("mlp", 768, 128, 0.2), "img_mlp", "mlp.", features)
    check(pretraining.projection("mlp", 512, 128, 0.2), "gene_mlp", "mlp.", features[:, :512])
    check(
        pretraining.projection("linear", 512, 128, 0.2), "gene_linear", "proj.", features[:, :512]
    )


def test_the_mlp_head_on_uni_has_the_published_parameters():
    from pairscape import pretraining

    head = pretraining.projection("mlp", 1024, 128, 0.2)
    assert sum(p.numel() for p in head.parameters()) == 295_808


def test_fetching_refuses_what_needs_no_fetching_and_what_is_only_declared(tmp_path):
    import fetch_weights

    for name, said in (("uni", "not built yet"), ("tf_efficientnet_lite0", "nothing to fetch")):
        options = {
            "kind": "image",
            "name": name,
            "encoder": encoders.read_encoder(CONFIG, "image", name),
        }
        with pytest.raises(InputError) as error:
            fetch_weights.main(
                ["--weights", str(tmp_path / "w.bin"), "--options", json.dumps(options)]
            )
        assert said in one_line(error)
        assert name in str(error.value)
